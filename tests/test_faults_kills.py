"""SIGKILL at random moments and wherever something is written: a run that is resumed ends, bit for bit, as one that was left alone."""
import builtins, hashlib, io, json, os, random, signal, time, traceback, warnings
from pathlib import Path
import pytest
import torch
from grpo_lit.policy import load_policy
from grpo_lit.run import files, logs
from grpo_lit.run.checkpoints import counters
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.resume import newest_whole
from grpo_lit.run.runs import Run
from grpo_lit.run.trainer import GRPOTrainer
from grpo_lit.tasks import addition_task
from transformers.utils import logging

KINDS = {
    'float32': {},
    'bf16': dict(bf16=True),
    'LoRA': dict(lora=True, learning_rate=1e-2),
    'several updates': dict(steps_per_generation=2, num_iterations=2),
    'several updates in bf16': dict(bf16=True, num_iterations=2),
    'dynamic sampling': dict(dynamic_sampling=2),
    'overlap': dict(overlap_rewards=True, reward_timeout=None),
    'adaptive beta': dict(target_kl=.001, num_iterations=2),
    'moving reference': dict(sync_ref_model=True, ref_model_sync_steps=2),
    'weighted tokens': dict(importance_sampling_mode='token_truncate', top_entropy_quantile=.5, num_iterations=2),
    'evaluation': dict(eval_steps=2)}
CHEAP = ('several updates', 'evaluation')

def varied(completions, **columns):
    "A reward that differs within most groups"
    return [float(sum(map(ord, c))%3) for c in completions]

def trainer(kind, out):
    "A run of four steps, with a checkpoint after each second"
    settings = dict(output_dir=str(out), max_steps=4, num_generations=4, per_device_train_batch_size=8,
                    max_completion_length=12, learning_rate=1e-3, save_steps=2, use_cpu=True) | KINDS[kind]
    lora, adapter = settings.pop('lora', False), None
    model, tokenizer = load_policy('tiny', device='cpu')
    if lora:
        from peft import LoraConfig
        adapter = LoraConfig(r=4, target_modules='all-linear', task_type='CAUSAL_LM')
    task = addition_task()
    held_out = task.test[:4] if 'eval_steps' in settings else None
    return GRPOTrainer(model, varied, GRPOConfig(**settings), task.train, held_out, tokenizer, peft_config=adapter)

def digest(t):
    "All bits of a trainer's state"
    found = hashlib.sha256(json.dumps(counters(t.state)).encode())
    weights = list(t.state.model.state_dict().values())
    if t.state.reference_moves: weights += t.state.reference.frozen.state_dict().values()
    for moments in t.optimizer.state.values(): weights += [v for v in moments.values()]
    for w in weights: found.update(torch.as_tensor(w).float().numpy().tobytes())
    return found.hexdigest()

