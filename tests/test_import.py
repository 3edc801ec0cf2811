"""What `import grpo_lit` brings in, and that every name it offers is there."""
import json, subprocess, sys
import pytest
import grpo_lit

heavy = {'matplotlib', 'datasets', 'trl', 'torch', 'transformers', 'peft', 'pyarrow'}
pictures_and_data = {'matplotlib', 'datasets', 'trl'}

def loaded(code):
    "Which heavy packages a fresh interpreter has imported after `code`"
    tell = 'import sys, json; print(json.dumps(sorted(m for m in sys.modules if "." not in m)))'
    out = subprocess.run([sys.executable, '-c', f'{code}\n{tell}'], capture_output=True, text=True, check=True)
    return heavy & set(json.loads(out.stdout.splitlines()[-1]))

def test_package_is_light():
    assert loaded('import grpo_lit') == set()

def test_trainer_needs_no_plots_or_datasets():
    assert not loaded('from grpo_lit import GRPOTrainer') & pictures_and_data

def test_command_line_is_light():
    assert not loaded('import grpo_lit.run.cli') & pictures_and_data

@pytest.mark.parametrize('name', grpo_lit.__all__)
def test_offered_names_exist(name):
    assert getattr(grpo_lit, name) is not None

def test_unknown_name():
    with pytest.raises(AttributeError, match='no_such_thing'):
        grpo_lit.no_such_thing

@pytest.mark.parametrize('old, now', [
    ('sandbox', 'rewards.sandbox'),
    ('evaluate', 'run.evaluate'),
    ('config', 'run.config'),
    ('trainer', 'run.trainer'),
    ('watch', 'run.watch'),
    ('cli', 'run.cli')])
def test_moved_modules_are_found(old, now):
    "An old import path leads to the very same module"
    import importlib
    assert importlib.import_module(f'grpo_lit.{old}') is importlib.import_module(f'grpo_lit.{now}')
