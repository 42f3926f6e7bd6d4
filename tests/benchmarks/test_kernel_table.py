"""benchmarks/kernel_table.py: what ptxas says of the kernels, as a table."""
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
import kernel_table

from torch_utils.ops import build

STRIP = '_ZN3zoo10run_kernelINS_11StripKernelI{}NS_5FixedILi{}ELi{}ELi{}EE{}Lb1ELi4EEEEEvT_'


@pytest.mark.parametrize(('mangled', 'expected'), [
    (STRIP.format('f', 1, 1, 4, 'S3_'), ('strip, x: filter 4, y: filter 4', 'float32')),
    (STRIP.format('NS_4HalfE', 2, 1, 12, 'NS_5FixedILi1ELi1ELi1EEE'), ('strip, x: up 12, y: -', 'float16')),
    (STRIP.format('NS_8BFloat16E', 1, 1, 1, 'NS_5FixedILi1ELi2ELi12EEE'), ('strip, x: -, y: down 12', 'bfloat16')),
    (STRIP.format('f', 1, 1, 1, 'NS2_ILi2ELi1ELi12EEE'), ('strip, x: -, y: up 12', 'float32')),
    ('_ZN3zoo10run_kernelINS_13BiasActKernelIdLi2ELNS_3ActE4EEEEEvT_', ('bias_act, derivative 2', 'float64')),
    ('_ZN3zoo10run_kernelINS_18LayerActGradKernelINS_4HalfELNS_3ActE0ELb0ELi1ELi2EEEEEvT_',
     ('layer_act, derivative 2', 'float16')),
    ('_ZN3zoo10run_kernelINS_11SlopeKernelINS_8BFloat16ELb1ELi4EEEEEvT_',
     ('strip, x: filter 4, y: filter 4, slope after it', 'bfloat16')),
    ('_ZN3zoo10run_kernelINS_12GatherKernelIfEEEEvT_', ('any filter', 'float32'))])
def test_kernels_are_told_apart(mangled, expected):
    assert kernel_table.name_of(mangled) == expected


def test_a_line_has_the_most_of_a_kind():
    rows = [('75', 'a', 'float32', 30, 100, 0, None), ('75', 'a', 'float64', 40, 50, 8, None),
            ('90', 'a', 'float32', 20, 1, 0, None)]
    assert kernel_table.table_of(rows).splitlines()[-1] == '| a | 40 | 20 | 100 | 8 |'


@pytest.mark.slow
@pytest.mark.skipif(build.find_nvcc() is None, reason='no nvcc on this machine')
def test_no_kernel_spills(tmp_path):
    rows = [row for source in kernel_table.SOURCES for row in kernel_table.figures_of(build.find_nvcc(), source, '90', tmp_path)]
    assert {row[0] for row in rows} >= {'any filter', 'strip, x: up 4, y: up 4', 'bias_act, derivative 1'}
    assert [(kind, dtype) for kind, dtype, _, _, spilled, _ in rows if spilled] == []
