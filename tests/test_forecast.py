"""The doctor's forecast where it could go wrong: rehearsals that must leave no trace, odd rewards, runs of other shapes"""
import math
from dataclasses import replace
import pytest, torch
from peft import LoraConfig
from grpo_lit.doctor import forecast, undone
from grpo_lit.doctor.dead import dead_groups, dead_subsets, share_interval
from grpo_lit.doctor.diagnosing import diagnose
from grpo_lit.doctor.forecast import FORECAST_CHECKS
from grpo_lit.doctor.findings import Check, Finding
from grpo_lit.doctor.gain import gain_of
from grpo_lit.doctor.pace import pace_of
from grpo_lit.doctor.patient import take_sample
from grpo_lit.doctor.undone import rehearse, run_shaped
from grpo_lit.policy import load_policy
from grpo_lit.rewards.comparing import accuracy_reward
from grpo_lit.run.config import TINY_RUN, GRPOConfig
from grpo_lit.run.trainer import GRPOTrainer
from grpo_lit.tasks import addition_task

task = addition_task(seed=0)
HERE = dict(use_cpu=True, bf16=False, disable_tqdm=True, reward_weights=None, per_device_train_batch_size=16)

def trainer_of(reward=accuracy_reward, peft_config=None, **settings):
    model, tokenizer = load_policy('tiny', device='cpu')
    args = GRPOConfig(**TINY_RUN | HERE | settings)
    return GRPOTrainer(model, reward, args, task.train, processing_class=tokenizer, peft_config=peft_config)

def sample_of(trainer): return take_sample(trainer, task.train, 5., most=4)

def bits(trainer): # Weights, and all that the optimizer keeps
    kept = [s for state in trainer.optimizer.state.values() for s in state.values() if isinstance(s, torch.Tensor)]
    return [x.detach().clone() for x in [*trainer.model.parameters(), *kept]]

def same(a, b): return len(a)==len(b) and all(torch.equal(x, y) for x, y in zip(a, b))

ADAPTER = LoraConfig(r=4, target_modules='all-linear', task_type='CAUSAL_LM')

@pytest.mark.parametrize('settings', [
    dict(), dict(beta=0., optim='sgd', warmup_steps=10),
    dict(num_iterations=2, gradient_checkpointing=True, peft_config=ADAPTER)], ids=['plain', 'sgd', 'adapter'])
def test_a_rehearsal_in_the_middle_of_a_run_leaves_no_trace(settings):
    a, b = trainer_of(**settings), trainer_of(**settings)
    first, second = a.steps(), b.steps()
    next(first), next(second)
    before, part = bits(a), run_shaped(sample_of(a).rollouts, a.args)
    found = rehearse(a, part, [part])
    assert found.stepped and found.moved[0].abs().max() > 0
    assert same(before, bits(a)) and a.state.step==1
    assert next(first)['loss']==next(second)['loss'] and same(bits(a), bits(b))

def test_a_rehearsal_that_breaks_leaves_no_trace(monkeypatch):
    t = trainer_of()
    before, part = bits(t), run_shaped(sample_of(t).rollouts, t.args)
    def breaks(*_): raise RuntimeError('in the middle')
    monkeypatch.setattr(undone, 'read_all', breaks)
    with pytest.raises(RuntimeError, match='in the middle'): rehearse(t, part, [part])
    assert same(before, bits(t)) and all(p.grad is None for p in t.model.parameters())

def test_dead_groups_of_odd_rewards():
    nan = math.nan
    assert dead_subsets([nan]*4, 2)==1 and dead_subsets([1., 0, nan, nan], 2)==5/6
    whole = dead_groups(torch.tensor([[nan]*8]*3+[[1.]*8]), (4, 8, 64))
    assert whole[8].value==1 and whole[64].value > .9
    each = dead_groups(torch.rand(6, 8), (2, 16)) # numbers that never occur twice
    assert each[2].value==0 and each[16].value==0
    with pytest.raises(ValueError, match='least'): dead_groups(torch.zeros(3, 1))
    with pytest.raises(ValueError, match='no group'): dead_subsets([1.], 2)
    assert share_interval([])==(0., 1.)

