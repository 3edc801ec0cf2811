"Knobs that are turned on the way, and a run in the background: what acts when, what a checkpoint knows of it, and what is left when somebody pulls the plug"
import contextvars, gc, json, math, os, shutil, signal, subprocess, sys, textwrap, threading, time, weakref
import pytest, torch
from grpo_lit.run.checkpoints import counters
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.files import NotSaved
from grpo_lit.run.knobs import read_events, repeat_turns, said_again, take_turns
from grpo_lit.run.runs import Run
from grpo_lit.run.trainer import GRPOTrainer
from grpo_lit.seeing.desk import Desk, page_of_control
from grpo_lit.seeing.owner import said
from grpo_lit.tasks import addition_task

pytestmark = [pytest.mark.filterwarnings('ignore::UserWarning'), pytest.mark.filterwarnings('ignore::FutureWarning')]
task = addition_task()
SMALL = dict(max_steps=6, num_generations=4, per_device_train_batch_size=8, max_completion_length=10, learning_rate=1e-3,
             lr_scheduler_type='constant', seed=3, use_cpu=True, disable_tqdm=True, gold_check=0)


def uneven(completions, **_):
    "A reward that differs within almost every group"
    return [len(c)/10+c.count('1') for c in completions]


def new_trainer(out=None, turns=None, reward=None, callbacks=(), test=None, **settings):
    "A small run; `turns`: step -> knobs that a callback turns after it"
    def hand(trainer, metrics):
        if found := (turns or {}).get(metrics['step']): trainer.turn(**found)
    torch.set_num_threads(1)
    args = GRPOConfig(output_dir=out and str(out), **SMALL | settings)
    return GRPOTrainer('tiny', reward or uneven, args, task.train[:64], test, callbacks=[hand, *callbacks])


def same_weights(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters()))


def column(trainer, name): return [m.get(name) for m in trainer.history]


def comes(ask, wanted, seconds=30.):
    "What another thread does is done a moment later"
    end = time.monotonic()+seconds
    while ask() != wanted and time.monotonic() < end: time.sleep(.01)
    return ask() == wanted


# knobs

def test_a_knob_acts_in_the_next_step_and_is_in_its_metrics():
    trainer = new_trainer(turns={2: dict(beta=.1, learning_rate=2e-3), 4: dict(beta=0., learning_rate=0.)})
    trainer.train()
    assert column(trainer, 'beta') == [.04, .04, .1, .1, 0., 0.]
    assert column(trainer, 'learning_rate') == [1e-3, 1e-3, 2e-3, 2e-3, 0., 0.]
    assert [(e['step'], e['event'], e['before'], e['value']) for e in trainer.events] == [
        (3, 'beta', .04, .1), (3, 'learning_rate', 1e-3, 2e-3), (5, 'beta', .1, 0.), (5, 'learning_rate', 2e-3, 0.)]


@pytest.mark.slow
def test_a_learning_rate_of_zero_stops_the_weights():
    trainer = new_trainer(turns={3: dict(learning_rate=0.)}, weight_decay=.1)
    seen = []
    trainer.add_callback(lambda t, m: seen.append([p.clone() for p in t.model.parameters()]))
    trainer.train()
    assert not all(map(torch.equal, seen[1], seen[2]))
    assert all(map(torch.equal, seen[2], seen[5]))


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['linear', 'cosine', 'constant_with_warmup'])
def test_a_turned_rate_goes_on_in_proportion(kind):
    settings = dict(lr_scheduler_type=kind, warmup_steps=2, learning_rate=1e-3)
    plain, turned = new_trainer(**settings), new_trainer(turns={3: dict(learning_rate=5e-4)}, **settings)
    plain.train(), turned.train()
    scheduled, rates = column(plain, 'learning_rate'), column(turned, 'learning_rate')
    assert rates[:3] == scheduled[:3] and rates[3] == 5e-4
    for rate, before in zip(rates[3:], scheduled[3:]): assert rate == pytest.approx(5e-4*before/scheduled[3])


@pytest.mark.slow
def test_a_rate_that_is_turned_where_the_schedule_is_at_zero_is_its_peak():
    trainer = new_trainer(lr_scheduler_type='constant_with_warmup', warmup_steps=2)
    trainer.turn(learning_rate=4e-3)
    trainer.train()
    assert column(trainer, 'learning_rate') == pytest.approx([0., 2e-3, 4e-3, 4e-3, 4e-3, 4e-3])


def test_a_run_that_began_at_a_rate_of_zero_takes_the_rate_that_is_turned():
    still, turned = new_trainer(max_steps=3, learning_rate=0.), new_trainer(None, {1: dict(learning_rate=1e-3)}, max_steps=3, learning_rate=0.)
    still.train(live=False), turned.train(live=False)
    assert column(turned, 'learning_rate') == [0., 1e-3, 1e-3] and not same_weights(turned, still)


