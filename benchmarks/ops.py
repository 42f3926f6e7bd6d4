"""Times the operators over the sizes that networks have, plain against compiled,
and against the machine's copy rate.

    python benchmarks/ops.py                      everything, one thread
    python benchmarks/ops.py --threads 2 --only bias_act --dtype float32

Each line holds the best of several runs, in milliseconds of process time on one thread (steady
on a shared machine), of wall time on more: a forward pass; forward and backward; forward, backward and the
derivative of that (`double`). Behind them: plain or stock divided by this, and for bias_act the time that
copying the tensor takes as a share of the forward pass. `textbook` is upfirdn2d written down in the words of
its definition (insert zeros, pad, convolve, drop), with stock derivatives: what the plain implementation
would be without thought of speed.
"""
import itertools
import json
import math
import time
from pathlib import Path

import click
import torch
import torch.nn.functional as F

from torch_utils.allocator import keep_freed_memory
from torch_utils.ops import backend
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.conv2d_gradfix import conv2d, no_weight_gradients
from torch_utils.ops.fma import fma
from torch_utils.ops.grid_sample_gradfix import grid_sample
from torch_utils.ops.scale_bias_act import scale_bias_act
from torch_utils.ops.upfirdn2d import filter_size, parse_padding, setup_filter, upfirdn2d

SIZES = [(64, 64), (128, 32), (256, 16), (256, 8), (256, 4), (3, 64)]       # (channels, resolution).
LAYOUTS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}
FIR = setup_filter([1, 3, 3, 1])
RESAMPLING = {  # As conv2d_resample calls upfirdn2d.
    'fir': {'padding': 1},
    'up': {'up': 2, 'padding': (2, 1, 2, 1)},
    'down': {'down': 2, 'padding': 1},
}


def textbook(x, f, up=1, down=1, padding=0):
    """upfirdn2d, step by step."""
    left, right, top, bottom = parse_padding(padding)
    channels = x.shape[1]
    z = F.pad(x[:, :, :, None, :, None], [0, up - 1, 0, 0, 0, up - 1])
    z = z.reshape(len(x), channels, x.shape[2] * up, x.shape[3] * up)
    z = F.pad(z, [left, right, top, bottom])
    y = F.conv2d(z, f.flip([0, 1]).to(x.dtype).expand(channels, 1, *filter_size(f)), groups=channels)
    return y[:, :, ::down, ::down]


def operators(name, batch, channels, res, dtype, layout):
    """{implementation: function} and the tensors that it is a function of."""
    def images(channels=channels, res=res):
        return torch.randn(batch, channels, res, res).to(dtype).contiguous(memory_format=layout).requires_grad_()
    if name == 'bias_act':
        tensors = images(), torch.randn(channels).to(dtype).requires_grad_()
        return {impl: lambda x, b, impl=impl: bias_act(x, b, act='lrelu', impl=impl)
                for impl in ('ref', 'native')}, tensors
    if name == 'scale_bias_act':
        scale, noise, b = (torch.randn(shape).to(dtype).requires_grad_() for shape in
                           ((batch, channels), (batch, 1, res, res), (channels,)))
        return {impl: lambda x, s, n, b, impl=impl: scale_bias_act(x, s, n, b, act='lrelu', impl=impl)
                for impl in ('ref', 'native')}, (images(), scale, noise, b)
    if name in RESAMPLING:
        options = RESAMPLING[name]
        functions = {impl: lambda x, impl=impl: upfirdn2d(x, FIR, impl=impl, **options)
                     for impl in ('ref', 'native')}
        return functions | {'textbook': lambda x: textbook(x, FIR, **options)}, (images(res=res + (name == 'fir')),)
    if name == 'conv2d':
        weight = (torch.randn(channels, channels, 3, 3) / channels).to(dtype).requires_grad_()
        return {'stock': lambda x, w: F.conv2d(x, w, padding=1), 'ours': lambda x, w: conv2d(x, w, padding=1)}, \
            (images(), weight)
    if name == 'fma':
        scale, noise = (torch.randn(shape).to(dtype).requires_grad_() for shape in
                        ((batch, channels, 1, 1), (batch, 1, res, res)))
        return {'stock': lambda a, b, c: a * b + c, 'ours': fma}, (images(), scale, noise)
    grid = F.affine_grid(torch.eye(2, 3).repeat(batch, 1, 1) * 0.9, [batch, channels, res, res],
                         align_corners=False)
    grid = grid.to(dtype)
    return {'stock': lambda x: F.grid_sample(x, grid, align_corners=False), 'ours': lambda x: grid_sample(x, grid)}, \
        (images(),)


