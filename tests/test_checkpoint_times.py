"Checkpoints by time, at the end and after any error; a directory that knows its run, and is not lost by a second start"
import json, logging, os, shutil
import pytest, torch
from grpo_lit.policy import load_policy
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.resume import is_passing
from grpo_lit.run.runs import Run
from grpo_lit.run.trainer import GRPOTrainer
from grpo_lit.tasks import addition_task

pytestmark = [pytest.mark.filterwarnings('ignore::UserWarning'), pytest.mark.filterwarnings('ignore::FutureWarning')]
task = addition_task()
SMALL = dict(max_steps=6, num_generations=4, per_device_train_batch_size=8, max_completion_length=8, learning_rate=1e-3,
             seed=1, use_cpu=True, gold_check=0, disable_tqdm=True)

def slow(*values): return pytest.param(*values, marks=pytest.mark.slow)

def varied(completions, **columns): return [sum(map(ord, c))%7/7 for c in completions]

def trainer(out, callbacks=(), rows=64, rewards=varied, **settings):
    model, tokenizer = load_policy('tiny', device='cpu')
    args = GRPOConfig(output_dir=str(out), **SMALL | settings)
    return GRPOTrainer(model, rewards, args, task.train[:rows], task.test[:2], tokenizer, callbacks=callbacks)

def names(out): return [p.name for p in Run(out).checkpoints()]

def clock(trainer, metrics):
    "A callback: each step takes a minute"
    trainer.run.saved_at -= 60

def seen_by(out, **settings): # Names of the checkpoints before each step and at the end
    found = []
    def look(trainer, metrics): found.append([(p.name, is_passing(p)) for p in trainer.run.checkpoints()])
    return found, look

# By time ---------------------------------------------------------------------------------------------------------------

def test_the_newest_of_those_by_time_is_kept(tmp_path):
    found, look = seen_by(tmp_path)
    trainer(tmp_path/'run', [look, clock], save_minutes=2, max_steps=7).train()
    assert found[2:7] == [[('checkpoint-3', True)]]*2 + [[('checkpoint-5', True)]]*2 + [[('checkpoint-7', True)]]
    assert names(tmp_path/'run') == ['checkpoint-7']

def test_they_do_not_count_against_those_that_were_asked_for(tmp_path):
    found, look = seen_by(tmp_path)
    trainer(tmp_path/'run', [look, clock], save_minutes=1, save_steps=3, save_total_limit=2, max_steps=8).train()
    assert found[7] == [('checkpoint-3', False), ('checkpoint-6', False), ('checkpoint-8', True)]
    assert names(tmp_path/'run') == ['checkpoint-3', 'checkpoint-6', 'checkpoint-8']

@pytest.mark.slow
def test_the_clock_begins_anew_with_every_checkpoint(tmp_path):
    found, look = seen_by(tmp_path)
    trainer(tmp_path/'run', [look, clock], save_minutes=3, save_steps=2, max_steps=7).train()
    assert not any(passing for step in found for _, passing in step)

@pytest.mark.parametrize('settings', [slow(dict(save_minutes=0)), dict(save_strategy='no', save_minutes=1)])
def test_switched_off(settings, tmp_path):
    found, look = seen_by(tmp_path)
    trainer(tmp_path/'run', [look, clock], **settings).train()
    assert not any(found)

@pytest.mark.slow
def test_ten_minutes_is_the_default(tmp_path):
    found, look = seen_by(tmp_path)
    trainer(tmp_path/'run', [look, clock], max_steps=12).train()
    assert [len(step) for step in found] == [0]*10+[1]*2

def test_one_by_time_can_be_resumed(tmp_path):
    def killed(trainer, metrics):
        "What is on the disk at this moment is what a SIGKILL would leave"
        if metrics['step'] == 4: shutil.copytree(trainer.run.path, tmp_path/'killed', ignore=shutil.ignore_patterns('*lock*'))
    trainer(tmp_path/'run', [clock, killed], save_minutes=2).train()
    assert names(tmp_path/'killed') == ['checkpoint-3'] and is_passing(tmp_path/'killed/checkpoint-3')
    again = trainer(tmp_path/'killed')
    assert again.train(resume_from_checkpoint=True)['step'] == 6
    whole = trainer(tmp_path/'whole')
    whole.train()
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters()))

# By strategy, at the end, after an error ---------------------------------------------------------------------------------

@pytest.mark.parametrize('settings, expected', [
    slow(dict(save_steps=4), [4, 6]),
    slow(dict(save_steps=.5), [3, 6]),
    (dict(save_steps=.3), [2, 4, 6]),
    slow(dict(save_strategy='epoch', rows=4), [2, 4, 6]),
    (dict(save_strategy='epoch', rows=5), [3, 5, 6]),
    slow(dict(save_strategy='no', save_steps=2), []),
    slow({}, [6])])
def test_strategies(settings, expected, tmp_path):
    trainer(tmp_path/'run', **settings).train()
    assert names(tmp_path/'run') == [f'checkpoint-{n}' for n in expected]

@pytest.mark.parametrize('strategy, expected', [(dict(eval_strategy='epoch', rows=4), [2, 4, 6]), slow(dict(eval_strategy='no', eval_steps=2), []),
                                                slow(dict(eval_steps=.5), [3, 6]), (dict(eval_steps=1, eval_delay=4), [4, 5, 6])])
def test_evaluations_have_strategies_too(strategy, expected, tmp_path):
    t = trainer(tmp_path/'run', **strategy)
    t.train()
    assert [m['step'] for m in t.run.metrics() if 'eval_reward' in m] == expected

