"""The Python files of the project, for tests that read them."""
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = 'dnnlib', 'torch_utils', 'drawing', 'training', 'losses_ext', 'metrics', 'benchmarks', 'loss_zoo', 'examples'


def project_files():
    """{path from the root, with slashes: source} of everything but tests."""
    files = [*ROOT.glob('*.py'), *(path for package in PACKAGES for path in (ROOT / package).rglob('*.py'))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding='utf-8') for path in sorted(files)}
