"""Networks against the numerical fixtures 04b to 04e: values, gradients, path length, R1, frozen layers."""
import pytest
import torch
from fixture_data import case_ids, load_net

from training.networks import Discriminator, Generator, MappingNetwork

CLASSES = {'generator': Generator, 'discriminator': Discriminator}


def build(name):
    """A stored network in evaluation mode, and its parameters by name in the stored order."""
    description, state = load_net(name)
    net = CLASSES[description['kind']](**description['config']).eval()
    net.load_state_dict(state, strict=True)
    assert [key for key, _ in net.named_parameters()] == description['params']
    return net, dict(net.named_parameters())


def grads_of(y, params, **kwargs):
    return torch.autograd.grad(y, list(params.values()), allow_unused=True, materialize_grads=True, **kwargs)


def check_grads(case, prefix, grads, params):
    """Norms of all gradients, and those gradients that the case holds in full."""
    case.check(f'{prefix}grad_norms', torch.stack([grad.norm() for grad in grads]))
    for name, grad in zip(params, grads):
        if f'{prefix}grad/{name}' in case.outputs:
            case.check(f'{prefix}grad/{name}', grad)


@pytest.mark.parametrize('case', case_ids('04b_mapping'))
def test_mapping_network_equals_the_fixture(case):
    kwargs = dict(case.config)
    truncation = {name: kwargs.pop(name) for name in ('truncation_psi', 'truncation_cutoff')}
    net = MappingNetwork(**kwargs).eval()
    net.load_state_dict(
        {name.removeprefix('state/'): case.input(name) for name in case.inputs if name.startswith('state/')})
    z, c = case.input('z').requires_grad_(), case.input('c')
    ws = net(z, c)
    case.check('ws', ws)
    case.check('grad_z', torch.autograd.grad((case.input('v') * ws).sum(), z)[0])
    case.check('ws_trunc', net(z, c, **truncation))
    net.train()(z, c, skip_w_avg_update=True)
    torch.testing.assert_close(net.w_avg, case.input('state/w_avg'), rtol=0, atol=0)
    net(z, c)
    case.check('w_avg_after', net.w_avg)


@pytest.mark.parametrize('case', case_ids('04c_generator'))
def test_generator_and_path_length_equal_the_fixture(case):
    G, params = build(case.nets['G'])
    z, c = case.input('z').requires_grad_(), case.input('c')
    ws = G.mapping(z, c)
    img = G(z, c, noise_mode='const')
    case.check('ws', ws)
    case.check('img', img)
    truncation = {name: case.config[name] for name in ('truncation_psi', 'truncation_cutoff')}
    case.check('img_trunc0', G(z, c, noise_mode='const', **truncation)[:1])
    case.check('img_nonoise0', G(z, c, noise_mode='none')[:1])
    grad_z, *grads = torch.autograd.grad(
        (case.input('v') * img).sum(), [z, *params.values()], allow_unused=True, materialize_grads=True)
    case.check('grad_z', grad_z)
    check_grads(case, '', grads, params)

    img = G.synthesis(ws, noise_mode='const')
    pl_noise = case.input('pl_noise') / img[0, 0].numel() ** 0.5
    pl_grad, = torch.autograd.grad((img * pl_noise).sum(), ws, create_graph=True)
    lengths = pl_grad.square().sum(dim=2).mean(dim=1).sqrt()
    mean = case.input('pl_mean')
    mean = mean + 0.01 * (lengths.mean() - mean)
    penalty = (lengths - mean).square()
    case.check('pl_lengths', lengths)
    case.check('pl_mean_after', mean)
    case.check('pl_penalty', penalty)
    check_grads(case, 'pl_', grads_of(2 * penalty.mean(), params), params)


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('case', case_ids('04c_generator'))
def test_both_forms_of_modulation_give_the_images_of_the_fixture(case, training):
    """Training mode modulates activations, evaluation mode weights."""
    G, _ = build(case.nets['G'])
    case.check('img', G.train(training)(case.input('z'), case.input('c'), noise_mode='const'))


@pytest.mark.parametrize('case', case_ids('04d_discriminator'))
def test_discriminator_and_r1_equal_the_fixture(case):
    D, params = build(case.nets['D'])
    img, c = case.input('img').requires_grad_(), case.input('c')
    logits = D(img, c)
    case.check('logits', logits)
    grad_img, *grads = torch.autograd.grad(
        (case.input('v') * logits).sum(), [img, *params.values()], allow_unused=True, materialize_grads=True)
    case.check('grad_img', grad_img[: case.config['grad_samples']])
    case.check('grad_img_norms', grad_img.flatten(1).norm(dim=1))
    check_grads(case, '', grads, params)

    r1_grad, = torch.autograd.grad(D(img, c).sum(), img, create_graph=True)
    penalty = r1_grad.square().sum(dim=[1, 2, 3])
    case.check('r1_penalty', penalty)
    check_grads(case, 'r1_', grads_of(penalty.mean() * case.config['gamma'] / 2, params), params)


@pytest.mark.parametrize('case', case_ids('04e_frozen_layers'))
def test_frozen_layers_of_the_discriminator_are_those_of_the_fixture(case):
    names, rows = case.extra['names'], []
    for num_frozen in case.config['frozen']:
        D = Discriminator(
            c_dim=0, img_resolution=case.config['img_resolution'], img_channels=3, channel_max=4,
            architecture=case.config['architecture'], block_kwargs={'freeze_layers': num_frozen})
        assert sorted(D.state_dict()) == names
        params = dict(D.named_parameters())
        rows.append([int(name in params) for name in names])
    case.check('is_trainable', torch.tensor(rows))
