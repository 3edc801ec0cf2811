"""Samplers with weights of their own, and one step ahead: versions, bounds, resume to the bit, errors and stops in the thread that writes."""
import threading
import pytest
import torch
from grpo_lit import GRPOConfig, GRPOTrainer
from grpo_lit.policy import load_policy
from grpo_lit.rewards import accuracy_reward, think_format_reward
from grpo_lit.run import ahead
from grpo_lit.run.past import load_rollouts
from grpo_lit.run.sampler import Sampler
from grpo_lit.run.versions import CopySampler, Versioned
from grpo_lit.tasks import addition_task
from test_processes import SHARDED
from two_processes import together

task = addition_task(seed=0)
SMALL = dict(max_steps=4, num_generations=4, per_device_train_batch_size=8, learning_rate=1e-3, max_completion_length=16,
             use_cpu=True, disable_tqdm=True, gold_check=0, save_minutes=0)
LONG = 100. # Seconds; only something that hangs takes so long

@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)

def new_trainer(out=None, sampler=None, tools=None, **settings):
    model, tokenizer = load_policy('tiny', device='cpu')
    args = GRPOConfig(output_dir=out and str(out), **SMALL | settings)
    made = GRPOTrainer(model, [accuracy_reward, think_format_reward], args, task.train[:64], task.test[:4],
                       processing_class=tokenizer, tools=tools)
    if sampler: use(made, sampler)
    return made

def use(trainer, kind):
    "Let another class of samplers write"
    old = trainer.collector.sample
    old.sampler = kind(old.state, old.tokenizer, old.args, old.accelerator)
    old.state.remote = old.remote

def weights(trainer): return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])

def measured(metrics): # Without what a clock says
    return {k: v for k, v in metrics.items() if not k.startswith(('time/', 'floor/', 'step_time', 'tokens_per_second')) and v == v}

def lags(trainer): return [m['staleness'] for m in trainer.steps()]

class Sequential(CopySampler):
    "The same without a thread"
    beside = False

class AtAGate(CopySampler):
    "Waits in the thread that writes ahead until somebody opens"
    def __init__(self, *args):
        super().__init__(*args)
        self.open, self.begun, self.fails = threading.Event(), threading.Event(), None
    def generate(self, rows, G, seed, on_group=None, **how):
        if threading.current_thread().name == 'writing ahead':
            self.begun.set()
            while not self.open.wait(.01): on_group(0, None) if self.fails is None else self.fail()
        return super().generate(rows, G, seed, on_group and (lambda i, group: on_group(i, group)), **how)
    def fail(self): raise self.fails

@pytest.fixture(autouse=True)
def tells_of_nothing(monkeypatch):
    "`AtAGate` asks whether it is still wanted, and has no group to show"
    stamped = Versioned.stamped
    monkeypatch.setattr(Versioned, 'stamped', lambda self, ro, version=None: ro if ro is None else stamped(self, ro, version))

# ---- by default