class Deadly:
    "Counts what is written, and kills the process at number `at`: before it, after it, or half way"
    def __init__(self, at, when):
        self.at, self.when, self.n = at, when, 0

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def around(self, f, writes=lambda *args: True):
        def deadly(*args, **kwargs):
            if not writes(*args): return f(*args, **kwargs)
            self.n += 1
            now = self.n == self.at
            if now and self.when != 'after': self.half(args)
            try: return f(*args, **kwargs)
            finally:
                if now: self.die()
        return deadly

    def half(self, args):
        "A line that is being appended gets to the disk by half"
        if self.when == 'half' and len(args) > 1 and isinstance(args[1], str) and args[1].endswith('\n'):
            with open(args[0], 'ab') as f: f.write(args[1].encode()[:len(args[1])//2])
        self.die()

    def set(self):
        "Stand at everything that writes"
        import grpo_lit.run.runs as runs
        def to_write(file, mode='r', *more): return any(c in mode for c in 'wax+') and '/proc' not in str(file)
        for name in ('replace', 'fsync', 'unlink', 'mkdir', 'rmdir'):
            setattr(os, name, self.around(getattr(os, name)))
        builtins.open = io.open = self.around(open, to_write)
        files.exchange = self.around(files.exchange)
        runs.append_whole = self.around(logs.append_whole)

def in_child(work, log, seconds=None):
    "Call `work` in a fork, and SIGKILL it after some time; how it ended: 'done' or 'killed'"
    child = os.fork()
    if not child:
        code = 1
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL: return 'killed'
    assert status == 0, Path(log).read_text()[-3000:]
    return 'done'

def attempt(kind, out, resume, deadly=None):
    "Train, resumed if asked; leave the digest beside the run"
    def work():
        warnings.simplefilter('ignore')
        t = trainer(kind, out)
        if deadly: deadly.set()
        t.train(resume_from_checkpoint=resume)
        places = deadly.n if deadly else 0
        Path(f'{out}.digest').write_text(digest(t))
        Path(f'{out}.places').write_text(str(places))
    return work

TIMES = ('time/', 'floor/', 'step_time', 'tokens_per_second')

def left(out):
    "What a run leaves, but for the time it took"
    def timeless(m): return {k: v for k, v in m.items() if not k.startswith(TIMES)}
    return [timeless(m) for m in Run(out).metrics()], Run(out).rollouts(), Path(f'{out}.digest').read_text()

@pytest.fixture(scope='module')
def calm(tmp_path_factory):
    "What an undisturbed run of a kind leaves, the seconds it takes, and at how many places it writes"
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    folder, known = tmp_path_factory.mktemp('calm'), {}
    trainer('float32', folder/'warm').train() # what is loaded and measured here, the children have
    def of(kind):
        if kind not in known:
            out, began = folder/kind.replace(' ', '-'), time.time()
            assert in_child(attempt(kind, out, None, Deadly(0, 'after')), folder/'log') == 'done'
            known[kind] = left(out), time.time()-began, int(Path(f'{out}.places').read_text())
        return known[kind]
    return of

def killed_run(kind, out, rng, seconds, places, most):
    "A run that is killed up to `most` times, and then left alone; how often it was killed"
    kills, resume = 0, None
    while kills < most:
        if rng.random() < .3:
            ended = in_child(attempt(kind, out, resume), f'{out}.log', rng.uniform(0, seconds))
        else:
            deadly = Deadly(rng.randint(1, places), rng.choice(('before', 'after', 'half')))
            ended = in_child(attempt(kind, out, resume, deadly), f'{out}.log')
        if ended == 'done': return kills
        kills += 1
        resume = True
    in_child(attempt(kind, out, True), f'{out}.log')
    return kills

def check(kind, calm, folder, kills):
    "Kill runs of this kind so many times in all"
    expected, seconds, places = calm(kind)
    rng, done, n = random.Random(f'{kind}-0'), 0, 0
    while done < kills:
        n += 1
        out = folder/f'{n}'
        done += killed_run(kind, out, rng, seconds, places, min(4, kills-done))
        assert left(out) == expected, f'{kind}, run {n}: {Path(f"{out}.log").read_text()[-1000:]}'

@pytest.mark.parametrize('kind', CHEAP)
def test_killed_a_few_times(kind, calm, tmp_path):
    check(kind, calm, tmp_path, kills=3)

@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_killed_twenty_times(kind, calm, tmp_path):
    check(kind, calm, tmp_path, kills=20)

@pytest.mark.parametrize('exchanges', [pytest.param(True, marks=pytest.mark.slow), False])
def test_killed_at_each_place_of_a_second_save(exchanges, calm, tmp_path, monkeypatch):
    "The checkpoint of a step is saved again: at every moment one of the two is there, also where names cannot be exchanged"
    calm('float32')
    if not exchanges: monkeypatch.setattr(files, 'exchange', lambda a, b: False)
    t, run = trainer('float32', tmp_path/'run'), Run(tmp_path/'run')
    for m in t.steps():
        if m['step'] == 2: break
    t.save_checkpoint()
    def again(deadly):
        def work():
            deadly.set()
            t.save_checkpoint()
        return work
    for at in range(1, 99):
        if in_child(again(Deadly(at, 'after')), tmp_path/'log') == 'done': break
        assert newest_whole(run).name == 'checkpoint-2', at
    assert 30 < at < 98 # there were places