@pytest.mark.slow
def test_the_optimizer_takes_the_turned_rate():
    plain, doubled = new_trainer(max_steps=1), new_trainer(max_steps=1, learning_rate=2e-3)
    turned = new_trainer(max_steps=1)
    turned.turn(learning_rate=2e-3)
    for trainer in (plain, doubled, turned): trainer.train()
    assert same_weights(turned, doubled) and not same_weights(turned, plain)


@pytest.mark.slow
def test_beta_with_a_schedule_and_with_a_target():
    sinking = new_trainer(turns={3: dict(beta=.3)}, beta_schedule='linear')
    sinking.train()
    assert column(sinking, 'beta')[3:] == pytest.approx([.3, .2, .1])
    aimed = new_trainer(turns={3: dict(beta=.3)}, target_kl=1e-3)
    aimed.train()
    found = column(aimed, 'beta')
    assert found[3] == .3 and found[4] == pytest.approx(.3, rel=.021) and found[4] != .3


def names(settings): return ' '.join(f'{k}={v}' for k, v in settings.items()) or 'plain'

def slowly(*several): return [pytest.param(o, marks=pytest.mark.slow) for o in several]

@pytest.mark.parametrize('settings', [dict(num_iterations=2), *slowly(
    dict(num_iterations=3), dict(steps_per_generation=2, num_iterations=1), dict(bf16=True, num_iterations=2),
    dict(importance_sampling_mode='token_truncate', num_iterations=2))], ids=names)
def test_a_rollout_has_one_temperature(settings):
    "Sampler, trainer and reference agree, in all updates with a rollout, whenever the knob was turned"
    trainer = new_trainer(turns={1: dict(temperature=1.7)}, learning_rate=0., **settings)
    trainer.train()
    each = settings.get('num_iterations', 1)*settings.get('steps_per_generation', 1)
    assert column(trainer, 'temperature') == [None]*each+[1.7]*(6-each)
    small = 1e-4 if not settings.get('bf16') else .1
    assert all(m < small for m in column(trainer, 'mismatch') if m is not None)
    assert all(r == pytest.approx(1, abs=small) for r in column(trainer, 'ratio') if r is not None)
    assert all(k < small for k in column(trainer, 'kl'))


@pytest.mark.slow
def test_beta_waits_for_the_rollout_where_it_is_paid_in_the_reward():
    trainer = new_trainer(turns={1: dict(beta=.5)}, kl_in_reward=True, scale_rewards='none', num_iterations=2)
    trainer.train()
    assert column(trainer, 'beta') == [.04, .04, .5, .5, .5, .5]


@pytest.mark.slow
def test_evaluations_stay_at_the_temperature_of_the_settings():
    def run(**turns):
        trainer = new_trainer(learning_rate=0., eval_steps=1, test=task.test[:16])
        trainer.turn(**turns)
        trainer.train()
        return column(trainer, 'eval_reward')
    assert run() == run(temperature=3.)


def test_a_value_that_cannot_be_is_refused_and_nothing_is_turned():
    trainer = new_trainer()
    for name, value in [('beta', -1), ('beta', math.nan), ('beta', 'much'), ('learning_rate', -1e-9), ('learning_rate', math.inf),
                        ('temperature', 0), ('temperature', -1.), ('temperature', None), ('top_p', .5), ('Beta', .1)]:
        with pytest.raises(ValueError, match=name.lower()): trainer.turn(**{name: value})
        good = dict(temperature=2.) if name == 'beta' else dict(beta=.1)
        with pytest.raises(ValueError): trainer.turn(**good, **{name: value})
    assert trainer.state.turns == []


@pytest.mark.slow
def test_a_run_without_a_reference_says_what_to_do():
    trainer = new_trainer(beta=0.)
    with pytest.raises(ValueError, match='small beta'): trainer.turn(beta=.1)
    trainer.turn(temperature=1.2)
    trainer.train()
    assert column(trainer, 'temperature') == [1.2]*6


@pytest.mark.slow
def test_a_run_without_turns_says_nothing_of_knobs(tmp_path):
    trainer = new_trainer(tmp_path)
    trainer.train()
    assert not (tmp_path/'events.jsonl').exists() and 'temperature' not in trainer.history[-1]
    found = counters(trainer.state)
    assert (found['temperature'], found['rate'], found['turns'], found['events']) == (None, None, [], [])


# checkpoints

TURNS = {
    'beta': {3: dict(beta=.5)},
    'learning rate': {1: dict(learning_rate=3e-3), 3: dict(learning_rate=1e-4)},
    'temperature': {1: dict(temperature=1.5), 3: dict(temperature=.7)},
    'all': {2: dict(beta=.2, temperature=1.3), 3: dict(learning_rate=2e-3), 4: dict(beta=0., temperature=.9)},
}

@pytest.mark.parametrize('settings', [dict(num_iterations=2), *slowly(
    {}, dict(target_kl=1e-3, lr_scheduler_type='linear'), dict(bf16=True, steps_per_generation=2),
    dict(kl_in_reward=True, scale_rewards='none', beta_schedule='cosine', num_iterations=2))], ids=names)
