"""What reward functions do to a run: tables of cases, of which each must cost its rows at most.

`RETURNS`, `RAISES`, `HANGS` and `MISDEEDS` hold the cases; a case of several rows must keep the healthy ones.
"""
import asyncio, builtins, collections, ctypes, decimal, enum, fractions, gc, hashlib, itertools, locale, logging, math
import array, os, queue, random, re, signal, socket, subprocess, sys, tempfile, threading, time, types, warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
import torch
from grpo_lit.core import Rollouts
from grpo_lit.policy import load_policy, tiny_tokenizer
from grpo_lit.rewards.calls import RewardCaller, RewardContractError, call_rewards
from grpo_lit.rewards.process import _table, look, restore
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.runs import Run
from grpo_lit.run.trainer import GRPOTrainer
from grpo_lit.scoring import check_rewards, score_completions
from patience import patient

nan, B = math.nan, 3

def arguments(n=B):
    texts = ['one', 'two', 'three'][:n]
    return dict(prompts=['?']*n, completions=texts, completion_ids=[[1, 2]]*n, answer=[['1'], ['2'], ['3']][:n])

def asked(f, timeout=None, caller=None):
    "Values and errors of one reward, as a run asks it"
    columns, errors = call_rewards([f], arguments(), True, timeout, caller or RewardCaller(quiet=True))
    return columns[0], errors.get(getattr(f, '__name__', ''), 0)

def same(a, b): return all(x == y or x != x and y != y for x, y in zip(a, b, strict=True))

# --- what a reward returns: name -> (value for the list of completions, what is read; None: an error for every row)

class Raising:
    "An object whose every question fails"
    def __getattr__(self, name): raise ZeroDivisionError(name)
    def __float__(self): raise ZeroDivisionError
    def __len__(self): raise ZeroDivisionError
    def __iter__(self): raise ZeroDivisionError
    def __repr__(self): raise ZeroDivisionError

class Liar(list):
    def __len__(self): return 7

class Endless(list):
    def __iter__(self): return itertools.count()

class BadTolist:
    def tolist(self): raise OSError('\x1b[2J')

class Worth:
    def __float__(self): return .5

class Index:
    def __index__(self): return 2

class Level(enum.IntEnum):
    GOOD = 1

class Exits:
    def __float__(self): sys.exit(3)

class Odd(type):
    @property
    def __name__(cls): raise OSError

class OddName(metaclass=Odd): pass

class Item:
    def __init__(self, v): self.v = v
    def item(self): return self.v

async def forgotten(): return [1.]*B
async def endless_async(): yield 1.

def circle():
    l = []
    l.append(l)
    return l

