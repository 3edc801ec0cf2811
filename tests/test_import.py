"""What `import grpo_lit` brings in, and that every name it offers is there."""
import json, subprocess, sys
import pytest
import grpo_lit

heavy = {'matplotlib', 'datasets', 'trl', 'torch', 'transformers', 'peft', 'pyarrow'}

def loaded(code):
    "Which heavy packages a fresh interpreter has imported after `code`"
    out = subprocess.run([sys.executable, '-c', f'{code}\nimport sys, json; print(json.dumps(sorted(m for m in sys.modules if "." not in m)))'], capture_output=True, text=True, check=True).stdout
    return heavy & set(json.loads(out.splitlines()[-1]))

def test_package_is_light(): assert loaded('import grpo_lit') == set()
def test_trainer_needs_no_plots_or_datasets(): assert not loaded('from grpo_lit import GRPOTrainer') & {'matplotlib', 'datasets', 'trl'}
def test_command_line_is_light(): assert not loaded('import grpo_lit.cli') & {'matplotlib', 'datasets', 'trl'}

@pytest.mark.parametrize('name', grpo_lit.__all__)
def test_offered_names_exist(name): assert getattr(grpo_lit, name) is not None

def test_unknown_name():
    with pytest.raises(AttributeError, match='no_such_thing'): grpo_lit.no_such_thing