@pytest.mark.parametrize('kind', ['all', *slowly('beta', 'learning rate', 'temperature')])
def test_a_resumed_run_turns_the_same_knobs_at_the_same_steps(tmp_path, kind, settings):
    "The run was killed behind its events; from whichever checkpoint it goes on, nobody turns a knob, and it ends with the same bits"
    whole = new_trainer(tmp_path, TURNS[kind], save_steps=1, **settings)
    whole.train()
    events = read_events(tmp_path)
    assert len(events) == sum(map(len, TURNS[kind].values()))
    for step in (3, 1):
        again = new_trainer(tmp_path, save_steps=0, **settings)
        again.train(resume_from_checkpoint=str(tmp_path/f'checkpoint-{step}'))
        assert same_weights(again, whole), step
        assert read_events(tmp_path) == events
        for name in ('beta', 'learning_rate', 'temperature'): assert column(again, name) == column(whole, name)[step:]


@pytest.mark.slow
def test_turns_of_the_future_survive_a_second_kill(tmp_path):
    "Resumed before its events, and killed again before they came"
    whole = new_trainer(tmp_path, {4: dict(beta=.5)}, save_steps=1)
    whole.train()
    events = read_events(tmp_path)
    again = new_trainer(tmp_path, save_steps=0)
    again.load_checkpoint(tmp_path/'checkpoint-1')
    steps = again.steps()
    next(steps)
    steps.close()
    assert read_events(tmp_path) == events
    third = new_trainer(tmp_path, save_steps=0)
    third.train(resume_from_checkpoint=str(tmp_path/'checkpoint-1'))
    assert same_weights(third, whole) and read_events(tmp_path) == events


@pytest.mark.slow
def test_a_hand_on_a_knob_wins_over_what_was_planned_for_it(tmp_path):
    new_trainer(tmp_path, {3: dict(beta=.5, learning_rate=5e-4)}, save_steps=1).train()
    again = new_trainer(tmp_path, {2: dict(beta=.1)}, save_steps=0)
    again.train(resume_from_checkpoint=str(tmp_path/'checkpoint-1'))
    assert column(again, 'beta') == [.04, .1, .1, .1, .1]
    assert column(again, 'learning_rate') == [1e-3, 1e-3, 5e-4, 5e-4, 5e-4]


@pytest.mark.slow
def test_a_turn_that_waits_is_in_the_checkpoint(tmp_path):
    trainer = new_trainer(tmp_path, num_iterations=3)
    next(trainer.steps())
    trainer.turn(temperature=1.4)
    trainer.save_checkpoint(tmp_path/'mine')
    again = new_trainer(num_iterations=3)
    again.load_checkpoint(tmp_path/'mine')
    list(again.steps())
    assert column(again, 'temperature') == [None, None, 1.4, 1.4, 1.4]


@pytest.mark.slow
def test_a_checkpoint_of_the_time_before_there_were_knobs(tmp_path):
    trainer = new_trainer(tmp_path, save_steps=3)
    trainer.train()
    file = tmp_path/'checkpoint-3'/'training_state.pt'
    saved = torch.load(file, weights_only=True)
    for name in ('temperature', 'rate', 'turns', 'events'): del saved['counters'][name]
    torch.save(saved, file)
    (file.parent/'manifest.json').unlink()
    again = new_trainer(tmp_path)
    again.turn(temperature=2.)
    again.train(resume_from_checkpoint=str(file.parent))
    assert same_weights(again, trainer)


@pytest.mark.slow
@pytest.mark.parametrize('junk', [b'\0\0\0', b'{"step": 3, "event": "beta", "value": "x"}\n', b'{"step": 3, "event": "beta", "value": -4}\n',
                                  b'{"step": 4, "event": "bet', b'{"step": 2.5, "event": "beta", "value": 1}\n', b'[1]\n"a"\n{"event": 3, "step": 3}\n',
                                  b'{"step": 4, "event": "temperature"}\n', b'\xff\xfe{}'], ids=range(8))
def test_a_damaged_file_of_events_breaks_no_run(tmp_path, junk):
    whole = new_trainer(tmp_path, {3: dict(beta=.5)}, save_steps=1)
    whole.train()
    with open(tmp_path/'events.jsonl', 'ab') as f: f.write(junk)
    again = new_trainer(tmp_path)
    again.train(resume_from_checkpoint=str(tmp_path/'checkpoint-2'))
    assert same_weights(again, whole)


def test_turns_with_odd_words_in_them_are_made_again_all_the_same():
    trainer = new_trainer()
    told = [dict(step=3, event='beta', value='.5', time='noon'), dict(step=3, event='temperature', value=2, time=[1]),
            dict(step=3, event='beta', value=.6, time=math.nan), dict(step=2, event='learning_rate', value=1e-3)]
    again = repeat_turns(trainer.state, told)
    assert [(t['step'], t['value'], t['time']) for t in again] == [(2, 1e-3, 0.), (3, .5, 0.), (3, 2., 0.), (3, .6, 0.)]
    assert said_again(again).count('step 3') == 3
    trainer.state.step = 2
    assert len(take_turns(trainer.state, trainer.args)) == 4 and trainer.state.beta == .6


