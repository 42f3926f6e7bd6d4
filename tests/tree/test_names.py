"""A file is found by its name: no two of the packages have the same one."""
from collections import defaultdict
from pathlib import Path

from source_files import project_files

NAMED_AFTER_OTHERS = ('benchmarks/', 'examples/')       # Their files are named for what they measure or show.
NEEDED_TWICE = {'__init__', '__main__'}


def test_no_two_files_have_the_same_name():
    files = defaultdict(list)
    for file in project_files():
        name = Path(file).stem
        if name not in NEEDED_TWICE and not file.startswith(NAMED_AFTER_OTHERS):
            files[name].append(file)
    assert {name: found for name, found in files.items() if len(found) > 1} == {}
