"""benchmarks/gradient_shares.py: which methods it measures, and how a row reads."""
import sys
from pathlib import Path

import losses_ext

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
import gradient_shares  # noqa: E402

VALUES = {'lecam/D': [0.1, 0.2, 0.3], 'r1/D': [0.5], 'Loss/scores/real': [1.0, 3.0], 'Loss/scores/fake': [-1.0]}


def test_every_method_with_a_term_of_its_own_is_measured():
    measured = {option for options in gradient_shares.DEFAULTS.values() for option in options}
    assert {f'--reg_type={name}' for name in losses_ext.REG_TYPES if name not in ('apa', 'daco')} <= measured


def test_a_row_has_median_spread_and_logits():
    assert gradient_shares.row('lecam', VALUES) == '| lecam | lecam/D 0.2 (0.15 to 0.25) | 2.0 and -1.0 |'
    without = {key: of for key, of in VALUES.items() if key != 'lecam/D'}
    assert gradient_shares.row('base', without) == '| base | none measured | 2.0 and -1.0 |'


def test_rows_that_are_on_a_page_stay(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('<!-- benchmarks/gradient_shares.py begins -->\n\n| method | share | logits |\n|---|---|---|\n'
                    '| a | a/D 1 | 0 and 0 |\n| b | b/D 2 | 0 and 0 |\n<!-- benchmarks/gradient_shares.py ends -->\n'
                    '| c | not of it |\n')
    assert gradient_shares.kept_rows(page) == {'a': '| a | a/D 1 | 0 and 0 |', 'b': '| b | b/D 2 | 0 and 0 |'}