# rewind

def test_rewind_forgets_what_was_turned_later_and_keeps_it_aside(tmp_path):
    control = new_trainer(tmp_path, {2: dict(beta=.5), 4: dict(temperature=2.)}, save_steps=1).control()
    plain = new_trainer()
    plain.train()
    control.start()
    assert control.wait(60) == 'done'
    control.trainer.callbacks.clear()
    control.rewind(2)
    assert (control.state, control.trainer.state.step, control.knobs['beta']) == ('paused', 2, .04)
    assert [m['step'] for m in Run(tmp_path).metrics()] == [1, 2]
    assert [e['event'] for e in read_events(tmp_path)] == ['rewind']
    control.start()
    assert control.wait(60) == 'done'
    assert same_weights(control.trainer, plain)
    lines = [json.loads(line) for line in (tmp_path/'abandoned-events.jsonl').read_text().splitlines()]
    assert [(e['step'], e['event']) for e in lines] == [(3, 'beta'), (5, 'temperature')]
    assert len(list((tmp_path/'abandoned-rollouts').iterdir())) == 4


def test_a_resumed_run_tells_what_happened_in_the_order_in_which_it_did(tmp_path):
    "Also what has the same step: a turn, and two rewinds that are alike"
    control = new_trainer(tmp_path, max_steps=3, save_steps=1).control()
    control.set(beta=.3)
    control.step()
    for _ in range(3): control.rewind(1)
    control.stop()
    told = read_events(tmp_path)
    assert [e['event'] for e in told] == ['beta']+['rewind']*3 and all(e['time'] for e in told)
    again = new_trainer(tmp_path, max_steps=3)
    again.load_checkpoint(tmp_path/'checkpoint-1')
    assert again.events == told
    another = new_trainer(max_steps=3)
    another.world.by_first = lambda work: told # one of several processes, which looks elsewhere
    shutil.move(tmp_path/'checkpoint-1', tmp_path/'moved'/'checkpoint-1')
    another.load_checkpoint(tmp_path/'moved'/'checkpoint-1')
    assert another.events == told


@pytest.mark.slow
def test_rewind_with_the_knobs_of_today(tmp_path):
    control = new_trainer(tmp_path, save_steps=1).control()
    control.step(2)
    control.set(beta=.7, learning_rate=2e-3)
    control.step(2)
    control.rewind(1, keep_knobs=True)
    metrics = control.step()
    assert (metrics['step'], metrics['beta'], metrics['learning_rate']) == (2, .7, 2e-3)
    assert [e['event'] for e in control.events] == ['rewind', 'beta', 'learning_rate']


@pytest.mark.slow
def test_a_resumed_run_after_a_rewind_repeats_the_new_branch(tmp_path):
    control = new_trainer(tmp_path, save_steps=1).control()
    control.step(2)
    control.set(beta=.7)
    control.step(2)
    control.rewind(2)
    control.set(temperature=1.5)
    control.start()
    control.wait(60)
    again = new_trainer(tmp_path, save_steps=0)
    again.train(resume_from_checkpoint=str(tmp_path/'checkpoint-2'))
    assert same_weights(again, control.trainer) and column(again, 'beta') == [.04]*4


@pytest.mark.slow
def test_rewinding_to_nowhere_changes_nothing(tmp_path):
    control = new_trainer(tmp_path, save_steps=2).control()
    control.step(3)
    before = [p.clone() for p in control.trainer.model.parameters()]
    for where in (9, -1, '9', True, 2.5, None, '', '²', [2], tmp_path/'checkpoint-77', tmp_path):
        with pytest.raises(ValueError): control.rewind(where)
    assert control.trainer.state.step == 3 and all(map(torch.equal, before, control.trainer.model.parameters()))
    assert control.checkpoints == [2]
    assert control.step()['step'] == 4
    assert control.rewind(torch.tensor(2)) == tmp_path/'checkpoint-2'


def test_a_rewind_that_fails_takes_nothing_away(tmp_path):
    "Neither the history nor the right to save: what was not in a checkpoint can still be stopped with one"
    foreign = new_trainer(tmp_path/'other', max_steps=4, save_steps=4)
    foreign.train(live=False)
    control = new_trainer(tmp_path/'mine', max_steps=3, num_iterations=1).control()
    control.step(2)
    before = [p.clone() for p in control.trainer.model.parameters()]
    for where in (tmp_path/'nowhere', tmp_path/'other'/'checkpoint-4'): # the second is whole, and behind the end of this run
        with pytest.raises(ValueError): control.rewind(where)
    assert control.trainer.state.step == 2 and all(map(torch.equal, before, control.trainer.model.parameters()))
    assert len(control.trainer.history) == 2 and control.stop().name == 'checkpoint-2'


