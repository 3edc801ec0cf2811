"A run that learns nothing says since when, why, and what to change; one that learns hears nothing"
import logging, math
import pytest, torch
from grpo_lit.policy import load_policy
from grpo_lit.rewards import accuracy_reward, think_format_reward
from grpo_lit.run.alarms import troubles
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.experiment import whole_run
from grpo_lit.run.trainer import GRPOTrainer
from grpo_lit.tasks import addition_task

pytestmark = [pytest.mark.filterwarnings('ignore::UserWarning'), pytest.mark.filterwarnings('ignore::FutureWarning')]
task = addition_task()
SMALL = dict(max_steps=8, num_generations=4, per_device_train_batch_size=8, max_completion_length=12, learning_rate=1e-4,
             seed=1, use_cpu=True, gold_check=0, disable_tqdm=True)

def slow(value): return pytest.param(value, marks=pytest.mark.slow)

def varied(completions, **columns):
    "Differs within every group"
    return [sum(map(ord, c))%7/7 for c in completions]

def flat(value):
    def reward(completions, **columns): return [value]*len(completions)
    return reward

def raising(completions, **columns): raise KeyError('gold')

def exiting(completions, **columns): raise SystemExit(1)

def none_of_them(completions, **columns): return [None]*len(completions)

def by_answer(completions, answer, **columns):
    "Cannot judge without a gold answer"
    return [None if a is None else float(a in c) for c, a in zip(completions, answer)]

def trainer(rewards=varied, rows=None, dtype=torch.float32, out=None, **settings):
    model, tokenizer = load_policy('tiny', dtype, 'cpu')
    args = GRPOConfig(output_dir=out and str(out), **SMALL | settings)
    return GRPOTrainer(model, rewards, args, rows or task.train[:64], processing_class=tokenizer)

def said(caplog): return [r.getMessage() for r in caplog.records if r.name == 'grpo_lit' and r.levelno >= logging.WARNING]

NO_GOLD = [dict(prompt=row['prompt'], answer=None) for row in task.train[:64]]
CASES = { # What is wrong: (settings of the trainer, words of its line)
    'constant at 0': (dict(rewards=flat(0.)), 'all groups are dead', 'too hard'),
    'constant at 1': (dict(rewards=flat(1.)), 'all groups are dead', 'solved'),
    'constant below 0': (dict(rewards=flat(-1.)), 'all groups are dead', 'another form'),
    'no leash': (dict(rewards=flat(0.), beta=0.), 'all groups are dead', 'too hard'),
    'greedy': (dict(rewards=varied, temperature=1e-3), 'all groups are dead', 'the same text'),
    'top_k of 1': (dict(rewards=varied, top_k=1), 'all groups are dead', 'top_k'),
    'cut': (dict(max_completion_length=2), 'all answers are cut', 'raise max_completion_length=2'),
    'cut and masked': (dict(max_completion_length=2, mask_truncated_completions=True), 'all answers are cut', 'none of them is trained on'),
    'failing': (dict(rewards=raising), 'raising fails on every answer', 'mend it'),
    'one of two fails': (dict(rewards=[varied, raising]), 'raising fails on every answer', 'mend it'),
    'null': (dict(rewards=none_of_them), 'none_of_them judges no answer', 'returns None'),
    'one of two is null': (dict(rewards=[none_of_them, varied]), 'none_of_them judges no answer', 'returns None'),
    'no gold answer': (dict(rewards=by_answer, rows=NO_GOLD), 'by_answer judges no answer', "the column 'answer'"),
    'rate too small': (dict(learning_rate=1e-12), 'the weights do not move', 'float32'),
    'rate of nothing': (dict(learning_rate=0.), 'the weights do not move', 'learning_rate=0'),
    'gradients cut to nothing': (dict(max_grad_norm=1e-30), 'the weights do not move', 'max_grad_norm=1e-30'),
    'warm-up without end': (dict(warmup_steps=1000), 'warming up until the end', 'warmup_steps=1000 of 8'),
    'the same for every answer': (dict(rewards=lambda completions, prompts, **c: [float(len(p)) for p in prompts]), 'all groups are dead', 'cannot tell answers apart'),
    'NaN': (dict(rewards=flat(float('nan'))), 'judges no answer', 'returns None'),
    'ends the program': (dict(rewards=exiting), 'fails on every answer', 'mend it'),
    'groups of two': (dict(rewards=flat(.3), num_generations=2), 'all groups are dead', '0.3 on average'),
}

RARE = 'constant below 0', 'no leash', 'top_k of 1', 'cut and masked', 'one of two fails', 'one of two is null', 'cut', 'null', 'greedy', 'constant at 1', 'rate of nothing', 'NaN', 'ends the program', 'the same for every answer'

@pytest.mark.parametrize('case', [pytest.param(c, marks=pytest.mark.slow) if c in RARE else c for c in CASES])
def test_said_once_and_in_the_summary(case, caplog):
    settings, *words = CASES[case]
    t = trainer(**settings)
    t.train()
    lines = [line for line in said(caplog) if words[0] in line]
    assert all(word in lines[0] for word in words), lines
    begins = [line for line in lines if line.startswith('step ')]
    assert len(begins) == 1 and lines[-1].startswith('in this run') and len(lines) == 2
    assert sum(words[0] in line for line in troubles(t.state)) == 1