three = [1., 0., .5]
RETURNS = {
    # numbers in other clothes
    'floats': (lambda c: list(three), three),
    'tuple': (lambda c: tuple(three), three),
    'ints and truth values': (lambda c: [1, False, True], [1, 0, 1]),
    'none': (lambda c: [None, 1., None], [nan, 1., nan]),
    'nan': (lambda c: [nan, float('nan'), np.nan], [nan]*3),
    'decimals': (lambda c: [decimal.Decimal(str(v)) for v in three], three),
    'decimal nan': (lambda c: [decimal.Decimal('nan'), 1, 1], [nan, 1, 1]),
    'fractions': (lambda c: [fractions.Fraction(v) for v in three], three),
    'enum': (lambda c: [Level.GOOD]*B, [1]*B),
    'with __float__': (lambda c: [Worth()]*B, [.5]*B),
    'with __index__': (lambda c: [Index()]*B, [2]*B),
    'numpy array': (lambda c: np.array(three), three),
    'numpy float16': (lambda c: np.array(three, np.float16), three),
    'numpy column': (lambda c: np.array(three)[:, None], three),
    'numpy (B,1,1)': (lambda c: np.array(three)[:, None, None], three),
    'numpy truth': (lambda c: np.array([True, False, True]), [1, 0, 1]),
    'numpy objects': (lambda c: np.array([1, None, fractions.Fraction(1, 2)], object), [1, nan, .5]),
    'numpy masked': (lambda c: np.ma.array(three, mask=[0, 1, 0]), [1, nan, .5]),
    'numpy scalars': (lambda c: [np.float32(v) for v in three], three),
    'numpy 0-d': (lambda c: [np.array(v) for v in three], three),
    'numpy int8': (lambda c: np.arange(3, dtype=np.int8), [0, 1, 2]),
    'tensor': (lambda c: torch.tensor(three), three),
    'tensor bf16': (lambda c: torch.tensor(three, dtype=torch.bfloat16), three),
    'tensor column': (lambda c: torch.tensor(three)[:, None], three),
    'tensor with gradient': (lambda c: torch.tensor(three, requires_grad=True)*1, three),
    'tensor not contiguous': (lambda c: torch.tensor([three, three]).T[:, 0], three),
    'tensors 0-d': (lambda c: [torch.tensor(v) for v in three], three),
    'tensors (1,)': (lambda c: [torch.tensor([v]) for v in three], three),
    'tensors (1,1)': (lambda c: [torch.tensor([[v]]) for v in three], three),
    'tensor of truth': (lambda c: torch.tensor([True, False, True]), [1, 0, 1]),
    'series': (lambda c: pd.Series(three), three),
    'series with gap': (lambda c: pd.Series([1., None, .5]), [1, nan, .5]),
    'series of categories': (lambda c: pd.Series([1, 0, 1], dtype='category'), [1, 0, 1]),
    'generator': (lambda c: (v for v in three), three),
    'map': (lambda c: map(float, three), three),
    'zip of ones': (lambda c: zip(three), three),
    'range': (lambda c: range(B), [0, 1, 2]),
    'deque': (lambda c: collections.deque(three), three),
    'array': (lambda c: array.array('d', three), three),
    'values of a dict': (lambda c: dict(zip('abc', three)).values(), three),
    'list that lies about its length': (lambda c: Liar(three), three),
    'list that iterates for ever': (lambda c: Endless(three), three),
    'lists of one': (lambda c: [[v] for v in three], three),
    # one value that is none
    'one text': (lambda c: [1., '1.0', 0.], [1, nan, 0]),
    'one bytes': (lambda c: [1., b'1', 0.], [1, nan, 0]),
    'one inf': (lambda c: [1., math.inf, 0.], [1, nan, 0]),
    'one -inf tensor': (lambda c: [1., torch.tensor(-math.inf), 0.], [1, nan, 0]),
    'one beyond float32': (lambda c: [1., 1e39, 0.], [1, nan, 0]),
    'one int of 400 digits': (lambda c: [1., 10**400, 0.], [1, nan, 0]),
    'one complex': (lambda c: [1., 1j, 0.], [1, nan, 0]),
    'one numpy complex': (lambda c: [1., np.complex64(1), 0.], [1, nan, 0]),
    'one dict': (lambda c: [1., dict(score=1), 0.], [1, nan, 0]),
    'one pair': (lambda c: [1., (1, 0), 0.], [1, nan, 0]),
    'one tensor of two': (lambda c: [1., torch.ones(2), 0.], [1, nan, 0]),
    'one empty tensor': (lambda c: [1., torch.ones(0), 0.], [1, nan, 0]),
    'one pandas NA': (lambda c: [1., pd.NA, 0.], [1, nan, 0]),
    'one date': (lambda c: [1., pd.Timestamp(0), 0.], [1, nan, 0]),
    'one signalling nan': (lambda c: [1., decimal.Decimal('sNaN'), 0.], [1, nan, 0]),
    'one that raises': (lambda c: [1., Raising(), 0.], [1, nan, 0]),
    'one without a name': (lambda c: [1., OddName(), 0.], [1, nan, 0]),
    'one function': (lambda c: [1., len, 0.], [1, nan, 0]),
    'one list in itself': (lambda c: [1., circle(), 0.], [1, nan, 0]),
    'one item of text': (lambda c: [1., Item('1'), 0.], [1, nan, 0]),
    'one numpy text': (lambda c: [1., np.str_('1.0'), 0.], [1, nan, 0]),
    'rows of two': (lambda c: torch.ones(len(c), 2), None),
    # nothing that could be matched with rows
    'a number': (lambda c: 1., None),
    'none at all': (lambda c: None, None),
    'a text': (lambda c: 'abc'[:len(c)], None),
    'bytes': (lambda c: bytes(len(c)), None),
    'a bytearray': (lambda c: bytearray(len(c)), None),
    'a set': (lambda c: set(range(len(c))), None),
    'a frozen set': (lambda c: frozenset(range(len(c))), None),
    'a dict': (lambda c: dict.fromkeys(range(len(c)), 1.), None),
    'keys of a dict': (lambda c: dict.fromkeys(range(len(c)), 1.).keys(), None),
    'a counter': (lambda c: collections.Counter(c), None),
    'a data frame': (lambda c: pd.DataFrame(dict(score=[1.]*len(c))), None),
    'a tensor 0-d': (lambda c: torch.tensor(1.), None),
    'a numpy scalar': (lambda c: np.float64(1), None),
    'a tensor on meta': (lambda c: torch.ones(len(c), device='meta'), None),
    'a complex tensor': (lambda c: torch.ones(len(c), dtype=torch.complex64), None),
    'a sparse tensor': (lambda c: torch.ones(len(c)).to_sparse(), None),
    'a coroutine': (lambda c: forgotten(), None),
    'an async generator': (lambda c: endless_async(), None),
    'a function': (lambda c: len, None),
    'a class': (lambda c: dict, None),
    'a module': (lambda c: math, None),
    'an endless generator': (lambda c: itertools.repeat(1.), None),
    'a generator that raises': (lambda c: (1/0 for _ in c), None),
    'a generator that exits': (lambda c: (sys.exit() for _ in c), None),
    'an object that raises': (lambda c: Raising(), None),
    'an object that cannot be listed': (lambda c: BadTolist(), None),
    'floats that exit': (lambda c: [Exits() for _ in c], None),
    'too many': (lambda c: [1.]*(len(c)+1), None),
    'none of them': (lambda c: [], None),
    'itself': (lambda c: circle()*len(c), None),
}