def test_knobs_of_today_are_neither_those_of_the_end_of_a_schedule_nor_those_before_the_last_turn(tmp_path):
    control = new_trainer(tmp_path, max_steps=3, save_steps=1, lr_scheduler_type='linear', beta_schedule='linear').control()
    control.start()
    control.wait(60)
    plain = control.trainer.history[1]['learning_rate'], control.trainer.history[1]['beta']
    control.rewind(1, keep_knobs=True)
    found = control.step()
    assert (found['learning_rate'], found['beta']) == plain and min(plain) > 0
    control.set(temperature=1.7) # waits for its step
    control.rewind(1, keep_knobs=True)
    assert control.step()['temperature'] == 1.7


# a run in the background

def test_a_run_that_was_paused_stepped_and_asked_is_the_run_that_was_not():
    alone, control = new_trainer(num_iterations=2), new_trainer(num_iterations=2).control()
    alone.train()
    control.ask('1+1=?')
    control.step()
    first = control.ask('47+85=?', n=3, seed=5)
    assert first.policy == control.ask('47+85=?', n=3, seed=5).policy
    control.step(2)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    control.ask('3+4=?', temperature=0)
    assert torch.equal(torch.get_rng_state(), before)
    control.pause()
    control.start()
    control.ask('12+1=?')
    assert control.wait(60) == 'done'
    assert same_weights(alone, control.trainer) and column(alone, 'loss') == column(control.trainer, 'loss')


@pytest.mark.slow
def test_a_pause_stops_the_counter():
    control = new_trainer(max_steps=500).control()
    control.start()
    while control.trainer.state.step < 2: time.sleep(.01)
    control.pause()
    step = control.trainer.state.step
    time.sleep(.3)
    assert control.state == 'paused' and control.trainer.state.step == step and control.thread is None
    assert len(control.ask('1+2=?').reference) == 2
    assert control.step()['step'] == step+1


@pytest.mark.slow
def test_stop_leaves_a_checkpoint_from_which_the_run_goes_on_to_the_bit(tmp_path):
    whole = new_trainer(num_iterations=2)
    whole.turn(beta=.2)
    whole.train()
    control = new_trainer(tmp_path, num_iterations=2).control()
    control.set(beta=.2)
    control.step(3)
    saved = control.stop()
    assert (saved.name, control.state, (tmp_path/'run.lock').exists()) == ('checkpoint-3', 'stopped', False)
    again = new_trainer(tmp_path, num_iterations=2)
    again.train(resume_from_checkpoint=True)
    assert same_weights(again, whole)
    control.trainer.run = None # the directory belongs to the other one now
    control.start()
    assert control.wait(60) == 'done' and same_weights(control.trainer, whole)


@pytest.mark.slow
def test_stop_without_a_directory_and_before_the_first_step(tmp_path):
    assert new_trainer().control().stop() is None
    control = new_trainer(tmp_path).control()
    assert control.stop() is None and control.state == 'idle'
    assert control.save().name == 'checkpoint-0'
    control.step(2)
    control.rewind(0)
    assert control.step()['step'] == 1


class Angry(Exception): pass

@pytest.mark.parametrize('error', [Angry('a\x1b[31m <b>reason</b>'), *slowly(KeyboardInterrupt(), SystemExit(3), MemoryError('much'))],
                         ids=lambda e: type(e).__name__)
def test_an_error_of_the_run_comes_out_where_it_is_waited_for(tmp_path, error):
    def fails(trainer, metrics):
        if metrics['step'] == 2: raise error
    control = new_trainer(tmp_path, callbacks=[fails]).control()
    control.start()
    with pytest.raises(type(error)): control.wait(60)
    assert control.state == 'failed' and type(control.error) is type(error)
    assert control.checkpoints == [2]
    page = page_of_control(control)
    assert '<details' in page and '<b>reason' not in page and '\x1b' not in page
    control.trainer.callbacks.clear()
    assert control.step()['step'] == 3 and control.error is None


class Speechless(Exception):
    def __str__(self): raise ValueError('no words')

def test_an_error_that_cannot_be_told_and_a_listener_that_exits_leave_nobody_waiting():
    def fails(trainer, metrics): raise Speechless
    def leaves(owner): raise SystemExit(3)
    control = new_trainer(max_steps=2, callbacks=[fails]).control()
    control.listeners.append(leaves)
    control.start()
    with pytest.raises(Speechless): control.wait(60)
    assert control.state == 'failed' and 'Speechless' in repr(control)
    control.trainer.callbacks.clear()
    assert control.step()['step'] == 2
    def breaks(): raise MemoryError
    control.tell = breaks # the thread itself breaks
    control.start()
    assert comes(lambda: control.thread, None)
    assert control.state == 'failed' and isinstance(control.error, MemoryError)
    del control.tell
    assert control.send(lambda: 5).result(60) == 5


def test_who_trains_a_run_that_is_under_way_is_told_and_disturbs_nothing(tmp_path):
    goes, told = threading.Event(), []
    def waits(trainer, metrics): goes.wait(60)
    control = new_trainer(tmp_path, max_steps=2, callbacks=[waits]).control()
    control.start()
    for begin in (control.trainer.train, lambda: next(control.trainer.steps())):
        with pytest.raises(RuntimeError, match='another thread'): begin()
    goes.set()
    assert control.wait(math.inf) == 'done' and [m['step'] for m in Run(tmp_path).metrics()] == [1, 2]
    assert [p.name for p in Run(tmp_path).checkpoints()] == ['checkpoint-2']


