"""The notebooks for GPUs run from their first cell to their last, with small stand-ins for model, data and machine."""
import json, re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
import matplotlib, pytest, torch
from scripted import undecided
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

RIVERS = ['Orre', 'Tolk', 'Marsk', 'Lenne', 'Skov', 'Aller']

def towns(n):
    "Questions as HotpotQA writes them: the second passage is named in the first"
    def made(i):
        river, town, painter = RIVERS[i%6], f'Hall{i}', f'Lund{i}'
        said = {painter: f'{painter} is a painter from {town}.', town: f'{town} lies on the river {river}.', f'{river} family': f'{river} is a name.'}
        context = [[title, [text]] for title, text in said.items()]
        return dict(_id=f'q{i}', question=f'Which river flows through the town of the painter {painter}?', answer=river, type='bridge',
                    level='easy', context=context, supporting_facts=[[painter, 0], [town, 0]])
    return [made(i) for i in range(n)]

def a_searcher(folder):
    "A policy that searches, guesses, and calls what is not there, all at random; its template is Qwen3's"
    def call(name, **arguments): return f'<tool_call>\n{json.dumps(dict(name=name, arguments=arguments))}\n</tool_call>'
    texts = [call('search', query=q) for q in ('Lund0 painter', 'Hall0 river', 'Hall9')]
    texts += [f'<answer>{river}</answer>' for river in RIVERS[:3]]+[call('look', query='Orre')]
    model, tokenizer = undecided(texts, 'qwen3')
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

def test_an_agent_on_a_gpu(run, tmp_path):
    out, data = tmp_path/'run', tmp_path/'hotpot.json'
    data.write_text(json.dumps(towns(12)))
    said = run('cases/agent_gpu.ipynb', GRPO_LIT_MODEL=a_searcher(tmp_path/'model'), HOTPOTQA=data, GRPO_LIT_OUT=out)
    assert '8 questions to train on, 4 held out, 30 passages' in said and 'paired gain' in said
    assert '<think>\n\n</think>' in said and '"name": "search"' in said
    assert 'exact_match' in said and 'turn 1: ' in said and 'stop: ' in said
    metrics = list(map(json.loads, (out/'metrics.jsonl').read_text().splitlines()))
    assert len(metrics) == 2 and all(m['episodes/drift'] == 0 for m in metrics)
    assert sum(m['tools/calls'] for m in metrics) > 0 and max(m['retrieval/recall'] for m in metrics) > 0
    page = json.loads((root/'nbs/cases/agent_gpu.ipynb').read_text(encoding='utf-8'))
    table, = [''.join(c['source']) for c in page['cells'] if '## What to look at' in ''.join(c['source'])]
    named = re.findall(r'`([a-z_0-9]+(?:/[a-z_0-9]+)?)`', '\n'.join(line.split('|')[1] for line in table.splitlines() if line.startswith('| `')))
    assert len(named) > 10 and set(named) <= set(metrics[0])
    assert (out/'policy/model.safetensors').exists()