@pytest.mark.parametrize('name', RETURNS)
def test_returns(name):
    "Read as the numbers that they obviously are, or the rows are lost and counted"
    value, expected = RETURNS[name]
    def reward(completions, **columns): return value(completions)
    found, failed = asked(reward)
    assert same(found, [nan]*B if expected is None else expected)
    stands_for_none = expected is not None and len(found)-len([v for v in found if v == v])
    missing = B if expected is None else 1 if name.startswith('one ') else 0
    assert failed == missing, (failed, stands_for_none)

@pytest.mark.parametrize('name', RETURNS)
def test_returns_at_the_start(name):
    "Before a run a broken contract is refused in one sentence, and only that"
    value, expected = RETURNS[name]
    row, tokenizer = dict(prompt='?'), tiny_tokenizer()
    def reward(completions, **columns):
        found = value(list(completions)+['x'][:B-len(completions)])
        return found if expected is None or not hasattr(found, '__getitem__') else found[:len(completions)]
    raised = None
    try: check_rewards([reward], row, tokenizer)
    except RewardContractError as e: raised = str(e)
    if raised:
        assert raised.startswith('reward reward returned') and '\n' not in raised and '\x1b' not in raised
        assert expected is None or name.startswith('one ') or not isinstance(value('abc'), list)

@pytest.mark.parametrize('name', ['a number', 'a text', 'a set', 'a dict', 'a coroutine', 'none at all', 'a data frame',
                                  'a tensor on meta', 'an endless generator', 'too many', 'rows of two'])
def test_start_refuses(name):
    value, _ = RETURNS[name]
    def reward(completions, **columns): return value(completions)
    with pytest.raises(RewardContractError, match='reward reward returned'):
        check_rewards([reward], dict(prompt='?'), tiny_tokenizer())

# --- what a reward raises

class Silent(Exception):
    def __str__(self): raise ZeroDivisionError
    __repr__ = __str__

class Steers(Exception):
    def __str__(self): return '\x1b]0;owned\x07\x1b[2J\u202eabc'

class Own(BaseException): pass

class Hanging(Exception):
    def __init__(self, *a): raise MemoryError('while it was made')

Named = type('\x1b[2JError', (Exception,), {})

def deep(): return deep()

def group(kind, inner): return lambda: (_ for _ in ()).throw(kind('several', [inner, ValueError('\x07')]))

def throw(e):
    def f(): raise e
    return f

def chained():
    try: 1/0
    except ZeroDivisionError as e: raise KeyError('\x1b[0m') from e

def in_itself():
    e = ValueError('circle')
    e.__cause__ = e.__context__ = e
    raise e

RAISES = {
    'exception': throw(ValueError('no')),
    'sys.exit': lambda: sys.exit(2),
    'exit with text': lambda: sys.exit('\x1b[2J'),
    'os._exit': lambda: os._exit(3),
    'quit': throw(SystemExit()),
    'keyboard interrupt': throw(KeyboardInterrupt()),
    'generator exit': throw(GeneratorExit()),
    'cancelled': throw(asyncio.CancelledError()),
    'stop iteration': throw(StopIteration(1)),
    'stop async iteration': throw(StopAsyncIteration()),
    'own base exception': throw(Own('mine')),
    'recursion': deep,
    'memory': throw(MemoryError()),
    'no memory': lambda: bytearray(10**15),
    'timeout': throw(TimeoutError('late')),
    'queue': lambda: queue.Queue().get_nowait(),
    'text that raises': throw(Silent()),
    'control characters': throw(Steers()),
    'name with control characters': throw(Named('x')),
    'ten megabytes': throw(ValueError('x'*10**7)),
    'surrogates': throw(ValueError('\ud800\udfff')),
    'exception group': group(ExceptionGroup, KeyError('a')),
    'base exception group': group(BaseExceptionGroup, SystemExit(1)),
    'while it is made': lambda: Hanging(),
    'no exception at all': lambda: exec('raise 5'),
    'chain': chained,
    'circle of causes': in_itself,
    'assertion': lambda: exec('assert False, chr(27)'),
    'unicode': lambda: b'\xff'.decode(),
    'syntax': lambda: compile('(', '\x1b', 'exec'),
    'torch': lambda: torch.ones(2)@torch.ones(3),
    'numpy': lambda: np.linalg.inv(np.zeros((2, 2))),
    'operating system': lambda: open('/\x1b[2J'),
    'process': lambda: subprocess.run(['false'], check=True),
    'import': lambda: __import__('no_such_module_\u202e'),
    'warning as error': throw(DeprecationWarning('old')),
}