def test_the_policy_has_one_owner_at_a_time(tmp_path):
    "What uses the model or puts other weights into it is refused beside a step, and is as before once the run stands"
    goes = threading.Event()
    def waits(trainer, metrics): goes.wait(60)
    control = new_trainer(tmp_path, max_steps=2, save_steps=1, callbacks=[waits], test=task.test[:4]).control()
    trainer = control.trainer
    control.start()
    assert comes(lambda: len(trainer.history), 1)
    saved = tmp_path/'checkpoint-1'
    for use in (trainer.evaluate, lambda: trainer.load_checkpoint(saved)):
        with pytest.raises(RuntimeError, match='pause its control'): use()
    goes.set()
    assert control.wait(60) == 'done' and trainer.state.step == 2
    assert 'eval_reward' in trainer.evaluate()
    trainer.load_checkpoint(saved)
    assert trainer.state.step == 1


@pytest.mark.parametrize('given', [dict(n='many'), dict(n=2.5), dict(n=None), dict(n=True), dict(n=[2]), dict(temperature='hot'), dict(temperature=True),
                                   dict(temperature=math.nan), dict(max_completion_length=1.5), dict(max_completion_length='long')], ids=str)
def test_a_number_of_a_question_that_is_none_is_named(given):
    from grpo_lit.seeing.ask import read_asked
    name, = given
    with pytest.raises(ValueError, match=f'^{name} is .* must be'): read_asked(**dict(n=2, temperature=None, max_completion_length=None) | given)


@pytest.mark.slow
def test_a_mistake_in_a_command_hurts_only_its_caller():
    control = new_trainer().control()
    control.start()
    for bad in ('', None, 3, [], {}, 'half \ud800'):
        with pytest.raises(ValueError): control.ask(bad)
    with pytest.raises(ValueError): control.ask('1+1=?', n=0)
    with pytest.raises(ValueError): control.ask('1+1=?', temperature=-1)
    with pytest.raises(ValueError): control.ask('1'*500)
    with pytest.raises(ValueError): control.set(temperature=0)
    assert control.wait(60) == 'done'


@pytest.mark.slow
@pytest.mark.parametrize('n', [0, -1, 1.5, True, None])
def test_a_number_of_steps_is_one(n):
    with pytest.raises(ValueError, match='number of steps'): new_trainer().control().step(n)


@pytest.mark.slow
def test_one_thread_at_a_time(tmp_path):
    control = new_trainer(tmp_path, max_steps=300).control()
    control.start()
    while control.trainer.state.step < 1: time.sleep(.01)
    with pytest.raises(RuntimeError, match='another thread'):
        while True: next(control.trainer.steps())
    control.pause()
    assert control.trainer.control() is control
    trainer = control.trainer
    step = trainer.state.step
    assert next(trainer.steps())['step'] == step+1


@pytest.mark.slow
def test_a_callback_may_pause_turn_and_ask():
    said = []
    def hand(trainer, metrics):
        if metrics['step'] == 2:
            control.pause()
            control.set(beta=.3)
            said.append(control.ask('1+1=?', n=1).policy)
            with pytest.raises(RuntimeError, match='in the middle of a step'): control.stop()
    control = new_trainer(callbacks=[hand]).control()
    control.start()
    assert control.wait(60) == 'paused' and control.trainer.state.step == 2
    assert control.step()['beta'] == .3 and len(said) == 1


@pytest.mark.slow
def test_a_control_that_is_dropped_takes_its_model_with_it(tmp_path):
    control = new_trainer(tmp_path).control()
    control.step()
    Desk(control)
    gone = weakref.ref(control.trainer.model)
    del control
    gc.collect()
    assert gone() is None


@pytest.mark.slow
def test_wait_comes_back_after_its_time():
    control = new_trainer(max_steps=500).control()
    assert control.wait(1) == 'idle'
    control.start()
    assert control.wait(.01) == 'running'
    control.pause()
    assert control.wait() == 'paused'


@pytest.mark.slow
def test_a_reward_that_hangs_in_the_background_is_given_up():
    def slow(completions, **_):
        if threading.current_thread() is threading.main_thread(): return [0.]*len(completions)
        while len(completions) == 8: time.sleep(.01)
        return [float('1' in c) for c in completions]
    control = new_trainer(reward=slow, reward_timeout=1., max_steps=1).control()
    control.start()
    assert control.wait(60) == 'done'


@pytest.mark.slow
def test_what_nobody_can_make_html_of():
    nasty = '<script>alert(1)</script> $x$ \x1b[31m \u202e \0'
    control = new_trainer().control()
    desk = Desk(control)
    said = control.ask(nasty, n=1)
    desk.answered(said)
    for text in (desk.answers.value, repr(said)):
        assert '\x1b' not in text and '\0' not in text and '\u202e' not in text
        text.encode()
    assert '<script>' not in desk.answers.value and '$' not in desk.answers.value


