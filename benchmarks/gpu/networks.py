"""Networks of the CPU and of the GPU, the places that an augmentation samples, and the numerical fixtures on the device."""
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch.nn.functional import softplus

from gpu.report import ROOT, last_line

# Of the difference, relative to the norm. More than a third of the gradients of R1 here are too small for float16 to hold them
# in full: on a CPU they are off by 5.1e-2 in that type, too.
LIMITS = {'float32': 2e-3, 'float16': 0.08, 'bfloat16': 0.3}
FIXTURES = 'ops_upfirdn2d', 'ops_bias_act', 'ops_conv2d_resample', 'layers', 'networks_fixtures', 'augment'


def check_nets(report):
    """Images, logits, R1, path lengths and all gradients: float32 on the CPU against all that the device computes with."""
    from torch_utils.ops import backend
    expected = outputs('float32', torch.device('cpu'), 'reference', report.reduced)
    native = backend.why_not(report.device.type, torch.float32) is None
    for dtype, ops, nhwc in itertools.product(LIMITS, ('reference', 'native'), (False, True)):
        if (ops == 'native' and not native) or (nhwc and dtype == 'float32') or getattr(torch, dtype) not in report.dtypes():
            continue
        title = f'nets/{dtype} {ops}{" nhwc" if nhwc else ""}'
        if not report.has_time(title):
            return
        with report.trying(title):
            compare(report, title, outputs(dtype, report.device, ops, report.reduced, nhwc), expected, LIMITS[dtype])
    if report.device.type == 'cuda':
        from torch_utils import precision
        precision.allow_tf32(True)
        compare(report, 'nets/float32 tf32', outputs('float32', report.device, 'reference', report.reduced), expected, 0.05)
        precision.sum_in_float32()
        for dtype in ('float16', 'bfloat16'):           # Beside what was computed with torch's defaults above.
            title = f'nets/{dtype} sums in float32'
            compare(report, title, outputs(dtype, report.device, 'reference', report.reduced), expected, LIMITS[dtype])
    check_places(report)


def compare(report, title, found, expected, limit):
    """One row."""
    errors = {key: float((found[key] - value).norm() / value.norm()) for key, value in expected.items()}
    report.data[title] = errors
    report.row(title, all(error <= limit for error in errors.values()), ', '.join(f'{k} {v:.1e}' for k, v in errors.items()))


def make_networks(dtype, device, reduced, nhwc):
    """The same G and D wherever they lie."""
    from training.networks import Discriminator, Generator
    res, base = (16, 128) if reduced else (64, 2048)
    torch.manual_seed(0)
    is_reduced = dtype != 'float32'
    common = dict(channel_base=base, channel_max=64, num_fp16_res=4 * is_reduced, conv_clamp=256 if is_reduced else None,
                  reduced_dtype=dtype if is_reduced else 'float16')
    G = Generator(32, 0, 32, res, 3, dict(num_layers=2), dict(fp16_channels_last=nhwc, **common))
    D = Discriminator(0, res, 3, block_kwargs=dict(fp16_channels_last=nhwc), **common)
    for name, parameter in G.named_parameters():
        if name.endswith('noise_strength'):
            parameter.data.fill_(0.1)
    return G.to(device), D.to(device)


def outputs(dtype, device, ops, reduced, nhwc=False):
    """{name: tensor on the CPU} of one pass through everything that training differentiates."""
    from torch_utils.ops import backend
    from torch_utils.ops.conv2d_gradfix import no_weight_gradients
    with backend.default(ops):
        G, D = make_networks(dtype, device, reduced, nhwc)
        generator = torch.Generator().manual_seed(3)
        z = torch.randn(4, 32, generator=generator).to(device)
        x, y = (torch.randn(4, 3, G.img_resolution, G.img_resolution, generator=generator).to(device) for _ in range(2))
        x.requires_grad_()
        ws = G.mapping(z, None, skip_w_avg_update=True)
        img, logits = G.synthesis(ws, noise_mode='const'), D(x, None)
        with no_weight_gradients():
            jacobian, = torch.autograd.grad((img * y).sum() / G.img_resolution, [ws], create_graph=True)
            r1, = torch.autograd.grad(logits.sum(), [x], create_graph=True)
        lengths = jacobian.square().sum(2).mean(1).sqrt()
        g_loss = lengths.square().mean() + softplus(-D(img, None)).mean()
        d_loss = r1.square().sum([1, 2, 3]).mean() * 5 + softplus(logits).mean()
        g_grads, d_grads = (flat(torch.autograd.grad(loss, list(net.parameters()), allow_unused=True))
                            for loss, net in ((g_loss, G), (d_loss, D)))
        with torch.no_grad():
            drawn = G.eval().synthesis(ws[:1], noise_mode='const')
    found = dict(img=img, logits=logits, r1=r1, lengths=lengths, g_grads=g_grads, d_grads=d_grads, drawn=drawn)
    return {name: value.detach().float().cpu() for name, value in found.items()}


def flat(grads):
    """All gradients that there are, as one vector."""
    return torch.cat([grad.detach().float().flatten() for grad in grads if grad is not None])


def check_places(report):
    """Does the sampling grid of the augmentation lose its precision with --allow-tf32?"""
    from training.augment import PIPES, AugmentPipe
    pipe = AugmentPipe(**PIPES['bgc']).to(report.device)
    grids = []
    for tf32 in (True, False):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        draw = pipe.draw([4, 3, 1024, 1024], generator=torch.Generator(report.device).manual_seed(0))
        grids.append(draw.warp.sampling_grid())
    size_in = 2 * (1024 + draw.warp.margins.sum(dim=0))
    error = float(((grids[0] - grids[1]).abs() * size_in / 4).max())
    report.row('nets/augment tf32', error < 0.02, f'with TF32 samples lie up to {error:.3f} pixels beside their place at 1024 px')


def check_fixtures(report):
    """The project's numerical fixtures on the device (`fixtures_plugin.py`)."""
    result = report.work / 'fixtures_pytest.json'
    files = [test_file(f'test_{name}.py') for name in (FIXTURES[:1] if report.reduced else FIXTURES)]
    device = 'cuda' if report.device.type == 'cuda' else 'fake'
    paths = os.pathsep.join([str(Path(__file__).parent), str(test_file('fixture_data.py').parent)])
    environment = {**os.environ, 'CHECK_DEVICE': device, 'CHECK_RESULT': str(result), 'PYTHONPATH': paths}
    options = ['-p', 'fixtures_plugin', '-p', 'no:cacheprovider', '-q', '-k', 'fixture']
    command = [sys.executable, '-m', 'pytest', *options, *map(str, files)]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=max(report.left(), 5))
    if not result.exists():
        report.row('fixtures', 'FAIL', last_line(answer.stdout + answer.stderr))
        return
    found = report.data = json.loads(result.read_text())
    for file in files:
        mine = {node: outcome for node, outcome in found['outcomes'].items() if Path(node.split('::')[0]).name == file.name}
        wrong = {node.split('::')[-1]: last_line(text) for node, (outcome, text) in mine.items() if outcome == 'failed'}
        report.row(f'fixtures/{file.name}', bool(mine) and not wrong,
                   f'{len(mine) - len(wrong)} passed, {len(wrong)} failed {str(wrong)[:150] if wrong else ""}')
    if found['worst']:
        key = max(found['worst'], key=found['worst'].get)
        report.row('fixtures/worst', found['worst'][key] <= 10, f'{key}: {found["worst"][key]:.2g} of the tolerance of a CPU')


def test_file(name):
    """The file of this name among the tests."""
    return next((ROOT / 'tests').rglob(name))