@pytest.mark.parametrize('kind', ['sync', 'async'])
@pytest.mark.parametrize('name', RAISES)
def test_raises(name, kind, caplog):
    "The row on which it raises is lost, the others are kept, and what is logged cannot steer a terminal"
    def score(completions):
        if 'two' in completions: RAISES[name]()
        return [1.]*len(completions)
    def reward(completions, **columns): return score(completions)
    async def reward_async(completions, **columns): return score(completions)
    f = reward if kind == 'sync' else reward_async
    f.__name__ = 'reward'
    with caplog.at_level(logging.WARNING, 'grpo_lit'):
        found, failed = asked(f, 20., RewardCaller())
    assert same(found, [1., nan, 1.]) and failed == 1
    text = caplog.text
    assert 'reward reward failed' in text and len(text) < 20_000
    assert all(c.isprintable() or c in '\n\t' for c in text)

def test_a_name_with_control_characters(caplog):
    def reward(completions, **columns): raise ValueError
    reward.__name__ = '\x1b[2J\u202e'
    with caplog.at_level(logging.WARNING, 'grpo_lit'):
        call_rewards([reward], arguments(), True, None, RewardCaller())
    assert '\x1b' not in caplog.text and '\\x1b[2J\\u202e' in caplog.text

def test_a_real_interrupt_is_one():
    "Ctrl-C comes through, also where the reward swallows it"
    def lets_through(completions, **columns):
        signal.raise_signal(signal.SIGINT)
        return [1.]*len(completions)
    def swallows(completions, **columns):
        try: signal.raise_signal(signal.SIGINT)
        except BaseException: pass
        return [1.]*len(completions)
    def translates(completions, **columns):
        try: signal.raise_signal(signal.SIGINT)
        except BaseException: raise ValueError
    for f in (lets_through, swallows, translates):
        for timeout in (None, 5.):
            with pytest.raises(KeyboardInterrupt): asked(f, timeout)

# --- a reward that hangs, on one row

def tries_again():
    while True:
        try: time.sleep(30)
        except BaseException: pass

def tries_again_bare():
    while True:
        try: time.sleep(.01)
        except: continue

def finally_again():
    while True:
        try: time.sleep(30)
        finally: continue

def nested():
    while True:
        try:
            while True:
                try: time.sleep(30)
                except BaseException: pass
        except BaseException: pass

def suppressing():
    class All:
        def __enter__(self): pass
        def __exit__(self, *error): return True
    while True:
        with All(): time.sleep(30)

def in_generator():
    def g():
        while True:
            try: yield time.sleep(.05)
            except BaseException: pass
    for _ in g(): pass

def by_recursion(n=50):
    try: time.sleep(30)
    except BaseException: by_recursion(n-1) if n else time.sleep(30)

def blocks_alarm():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(30)

def ignores_alarm():
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    time.sleep(30)

def own_handler():
    signal.signal(signal.SIGALRM, lambda *a: None)
    time.sleep(30)

def resets_timer():
    signal.setitimer(signal.ITIMER_REAL, 0)
    time.sleep(30)

def alarm_zero():
    signal.alarm(0)
    while True: pass

def blocks_two_and_spins():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGVTALRM])
    while True: pass

def deadlock():
    lock = threading.Lock()
    with lock: lock.acquire()

def late_zero():
    try: time.sleep(30)
    except BaseException: return 0

def late_error():
    try: time.sleep(30)
    except BaseException: raise ValueError

def hanging_float():
    class Slow:
        def __float__(self): time.sleep(30)
    return Slow()

def hanging_generator():
    class Slow:
        def __iter__(self): return self
        def __next__(self): time.sleep(30)
    return Slow()

