"""The notebooks for GPUs run from their first cell to their last, with small stand-ins for model, data and machine."""
import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
import matplotlib, pytest, torch
from stand_in import stand_in

root = Path(__file__).parent.parent

def cells(name):
    "The code of a notebook, without the cell that installs"
    nb = json.loads((root/'nbs'/name).read_text(encoding='utf-8'))
    code = [''.join(c['source']) for c in nb['cells'] if c['cell_type']=='code']
    return [c for c in code if 'GRPO_LIT_SOURCE' not in c]

@pytest.fixture
def run(monkeypatch):
    "A function that runs a notebook under environment variables; what it printed"
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False) # the page's own small sizes, on any machine
    matplotlib.use('agg')
    def f(name, **where):
        for key, value in where.items():
            monkeypatch.setenv(key, str(value))
        space, said = {}, StringIO()
        with redirect_stdout(said):
            for cell in cells(name):
                exec(compile(cell, name, 'exec'), space)
        return said.getvalue()
    return f

@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return stand_in(tmp_path_factory.mktemp('model'))

def rows(path, made):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(map(json.dumps, made)))
    return path

def eggs(n):
    "Questions as GSM8K writes them"
    return [dict(question=f'{k} boxes of 6 eggs. How many eggs?', answer=f'6*{k}=<<6*{k}={6*k}>>{6*k}\n#### {6*k}') for k in range(2, n+2)]

def halves(n):
    "Problems as MATH writes them"
    made = lambda k: dict(problem=f'What is half of {2*k}?', solution=f'It is $\\boxed{{{k}}}$.', answer=str(k),
                          subject='Algebra', level=1, unique_id=str(k))
    return [made(k) for k in range(1, n+1)]

def test_gsm8k_on_colab(run, model, tmp_path):
    out = tmp_path/'run'
    said = run('cases/gsm8k_colab.ipynb', GRPO_LIT_MODEL=model, GSM8K=rows(tmp_path/'train.jsonl', eggs(40)), GRPO_LIT_OUT=out)
    assert 'lenient' in said and 'paired gain' in said
    assert '<|im_start|>user' in said and '\\boxed' in said
    assert len((out/'metrics.jsonl').read_text().splitlines()) == 2
    assert (out/'policy/model.safetensors').exists()

def test_math_on_an_a100(run, model, tmp_path):
    train, test = rows(tmp_path/'train.jsonl', halves(40)), rows(tmp_path/'test.jsonl', halves(4))
    said = run('cases/math_a100.ipynb', GRPO_LIT_MODEL=model, MATH=train, MATH500=test, GRPO_LIT_OUT=tmp_path/'run')
    assert '35 problems to train on' in said and '4 held out' in said and 'paired gain' in said
    assert (tmp_path/'run/policy/model.safetensors').exists()

def test_kaggle_goes_on_in_its_next_version(run, tmp_path):
    inputs = tmp_path/'input'
    rows(inputs/'gsm8k/main/train.jsonl', eggs(40))
    stand_in(inputs/'qwen/transformers/1')
    first = run('cases/kaggle.ipynb', KAGGLE_INPUT=inputs, KAGGLE_WORKING=tmp_path/'one')
    assert 'step 2 of 2' in first and 'going on' not in first
    (tmp_path/'one').rename(inputs/'this-notebook') # the output of a version is an input of the next
    second = run('cases/kaggle.ipynb', KAGGLE_INPUT=inputs, KAGGLE_WORKING=tmp_path/'two')
    assert 'after going on' in second
    assert len((tmp_path/'two/gsm8k-run/metrics.jsonl').read_text().splitlines()) == 2