@pytest.mark.parametrize('error', [KeyError('x'), SystemExit(3), *map(slow, (MemoryError(), torch.OutOfMemoryError('none left'), GeneratorExit(), RecursionError()))])
def test_a_checkpoint_after_any_error(error, tmp_path):
    def breaks(trainer, metrics):
        if metrics['step'] == 3: raise error
    with pytest.raises(type(error)): trainer(tmp_path/'run', [breaks]).train()
    assert names(tmp_path/'run') == ['checkpoint-3']

# Going on ----------------------------------------------------------------------------------------------------------------

def test_a_finished_run_is_prolonged(tmp_path, capsys):
    "And its learning rate is that of the longer schedule"
    trainer(tmp_path/'run', max_steps=3).train()
    again = trainer(tmp_path/'run')
    assert again.train(resume_from_checkpoint=True)['step'] == 6
    assert 'after step 3 of 6' in capsys.readouterr().out
    rates = [m['learning_rate'] for m in again.run.metrics()]
    assert rates[3:] == pytest.approx([1e-3*(6-n)/6 for n in (3, 4, 5)])
    assert again.run.read('config.json')['changes'] == [dict(from_step=4, changed=dict(max_steps=[3, 6]))]

def test_nothing_left_to_do_is_said(tmp_path, capsys):
    trainer(tmp_path/'run').train()
    trainer(tmp_path/'run').train(resume_from_checkpoint=True)
    assert 'it is done, and a larger max_steps than 6 would prolong it' in capsys.readouterr().out
    with pytest.raises(ValueError, match='is at step 6, but the run is to end at step 4'):
        trainer(tmp_path/'run', max_steps=4).train(resume_from_checkpoint=True)
    assert len(Run(tmp_path/'run').metrics()) == 6

def test_changed_settings_are_recorded_each_time(tmp_path, caplog):
    trainer(tmp_path/'run', max_steps=2).train()
    trainer(tmp_path/'run', max_steps=4, learning_rate=1e-4).train(resume_from_checkpoint=True)
    trainer(tmp_path/'run', max_steps=6, learning_rate=1e-4, temperature=.9).train(resume_from_checkpoint=True)
    changes = Run(tmp_path/'run').read('config.json')['changes']
    assert [c['from_step'] for c in changes] == [3, 5]
    assert changes[0]['changed'] == dict(max_steps=[2, 4], learning_rate=[1e-3, 1e-4])
    assert changes[1]['changed'] == dict(max_steps=[4, 6], temperature=[1., .9])

@pytest.mark.slow
def test_steps_done_again_are_said(tmp_path, capsys):
    trainer(tmp_path/'run', save_steps=2, max_steps=5).train()
    trainer(tmp_path/'run', save_steps=2).train(resume_from_checkpoint=str(tmp_path/'run/checkpoint-2'))
    assert 'after step 2 of 6; steps 3 to 5 are done again' in capsys.readouterr().out

def test_settings_that_must_not_change_are_refused(tmp_path):
    trainer(tmp_path/'run', max_steps=2).train()
    before = (tmp_path/'run/config.json').read_text()
    for name, value in dict(num_generations=2, seed=5, beta=0.).items():
        with pytest.raises(ValueError, match=name): trainer(tmp_path/'run', **{name: value}).train(resume_from_checkpoint=True)
    assert (tmp_path/'run/config.json').read_text() == before

# A second start ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('lost', [slow(()), ('metrics.jsonl',), slow(('metrics.jsonl', 'config.json', 'rollouts'))])
def test_a_run_is_not_begun_anew_over_another(lost, tmp_path):
    trainer(tmp_path/'run', max_steps=2).train()
    for name in lost: os.rename(tmp_path/'run'/name, tmp_path/name)
    with pytest.raises(ValueError, match='already holds a run'): trainer(tmp_path/'run').train()
    assert names(tmp_path/'run') == ['checkpoint-2']

def test_overwritten_if_asked(tmp_path):
    "What a run wrote goes, and what somebody else put there stays"
    trainer(tmp_path/'run', max_steps=3, save_steps=1).train()
    (tmp_path/'run/notes.txt').write_text('mine')
    (tmp_path/'run/checkpoint-best').mkdir()
    trainer(tmp_path/'run', max_steps=2, overwrite_output_dir=True).train()
    assert names(tmp_path/'run') == ['checkpoint-2'] and len(Run(tmp_path/'run').metrics()) == 2
    assert len(Run(tmp_path/'run').rollout_files()) == 2
    assert (tmp_path/'run/notes.txt').exists() and (tmp_path/'run/checkpoint-best').exists()

@pytest.mark.slow
def test_resuming_wins_over_overwriting(tmp_path):
    trainer(tmp_path/'run', max_steps=3).train()
    assert trainer(tmp_path/'run', overwrite_output_dir=True).train(resume_from_checkpoint=True)['step'] == 6
    assert [m['step'] for m in Run(tmp_path/'run').metrics()] == [1, 2, 3, 4, 5, 6]

def test_the_steps_of_a_run_without_a_checkpoint_are_put_aside(tmp_path, caplog):
    trainer(tmp_path/'run', max_steps=3, save_strategy='no').train()
    assert trainer(tmp_path/'run', max_steps=3).run.checkpoints() == []
    rows = [m | dict(total=9) for m in Run(tmp_path/'run').metrics()] # as if it had been killed
    (tmp_path/'run/metrics.jsonl').write_text(''.join(json.dumps(m)+'\n' for m in rows))
    with caplog.at_level(logging.WARNING): trainer(tmp_path/'run', max_steps=9).train(resume_from_checkpoint=True)
    assert 'what it wrote of 3 steps is put aside' in caplog.text and (tmp_path/'run/abandoned-metrics.jsonl').exists()
