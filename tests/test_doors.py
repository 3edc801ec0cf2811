"""The first cell of every notebook installs what is missing, keeps the torch that is there, and does nothing elsewhere."""
import importlib.metadata, importlib.util, subprocess, sys
from importlib.metadata import version
from pathlib import Path
import pytest

root = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location('doors', root/'tools/doors.py')
doors = importlib.util.module_from_spec(spec)
spec.loader.exec_module(doors)

def commands(monkeypatch, missing, folder, source=None):
    "What the first cell would run in a kernel that lacks the module `missing`"
    ran, here = [], importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name==missing else here(name))
    monkeypatch.setattr(subprocess, 'check_call', ran.append)
    monkeypatch.delenv('GRPO_LIT_SOURCE', raising=False)
    if source:
        monkeypatch.setenv('GRPO_LIT_SOURCE', source)
    monkeypatch.chdir(folder)
    exec(doors.first_cell, {})
    return ran

def test_where_nothing_is_missing_it_does_nothing(monkeypatch, tmp_path):
    assert commands(monkeypatch, None, tmp_path) == []

@pytest.mark.parametrize('missing', ['grpo_lit', 'trl', 'math_verify', 'peft'])
def test_it_installs_from_the_repository_and_keeps_torch(monkeypatch, tmp_path, missing):
    command, = commands(monkeypatch, missing, tmp_path)
    assert command[:5] == [sys.executable, '-m', 'pip', 'install', '-q']
    assert doors.cfg['install'] in command
    assert f'torch=={version("torch")}' in command

@pytest.mark.parametrize('folder, source', [('nbs/1_line', '../..'), ('nbs', '..'), ('.', '.')])
def test_in_a_clone_it_installs_the_clone(monkeypatch, folder, source):
    command, = commands(monkeypatch, 'trl', root/folder)
    assert source in command and doors.cfg['install'] not in command

def test_another_source_can_be_named(monkeypatch):
    command, = commands(monkeypatch, 'trl', root/'nbs', source='/somewhere/else')
    assert '/somewhere/else' in command and '..' not in command

def test_of_two_torches_the_one_that_is_imported_stays(monkeypatch, tmp_path):
    class Torch:
        def __init__(self, version): self.version = version
    found = [Torch('2.11.0+cu130'), Torch('2.5.0')]
    monkeypatch.setattr(importlib.metadata, 'distributions', lambda name: found)
    command, = commands(monkeypatch, 'trl', tmp_path)
    assert command[-1] == 'torch==2.11.0+cu130' and 'torch==2.5.0' not in command

def test_without_any_torch_pip_chooses_one(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.metadata, 'distributions', lambda name: [])
    command, = commands(monkeypatch, 'trl', tmp_path)
    assert not any(o.startswith('torch') for o in command)

def notebook(*cells):
    made = [dict(cell_type=kind, id=str(i), metadata={}, source=[text]) for i, (kind, text) in enumerate(cells)]
    return dict(cells=made, metadata={}, nbformat=4, nbformat_minor=5)

path = doors.root/'nbs/1_line/03_core.ipynb'

def test_the_cell_comes_first_and_once():
    nb = notebook(('markdown', '# core\n\n> about'), ('markdown', 'Prose.'), ('code', 'import torch'))
    new = doors.with_doors(nb, path)
    assert [c['cell_type'] for c in new['cells']] == ['markdown', 'markdown', 'code', 'code']
    assert ''.join(new['cells'][2]['source']) == doors.first_cell
    assert doors.with_doors(new, path) == new

def test_a_notebook_that_moved_gets_new_links():
    nb = doors.with_doors(notebook(('markdown', '# core\n\n> about'), ('code', '1')), path)
    assert 'nbs/1_line/03_core.ipynb' in ''.join(nb['cells'][0]['source'])
    moved = doors.with_doors(nb, path.with_name('03_core.ipynb'))
    title = ''.join(moved['cells'][0]['source'])
    assert title.count('[Open in Colab](') == title.count('[Open in Kaggle](') == 1
    assert '02_core' not in title and '03_core.ipynb' in title

def test_an_older_cell_is_replaced():
    old = notebook(('markdown', '# core'), ('code', "os.getenv('GRPO_LIT_SOURCE')"), ('code', '1'))
    sources = [''.join(c['source']) for c in doors.with_doors(old, path)['cells'][1:]]
    assert sources == [doors.first_cell, '1']