HANGS = {
    'sleep': lambda: time.sleep(30),
    'loop': lambda: exec('while True: pass'),
    'regular expression': lambda: re.match('(a+)+$', 'a'*40+'b'),
    'C sleep': lambda: ctypes.CDLL(None).sleep(30),
    'a lock': deadlock,
    'a queue': lambda: queue.Queue().get(),
    'a thread': lambda: (t := threading.Thread(target=time.sleep, args=[3], daemon=True), t.start(), t.join()),
    'a process': lambda: subprocess.run(['sleep', '30']),
    'a socket': lambda: socket.socketpair()[0].recv(1),
    'a pipe': lambda: os.read(os.pipe()[0], 1),
    'a condition': lambda: threading.Condition().acquire() and threading.Event().wait(),
    'swallows': tries_again,
    'swallows, bare': tries_again_bare,
    'swallows in finally': finally_again,
    'swallows twice': nested,
    'swallows in a context': suppressing,
    'swallows in a generator': in_generator,
    'swallows by recursion': by_recursion,
    'blocks the alarm': blocks_alarm,
    'ignores the alarm': ignores_alarm,
    'handles the alarm': own_handler,
    'resets the timer': resets_timer,
    'alarm(0)': alarm_zero,
    'blocks two and spins': blocks_two_and_spins,
    'a late zero': late_zero,
    'a late error': late_error,
    'a float that hangs': hanging_float,
    'a generator that hangs': hanging_generator,
}
QUICK = ('sleep', 'regular expression', 'swallows', 'swallows twice', 'blocks the alarm', 'handles the alarm',
         'blocks two and spins', 'a late zero', 'a float that hangs', 'alarm(0)', 'a lock', 'swallows in a context')

def hanging(work):
    def reward(completions, **columns):
        return [1. if c != 'two' else work() for c in completions]
    return reward

def limited(cases, quick): return [c if c in quick else pytest.param(c, marks=pytest.mark.slow) for c in cases]

@pytest.mark.parametrize('name', limited(HANGS, QUICK))
@patient(.4, 2., 8.)
def test_hangs(name, limit):
    "The call is given up in time, twice; the other rows are kept, and handlers and timers are as they were"
    caller, before = RewardCaller(quiet=True), look(_table())
    for _ in range(2):
        began = time.monotonic()
        found, failed = asked(hanging(HANGS[name]), limit, caller)
        assert same(found, [1., nan, 1.]) and failed == 1
        assert time.monotonic()-began < 12+2*limit
    assert restore(_table(), before) == []

async def async_sleep(): await asyncio.sleep(30)
async def async_blocks(): time.sleep(4)
async def async_spins():
    while True: pass
async def async_refuses():
    while True:
        try: await asyncio.sleep(.5)
        except asyncio.CancelledError: pass
async def async_shields(): await asyncio.shield(asyncio.sleep(30))
async def async_waits_for_nobody(): await asyncio.get_running_loop().create_future()
async def async_regex(): re.match('(a+)+$', 'a'*40+'b') # holds the interpreter: only the child can be ended
async def async_stops():
    asyncio.get_running_loop().stop()
    await asyncio.sleep(30)
async def async_cancels_all():
    for t in asyncio.all_tasks(): t.cancel()
    await asyncio.sleep(30)
async def async_closes():
    asyncio.get_running_loop().close()
    await asyncio.sleep(30)
async def async_thread(): await asyncio.to_thread(time.sleep, 3)

ASYNC_HANGS = {
    'sleeps': async_sleep,
    'blocks the loop': async_blocks,
    'spins': async_spins,
    'refuses to be cancelled': async_refuses,
    'is shielded': async_shields,
    'waits for nobody': async_waits_for_nobody,
    'stops the loop': async_stops,
    'cancels all tasks': async_cancels_all,
    'closes the loop': async_closes,
    'waits for a thread': async_thread,
}

@pytest.mark.parametrize('name', limited(ASYNC_HANGS, ('sleeps', 'blocks the loop', 'refuses to be cancelled', 'stops the loop')))
@patient(1.5, 4., 12.)
def test_async_hangs(name, limit):
    "The same for coroutines; one beside it in the same loop is served all the same"
    work, caller = ASYNC_HANGS[name], RewardCaller(quiet=True)
    async def reward(completions, **columns):
        return [1. if c != 'two' else await work() for c in completions]
    async def beside(completions, **columns): return await asyncio.sleep(.1, [2.]*len(completions))
    for _ in range(2):
        began = time.monotonic()
        columns, errors = call_rewards([reward, beside], arguments(), True, limit, caller)
        assert same(columns[0], [1., nan, 1.]) and errors == (errors | dict(reward=1))
        assert columns[1] == [2.]*B
        assert time.monotonic()-began < 12+2*limit

@patient(.4, 2., 8.)
def test_hangs_in_another_thread(limit):
    "Where no signal comes"
    found = []
    worker = threading.Thread(target=lambda: found.append(asked(hanging(HANGS['loop']), limit)))
    worker.start()
    worker.join(60)
    assert found
    assert same(found[0][0], [1., nan, 1.])

STUCK = '''
import signal, sys, time, hashlib
from grpo_lit.policy import load_policy
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.trainer import GRPOTrainer
calls = []
def deaf(completions, **columns):
    calls.append(1)
    if len(calls) == 4:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        time.sleep(1000)
    return [float(len(c)%3) for c in completions]
model, tokenizer = load_policy('tiny', device='cpu')
args = GRPOConfig(output_dir=sys.argv[1], max_steps=6, per_device_train_batch_size=8, num_generations=4,
                  max_completion_length=8, use_cpu=True, gold_check=0, reward_timeout=2.)
GRPOTrainer(model, deaf, args, [dict(prompt='1+1=?')], processing_class=tokenizer).train()
'''

