"""The CUDA kernels of csrc/ as Python sees them: all there are, which of them does a problem, and its arguments.

This is what the C++ functions `with_kernel` are to the compiled binding, for machines where none can be compiled. A
kernel's argument is a C++ value with a layout in memory, so the structures here repeat those of csrc/, field by field
under the same names; `source` has the compiler compare them, and numbers like that of elements a thread does.
"""
from collections.abc import Iterable, Iterator
from ctypes import Structure, c_bool, c_double, c_float, c_int, c_int64, c_uint, c_void_p, sizeof
from functools import cache
from typing import NamedTuple

TYPES = {'float32': 'float', 'float64': 'double', 'bfloat16': 'BFloat16', 'float16': 'Half'}
ACTS = 'linear', 'relu', 'lrelu', 'tanh', 'sigmoid', 'elu', 'selu', 'softplus', 'swish'     # csrc/bias_act.h.
LAYER_ACTS = 'linear', 'lrelu'
LAYER_ORDERS = 'layer_act', 'layer_act_grad', 'layer_act_grad2'
BLOCK_THREADS = 256
THREAD_ELEMENTS, THREAD_PACKS, TILE_ROUNDS, SLOPE_ROUNDS = 4, 2, 16, 4
STRIP_WIDTHS, STRIP_HEIGHT, NEIGHBOURS = {False: 4, True: 2}, 4, 16         # By whether channels are last.
STRIPS = {      # (up, down, taps) along x and along y: the common filters, in the order in which they are tried.
    'filter4': ((1, 1, 4), (1, 1, 4)), 'up4': ((2, 1, 4), (2, 1, 4)), 'down4': ((1, 2, 4), (1, 2, 4)),
    'up12_x': ((2, 1, 12), (1, 1, 1)), 'up12_y': ((1, 1, 1), (2, 1, 12)),
    'down12_x': ((1, 2, 12), (1, 1, 1)), 'down12_y': ((1, 1, 1), (1, 2, 12)),
}


class Launch(NamedTuple):
    """A kernel by name, and with what it is to be started."""
    name: str
    argument: Structure
    blocks: int


def _structure(name, **fields):
    return type(name, (Structure,), {'_fields_': list(fields.items())})


def _pointers(names):
    return dict.fromkeys(names.split(), c_void_p)


BiasAct = _structure('BiasAct', size=c_int64, inner=c_int64, channels=c_int64, alpha=c_double, gain=c_double, clamp=c_double)
BiasActTensors = _structure('BiasActTensors', **_pointers('q dy ref b out'))
Axis = _structure('Axis', up=c_int, down=c_int, before=c_int, **{'in': c_int}, out=c_int, taps=c_int)
Resample = _structure('Resample', x=Axis, y=Axis, batch=c_int64, channels=c_int64, channels_last=c_bool, flip_filter=c_bool,
                      gain=c_float)
LayerAct = _structure('LayerAct', samples=c_int64, channels=c_int64, pixels=c_int64, channels_last=c_bool, own_noise=c_bool,
                      options=BiasAct)
LayerActTensors = _structure('LayerActTensors', **_pointers('x y dy base q scale noise strength b r out out_x sums'))
Tiles = _structure('Tiles', columns=c_int, lanes=c_int, tiles=c_int64, column_blocks=c_int64)
# By the type that is computed in.
Activation = {number: _structure('Activation', alpha=number, gain=number, clamp=number, inverse_gain=number)
              for number in (c_float, c_double)}
GatherKernel = _structure('GatherKernel', r=Resample, **_pointers('x f y base'))
# What a strip kernel does besides; none computes in float64.
Alone = _structure('Alone', base=c_void_p)
Activated = _structure('Activated', b=c_void_p, op=Activation[c_float])
Sloped = _structure('Sloped', **_pointers('x b'), op=Activation[c_float])
Finished = _structure('Finished', **_pointers('scale noise strength b'), channels=c_int64, noise_step=c_int64,
                      op=Activation[c_float])
StripKernel = {parts: _structure('StripKernel', r=Resample, **_pointers('x f y'), inner=c_uint, strips_x=c_uint,
                                 strips_y=c_uint, outer=c_uint, phase_x=c_int, phase_y=c_int, parts=parts)
               for parts in (Alone, Activated, Finished, Sloped)}