def test_pace_of_runs_of_other_shapes():
    for settings in (dict(num_iterations=2, beta=0.), dict(dynamic_sampling=2, per_device_train_batch_size=64)):
        t = trainer_of(**settings)
        found = pace_of(t, sample_of(t), 1., dead=.5)
        assert found.step_time > 0 and abs(sum(found.shares.values())-1) < 1e-6
        assert found.updates==settings.get('num_iterations', 1)
        assert found.rounds==(1.75 if 'dynamic_sampling' in settings else 1.)

def test_rewards_that_cannot_judge_and_rewards_that_are_equal():
    def half(completions, **columns): return [None if i%2 else float(len(c)%2) for i, c in enumerate(completions)]
    def nothing(completions, **columns): return [0.]*len(completions)
    t = trainer_of(half)
    assert math.isfinite(gain_of(t, sample_of(t).rollouts, 1.).value)
    t = trainer_of(nothing)
    assert gain_of(t, sample_of(t).rollouts, 1.).value==0
    one = sample_of(t).rollouts.take(slice(0, 8))
    assert gain_of(t, one) is None

def checks(*names): return [c for c in FORECAST_CHECKS if c.name in names]

def examined(*names, reward=accuracy_reward, rows=task.train, seconds=2., **settings):
    model, tokenizer = load_policy('tiny', device='cpu')
    args = GRPOConfig(**TINY_RUN | HERE | settings)
    return diagnose(model, rows, reward, args, processing_class=tokenizer, seconds=seconds, checks=checks(*names))

def test_all_dead_says_stop():
    def never(completions, **columns): return [0.]*len(completions)
    d = examined('dead', 'accuracy', 'gain', reward=never, seconds=60.)
    assert d.verdict=='stop' and d.found==['dead'] and 'gain' in d.skipped
    assert 'never answered' in d['dead'].cure and d['dead'].figures['lowest']==1

def test_all_solved_says_stop_and_names_the_other_end():
    def always(completions, prompts, **columns): return [float(str(p) != str(first[0])) for p in prompts]
    first = [task.train[0]['prompt']]
    d = examined('dead', reward=always, seconds=60.)
    assert d.verdict=='stop'

def test_a_form_that_no_reward_reads():
    def strict(completions, answer, **columns): return [float(f'[[{a}]]' in c) for c, a in zip(completions, answer)]
    rows = [r | dict(answer_style='boxed') for r in task.train]
    d = examined('accuracy', reward=strict, rows=rows)
    assert d['accuracy'].verdict=='look' and 'form' in d['accuracy'].cure
    d = examined('accuracy', rows=[{k: v for k, v in r.items() if k != 'answer_style'} for r in task.train])
    assert d['accuracy'].verdict=='fine' # lenient answers are paid here

def test_steps_too_small_to_be_seen():
    d = examined('gain', learning_rate=1e-6)
    assert d['gain'].verdict=='look' and 'learning_rate' in d['gain'].cure+d['gain'].said

def test_memory_that_is_not_there(monkeypatch):
    monkeypatch.setattr('grpo_lit.run.memory.free_bytes', lambda device: 0)
    monkeypatch.setattr(forecast, 'held_here', lambda: 2**20)
    found = examined('memory')['memory']
    assert found.verdict=='stop' and 'adapter' in found.cure

def test_what_only_asks_for_a_look_stops_where_it_lets_nothing_be_learned():
    def never(completions, **columns): return [0.]*len(completions)
    found = Check('cut', lambda patient: Finding('cut', 'look', 'all are cut', 'raise it'))
    model, tokenizer = load_policy('tiny', device='cpu')
    d = diagnose(model, task.train, never, GRPOConfig(**TINY_RUN | HERE), processing_class=tokenizer, seconds=2.,
                 checks=[found, *checks('dead', 'gain')])
    assert d.found==['cut'] and d.verdict=='stop' and 'explained by cut' in d.skipped['dead']