@pytest.mark.slow
def test_what_nothing_reaches(tmp_path):
    "The run saves a checkpoint and ends, with the name of the reward"
    done = subprocess.run([sys.executable, '-c', STUCK, str(tmp_path/'run')], capture_output=True, text=True, timeout=120)
    assert done.returncode == 70, done.stderr
    assert 'reward deaf does not come back' in done.stderr and 'Traceback' not in done.stderr
    assert [p.name for p in Run(tmp_path/'run').checkpoints()] == ['checkpoint-2']

@pytest.mark.slow
def test_what_lets_nothing_else_run(tmp_path):
    "C code that keeps the interpreter: the process ends and names the function; the newest checkpoint stands"
    code = STUCK.replace('signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())', 'import itertools')
    code = code.replace('time.sleep(1000)', 'sum(itertools.repeat(1))').replace('max_steps=6', 'max_steps=6, save_steps=1')
    done = subprocess.run([sys.executable, '-c', code, str(tmp_path/'run')], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and 'Timeout' in done.stderr and 'in deaf' in done.stderr
    assert [p.name for p in Run(tmp_path/'run').checkpoints()] == ['checkpoint-1', 'checkpoint-2']

# --- what a reward does to its inputs and to the process

def nest(d): return d['answer']

INPUTS = {
    'completions[:]': lambda a: a['completions'].__setitem__(slice(None), ['x']*len(a['completions'])),
    'append': lambda a: a['completions'].append('x'),
    'clear': lambda a: a['completions'].clear(),
    'pop': lambda a: a['completions'].pop(),
    'sort': lambda a: a['completions'].sort(),
    'reverse': lambda a: a['prompts'].reverse(),
    'del': lambda a: a['completions'].__delitem__(0),
    'prompts': lambda a: a['prompts'].__setitem__(0, 'x'),
    'a column': lambda a: a['answer'].clear(),
    'an inner list': lambda a: [x.append('z') for x in a['answer']],
    'an inner dict': lambda a: [x.update(a=2) for x in a['info']],
    'a list in a dict': lambda a: [x['l'].clear() for x in a['info']],
    'a set': lambda a: [x.add(9) for x in a['some']],
    'an array': lambda a: [x.fill(0) for x in a['array']],
    'a tensor': lambda a: [x.zero_() for x in a['tensor']],
    'a bytearray': lambda a: [x.clear() for x in a['raw']],
    'token ids': lambda a: [x.clear() for x in a['completion_ids']],
    'the list of token ids': lambda a: a['completion_ids'].clear(),
    'the arguments themselves': lambda a: a.clear(),
    'a named tuple': lambda a: [x.l.append(1) for x in a['named']],
    'an ordered dict': lambda a: [x.clear() for x in a['ordered']],
}
Named2 = collections.namedtuple('Named2', 'l')

def everything():
    "Three rows whose columns can be changed"
    def rows(make): return [make() for _ in range(B)]
    return arguments() | dict(info=rows(lambda: dict(a=1, l=[1])), some=rows(lambda: {1}), array=rows(lambda: np.ones(2)),
                              tensor=rows(lambda: torch.ones(2)), raw=rows(lambda: bytearray(b'x')),
                              named=rows(lambda: Named2([])), ordered=rows(lambda: collections.OrderedDict(a=1)))

@pytest.mark.parametrize('name', INPUTS)
def test_inputs(name):
    "A reward that changes what it is given changes nothing of the next one's, nor of what is stored"
    seen, args, before = [], everything(), repr(everything())
    def careless(**columns):
        n = len(columns['prompts'])
        INPUTS[name](columns)
        return [1.]*n
    def next_one(**columns):
        seen.append(repr({k: columns[k] for k in args}))
        return [1.]*B
    columns, errors = call_rewards([careless, next_one], args, True, None, RewardCaller(quiet=True))
    assert not errors and columns == [[1.]*B]*2
    assert seen == [before] and repr(args) == before

def test_messages_are_copies():
    "Of a chat, too, and stored rollouts keep what the policy wrote"
    ro = Rollouts.from_text(tiny_tokenizer(), ['1'], ['2', '3'])
    ro.prompts = [[dict(role='user', content='1')]]
    def careless(prompts, completions, **columns):
        for p, c in zip(prompts, completions):
            c[0]['content'] = p[0]['content'] = 'x'
            p.append(p[0])
        return [1.]*len(prompts)
    scored = score_completions(ro, careless)
    assert scored.completions == ['2', '3'] and scored.prompts == [[dict(role='user', content='1')]]

home = os.getcwd()
def leave_default_device(): torch.device('meta').__enter__()
def nothing(*a): pass
kept_guards = []

MISDEEDS = {
    'gradients off': lambda: torch.set_grad_enabled(False),
    'no_grad entered': lambda: torch.no_grad().__enter__(),
    'inference mode': lambda: (kept_guards.append(torch.inference_mode()), kept_guards[-1].__enter__()),
    'anomaly mode': lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    'torch seed': lambda: torch.manual_seed(0),
    'torch draws': lambda: torch.rand(7),
    'python seed': lambda: random.seed(0),
    'python draws': lambda: random.random(),
    'numpy seed': lambda: np.random.seed(0),
    'numpy draws': lambda: np.random.rand(7),
    'default dtype': lambda: torch.set_default_dtype(torch.float64),
    'default device': lambda: torch.set_default_device('meta'),
    'device entered': leave_default_device,
    'threads': lambda: torch.set_num_threads(torch.get_num_threads()+1),
    'deterministic algorithms': lambda: torch.use_deterministic_algorithms(True),
    'matmul precision': lambda: torch.set_float32_matmul_precision('medium'),
    'cudnn': lambda: setattr(torch.backends.cudnn, 'benchmark', True),
    'denormals': lambda: torch.set_flush_denormal(True),
    'autocast': lambda: torch.autocast('cpu', torch.bfloat16).__enter__(),
    'autocast dtype': lambda: torch.set_autocast_dtype('cpu', torch.float16),
    'working directory': lambda: os.chdir('/'),
    'directory that goes': lambda: (d := tempfile.mkdtemp(), os.chdir(d), os.rmdir(d)),
    'environment cleared': lambda: os.environ.clear(),
    'environment changed': lambda: os.environ.update(PATH='/nowhere'),
    'umask': lambda: os.umask(0o777),
    'interrupt ignored': lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    'terminate handled': lambda: signal.signal(signal.SIGTERM, nothing),
    'signals blocked': lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM]),
    'alarm left': lambda: signal.alarm(1),
    'timer left': lambda: signal.setitimer(signal.ITIMER_PROF, .01),
    'warnings': lambda: warnings.simplefilter('error'),
    'warnings shown': lambda: setattr(warnings, 'showwarning', nothing),
    'locale': lambda: locale.setlocale(locale.LC_ALL, 'C.UTF-8' if locale.setlocale(locale.LC_ALL) == 'C' else 'C'),
    'stdout replaced': lambda: setattr(sys, 'stdout', open(os.devnull, 'w')),
    'stderr none': lambda: setattr(sys, 'stderr', None),
    'logging off': lambda: logging.disable(logging.CRITICAL),
    'our log off': lambda: setattr(logging.getLogger('grpo_lit'), 'disabled', True),
    'recursion limit': lambda: sys.setrecursionlimit(2000),
    'switch interval': lambda: sys.setswitchinterval(1e-6),
    'garbage collection': gc.disable,
    'trace function': lambda: sys.settrace(nothing),
    'excepthook': lambda: setattr(sys, 'excepthook', nothing),
    'builtins': lambda: setattr(builtins, 'sorted', nothing),
    'sockets': lambda: socket.setdefaulttimeout(.001),
    'exit replaced': lambda: setattr(os, '_exit', nothing),
}