def test_by_default_nothing_is_stale():
    "The policy itself writes: nothing is weighed, nothing is said, and rows know their version"
    trainer = new_trainer(num_iterations=2, max_steps=3)
    for m in trainer.steps():
        assert 'staleness' not in m and 'token_weight' not in m and 'time/sync' not in m
        assert trainer.last_rollouts.versions.tolist() == [(m['step']-1)//2*2]*8
    assert type(trainer.collector.sample.sampler) is Sampler and not trainer.state.remote

def test_a_copy_in_turns_is_the_policy():
    "A sampler apart that is always told writes the same; weighing by 1 moves rounding alone"
    class InTurns(CopySampler): pass
    plain, apart = new_trainer(max_steps=2), new_trainer(max_steps=2, sampler=InTurns)
    one, other = list(plain.steps()), list(apart.steps())
    assert [m['staleness'] for m in other] == [0.]*2
    assert all(abs(m['token_weight']-1) < 1e-4 for m in other)
    for a, b in zip(one, other): assert a['reward'] == b['reward'] and a['num_tokens'] == b['num_tokens']
    torch.testing.assert_close(weights(plain), weights(apart), rtol=1e-3, atol=1e-5)

# ---- how far behind

def slow(*values): return pytest.param(*values, marks=pytest.mark.slow)

@pytest.mark.parametrize('settings,expected', [
    (dict(max_staleness=1), [0, 1, 1, 1]),
    (dict(max_staleness=5), [0, 1, 1, 1]), # never more than one rollout ahead
    (dict(max_staleness=1, num_iterations=2, max_steps=6), [0, 1, 1, 2, 1, 2]),
    slow(dict(max_staleness=2, steps_per_generation=2, max_steps=6), [0, 1, 2, 3, 2, 3]),
    slow(dict(max_staleness=3, num_iterations=2, steps_per_generation=2, max_steps=10), [0, 1, 2, 3, 3, 4, 5, 6, 3, 4]),
    (dict(max_staleness=1, max_steps=1), [0])], ids=str)
def test_lags(settings, expected):
    assert lags(new_trainer(**settings)) == expected

@pytest.mark.parametrize('settings', [
    dict(importance_sampling_mode='none'), dict(steps_per_generation=2, max_staleness=2), slow(dict(overlap_rewards=True)),
    slow(dict(dynamic_sampling=1)), slow(dict(eval_steps=2)), slow(dict(importance_sampling_mode='sequence_mask')), slow(dict(loss_type='vespo'))], ids=str)
def test_the_thread_changes_nothing(settings):
    "Beside the training and before it: the same bits"
    beside, before = new_trainer(**dict(max_staleness=1) | settings), new_trainer(sampler=Sequential, **dict(max_staleness=1) | settings)
    one, other = [list(map(measured, t.steps())) for t in (beside, before)]
    assert one == other and torch.equal(weights(beside), weights(before))
    assert ('token_weight' in one[1]) == (settings.get('loss_type') != 'vespo' and settings.get('importance_sampling_mode') != 'none')

def test_it_is_beside():
    "The update is made while the next rollout is being written"
    trainer = new_trainer(max_staleness=1, sampler=AtAGate)
    gate = trainer.collector.sample.sampler
    steps = trainer.steps()
    assert next(steps)['staleness'] == 0
    assert gate.begun.wait(LONG) and trainer.collector.ahead.under_way and trainer.state.step == 1
    gate.open.set()
    assert next(steps)['staleness'] == 1

def test_replaced_groups_are_newer():
    "Prompts that come in for dead groups are asked of the newest weights"
    trainer = new_trainer(max_staleness=1, dynamic_sampling=2, max_steps=3, temperature=.3)
    found = [(m['staleness'], m['dynamic_sampling/prompts']) for m in trainer.steps()]
    assert found[0][0] == 0 and all(0 <= lag <= 1 for lag, _ in found)
    assert any(asked > 2 and lag < 1 for lag, asked in found[1:])

def test_texts_say_who_wrote_them(tmp_path):
    trainer = new_trainer(tmp_path/'run', max_staleness=1)
    list(trainer.steps())
    found = load_rollouts(tmp_path/'run')
    assert dict(zip(found['step'], found['policy_step'])) == {1: 0, 2: 0, 3: 1, 4: 2}

# ---- put down and picked up

AHEAD = {
    'one': dict(max_staleness=1),
    'two updates': dict(max_staleness=2, steps_per_generation=2),
    'late': dict(max_staleness=1, num_iterations=2),
    'beside evaluations': dict(max_staleness=1, eval_steps=1, per_device_eval_batch_size=2),
    'rewards that overlap': dict(max_staleness=1, overlap_rewards=True)}

@pytest.mark.parametrize('name', ['two updates', *map(slow, AHEAD)])
def test_resumed(name, tmp_path):
    "From every checkpoint to the same bits"
    whole = new_trainer(tmp_path/'whole', save_steps=1, **AHEAD[name])
    history = [measured(m) for m in whole.steps()]
    for at in (1, 2):
        resumed = new_trainer(**AHEAD[name])
        resumed.load_checkpoint(whole.run.path/f'checkpoint-{at}')
        assert [measured(m) for m in resumed.steps()] == history[at:], at
        assert torch.equal(weights(resumed), weights(whole))

def test_taken_up_with_less(tmp_path):
    "What is too old for the settings of today is asked again"
    whole = new_trainer(tmp_path/'run', save_steps=2, max_staleness=1)
    list(whole.steps())
    resumed = new_trainer()
    resumed.load_checkpoint(whole.run.path/'checkpoint-2')
    assert resumed.state.ahead['rollouts'].versions.tolist() == [1]*8
    next(resumed.steps())
    assert resumed.last_rollouts.versions.tolist() == [2]*8 and resumed.state.ahead is None

def test_older_checkpoint(tmp_path):
    "One that knows of no rollout ahead"
    trainer = new_trainer(tmp_path/'run', save_steps=2)
    list(trainer.steps())
    path = trainer.run.path/'checkpoint-2'
    saved = torch.load(path/'training_state.pt', weights_only=True)
    del saved['ahead']
    torch.save(saved, path/'training_state.pt')
    (path/'manifest.json').unlink(missing_ok=True)
    resumed = new_trainer(max_staleness=1)
    resumed.load_checkpoint(path)
    assert lags(resumed) == [0, 1]

def test_rewound(tmp_path):
    "What was under way belongs to a past that is put aside"
    trainer = new_trainer(tmp_path/'run', save_steps=1, max_staleness=1)
    first = [measured(m) for m in trainer.steps()]
    trainer.load_checkpoint(trainer.run.path/'checkpoint-2')
    assert trainer.collector.sample.known is None
    assert [measured(m) for m in trainer.steps()] == first[2:]

def test_turned_temperature():
    trainer = new_trainer(max_staleness=1)
    steps = trainer.steps()
    next(steps)
    trainer.turn(temperature=.5)
    assert [m['staleness'] for m in steps] == [0, 1, 1]

# ---- what goes wrong

def test_error_surfaces(tmp_path):
    "As what it is, in the step that needed the rows, behind a checkpoint; the run can go on"
    trainer = new_trainer(tmp_path/'run', max_staleness=1, sampler=AtAGate)
    gate = trainer.collector.sample.sampler
    gate.fails = ConnectionError('the server is gone')
    with pytest.raises(ConnectionError, match='the server is gone'): trainer.train(live=False)
    assert trainer.state.step == 1 and [p.name for p in trainer.run.checkpoints()] == ['checkpoint-1']
    assert trainer.collector.ahead.under_way is None
    gate.open.set()
    trainer.train(live=False)
    assert trainer.state.step == 4

def test_error_does_not_spoil_a_checkpoint(tmp_path):
    trainer = new_trainer(tmp_path/'run', max_staleness=1, save_steps=1, sampler=AtAGate)
    trainer.collector.sample.sampler.fails = ConnectionError('gone')
    steps = trainer.steps()
    next(steps)
    assert [p.name for p in trainer.run.checkpoints()] == ['checkpoint-1'] and trainer.state.ahead is None
    with pytest.raises(ConnectionError): next(steps)

@pytest.mark.parametrize('opens', [True, False])
def test_stop_while_it_writes(opens, tmp_path, monkeypatch, caplog):
    "Ctrl-C: what arrives in time is kept, and the resumed run is the same; what does not is left out, and said"
    whole = new_trainer(max_staleness=1)
    history = [measured(m) for m in whole.steps()]
    trainer = new_trainer(tmp_path/'run', max_staleness=1, sampler=AtAGate)
    gate = trainer.collector.sample.sampler
    monkeypatch.setattr(ahead, 'AT_A_STOP', LONG if opens else .1)
    begin = trainer.collector.ahead.begin
    def closed(*args):
        if trainer.state.step == 1: gate.open.clear()
        begin(*args)
    def stop(trainer, metrics):
        if metrics['step'] != 2: return
        if opens: threading.Timer(.2, gate.open.set).start()
        raise KeyboardInterrupt
    gate.open.set()
    monkeypatch.setattr(trainer.collector.ahead, 'begin', closed)
    trainer.add_callback(stop)
    trainer.train(live=False)
    assert trainer.run.checkpoints()[-1].name == 'checkpoint-2'
    assert ('is left out of the checkpoint' in caplog.text) != opens
    gate.open.set()
    resumed = new_trainer(max_staleness=1)
    resumed.load_checkpoint(trainer.run.checkpoints()[-1])
    later = [measured(m) for m in resumed.steps()]
    assert [m['staleness'] for m in later] == [1. if opens else 0., 1.]
    if opens: assert later == history[2:] and torch.equal(weights(resumed), weights(whole))

def test_stop_while_it_is_scored(monkeypatch):
    "What was written ahead is not lost: the step is made again, to the bit"
    history = [measured(m) for m in new_trainer(max_staleness=1, max_steps=2).steps()]
    trainer = new_trainer(max_staleness=1, max_steps=2)
    steps, complete = trainer.steps(), trainer.collector.complete
    def stopped(*args):
        monkeypatch.setattr(trainer.collector, 'complete', complete)
        raise KeyboardInterrupt
    found = [measured(next(steps))]
    monkeypatch.setattr(trainer.collector, 'complete', stopped)
    with pytest.raises(KeyboardInterrupt): next(steps)
    assert trainer.state.ahead
    assert found+[measured(m) for m in trainer.steps()] == history and trainer.state.ahead is None

def test_stop_where_no_thread_writes():
    "It stops the caller; an error waits for its turn"
    def stopped(tell): raise KeyboardInterrupt
    def broken(tell): raise ConnectionError
    with pytest.raises(KeyboardInterrupt): ahead.Writing(stopped, threaded=False)
    assert isinstance(ahead.Writing(broken, threaded=False).error, ConnectionError)
    with pytest.raises(RuntimeError, match='KeyboardInterrupt'): ahead.Writing(stopped).result()

def test_given_up_at_the_end():
    "Threads that still write when the process ends are told"
    trainer = new_trainer(max_staleness=1, sampler=AtAGate)
    next(trainer.steps())
    writing = trainer.collector.ahead.under_way
    assert not writing.wait(0)
    ahead.give_up_all()
    assert writing.wait(LONG) and isinstance(writing.error, InterruptedError)

def test_nothing_is_sent_while_it_writes():
    "An evaluation waits, and asks the newest weights"
    trainer = new_trainer(max_staleness=1, sampler=AtAGate)
    gate, done = trainer.collector.sample.sampler, []
    next(trainer.steps())
    assert gate.begun.wait(LONG)
    asking = threading.Thread(target=lambda: done.append(trainer.evaluate()))
    asking.start()
    asking.join(.2)
    assert not done and gate.version == 0
    gate.open.set()
    asking.join(LONG)
    assert done and gate.version == 1
    assert trainer.collector.ahead.take(1).versions.tolist() == [0]*8

def test_refused():
    def look(place:str) -> str:
        """Look there

        Args:
            place: Where.
        """
        return place
    with pytest.raises(ValueError, match='tools are not played ahead'): new_trainer(max_staleness=1, tools=[look])
    with pytest.raises(ValueError, match='max_staleness'): GRPOConfig(max_staleness=-1)
    with pytest.raises(ValueError, match='max_staleness'): GRPOConfig(max_staleness=1.5)

# ---- several processes

def in_a_world(rank, folder, settings):
    trainer = new_trainer(folder, **settings)
    found = [m['staleness'] for m in trainer.steps()]
    def whole(p): return p.full_tensor() if hasattr(p, 'full_tensor') else p
    return found, torch.cat([whole(p.detach()).flatten() for p in trainer.model.parameters()])

@pytest.mark.parametrize('sharded', [False, slow(True)])
def test_two_processes(sharded):
    "Each writes its share ahead; weights as by one process"
    settings = dict(max_staleness=1, max_steps=2, learning_rate=1e-4)
    one = new_trainer(**settings)
    expected = lags(one)
    halves, env = settings | dict(per_device_train_batch_size=4), SHARDED if sharded else None
    for found, theirs in together(in_a_world, None, halves, env=env):
        assert found == expected
        torch.testing.assert_close(theirs, weights(one), rtol=1e-4, atol=1e-6)
