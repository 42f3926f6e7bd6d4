"""The tests that the specification of the zoo asks for, by its numbers: each is called `test_gg1_...`, or is one of these."""
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ASKED = {'GG': 8, 'DG': 7, 'GC': 8, 'OS': 8, 'TD': 11, 'X': 10}
ELSEWHERE = {
    'GG-5': 'test_augment_warp.py::test_aligned_maps_show_what_the_images_show',
    'GG-3': 'test_zoo.py::test_x3_every_method_at_weight_0_is_the_base_bit_for_bit',
    'TD-7': 'test_metrics_arithmetic.py::test_centres_pool_by_count_mean_and_covariance_alone',
    'X-9': 'test_ggdr.py::test_decoder_runs_on_fakes_of_the_main_step_alone',
}
NOT_OFFERED = {'TD-5': 'the remote mode of TDGAN'}
NAMES = [f'{prefix}-{number}' for prefix, count in ASKED.items() for number in range(1, count + 1)]


@pytest.mark.parametrize('name', [name for name in NAMES if name not in NOT_OFFERED])
def test_there_is_a_test(name):
    file, function = ELSEWHERE.get(name, f'*.py::test_{name.replace("-", "").lower()}_\\w+').split('::')
    assert any(re.search(rf'^ *def {function}\(', path.read_text(encoding='utf-8'), re.MULTILINE)
               for path in TESTS.glob(file)), f'no {function} in {file}'