def fingerprint():
    "What must be the same after a reward"
    generators = [random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), np.random.get_state()[2]]
    more = [sys.getrecursionlimit(), gc.isenabled(), os.getcwd(), dict(os.environ), os._exit, builtins.sorted, warnings.showwarning,
            sys.stdout, sys.stderr, torch.rand is None, torch.ones(1).device, torch.ones(1).dtype, (torch.ones(1)*1).requires_grad]
    return generators, more

@pytest.mark.parametrize('kind', ['sync', 'async'])
@pytest.mark.parametrize('name', MISDEEDS)
def test_state(name, kind):
    "After the call, and for the reward after it, the process is what it was"
    def misdeed(completions, **columns):
        with_signals = threading.current_thread() is threading.main_thread()
        uses = getattr(getattr(MISDEEDS[name], '__code__', None), 'co_names', ())
        if with_signals or 'signal' not in uses: MISDEEDS[name]()
        return [1.]*3
    async def misdeed_async(completions, **columns): return misdeed(completions)
    f = misdeed if kind == 'sync' else misdeed_async
    table, caller = _table(), RewardCaller(quiet=True)
    before, prints = look(table), fingerprint()
    columns, errors = call_rewards([f], arguments(), True, 20., caller)
    after = fingerprint()
    changed = restore(table, before) # also mends what a failing test would leave to the others
    assert changed == [] and after == prints
    assert columns == [[1.]*3] and not errors

def test_closed_stdout_opens_again():
    "In a process of its own: what is printed afterwards arrives"
    code = ('import sys\nfrom grpo_lit.rewards.calls import call_rewards\n'
            'def f(completions, **c):\n    sys.stdout.close()\n    return [1.]\n'
            'call_rewards([f], dict(prompts=["?"], completions=["x"], completion_ids=[[1]]), True)\nprint("still here")')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert done.stdout == 'still here\n', done.stderr

