"Real files of the benchmarks: every row loads, its gold answer earns, a wrong one does not; skipped where the data files are absent"
import os
from pathlib import Path
import pytest
from grpo_lit.rewards.comparing import accuracy_reward, math_equal, strict_accuracy_reward
from grpo_lit.rewards.programs import code_reward
from grpo_lit.rewards import check_gold
from grpo_lit.run.datasets import load_task

DATA = Path(os.environ.get('GRPO_LIT_CASES', 'not set'))/'data'
pytestmark = pytest.mark.skipif(not DATA.exists(), reason='needs the data files (set GRPO_LIT_CASES to the folder that holds data/)')
FILES = dict(
    gsm8k='gsm8k/test.jsonl',
    math500='math500/test.jsonl',
    svamp='svamp.jsonl',
    humaneval='humaneval/HumanEval.jsonl.gz',
    mbpp='mbpp/sanitized-mbpp.json')
ROWS = dict(
    gsm8k=1319,
    math500=500,
    svamp=1000,
    humaneval=164,
    mbpp=427)

def reward_for(name, style):
    if name in ('humaneval', 'mbpp'):
        return code_reward
    return strict_accuracy_reward if style == 'chat' else accuracy_reward

@pytest.mark.parametrize('name,count', ROWS.items())
@pytest.mark.parametrize('style', ['plain','chat'])
def test_loads(name, count, style):
    task = load_task(str(DATA/FILES[name]), prompt_style=style)
    assert count-3 <= len(task.train)+len(task.test) <= count and all(r['prompt'] for r in task.train)
    check_gold([reward_for(name, style)], [dict(r) for r in task.train], 8)

def test_few_shot_and_test_file():
    task = load_task(str(DATA/'gsm8k/train.jsonl'), test=str(DATA/FILES['gsm8k']), prompt_style='few-shot', shots=3, n_test=50)
    assert len(task.test)==50 and task.train[0]['prompt'].count('Question:')==4 and task.train[0]['answer_style']=='hash'

@pytest.mark.parametrize('name', ['gsm8k','math500','svamp'])
def test_every_gold_earns_and_its_neighbour_does_not(name):
    gold = load_task(str(DATA/FILES[name]), n_test=1).train['answer']
    box = ['So it is \\boxed{'+g+'}.' for g in gold]
    assert set(accuracy_reward([], box, [], answer=gold))=={1.}
    others = accuracy_reward([], box[1:]+box[:1], [], answer=gold)
    earned = [i for i,v in enumerate(others) if v]
    assert all(math_equal(gold[i], gold[(i+1)%len(gold)]) for i in earned)
    assert sum(others)/len(others) < .05