@pytest.mark.slow
def test_the_panel_turns_and_shows(tmp_path):
    control = new_trainer(tmp_path, save_steps=1).control()
    desk = Desk(control)
    control.step(2)
    assert comes(lambda: desk.steps.options, (1, 2))
    desk.steps.value = 1
    desk.knobs['beta'].number.value = .25
    desk.knobs['temperature'].slider.value = 1.5
    assert control.step()['beta'] == .25 and control.trainer.history[-1]['temperature'] == pytest.approx(1.5, abs=.02)
    assert comes(lambda: desk.steps.options, (1, 2, 3)) and desk.steps.value == 1 # what was chosen stays
    desk.knobs['beta'].number.value = -3.
    assert 'beta' in desk.said.value and desk.knobs['beta'].number.value == .25
    desk.rewind()
    assert comes(lambda: control.thread, None)
    assert control.trainer.state.step == 1
    assert comes(lambda: desk.knobs['beta'].number.value, .04) and comes(lambda: 'rewind' in desk.log.value, True)


def test_a_reward_may_ask_and_pause_within_the_step_that_waits_for_it():
    said = []
    def asks(completions, **_):
        if threading.current_thread() is not threading.main_thread() and not said:
            control.pause()
            said.append(control.ask('1+1=?', n=1))
        return uneven(completions)
    control = new_trainer(reward=asks, max_steps=2).control()
    control.start()
    assert control.wait(60) == 'paused' and control.trainer.state.step == 1 and len(said) == 1


def test_a_reward_that_is_left_behind_asks_like_everybody_else():
    "Its step is over: what it wants is done between two steps, by the thread that has the model"
    over, found = threading.Event(), []
    def late():
        over.wait(30)
        found.append(control.send(threading.current_thread).result(30).name)
    def leaves(completions, **_):
        if not threads and threading.current_thread() is not threading.main_thread():
            threads.append(threading.Thread(target=contextvars.copy_context().run, args=[late]))
            threads[0].start()
        return uneven(completions)
    threads, control = [], new_trainer(reward=leaves, max_steps=3).control()
    control.step()
    over.set()
    threads[0].join(30)
    assert found == ['the owner of a policy']


def test_a_forked_child_steers_nothing(tmp_path):
    "It has the weights and the state, and would write into the same directory, or wait for a thread that it does not have"
    control = new_trainer(tmp_path, max_steps=3).control()
    control.step()
    ends, begins = os.pipe()
    child = os.fork()
    if not child:
        try:
            for f in (control.start, control.step, control.stop, control.save, control.wait, control.pause, lambda: control.ask('1')):
                with pytest.raises(RuntimeError, match='a process forked from it'): f()
            control.leave()
            os.write(begins, b'refused')
        finally: os._exit(0)
    os.waitpid(child, 0)
    os.close(begins)
    assert os.read(ends, 99) == b'refused' and len(Run(tmp_path).metrics()) == 1 and not control.checkpoints
    assert control.step()['step'] == 2


def test_a_stop_that_cannot_save_stands_and_can_be_asked_for_again(tmp_path, monkeypatch):
    control = new_trainer(tmp_path, max_steps=500).control()
    def full(*args): raise NotSaved(28, 'no space left on the disk')
    with monkeypatch.context() as m:
        m.setattr(control.trainer, 'save_checkpoint', full)
        control.start()
        while control.trainer.state.step < 1: time.sleep(.01)
        with pytest.raises(NotSaved, match='no space'): control.stop()
    assert control.state == control.wait(60) == 'paused'
    step = control.trainer.state.step
    assert control.stop().name == f'checkpoint-{step}' and control.state == 'stopped'


@pytest.mark.parametrize('when', ['the next step', *slowly('the end')])
def test_events_that_found_no_room_are_written_when_there_is_some(tmp_path, monkeypatch, when):
    control = new_trainer(tmp_path, max_steps=3).control()
    control.step(1 if when == 'the next step' else 2)
    def full(*args, **kw): raise NotSaved(28, 'no space left on the disk')
    with monkeypatch.context() as m:
        m.setattr('grpo_lit.run.knobs.write_whole', full)
        control.set(beta=.3)
        control.step()
    assert read_events(tmp_path) == []
    control.start()
    assert control.wait(60) == 'done' and [e['value'] for e in read_events(tmp_path)] == [.3] and not control.trainer.run.troubles


@pytest.mark.slow
@pytest.mark.parametrize('how', ['moved', 'removed'])
def test_a_directory_that_goes_away_under_a_run_is_made_again_with_all_lines(tmp_path, how):
    "Metrics and events, as far back as they go; whoever resumes finds them"
    run = tmp_path/'run'
    control = new_trainer(run, max_steps=4).control()
    control.set(beta=.2)
    control.step(2)
    shutil.rmtree(run) if how == 'removed' else os.rename(run, tmp_path/'elsewhere')
    control.step()
    assert [e['value'] for e in read_events(run)] == [.2] and [m['step'] for m in Run(run).metrics()] == [1, 2, 3]
    assert control.stop().name == 'checkpoint-3'
    again = new_trainer(run, max_steps=4)
    assert again.train(resume_from_checkpoint=True)['step'] == 4 and [e['value'] for e in read_events(run)] == [.2]