def test_random_rewards_go_on():
    "A reward that honestly draws gets new numbers at each call, the run none the fewer"
    def draws(completions, **columns): return [random.random()+torch.rand(()).item()+np.random.rand() for _ in completions]
    caller, before = RewardCaller(), fingerprint()[0]
    values = [asked(draws, None, caller)[0] for _ in range(5)]
    assert len({v for row in values for v in row}) == 15
    assert fingerprint()[0] == before

def test_what_a_reward_adds_stays():
    "A key that is read from a file at the first call is there at the second"
    def loads(completions, **columns):
        os.environ.setdefault('GRPO_LIT_TEST_KEY', 'x')
        return [float(os.environ['GRPO_LIT_TEST_KEY'] == 'x')]*len(completions)
    try:
        assert asked(loads)[0] == asked(loads)[0] == [1.]*B
        assert os.environ['GRPO_LIT_TEST_KEY'] == 'x'
    finally:
        os.environ.pop('GRPO_LIT_TEST_KEY', None)

# --- a run with and without them

def trained(out, reward, **settings):
    "Weights after three steps, and the metrics"
    torch.manual_seed(0)
    model, tokenizer = load_policy('tiny', device='cpu')
    options = dict(output_dir=str(out), max_steps=3, per_device_train_batch_size=8, num_generations=4, max_completion_length=12,
                   learning_rate=1e-3, use_cpu=True, gold_check=0, reward_timeout=60., beta=.04)
    rows = [dict(prompt=f'{i}+{i}=?', answer=[str(i)]) for i in range(9)]
    GRPOTrainer(model, reward, GRPOConfig(**options | settings), rows, processing_class=tokenizer).train()
    return torch.cat([p.detach().flatten() for p in model.parameters()]), Run(out).metrics()

def length(completions, **columns): return [float(len(c)%3) for c in completions]

WITHIN = ('gradients off', 'inference mode', 'torch seed', 'python seed', 'default dtype', 'default device', 'threads',
          'autocast', 'denormals', 'matmul precision', 'working directory', 'directory that goes', 'environment cleared',
          'warnings', 'interrupt ignored', 'logging off', 'stderr none', 'umask', 'builtins', 'alarm left', 'recursion limit')

@pytest.mark.parametrize('settings', [{}, pytest.param(dict(overlap_rewards=True, dynamic_sampling=1), marks=pytest.mark.slow)])
def test_a_run_is_the_same_to_the_bit(tmp_path, settings):
    "Beside a reward that does all of it, at every call"
    def vandal(completions, prompts, answer, completion_ids, **columns):
        zeros = [0.]*len(completions)
        for name in WITHIN: MISDEEDS[name]()
        for values in (completions, prompts, completion_ids, *answer): values.clear()
        return zeros
    calm, before = trained(tmp_path/'calm', [length], **settings)
    wild, after = trained(tmp_path/'wild', [vandal, length], **settings)
    assert torch.equal(calm, wild)
    assert [m['reward'] for m in before] == [m['reward'] for m in after]
    texts = [[r['completion'] for r in Run(tmp_path/d).rollouts()] for d in ('calm', 'wild')]
    assert texts[0] == texts[1] and len(texts[0]) == 24

def test_a_run_survives_a_reward_that_changes_its_mind(tmp_path):
    "A different failure at each call: returns, raises, hangs; every step is made, and every row counted"
    calls = itertools.count()
    bad = [RETURNS[n][0] for n in ('a number', 'a set', 'one text', 'a coroutine', 'rows of two')]
    bad += [lambda c, n=n: RAISES[n]() for n in ('sys.exit', 'keyboard interrupt', 'own base exception', 'os._exit', 'text that raises')]
    def moody(completions, **columns):
        n = next(calls)
        if len(completions) < 8: return [1.]*len(completions)
        return [1.]*8 if n < 1 else bad[n%len(bad)](completions)
    logging.getLogger('grpo_lit').setLevel(logging.ERROR)
    try: _, metrics = trained(tmp_path/'run', [moody, length], max_steps=8)
    finally: logging.getLogger('grpo_lit').setLevel(logging.NOTSET)
    assert [m['step'] for m in metrics] == list(range(1, 9))

def test_a_child_of_a_reward_does_not_go_on_as_the_run():
    "Its error is its own; the parent sees how it ended"
    def forks(prompts, completions, **columns):
        child = os.fork()
        if not child: raise SystemExit
        return [float(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))]*len(prompts)
    table, errors = call_rewards([forks], dict(prompts=['a'], completions=['b'], completion_ids=[[1]]), isolate=True)
    assert table == [[1.]] and not errors
