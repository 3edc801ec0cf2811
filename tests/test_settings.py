"""settings.ini (packaging) and pyproject.toml (nbdev, pytest) say the same thing where both speak, and the installed package agrees."""
import re
from configparser import ConfigParser
from importlib.metadata import entry_points, metadata, requires, version
from pathlib import Path
import pytest
from packaging.requirements import Requirement
try: import tomllib
except ModuleNotFoundError: tomllib = pytest.importorskip('tomli')

root = Path(__file__).parent.parent
parser = ConfigParser(delimiters=['='])
parser.read(root/'settings.ini', encoding='utf-8')
ini = parser['DEFAULT']
toml = tomllib.loads((root/'pyproject.toml').read_text(encoding='utf-8'))
name = ini['lib_name']

def test_name():
    assert toml['project']['name'] == name

def test_urls():
    site = ini['doc_host']+ini['doc_baseurl']
    there = f"{ini['git_url']}/blob/{ini['branch']}"
    assert toml['project']['urls'] == dict(
        Repository=ini['git_url'],
        Documentation=site,
        Changelog=f'{there}/CHANGELOG.md',
        Issues=f"{ini['git_url']}/issues")

@pytest.mark.parametrize('key', ['lib_path', 'nbs_path', 'doc_path', 'tst_flags'])
def test_nbdev(key):
    assert toml['tool']['nbdev'][key] == ini[key]

def test_pytest_knows_the_flags():
    markers = toml['tool']['pytest']['ini_options']['markers']
    assert [m.partition(':')[0] for m in markers] == ini['tst_flags'].split()

def wanted():
    "(extra, requirement) in settings.ini"
    for key in ini:
        if key!='requirements' and not key.endswith('_requirements'): continue
        extra = key.removesuffix('requirements').rstrip('_')
        for r in map(Requirement, ini[key].split()):
            yield extra, r.name, r.specifier

def installed():
    "(extra, requirement) in the metadata of the installed package"
    for r in map(Requirement, requires(name)):
        extra = str(r.marker or '').rpartition('extra == ')[2].strip('"')
        yield extra, r.name, r.specifier

def test_installed_requirements():
    assert set(installed()) == set(wanted()), 'install again: pip install -e .'

def test_installed_metadata():
    m = metadata(name)
    assert (m['Summary'], m['Requires-Python']) == (ini['description'], '>='+ini['min_python'])
    source = (root/ini['lib_path']/'__init__.py').read_text(encoding='utf-8')
    assert f'__version__ = "{version(name)}"' in source

def test_console_scripts():
    have = {f'{o.name}={o.value}' for o in entry_points(group='console_scripts')}
    assert have >= set(ini['console_scripts'].split())

def test_package_data():
    files = [f for pattern in ini['package_data'].split() for f in (root/ini['lib_path']).glob(pattern)]
    assert {f.name for f in files} >= {'config.json', 'model.safetensors', 'tokenizer.json', 'py.typed', '__init__.pyi'}
    assert sum(f.stat().st_size for f in files) <= 4*2**20, 'the shipped policy is 4 MB at most'

def test_citation():
    "CITATION.cff names this version, place and licence"
    lines = (root/'CITATION.cff').read_text(encoding='utf-8').splitlines()
    told = dict(o.split(': ', 1) for o in lines if ': ' in o and o[0].isalpha())
    said = (told['version'], told['license'], told['repository-code'], told['url'])
    assert said == (version(name), ini['license'], ini['git_url'], ini['doc_host']+ini['doc_baseurl'])

def test_every_setting_is_read():
    "A setting that only tables know promises something that nobody does"
    from dataclasses import fields
    from grpo_lit.run.settings import AllSettings
    tables = {'settings.py', 'objective.py', 'from_trl.py', 'placing.py', 'ranges.py', 'options.py', '_modidx.py'}
    modules = [p for p in (root/'grpo_lit').rglob('*.py') if p.name not in tables]
    words = {w for p in modules for w in re.findall(r'\w+', p.read_text(encoding='utf-8'))}
    assert {f.name for f in fields(AllSettings)} <= words