def test_what_stands_in_the_place_of_the_lines_is_no_line(tmp_path):
    for name in ('events.jsonl', 'metrics.jsonl'): (tmp_path/name).mkdir()
    assert read_events(tmp_path) == [] and Run(tmp_path).metrics() == []
    assert read_events(tmp_path/'nowhere') == [] and read_events(__file__) == []


class Interrupting(Exception):
    def __str__(self): raise KeyboardInterrupt

@pytest.mark.parametrize('error', [Angry('x'*3_000_000), Angry('half \ud800 \x1b[31m\0 \u202e'), OSError(5, '\udcff'), Interrupting()], ids=range(4))
def test_an_error_in_a_line_can_be_printed_whatever_it_says(error):
    line = said(error)
    assert line.startswith(type(error).__name__) and len(line) <= 300 and line.isprintable()
    line.encode()


# the end of the process

PROGRAM = '''
    import os, signal, sys, threading, time
    sys.path.insert(0, {tests!r})
    from test_control import new_trainer
    control = new_trainer({out!r}, max_steps=100000).control()
    control.start()
    while control.trainer.state.step < 3: time.sleep(.01)
    {then}
'''
WAYS = { # what ends the process -> (exit code, the last lines of the program)
    'its end': (0, 'pass'),
    'an error': (1, 'raise ValueError("elsewhere")'),
    'exit': (7, 'sys.exit(7)'),
    'SIGTERM': (-15, 'os.kill(os.getpid(), signal.SIGTERM)'),
    'SIGHUP': (-1, 'os.kill(os.getpid(), signal.SIGHUP)'),
    'SIGTERM while it waits': (-15, 'threading.Timer(.5, os.kill, (os.getpid(), signal.SIGTERM)).start(); control.wait()'),
    'Ctrl-C elsewhere': (-2, 'os.kill(os.getpid(), signal.SIGINT); time.sleep(5)'),
    'Ctrl-C while it waits': (0, 'threading.Timer(.5, os.kill, (os.getpid(), signal.SIGINT)).start(); control.wait(); assert control.state == "stopped"'),
    'its end, paused': (0, 'control.pause()'),
    'SIGTERM, paused': (-15, 'control.pause(); os.kill(os.getpid(), signal.SIGTERM)'),
}

@pytest.mark.slow
@pytest.mark.parametrize('way', WAYS)
def test_whatever_ends_the_process_a_checkpoint_is_left(tmp_path, way):
    code, then = WAYS[way]
    program = textwrap.dedent(PROGRAM).format(tests=os.path.dirname(__file__), out=str(tmp_path), then=then)
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    found = Run(tmp_path).checkpoints()
    assert len(found) == 1, (done.stdout, done.stderr)
    again = new_trainer(tmp_path, max_steps=100000)
    again.load_checkpoint(found[0])
    assert again.state.step >= 3 and next(again.steps())['step'] == again.state.step


@pytest.mark.slow
@pytest.mark.parametrize('how', ['restart', 'shutdown'])
@pytest.mark.parametrize('busy', [False, True])
def test_a_kernel_that_is_restarted_leaves_a_checkpoint(tmp_path, how, busy):
    manager = pytest.importorskip('jupyter_client.manager')
    kernel, client = manager.start_new_kernel(startup_timeout=60)
    try:
        code = textwrap.dedent(PROGRAM).format(tests=os.path.dirname(__file__), out=str(tmp_path), then='')
        client.execute_interactive(code, timeout=90)
        if busy: client.execute('control.wait()')
        getattr(kernel, 'restart_kernel' if how == 'restart' else 'shutdown_kernel')(now=False)
    finally:
        client.stop_channels()
        if kernel.is_alive(): kernel.shutdown_kernel(now=True)
    assert len(Run(tmp_path).checkpoints()) == 1


@pytest.mark.slow
def test_ctrl_c_in_a_cell_stops_the_run_with_a_checkpoint(tmp_path):
    manager = pytest.importorskip('jupyter_client.manager')
    kernel, client = manager.start_new_kernel(startup_timeout=60)
    try:
        code = textwrap.dedent(PROGRAM).format(tests=os.path.dirname(__file__), out=str(tmp_path), then='')
        client.execute_interactive(code, timeout=90)
        client.execute('control.wait()')
        time.sleep(1)
        kernel.interrupt_kernel()
        said = []
        client.execute_interactive('print(control.state)', timeout=60, output_hook=said.append)
        texts = [m['content'].get('text', '') for m in said]
        assert 'stopped\n' in texts, texts
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
    assert len(Run(tmp_path).checkpoints()) == 1
