"""What ptxas says of the CUDA kernels: registers, shared memory and spills, for every architecture.
Needs nvcc, no GPU.

    python benchmarks/kernel_table.py                                # sm_75 to sm_120
    python benchmarks/kernel_table.py --arch=90 --source=upfirdn2d.cu --all
    python benchmarks/kernel_table.py --write                        # And put the table into docs/operators.md.

A kernel is there once for each type of image and, of filters, for each memory format;
a line has the most of any. With `cuobjdump` on PATH (the full toolkit has it) the machine instructions of
each are counted, too.
"""
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.page_parts import write_part  # noqa: E402

ARCHITECTURES = '75,80,86,89,90,100,120'
SOURCES = 'upfirdn2d.cu', 'bias_act.cu', 'layer_act.cu'
PAGE = ROOT / 'docs' / 'operators.md'
TYPES = {'f': 'float32', 'd': 'float64', 'NS_8BFloat16E': 'bfloat16', 'NS_4HalfE': 'float16'}
PARTS = {'Activated': ', activation before it', 'Finished': ', layer_act after it'}
FIGURES = (r'(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n'
           r'.*Used (\d+) registers(?:.*?(\d+) bytes smem)?')


def name_of(mangled):
    """(kind of kernel, type of image) from the name that the compiler gives it."""
    dtype = next(name for code, name in TYPES.items() if re.search(f'KernelI{code}', mangled))
    if 'StripKernel' in mangled:
        factors = re.findall(r'ILi(\d)ELi(\d)ELi(\d+)E', mangled)
        if len(factors) < 2:                            # The second is the first.
            factors = factors * 2
        axes = [f'{"up" if up != "1" else "down" if down != "1" else "filter"} {taps}' if taps != '1' else '-'
                for up, down, taps in factors[:2]]
        beside = next((text for part, text in PARTS.items() if part in mangled), '')
        return f'strip, x: {axes[0]}, y: {axes[1]}{beside}', dtype
    if 'SlopeKernel' in mangled:
        return 'strip, x: filter 4, y: filter 4, slope after it', dtype
    if 'BiasActKernel' in mangled:
        return f'bias_act, derivative {re.search("ELi([0-9])E|Li([0-9])E", mangled)[0].strip("ELi")}', dtype
    if 'LayerAct' in mangled:
        order = re.search('Li([12])EE', mangled)        # The last of the numbers.
        return f'layer_act, derivative {order[1]}' if 'Grad' in mangled else 'layer_act', dtype
    return 'any filter', dtype


def figures_of(nvcc, source, architecture, folder):
    """[(kind, type, registers, shared bytes, spilled bytes,
    instructions or None)] of all kernels of a source."""
    cubin = Path(folder) / f'{source}.{architecture}.cubin'
    answer = subprocess.run(
        [nvcc, '-std=c++17', '-O3', '-Xptxas', '-v', f'-gencode=arch=compute_{architecture},code=sm_{architecture}', '-cubin',
         '-o', cubin, ROOT / 'torch_utils' / 'ops' / 'csrc' / source], capture_output=True, text=True)
    if answer.returncode:
        raise click.ClickException(f'{source} for sm_{architecture}: {answer.stderr.strip().splitlines()[0]}')
    counts = instructions(cubin)
    found = []
    for part in re.split('Function properties for ', answer.stderr)[1:]:
        mangled = part.split('\n', 1)[0].strip()
        _, stores, loads, registers, shared = re.search(FIGURES, part).groups()
        found.append((*name_of(mangled), int(registers), int(shared or 0), int(stores) + int(loads), counts.get(mangled)))
    return found


def instructions(cubin):
    """{kernel: number of machine instructions}; empty without cuobjdump."""
    if shutil.which('cuobjdump') is None:
        return {}
    text = subprocess.run(['cuobjdump', '-sass', cubin], capture_output=True, text=True, check=True).stdout
    return {part.split('\n', 1)[0].strip(): len(re.findall(r'/\*[0-9a-f]{4,}\*/\s+\S', part))
            for part in text.split('Function : ')[1:]}


def table_of(rows):
    """Lines for each kind of kernel; rows are (architecture, kind, type, registers, shared,
    spilled, instructions)."""
    kinds = list(dict.fromkeys(row[1] for row in rows))
    architectures = list(dict.fromkeys(row[0] for row in rows))
    lines = ['| kernel | registers: ' + ' | '.join(f'sm_{a}' for a in architectures) + ' | shared bytes | spilled bytes |',
             '|' + '---|' * (len(architectures) + 3)]
    for kind in kinds:
        mine = [row for row in rows if row[1] == kind]
        most = [str(max(row[3] for row in mine if row[0] == a)) for a in architectures]
        lines.append(f'| {kind} | {" | ".join(most)} | {max(row[4] for row in mine)} | {max(row[5] for row in mine)} |')
    return '\n'.join(lines)


@click.command()
@click.option('--arch', default=ARCHITECTURES, show_default=True)
@click.option('--source', multiple=True, default=SOURCES, show_default=True)
@click.option('--all', 'print_all', is_flag=True, help='A line for each kernel of each type.')
@click.option('--write', is_flag=True, help='Put the table into docs/operators.md.')
def main(arch, source, print_all, write):
    """Compiles the kernels and prints what ptxas says of them."""
    from torch_utils.ops import build
    nvcc = build.find_nvcc()
    if nvcc is None:
        raise click.ClickException('no nvcc: neither on PATH nor below $CUDA_HOME')
    with tempfile.TemporaryDirectory() as folder:
        rows = [(architecture, *figures) for architecture in arch.split(',') for name in source
                for figures in figures_of(nvcc, name, architecture, folder)]
    if print_all:
        for architecture, kind, dtype, registers, shared, spilled, count in rows:
            print(f'sm_{architecture:<4} {kind:<32} {dtype:<9} {registers:>4} registers {shared:>6} shared {spilled:>4} spilled'
                  + (f' {count:>6} instructions' if count else ''))
    print(table_of(rows))
    if write:
        write_part(PAGE, 'kernel_table.py', table_of(rows))


if __name__ == '__main__':
    main()