SlopeKernel = _structure('SlopeKernel', strips=StripKernel[Sloped], sums=Tiles, out=c_void_p)
JOINT = {'act_filter': Activated, 'filter_layer_act': Finished}     # Kernels with the networks' filter.
BiasActKernel = {number: _structure('BiasActKernel', p=BiasAct, op=op, tensors=BiasActTensors)
                 for number, op in Activation.items()}
LayerActKernel = {number: _structure('LayerActKernel', p=LayerAct, op=op, tensors=LayerActTensors)
                  for number, op in Activation.items()}
LayerActGradKernel = {number: _structure('LayerActGradKernel', p=LayerAct, op=op, tensors=LayerActTensors, sums=Tiles)
                      for number, op in Activation.items()}


def _number(dtype):
    return c_double if dtype == 'float64' else c_float


def _divide_up(a, b):
    return -(-a // b)


# Which kernel.

def bias_act(dtype: str, order: int, p: BiasAct, act: int, tensors: BiasActTensors) -> Launch:
    """The value of bias_act (order 0), its derivative (1), or the derivative of that (2)."""
    number = _number(dtype)
    kernel = BiasActKernel[number](p, activation(number, p), tensors)
    return Launch(f'bias_act_{dtype}_{order}_{ACTS[act]}', kernel, _divide_up(p.size, BLOCK_THREADS * THREAD_ELEMENTS))


def upfirdn2d(dtype: str, r: Resample, x: int, f: int, y: int, base: int | None = None) -> Launch:
    """The kernel for the problem's factors and taps, or that for any; x, f, y, base are addresses."""
    for name in STRIPS:
        last = _takes_strips(name, dtype, r, x, y) if (base or 0) % _bytes_of_four(dtype) == 0 else None
        if last is not None:
            kernel = StripKernel[Alone](r, x, f, y, parts=Alone(base))
            return _strip(f'strip_{name}_{dtype}{last}', kernel, STRIPS[name])
    elements = r.batch * r.channels * r.y.out * r.x.out
    return Launch(f'gather_{dtype}', GatherKernel(r, x, f, y, base), _divide_up(elements, BLOCK_THREADS))


def joint(name: str, dtype: str, r: Resample, x: int, f: int, y: int, parts: Structure) -> Launch | None:
    """The kernel of that name in `JOINT`, or None if there is none for the problem."""
    last = _takes_strips('filter4', dtype, r, x, y)
    if last is None:
        return None
    kernel = StripKernel[JOINT[name]](r, x, f, y, parts=parts)
    return _strip(f'{name}_{dtype}{last}', kernel, STRIPS['filter4'])


def act_filter_grad(dtype: str, r: Resample, dy: int, f: int, dx: int, parts: Sloped, tiles: Tiles,
                    sums: int) -> Launch | None:
    """The derivatives of an activation before a filter, or None if there is no kernel for the problem."""
    last = _takes_strips('filter4', dtype, r, dy, dx)
    if last is None or (parts.x or 0) % _bytes_of_four(dtype):
        return None
    strips = _strip('', StripKernel[Sloped](r, dy, f, dx, parts=parts), STRIPS['filter4']).argument
    kernel = SlopeKernel(strips, tiles, sums)
    return Launch(f'act_filter_grad_{dtype}{last}', kernel, r.batch * tiles.column_blocks * tiles.tiles)


def _takes_strips(name, dtype, r, x, y):
    """What a kernel's name ends with, or None if there is none of this kind for the problem."""
    along_x, along_y = STRIPS[name]
    fits = (along_x, along_y) == (_factors(r.x), _factors(r.y)) and y % _bytes_of_four(dtype) == 0
    if dtype == 'float64' or not fits:
        return None
    if not r.channels_last:
        return ''
    in_fours = along_x[2] == along_y[2] and r.channels % 4 == 0 and x % _bytes_of_four(dtype) == 0
    return '_last' if in_fours else None


def layer_act(dtype: str, order: int, p: LayerAct, act: int, pack: int, tensors: LayerActTensors,
              tiles: Tiles | None) -> Launch:
    """layer_act (order 0), or derivatives, for which `tiles` is given."""
    number = _number(dtype)
    name = f'{ACTS[act]}_{dtype}{"_last" if p.channels_last else ""}_{pack}'
    op = activation(number, p.options)
    if order == 0:
        packs = p.samples * p.channels * p.pixels // pack
        kernel = LayerActKernel[number](p, op, tensors)
        return Launch(f'layer_act_{name}', kernel, _divide_up(packs, BLOCK_THREADS * THREAD_PACKS))
    blocks = p.samples * tiles.column_blocks * tiles.tiles
    return Launch(f'{LAYER_ORDERS[order]}_{name}', LayerActGradKernel[number](p, op, tensors, tiles), blocks)


def layer_act_pack(p: LayerAct, element_bytes: int, tensors: LayerActTensors) -> int:
    """Elements that one thread can move at once."""
    in_fours = (p.channels if p.channels_last else p.pixels) % 4 == 0
    images = (getattr(tensors, name) or 0 for name in ('x', 'y', 'dy', 'base', 'q', 'out', 'out_x'))
    return 4 if in_fours and all(image % (4 * element_bytes) == 0 for image in images) else 1


def layer_act_tiles(p: LayerAct, pack: int) -> Tiles:
    """How threads of a block share the work of the derivatives."""
    if p.channels_last:
        return _tiles_of(p.channels // pack, p.pixels, True, TILE_ROUNDS)
    return _tiles_of(p.channels, _divide_up(p.pixels, pack), False, TILE_ROUNDS)


def slope_tiles(r: Resample) -> Tiles:
    """The same for those of an activation before a filter."""
    strips = _divide_up(r.x.out, STRIP_WIDTHS[r.channels_last]) * _divide_up(r.y.out, STRIP_HEIGHT)
    columns = r.channels // 4 if r.channels_last else r.channels
    return _tiles_of(columns, strips, r.channels_last, SLOPE_ROUNDS)


def _tiles_of(columns, steps, neighbours_are_columns, rounds):
    most = 16 if neighbours_are_columns else BLOCK_THREADS
    width, lanes = 1, BLOCK_THREADS
    while width < most and width < columns and (neighbours_are_columns or lanes // 2 >= steps):
        width, lanes = width * 2, lanes // 2
    return Tiles(width, lanes, _divide_up(steps, lanes * rounds), _divide_up(columns, width))


def activation(number: type, p: BiasAct) -> Structure:
    """The constants of an activation, in the type that is computed in."""
    return Activation[number](p.alpha, p.gain, p.clamp, 1 / p.gain if p.gain else 0)


def _strip(name, kernel, axes):
    r, (along_x, along_y) = kernel.r, axes
    threads = r.channels // 4 if r.channels_last else 1
    kernel.inner = 1
    while kernel.inner < NEIGHBOURS and threads % (2 * kernel.inner) == 0:
        kernel.inner *= 2
    kernel.outer = threads // kernel.inner if r.channels_last else r.channels
    kernel.strips_x = _divide_up(r.x.out, STRIP_WIDTHS[r.channels_last])
    kernel.strips_y = _divide_up(r.y.out, STRIP_HEIGHT)
    kernel.phase_x, kernel.phase_y = -r.x.before % along_x[0], -r.y.before % along_y[0]
    count = r.batch * kernel.outer * kernel.strips_y * kernel.strips_x * kernel.inner
    return Launch(name, kernel, _divide_up(count, BLOCK_THREADS))


def _factors(axis):
    return axis.up, axis.down, axis.taps


def _bytes_of_four(dtype):
    return 16 if dtype == 'float32' else 8


# What is to be compiled.

@cache
def all_kernels() -> dict[str, str]:
    """{name: C++ type} of all kernels."""
    return dict(_kernels())


def _kernels() -> Iterator[tuple[str, str]]:
    for dtype, cxx in TYPES.items():
        yield f'gather_{dtype}', f'GatherKernel<{cxx}>'
        for order in range(3):
            for act in ACTS:
                yield f'bias_act_{dtype}_{order}_{act}', f'BiasActKernel<{cxx}, {order}, Act::{act}>'
        for act in LAYER_ACTS:
            for last, pack in ((last, pack) for last in (False, True) for pack in (1, 4)):
                name = f'{act}_{dtype}{"_last" if last else ""}_{pack}'
                arguments = f'<{cxx}, Act::{act}, {str(last).lower()}, {pack}>'
                yield f'layer_act_{name}', f'LayerActKernel{arguments}'
                for order in (1, 2):
                    yield f'{LAYER_ORDERS[order]}_{name}', f'LayerActGradKernel{arguments[:-1]}, {order}>'
        if dtype != 'float64':
            yield from _strips(dtype, cxx)


def _strips(dtype, cxx):
    for name, axes in STRIPS.items():
        fixed = ', '.join(f'Fixed<{up}, {down}, {taps}>' for up, down, taps in axes)
        if name == 'filter4':
            yield f'act_filter_grad_{dtype}', f'SlopeKernel<{cxx}, false, 1>'
            yield f'act_filter_grad_{dtype}_last', f'SlopeKernel<{cxx}, true, 4>'
        joint = {f'{kind}_{dtype}': f', {parts.__name__}<{cxx}>'
                 for kind, parts in JOINT.items() if name == 'filter4'}
        for title, parts in {f'strip_{name}_{dtype}': '', **joint}.items():
            yield title, f'StripKernel<{cxx}, {fixed}, false, 1{parts}>'
            if axes[0] == axes[1]:
                yield f'{title}_last', f'StripKernel<{cxx}, {fixed}, true, 4{parts}>'


def source(names: Iterable[str] | None = None) -> str:
    """What csrc/nvrtc.cu includes: kernels (None: all) as KERNEL(name, type), and comparisons with csrc/."""
    chosen = {name: all_kernels()[name] for name in all_kernels() if names is None or name in set(names)}
    return '\n'.join([*_comparisons(chosen), *(f'KERNEL({name}, {cxx})' for name, cxx in chosen.items())]) + '\n'


def _comparisons(chosen):
    numbers = {'block_threads': BLOCK_THREADS, 'tile_rounds': TILE_ROUNDS,
               'BiasActKernel<float, 0, Act::linear>::thread_elements': THREAD_ELEMENTS,
               'LayerActKernel<float, Act::linear, false, 1>::thread_packs': THREAD_PACKS,
               'slope_rounds': SLOPE_ROUNDS}
    for last, width in STRIP_WIDTHS.items():
        strip = f'StripKernel<float, Fixed<1, 1, 4>, Fixed<1, 1, 4>, {str(last).lower()}, 1>'
        numbers |= {f'{strip}::width': width, f'{strip}::height': STRIP_HEIGHT, f'{strip}::neighbours': NEIGHBOURS}
    yield from (f'static_assert({name} == {value});' for name, value in numbers.items())
    for cxx, structure in _structures(chosen):
        yield f'static_assert(sizeof({cxx}) == {sizeof(structure)});'
        for field, *_ in structure._fields_:
            yield f'static_assert(OFFSET({field}, {cxx}) == {getattr(structure, field).offset});'


def _structures(chosen):
    """(C++ type, structure), each of all kinds of kernels among them."""
    yield from {'BiasAct': BiasAct, 'BiasActTensors<float>': BiasActTensors, 'Axis': Axis, 'Resample': Resample,
                'LayerAct': LayerAct, 'LayerActTensors<float, float>': LayerActTensors,
                'Tiles': Tiles, 'Alone<float>': Alone, 'Activated<float>': Activated,
                'Sloped<float>': Sloped, 'Finished<float>': Finished}.items()
    for name, cxx in chosen.items():
        number = _number('float64' if 'float64' in name else 'float32')
        for prefix, structure in {'gather': GatherKernel, 'strip': StripKernel[Alone], 'bias_act': BiasActKernel[number],
                                  'act_filter_grad': SlopeKernel, **{kind: StripKernel[parts] for kind, parts in JOINT.items()},
                                  'layer_act_grad': LayerActGradKernel[number], 'layer_act': LayerActKernel[number]}.items():
            if name.startswith(prefix):
                yield cxx, structure
                break
