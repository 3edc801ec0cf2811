"""Bytes of an untrusted program, read by everything that reads them: nothing is raised but what is meant to be, and nothing passes.

`wire_corpus.txt` holds frames that broke an earlier version or are near to one that did: each line is a JSON list of pairs
(text, how often), which together are the body of a frame.
"""
import ast, json, os, socket, time
from pathlib import Path
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from grpo_lit.rewards.objects import Refused, Remote
from grpo_lit.rewards.peer import Gone, Peer, raised
from grpo_lit.rewards.programs import code_reward, passed_tests_reward
from grpo_lit.rewards.sandbox import _judgement, _loading_error, _read_reports, run_tests
from grpo_lit.rewards.wire import DEEPEST, BadMessage, from_wire, parse_message
from grpo_lit.rewards.workers import Worker, fork_server, messages

EXAMPLES = int(os.environ.get('GRPO_LIT_FUZZ', 300))
fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
thorough = settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))

def corpus():
    lines = (Path(__file__).parent/'wire_corpus.txt').read_text().splitlines()
    return [''.join(text*times for text, times in json.loads(line)).encode('latin-1') for line in lines if line and line[0] != '#']

def framed(body): return len(body).to_bytes(4, 'big')+body

# --- messages: half of them nearly right

KINDS = '''object yours module shared exception tuple set frozenset deque range Fraction complex hex bytes bytearray Decimal date datetime
timedelta dict Counter OrderedDict eval'''.split()
WORDS = ['call', 'attr', 'names', 'iter', 'next', 'len', 'str', 'add', '__globals__', '__builtins__', 'ValueError', 'StopIteration', 'SystemExit',
         'AssertionError', 'KeyboardInterrupt', 'os', 'math', 'len', 'eval', '\ud800', '', 'Yes', '9'*5000, '1e999999', 'nan', '-0x1', '2024-02-30']
scalars = st.one_of(st.none(), st.booleans(), st.integers(-3, 10), st.integers(), st.floats(), st.sampled_from(WORDS), st.text(max_size=5))
def nest(inner):
    kinds = st.sampled_from(KINDS)
    return st.one_of(st.lists(inner, max_size=4), st.dictionaries(kinds, inner, min_size=1, max_size=1), st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
                     st.lists(st.lists(inner, min_size=2, max_size=2), max_size=2).map(lambda x: {'dict': x}))
values = st.recursive(scalars, nest, max_leaves=12)
replies = st.fixed_dictionaries({}, optional=dict(value=values, changed=st.one_of(values, st.lists(st.tuples(st.one_of(st.integers(-2, 3), scalars), values), max_size=2)),
                                                  error=st.one_of(values, st.lists(st.sampled_from(WORDS), max_size=4))))
asked = st.fixed_dictionaries(dict(op=st.one_of(st.sampled_from(WORDS), values)), optional=dict(id=scalars, a=values, k=values))
bodies = st.one_of(st.one_of(replies, asked, values).map(lambda m: json.dumps(m).encode()), st.binary(max_size=60),
                   st.tuples(st.sampled_from(['[', '{"a":', '{"tuple":[', '{"value":[']), st.integers(1, 70_000)).map(lambda p: (p[0]*p[1]).encode()))
streams = st.lists(st.one_of(bodies.map(framed), st.binary(max_size=20)), max_size=4).map(b''.join)

# --- who reads: the peer of the checker

SECRET = 271828
def plain(v):
    "Made of Python's own types, or stand-ins, and nothing else"
    if isinstance(v, (list, tuple, set, frozenset)): return all(map(plain, v))
    if isinstance(v, dict): return all(plain(k) and plain(x) for k, x in v.items())
    return type(v) is Remote or type(v).__module__ in ('builtins', 'decimal', 'fractions', 'datetime', 'collections', 'math', 'operator', 'grpo_lit.rewards.wire') or callable(v)

def ask_one_that_says(stream):
    "A question that is answered by these bytes: what came of it, and of the arguments"
    here, there = socket.socketpair()
    there.setblocking(False)
    try: there.sendall(stream)
    except BlockingIOError: pass
    there.shutdown(socket.SHUT_WR)
    given, expected = [SECRET], dict(x=[SECRET])
    peer = Peer(here.fileno())
    try: return 'value', peer.ask('call', 0, [given, abs, lambda x: x], expected)
    except Gone as e: return 'gone', e
    except (Exception, SystemExit) as e: return 'error', e
    finally:
        here.close()
        there.close()

def check_answer(stream):
    what, got = ask_one_that_says(stream)
    if what == 'value': assert plain(got) and not (type(got) is int and got == SECRET)
    if what == 'error': assert not isinstance(got, (StopIteration, StopAsyncIteration, BadMessage))

@fuzz
@given(streams)
def test_whatever_is_answered_is_a_value_an_error_or_the_end(stream): check_answer(stream)

@pytest.mark.slow
@thorough
@given(streams)
def test_ten_thousand_answers(stream): check_answer(stream)

@pytest.mark.parametrize('i', range(len(corpus())))
def test_answers_of_the_corpus(i): check_answer(framed(corpus()[i]))