def test_a_rate_beyond_the_weights_is_in_the_summary(caplog):
    t = trainer(learning_rate=10., max_steps=3)
    t.train()
    assert any('as large as the weights' in line for line in troubles(t.state))

def test_it_is_over_when_it_is_over(caplog):
    asked = []
    def later(completions, **columns):
        asked.append(1)
        return varied(completions) if len(asked) > 9 else [0.]*len(completions)
    t = trainer(later, max_steps=14)
    t.train()
    assert any('over, what began at step' in line for line in said(caplog))
    [line] = troubles(t.state)
    assert 'over since step' in line

@pytest.mark.parametrize('seed', [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
def test_an_honest_run_hears_nothing(seed, caplog):
    t = trainer([accuracy_reward, think_format_reward], max_steps=24, max_completion_length=48, learning_rate=3e-4, seed=seed,
                reward_weights=[1, .2], stop_when_hopeless=20)
    dead = [m['frac_reward_zero_std'] for m in t.steps()]
    assert .05 < sum(dead)/len(dead) < .95 # some groups are dead in any run
    assert troubles(t.state) == [] and said(caplog) == [] and t.state.step == 24

def test_a_reward_for_some_rows_only_is_no_trouble():
    "Two tasks in one run: each reward leaves the other's questions alone"
    rows = [dict(prompt=r['prompt'], kind=i%2) for i, r in enumerate(task.train[:64])]
    def of(n):
        def reward(completions, kind, **columns): return [v if k == n else None for v, k in zip(varied(completions), kind)]
        reward.__name__ = f'reward_{n}'
        return reward
    t = trainer([of(0), of(1)], rows, max_steps=20, per_device_train_batch_size=4)
    t.train()
    assert troubles(t.state) == []

def test_bfloat16_weights_that_round_updates_away(caplog):
    from grpo_lit.run.hopeless import watch_weights
    t = trainer(max_steps=2)
    t.state.model.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(t.model.parameters(), lr=1e-6, weight_decay=0.)
    for t.state.step in range(1, 9):
        for p in t.model.parameters(): p.grad = torch.randn_like(p)
        optimizer.step()
        watch_weights(dict(skipped=0., frac_reward_zero_std=0., learning_rate=1e-6), t.state, GRPOConfig(learning_rate=1e-6))
    assert 'bfloat16' in troubles(t.state)[0]

# The end of a hopeless run ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize('settings', [dict(rewards=flat(0.)), slow(dict(rewards=none_of_them)), slow(dict(learning_rate=1e-12, max_steps=20)),
                                      dict(max_completion_length=2, mask_truncated_completions=True, beta=0.)])
def test_hopeless_runs_end(settings, tmp_path, caplog):
    t = trainer(out=tmp_path/'run', **dict(stop_when_hopeless=4) | settings)
    done = t.train()
    assert done['hopeless'] and 4 <= done['step'] < t.total_steps and not done['interrupted']
    assert [p.name for p in t.run.checkpoints()] == [f'checkpoint-{done["step"]}']
    assert any('nothing could be learned in the last 4 steps' in line for line in said(caplog))

def test_a_hopeless_run_has_a_reason_and_another_chance(tmp_path):
    "Also where a single group a step might be chance; and taken up again, it has as many steps as before"
    one_group = dict(per_device_train_batch_size=4, stop_when_hopeless=3, out=tmp_path/'run', max_steps=9)
    assert trainer(flat(0.), **one_group).train()['step'] == 3
    again = trainer(flat(0.), **one_group)
    assert again.train(resume_from_checkpoint=True)['step'] == 6
    assert [line.split(':')[0] for line in troubles(again.state)] == ['from step 3 on']

@pytest.mark.slow
def test_hopeless_is_off_by_default(tmp_path):
    t = trainer(flat(0.), max_steps=6)
    assert 'hopeless' not in t.train() and t.state.step == 6

@pytest.mark.slow
def test_one_living_group_is_hope(tmp_path):
    asked = []
    def seldom(completions, **columns):
        asked.append(1)
        return varied(completions) if len(asked)%3 == 0 else [0.]*len(completions)
    t = trainer(seldom, stop_when_hopeless=4)
    assert 'hopeless' not in t.train() and t.state.step == 8

def test_the_summary_of_a_whole_run_says_it(tmp_path):
    t = trainer(flat(0.), out=tmp_path/'run', stop_when_hopeless=6)
    summary = whole_run(t, task, 4)
    assert summary['hopeless'] is True and summary['steps'] == 6 and t.run.read('summary.json')['hopeless']
    assert any('all groups are dead' in line for line in summary['troubles'])
    assert any('unchanged within its interval' in line for line in summary['troubles'])

def test_alarms_survive_a_resumed_run(tmp_path):
    "The line is said once for the run, not once for the process"
    trainer(flat(0.), out=tmp_path/'run', max_steps=8).train()
    again = trainer(flat(0.), out=tmp_path/'run', max_steps=12)
    again.train(resume_from_checkpoint=True)
    [line] = troubles(again.state)
    assert 'from step 6 on' in line
