"""Pages lead where they say: links, anchors, the tests in the
README's table; and they build as a site without a network."""
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), ROOT / 'datasets/README.md']


def links_of(text):
    """Targets outside of code."""
    text = re.sub(r'^```.*?^```|^    .*?$|`[^`\n]*`', '', text, flags=re.S | re.M)
    return re.findall(r'\]\(([^)\s]+)\)', text)


def anchors_of(path):
    """What headings of a page are called in addresses."""
    text = re.sub(r'^```.*?^```', '', path.read_text(encoding='utf-8'), flags=re.S | re.M)
    headings = re.findall(r'^#+ +(.*)$', text, re.M)
    return {re.sub(r'[^\w\- ]', '', re.sub(r'\]\(.*?\)', '', heading).lower()).strip().replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('path', PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(path):
    for target in links_of(path.read_text(encoding='utf-8')):
        if re.match('[a-z]+:', target):
            continue
        name, _, anchor = target.partition('#')
        place = (path.parent / name).resolve() if name else path
        assert place.exists(), target
        assert not anchor or place.suffix != '.md' or anchor in anchors_of(place), target


def test_the_readme_names_a_page_and_a_test_for_all_that_it_claims():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    table = readme.partition('## What you may not find elsewhere')[2].partition('\n## ')[0]
    rows = [line for line in table.splitlines() if line.startswith('|')][2:]
    assert len(rows) >= 10
    for row in rows:
        targets = links_of(row)
        assert any(target.startswith('docs/') for target in targets), row
        assert any(target.startswith('tests/') for target in targets), row


def site_module():
    spec = importlib.util.spec_from_file_location('site_of_docs', ROOT / 'docs/site.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_site_has_every_page():
    yaml = pytest.importorskip('yaml', reason='pyyaml is not installed')
    config, site = yaml.safe_load((ROOT / 'mkdocs.yml').read_text()), site_module()
    pages = {path.relative_to(ROOT / 'docs').as_posix() for path in ROOT.glob('docs/**/*.md')}
    pages = pages - {'README.md'} | {'index.md', 'where.md', 'api.md'}      # where.md is that README.md.
    assert set(site.named_in(config['nav'])) <= pages
    assert set(site.named_in(site.on_config(config)['nav'])) == pages
    assert site.on_config({'nav': [{'Home': 'index.md'}]})['nav'][1]['Further'][0] == 'anywhere.md'


def test_the_page_of_the_interface_has_every_public_name():
    text = '\n'.join(site_module().interface())
    for name in ('loss_zoo.load', 'loss_zoo.train', 'loss_zoo.Network', '- `image(self', 'metrics.frechet', 'terms.r1',
                 'terms.LeCam'):
        assert name in text, name


def test_links_out_of_the_pages_lead_to_the_repository_or_are_text(monkeypatch):
    site = site_module()
    monkeypatch.delenv('LOSS_ZOO_REPOSITORY', raising=False)
    page = 'see [loss](../training/loss.py), [data](data.md#labels), [x](https://a.b/c), ![picture](faces.png)'
    assert site.with_links(page, '') == 'see loss, [data](data.md#labels), [x](https://a.b/c), ![picture](faces.png)'
    monkeypatch.setenv('LOSS_ZOO_REPOSITORY', 'https://host/blob/main')
    assert site.with_links('[loss](../../training/loss.py)', 'methods') == '[loss](https://host/blob/main/training/loss.py)'
    assert site.with_links('[all](../README.md)', 'methods') == '[all](../where.md)'
    readme = '![f](docs/faces.png) [d](docs/data.md) [c](train.py)'
    assert site.as_page_of_docs(readme) == '![f](faces.png) [d](data.md) [c](../train.py)'


@pytest.mark.slow
def test_the_site_builds_without_a_network_and_without_a_warning(tmp_path):
    pytest.importorskip('material', reason='mkdocs-material, the extra "docs", is not installed')
    env = {**os.environ, **dict.fromkeys(('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'), 'http://127.0.0.1:9')}
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '--site-dir', tmp_path / 'site']
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ('index.html', 'api.html', 'methods/ggdr.html', 'hub.html'):
        text = (tmp_path / 'site' / page).read_text(encoding='utf-8')
        loaded = re.findall(r'<(?:link|script|img)[^>]*(?:href|src)="(https?:[^"]+)"', text)
        assert [address for address in loaded if 'canonical' not in address] == [], page