@fuzz
@given(values)
def test_a_value_is_read_or_refused(value):
    try: got = from_wire(json.loads(json.dumps(value)))
    except Exception: return
    assert plain(got)

@fuzz
@given(st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=4)), min_size=1, max_size=3))
def test_an_error_is_raised_again_or_replaced(parts):
    e = raised(*parts)
    assert isinstance(e, (Exception, SystemExit)) and not isinstance(e, (StopIteration, StopAsyncIteration))

# --- who reads: this process

def read_by_us(stream):
    "Reports and notes, as `run_tests` would read them"
    for read in (lambda s: _read_reports(s, time.monotonic()+.5), lambda s: _loading_error(s), lambda s: list(messages(s, time.monotonic()+.5))):
        ours, its = socket.socketpair()
        its.sendall(stream[:60_000])
        its.close()
        yield read(ours)
        ours.close()

scratch = None
def check_reading(stream):
    global scratch
    scratch = scratch or fork_server().scratch
    said, failed, got = read_by_us(stream)
    assert failed is None or all(type(x) is str for x in failed)
    assert all(isinstance(m, dict) for m in got if m not in (None, []))
    v = _judgement(said, failed, dict(exit=0))
    v.stderr.encode()
    assert repr(v)

@fuzz
@given(streams)
def test_reports_and_notes_are_read(stream): check_reading(stream)

@pytest.mark.slow
@thorough
@given(streams)
def test_ten_thousand_reports(stream): check_reading(stream)

# --- whole programs, which write these bytes wherever they can

WRITES = '''
import os, threading, time
stream = bytes.fromhex({stream!r})
def write():
    for fd in range(3, 64):
        try: os.write(fd, stream)
        except OSError: pass
'''
WHEN = dict(loading=WRITES+'write()\ndef add(a, b): return 0', called=WRITES+'def add(a, b):\n    write()\n    return 0', instead=WRITES+'write()\nos._exit(0)',
            thread=WRITES+'threading.Thread(target=lambda: [write() for _ in range(50)], daemon=True).start()\ndef add(a, b): time.sleep(.01); return 0',
            endless=WRITES+'def add(a, b):\n    while True: write()')
ADD = [f'assert add(2, 3) == {SECRET}', f'assert abs(add([1], x=1)-{SECRET}) < 1', 'xs = [1]\nadd(xs, [2])\nassert xs == [271828]']

def check_program(stream, when):
    program = WHEN[when].format(stream=stream.hex())
    v = run_tests(program, ADD, timeout=.3)
    assert not v.correct and v.passed == 0 and v.status in ('error', 'timeout', 'killed', 'memory'), (v, stream[:80])
    v.stderr.encode()

@settings(fuzz, max_examples=max(20, EXAMPLES//4))
@given(streams, st.sampled_from(['loading', 'called', 'instead']))
def test_a_program_that_says_anything_does_not_pass(stream, when): check_program(stream, when)

@pytest.mark.slow
@thorough
@given(streams, st.sampled_from(['loading', 'called', 'instead']))
def test_ten_thousand_programs(stream, when): check_program(stream, when)

@pytest.mark.parametrize('when', ['thread', 'endless'])
def test_a_program_that_never_stops_talking(when):
    for body in corpus()[:12:3]: check_program(framed(body), when)

def test_a_bad_reply_is_worth_nothing_and_nobody_else_is_hurt():
    bad = [WHEN[when].format(stream=framed(body).hex()) for body in corpus() for when in ('loading', 'called')]
    good = 'def add(a, b): return a+b'
    programs = [good, *bad, good]
    tests = [['assert add(2, 3) == 5', 'assert add(1, 1) == 2']]*len(programs)
    worth = code_reward([], programs, [], tests=tests)
    assert worth[0] == worth[-1] == 1 and set(worth[1:-1]) == {0.}
    assert passed_tests_reward([], [bad[1]], [], tests=tests[:1]) == [0.]

REPLACED = '''
import json, sys
sent = {body!r}
for m in list(sys.modules.values()):
    if hasattr(m, 'write_frame'): m.write_frame = lambda fd, message: __import__('os').write(fd, len(sent).to_bytes(4, 'big')+sent)
def add(a, b): return 0
'''
def test_replies_of_the_corpus_in_the_place_of_honest_ones():
    for body in corpus():
        v = run_tests(REPLACED.format(body=body), ADD, timeout=.5)
        assert not v.correct and v.status != 'unjudged' and v.passed == 0, body[:80]

def test_a_worker_raises_only_what_it_says():
    for body in corpus():
        for program in (REPLACED.format(body=body), WHEN['called'].format(stream=framed(body).hex())):
            try: got = Worker(program)('add', 2, 3, timeout=.3)
            except (RuntimeError, TimeoutError): continue
            assert type(got) is not int or got != SECRET

def test_the_corpus_is_hostile():
    assert len(corpus()) >= 40
    read = 0
    for body in corpus():
        try: m = parse_message(body)
        except BadMessage: continue
        read += 1
        with pytest.raises(Exception): from_wire(m['value'])
    assert 0 < read < len(corpus()) and DEEPEST < 1000
