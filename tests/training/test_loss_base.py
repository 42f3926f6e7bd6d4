"""The base steps against numbers of another implementation, and what those numbers do not hold."""
import pytest
import torch
from fixture_data import case_ids, cases, load_net
from step_fixtures import Reports, build_game, grad_norms, reals, run_phase

from training.ema import ema_decay, update_ema
from training.loss import Phase, d_both, d_main, d_reg, g_both, g_main, g_reg
from training.setup import lazy_rates
from training.training_loop import finish_phase

STEPS = dict(Gmain=g_main, Greg=g_reg, Gboth=g_both, Dmain=d_main, Dreg=d_reg, Dboth=d_both)


def case_game(case):
    config = case.config
    options = {key: config[key] for key in ('r1_gamma', 'pl_weight', 'pl_decay', 'pl_batch_shrink', 'pl_mean')
               if config.get(key) is not None}
    return build_game(case.nets, style_mixing_prob=config.get('style_mixing_prob', 0), **options)


def case_context(case):
    return dict(gen_z=case.input('z'), gen_c=case.input('gen_c'), real_img=reals(case), real_c=case.input('real_c'),
                pl_noise=case.input('pl_noise'))


def check_phase(case):
    game, name = case_game(case), case.config['phase']
    players = [game.G] if name[0] == 'G' else [game.D]
    phase = Phase(name, STEPS[name], players, interval=case.config['gain'], critic=None if name[0] == 'G' else game.D)
    if 'seed' in case.config:
        torch.manual_seed(case.config['seed'])
    with Reports() as reports:
        run_phase(game, phase, **case_context(case))
    for output in case.outputs:
        kind, _, rest = output.partition('/')
        module, _, parameter = rest.partition('/')
        if kind in ('stat_mean', 'stat_values'):
            values = reports.all(rest)
            case.check(output, values.mean() if kind == 'stat_mean' else values)
        elif kind == 'grad_norms':
            case.check(output, grad_norms(dict(G=game.G, D=game.D)[module].module, load_net(case.nets[module])[0]['params']))
        elif kind == 'grad':
            case.check(output, dict(dict(G=game.G, D=game.D)[module].module.named_parameters())[parameter].grad)
        elif output == 'pl_mean_after':
            case.check(output, game.regularizers[0].state_dict()['mean'])
        else:
            assert output == 'w_avg_after'
            case.check(output, game.G.module.mapping.w_avg)


@pytest.mark.parametrize('case', case_ids('06a_loss_base'))
def test_phase_equals_the_fixture(case):
    check_phase(case)


@pytest.mark.parametrize('case', case_ids('06d_loss_style_mixing_seeded'))
def test_style_mixing_draws_in_the_documented_order(case):
    check_phase(case)


@pytest.mark.parametrize('case', case_ids('07_trajectory'))
def test_trajectory_equals_the_fixture(case):
    config = case.config
    adam = [lazy_rates(dict(lr=config['lr'], betas=config['betas'], eps=config['eps']), config[f'{n}_reg_interval'])
            for n in 'GD']
    game = build_game(
        case.nets, r1_gamma=config['r1_gamma'], pl_weight=config['pl_weight'], pl_decay=config['pl_decay'],
        pl_batch_shrink=config['pl_batch_shrink'], intervals=(config['G_reg_interval'], config['D_reg_interval']),
        make_optimizer=[lambda p, kw=kw: torch.optim.Adam(p, **kw) for kw in adam])
    G_ema = build_game(case.nets).G.module.eval()
    intervals = dict(Gmain=1, Greg=config['G_reg_interval'], Dmain=1, Dreg=config['D_reg_interval'], Gboth=1, Dboth=1)
    modules = dict(G=game.G.module, D=game.D.module, G_ema=G_ema)
    params = {name: load_net(case.nets[name[0]])[0]['params'] for name in modules}
    record = {name: [] for name in case.outputs}
    z, real_u8, num_pl = case.input('z'), case.input('real_u8', torch.float32), 0
    for k in range(config['iterations']):
        with Reports() as reports:
            for index, name in enumerate(config['phase_order']):
                if k % intervals[name]:
                    continue
                critic = None if name[0] == 'G' else game.D
                phase = Phase(name, STEPS[name], [critic or game.G], intervals[name], critic)
                noise = case.input(f'pl_noise_{num_pl}') if name in ('Greg', 'Gboth') else None
                num_pl += noise is not None
                run_phase(game, phase, gen_z=z[k, index], gen_c=torch.zeros([len(z[k, index]), 0]),
                          real_img=real_u8[k] / 127.5 - 1, real_c=torch.zeros([len(real_u8[k]), 0]), pl_noise=noise)
                finish_phase(phase.players)
        update_ema(G_ema, game.G.module,
                   ema_decay(config['batch'], k * config['batch'], config['ema_kimg'], config['ema_rampup']))
        for output in record:
            kind, _, rest = output.partition('/')
            module, _, parameter = rest.partition('/')
            if kind == 'norms':
                tensors = dict(modules[module].named_parameters())
                record[output].append(torch.stack([tensors[name].detach().norm() for name in params[module]]))
            elif kind == 'slice':
                tensors = dict(modules[module].named_parameters())
                record[output].append(tensors[parameter].detach().flatten()[:24].clone())
            elif kind == 'w_avg':
                record[output].append(game.G.module.mapping.w_avg.clone())
            elif kind == 'stats':
                record[output].append(torch.stack([
                    reports.all(n).mean() if n in reports.values else torch.zeros([]) for n in case.extra['stat_names']]))
            elif kind == 'stats_present':
                record[output].append(torch.tensor([n in reports.values for n in case.extra['stat_names']]).int())
    for output in set(record) - {'ema_img', 'ema_img_trunc0'}:
        case.check(output, torch.stack(record[output]))
    fixed_z = case.input('fixed_z')
    with torch.no_grad():
        case.check('ema_img', G_ema(fixed_z, torch.zeros([len(fixed_z), 0])))
        case.check('ema_img_trunc0', G_ema(fixed_z[:1], torch.zeros([1, 0]), truncation_psi=0.3))


@pytest.mark.parametrize('case', case_ids('07b_schedule_arithmetic'))
def test_schedule_arithmetic_equals_the_fixture(case):
    if case.id.startswith('adjust'):
        kwargs = lazy_rates(dict(lr=case.config['lr'], betas=case.config['betas']), case.config['interval'])
        case.check('lr', kwargs['lr'])
        case.check('betas', kwargs['betas'])
    else:
        rows = next(iter(case.inputs.values()))
        decays = [ema_decay(b, nimg, kimg, None if ramp < 0 else ramp) for b, kimg, ramp, nimg in rows.tolist()]
        case.check(next(iter(case.outputs)), decays)


def test_fixture_files_are_complete():
    assert {case.config['phase'] for case in cases('06a_loss_base')} == set(STEPS)