NAMES = ['bias_act', 'scale_bias_act', *RESAMPLING, 'conv2d', 'fma', 'grid_sample']


def passes(function, tensors):
    """The three things that are timed."""
    detached = [t.detach() for t in tensors]
    v = torch.ones_like(function(*detached)).requires_grad_()

    def double():
        with no_weight_gradients():         # As the penalties on gradients do it.
            slope, = torch.autograd.grad(function(*tensors), tensors[0], v, create_graph=True)
        torch.autograd.grad(slope, [*tensors[1:], v], slope.detach(), allow_unused=True)
    return {
        'forward': lambda: function(*detached),
        'backward': lambda: torch.autograd.grad(function(*tensors), tensors, v.detach()),
        'double': double,
    }


def best_ms(function, clock, seconds):
    """The shortest of as many runs as fit into `seconds`, at least three."""
    function()
    times = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 50):
        start = clock()
        function()
        times.append(clock() - start)
    return min(times) * 1e3


def mean_ratio(ratios):
    """Geometric mean."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


@click.command()
@click.option('--only', type=click.Choice(NAMES), multiple=True, help='Operators to time.  [default: all]')
@click.option('--dtype', 'dtypes', type=click.Choice(['float32', 'bfloat16', 'float64']), multiple=True,
              default=['float32', 'bfloat16'], show_default=True, help='Types to time.')
@click.option('--layout', 'layouts', type=click.Choice(list(LAYOUTS)), multiple=True, default=list(LAYOUTS),
              show_default=True, help='Memory orders to time.')
@click.option('--batch', type=click.IntRange(min=1), default=8, show_default=True, help='Images at a time.')
@click.option('--threads', type=click.IntRange(min=1), default=1, show_default=True, help='Threads of torch.')
@click.option('--json', 'json_path', help='Also write the geometric means here.')
@click.option('--seconds', type=click.FloatRange(min=0), default=0.1, show_default=True,
              help='Time for each figure.')
def main(only, dtypes, layouts, batch, threads, json_path, seconds):
    """Time the operators, plain against compiled, over the sizes that networks have."""
    torch.set_num_threads(threads)
    keep_freed_memory()             # As train.py does.
    clock = time.process_time if threads == 1 else time.perf_counter
    torch.manual_seed(0)
    reason = backend.why_not('cpu', torch.float32)
    if reason:
        click.echo(f'no compiled operators: {reason}')
    means = {}
    for name, dtype, layout in itertools.product(only or NAMES, dtypes, layouts):
        click.echo(f'\n{name}, {dtype}, {layout}, batch {batch}, {threads} threads')
        click.echo(f'{"channels":>8} {"res":>4}   {"milliseconds":54} plain or stock / this')
        summary = {}
        for channels, res in SIZES:
            times, line = time_size(name, batch, channels, res, getattr(torch, dtype), LAYOUTS[layout], clock,
                                    seconds, reason)
            click.echo(line)
            for key, ratio in times.items():
                summary.setdefault(key, []).append(ratio)
        means[f'{name} {dtype} {layout}'] = mean = {key: mean_ratio(ratios)
                                                    for key, ratios in summary.items()}
        click.echo('geometric mean  ' + '  '.join(f'{key} {ratio:.2f}' for key, ratio in mean.items()))
    if json_path:
        Path(json_path).write_text(json.dumps(means))


def time_size(name, batch, channels, res, dtype, layout, clock, seconds, reason):
    """({what: first implementation's time / another's}, a line of the table) for one size."""
    functions, tensors = operators(name, batch, channels, res, dtype, layout)
    if reason:
        functions.pop('native', None)
    times = {impl: {what: best_ms(run, clock, seconds) for what, run in passes(function, tensors).items()}
             for impl, function in functions.items()}
    first = next(iter(times))
    ratios = {f'{impl} {what}': times[first][what] / ms for impl, each in times.items() if impl != first
              for what, ms in each.items()}
    text = ' | '.join(f'{impl} ' + ' '.join(f'{ms:.3f}' for ms in each.values())
                      for impl, each in times.items())
    line = f'{channels:8} {res:4}   {text:54} ' + ' '.join(f'{ratio:.2f}' for ratio in ratios.values())
    if name == 'bias_act':
        image = tensors[0].detach()
        copy = best_ms(lambda: torch.empty_like(image).copy_(image), clock, seconds)
        fastest = min(each['forward'] for each in times.values())
        ratios['share of the copy rate'] = copy / fastest
        line += f'  copy {copy:.3f} ms: {100 * copy / fastest:.0f} %'
    return ratios, line


if __name__ == '__main__':
    main()
