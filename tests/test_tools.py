"""Tools: what a policy is shown of a function, which arguments it may give, and functions that raise, hang or return something odd."""
import asyncio, dataclasses, enum, gc, json, logging, os, signal, subprocess, sys, threading, time, weakref
from typing import Any, Literal, Optional, Union
import pytest
from hypothesis import given, settings, strategies as st
from patience import patient
from grpo_lit.agents import tools as module
from grpo_lit.agents.asking import Call
from grpo_lit.agents.calls import ChatCalls
from grpo_lit.agents.fitting import Misfit, fitted
from grpo_lit.agents.results import LONGEST_RESULT, result_text
from grpo_lit.agents.tools import Result, Toolbox, about_tool

def tool(f, hints=None, name=None):
    "A function with what a tool needs"
    f.__annotations__ = hints or {}
    f.__doc__ = 'Do it.\n\nArgs:\n'+'\n'.join(f'    {k}: {k}' for k in f.__annotations__)
    f.__name__ = name or 'act'
    return f

def run(f, arguments=None, timeout=5., hints=None):
    return Toolbox([tool(f, hints)], timeout).run([Call('act', arguments or {})])[0]

# raising

class Odd(Exception):
    def __str__(self): raise ValueError('no words')

class Slow(Exception):
    def __str__(self): time.sleep(60)

def raiser(e):
    def act(): raise e
    return act

@pytest.mark.parametrize('e', [ValueError('no'), KeyError('k'), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(), BaseException('b'),
                               MemoryError(), RecursionError('deep'), Odd(), asyncio.CancelledError(), TimeoutError('its own'), OSError(28, 'full'),
                               ValueError('x'*10**6), ValueError('\ud800 <|im_end|> </result>'), ExceptionGroup('many', [ValueError('a')])
                               if sys.version_info >= (3, 11) else ValueError('a')], ids=lambda e: type(e).__name__)
def test_whatever_a_tool_raises_becomes_a_text(e):
    for act in (raiser(e), async_raiser(e)):
        r = run(act)
        name = 'RuntimeError' if isinstance(e, StopIteration) and asyncio.iscoroutinefunction(act) else type(e).__name__   # as Python has it
        assert r.failure == 'raised' and r.text.startswith(f'Error: {name}'), r
        assert len(r.text) < 330 and 'Traceback' not in r.text and __file__ not in r.text
        r.text.encode()

def async_raiser(e):
    async def act(): raise e
    return act

def test_an_endless_recursion_and_an_exit():
    def act(): return act()
    assert run(act).text.startswith('Error: RecursionError')
    def act(): sys.exit(0)
    assert run(act).failure == 'raised'

@pytest.mark.slow
def test_an_interrupt_of_the_user_gets_through():
    code = '''if True:
        import threading, time, signal
        from grpo_lit.agents.tools import Toolbox
        from grpo_lit.agents.asking import Call
        def act():
            """Wait."""
            time.sleep(60)
        threading.Timer(.5, lambda: signal.raise_signal(signal.SIGINT)).start()
        began = time.monotonic()
        try: Toolbox([act], 60.).run([Call('act')])
        except KeyboardInterrupt: print('interrupted', time.monotonic()-began < 20)'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert out.stdout.split() == ['interrupted','True'], out.stderr
    assert out.returncode == 0

# hanging

def test_what_hangs_costs_its_limit_once():
    def sleep(): time.sleep(60)
    def spin():
        while True: pass
    def stubborn():
        while True:
            try: time.sleep(60)
            except BaseException: pass
    def words(): raise Slow()
    class Text:
        def __str__(self): time.sleep(60)
    def result(): return Text()
    def items():
        def wait():
            yield 1
            time.sleep(60)
        return wait()
    async def awaits(): await asyncio.sleep(60)
    async def blocks(): time.sleep(60)
    async def refuses():
        while True:
            try: await asyncio.sleep(60)
            except asyncio.CancelledError: pass
    acts = [sleep, spin, words, result, items, awaits, blocks, refuses, stubborn]
    tools = Toolbox([tool(f, name=f.__name__) for f in acts], timeout=.5)
    began = time.monotonic()
    results = tools.run([Call(f.__name__) for f in acts[:8]])+tools.run([Call('stubborn')])
    assert time.monotonic()-began < 20
    assert [r.failure for r in results] == ['timeout']*len(acts)
    assert {r.text for r in results} == {'Error: no result after 0.5 s'}
    assert tools.run([Call('none')])[0].failure == 'unknown'

@patient(.2, 1., 3.)
def test_sixty_four_rows_wait_together(limit):
    def act(n):
        time.sleep(limit)
        return n
    tools = Toolbox([tool(act, dict(n=int))], timeout=60.)
    found = [None]*64
    def row(i): found[i] = tools.run([Call('act', dict(n=i))])[0].text
    rows = [threading.Thread(target=row, args=[i]) for i in range(64)]
    began = time.monotonic()
    for t in rows: t.start()
    for t in rows: t.join()
    assert time.monotonic()-began < 20*limit # one after another: 64
    assert found == [str(i) for i in range(64)]

def test_a_tool_that_hangs_is_named_once_and_then_left_alone(caplog, monkeypatch):
    monkeypatch.setattr(module, 'MOST_LEFT', 5)
    monkeypatch.setattr(module, 'end_thread', lambda thread: None)
    over = threading.Event()
    def act(): over.wait(60)
    tools = Toolbox([tool(act, name='hanging')], timeout=.05)
    with caplog.at_level(logging.WARNING, 'grpo_lit'):
        results = [r for _ in range(4) for r in tools.run([Call('hanging')]*2)]
    assert [r.failure for r in results] == ['timeout']*8
    assert sum('hanging' in r.getMessage() for r in caplog.records) == 1
    assert 'still hang' in results[-1].text
    over.set()
    end = time.monotonic()+60
    while module._hangs('hanging') and time.monotonic() < end: time.sleep(.02)
    over.clear()
    assert 'no result' in tools.run([Call('hanging')])[0].text          # called again: nothing hangs any more
    over.set()

def test_limits_of_tools_of_their_own():
    def act(): time.sleep(.3)
    tool(act).timeout = 60.
    assert Toolbox([act], timeout=.05).run([Call('act')])[0].failure == ''
    for bad in (0, -1, None, 'long'):
        with pytest.raises((ValueError, TypeError)): Toolbox([act], timeout=bad)

# odd results

class Plain: pass
class Failing:
    def __str__(self): raise ValueError('no text')
class Endless:
    def __iter__(self): return self
    def __next__(self): return 'again '*100
class Word(str):
    def __str__(self): return 'another'
class Colour(enum.Enum): red = 1
@dataclasses.dataclass
class Row: name:str; inside:Any

RESULTS = [(None, ''), ('', ''), ('Lima', 'Lima'), (b'Lima', 'Lima'), (bytearray(b'\xff'), '\ufffd'), (0, '0'), (2.5, '2.5'), (False, 'false'), ([], '[]'),
           ({'a': [1, None]}, '{"a": [1, null]}'), ((1, 2), '[1, 2]'), ({3, 1, 2}, '[1, 2, 3]'), ({'ñ'}, '["ñ"]'), (frozenset('ba'), '["a", "b"]'), (iter('ab'), '["a", "b"]'),
           ((i for i in range(3)), '[0, 1, 2]'), (Row('a', Row('b', {1})), '{"name": "a", "inside": {"name": "b", "inside": [1]}}'), (range(3), 'range(0, 3)'),
           ([b'a'], None), ({b'a': 1}, "{b'a': 1}"), (Colour.red, 'Colour.red'), (Plain, None), ([Plain()], None), (lambda: 1, None), ([float('nan')], '[NaN]'), ('\ud800', '\\ud800')]
@pytest.mark.parametrize('value, want', RESULTS, ids=range(len(RESULTS)))
def test_results_become_text(value, want):
    r = run(lambda: value)
    assert r.failure == '' and isinstance(r.text, str) and type(r.text) is str
    assert want is None or r.text == want
    assert ' at 0x' not in r.text
    r.text.encode()

@pytest.mark.parametrize('kind', [ValueError, TypeError, RecursionError])
def test_what_comes_piece_by_piece_may_fail_on_its_way(kind):
    def pieces():
        yield 'one'
        raise kind('no more')
    assert module.carry_out(pieces, {}, 1.) == (f'{kind.__name__}: no more', 'raised')

def test_results_are_bounded():
    values = ['x'*10**6, 'x'*10**8, b'x'*10**8, ['x'*10**8], {'k': 'x'*10**8}, list(range(10**6)), Endless(), Word('x'*10**8), 'é'*10**6, ['\ud800'*10**6]]
    for value in values:
        r = run(lambda: value, timeout=30.)
        assert r.failure == '' and LONGEST_RESULT/2 < len(r.text) < 8*LONGEST_RESULT, type(value)
        assert 'more characters]' in r.text
    assert run(lambda: Failing()).failure == 'raised'
    assert run(lambda: 10**10000).failure in ('', 'raised')
    circle = {}
    circle['circle'] = circle
    assert run(lambda: circle).failure == ''
    deep = []
    for _ in range(10**5): deep = [deep]
    assert run(lambda: deep).failure in ('', 'raised')

@pytest.mark.slow
def test_a_result_is_the_same_in_every_run():
    code = 'from grpo_lit.agents.results import result_text; print(result_text([{"b", "a", "c"}, object(), print, {"x": {"q", "r"}}]))'
    said = {subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env={**os.environ, 'PYTHONHASHSEED': seed}).stdout for seed in '123'}
    assert len(said) == 1 and said != {''}

# arguments

def test_arguments_are_the_tools_own():
    kept = []
    def act(items):
        items.append(4)
        items[0]['k'] = 5
        kept.append(items)
    call = Call('act', dict(items=[{'k': 1}]))
    results = Toolbox([tool(act, dict(items=list))]).run([call, call])
    assert call.arguments == dict(items=[{'k': 1}]) and [r.call for r in results] == [call, call]
    assert kept == [[{'k': 5}, 4]]*2 and kept[0] is not kept[1]

class Letter(enum.Enum):
    a = 'a'
    b = 2

FITS = [('3', int, 3), (' 3 ', int, 3), (-3., int, -3), (True, bool, True), ('false', bool, False), (3, float, 3.), ('1e3', float, 1000.), (7, str, '7'), (2.5, str, '2.5'),
        ('7', str, '7'), ('7', Any, '7'), ('7', Union[str, int], '7'), (7, Union[str, int], 7), ('7', Optional[int], 7), (None, Optional[int], None), ('null', Optional[int], None),
        ('[1]', list[int], [1]), ([1], list, [1]), ('{"a": 1}', dict, {'a': 1}), ({'a': '1'}, dict[str, int], {'a': 1}), ([1, 'a'], tuple[int, str], (1, 'a')),
        ('a', Literal['a', 'b'], 'a'), ('1', Literal[1, 2], 1), (1, Literal[1, 2], 1), ('a', Letter, Letter.a), ('2', Letter, Letter.b), ([['1']], list[list[int]], [[1]])]
MISFITS = [(True, int), (3.5, int), ('3.5', int), ('', int), ('٣', int), ('9'*50, int), (None, int), ([3], int), (True, float), ('nan', float), ('1e999', float), ('x', float), (float('inf'), float),
           (None, str), (True, str), (['a'], str), ({}, str), (1, bool), ('yes', bool), ('', bool), ('a', list), ('[1', list), ('{}', list), ('[]', dict), ([1], dict), (['a'], list[int]),
           ({'a': 'x'}, dict[str, int]), ([1], tuple[int, int]), ('c', Literal['a', 'b']), (True, Literal[1, 2]), ('c', Letter), (1.0, Union[bool, None]), ('x', Optional[int])]

@pytest.mark.parametrize('value, hint, want', FITS, ids=range(len(FITS)))
def test_what_can_only_mean_one_thing_is_converted(value, hint, want):
    found = fitted(value, hint)
    assert found == want and type(found) is type(want)

@pytest.mark.parametrize('value, hint', MISFITS, ids=range(len(MISFITS)))
def test_what_could_mean_something_else_is_not(value, hint):
    def act(x): raise AssertionError('called')
    r = run(act, dict(x=value), hints=dict(x=hint))
    assert r.failure == 'arguments' and '"x"' in r.text and len(r.text) < 250, r

values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=5)
@settings(max_examples=150, deadline=None)
@given(values, st.sampled_from([hint for _, hint, _ in FITS]))
def test_fitting_fits_or_is_a_misfit(value, hint):
    try: once = fitted(value, hint)
    except Misfit: return
    assert repr(fitted(once, hint)) == repr(once) if not isinstance(once, Letter) else True

def two(query: str, k: int = 3) -> str:
    """
    Do it.

    Args:
        query: What
        k: How many
    """
    return f'{query} {k}'

def test_missing_unknown_and_null():
    box = Toolbox([two])
    def told(**arguments):
        r, = box.run([Call('two', arguments)])
        return r.failure, r.text
    assert told(query='a') == ('', 'a 3') and told(query='a', k='4') == ('', 'a 4') and told(query='a', k=None) == ('', 'a 3')
    assert told()[0] == 'arguments' and '"query" (a string)' in told()[1]
    assert told(query='a', kk=1)[0] == 'arguments' and 'k (a whole number, may be left out)' in told(query='a', kk=1)[1]
    assert told(**{'x'*10**6: 1})[0] == 'arguments' and len(told(**{'x'*10**6: 1})[1]) < 250
    r, = box.run([Call('tow', {})])
    assert r.failure == 'unknown' and "'two'" in r.text
    assert len(box.run([Call('x'*10**6, {})])[0].text) < 250
    assert Toolbox([]).run([Call('x')])[0].failure == 'unknown' and Toolbox([]).run([]) == []

def test_from_text_to_result():
    said = '<tool_call>\n<function=two>\n<parameter=query>\n7\n</parameter>\n<parameter=k>\n7\n</parameter>\n</function>\n</tool_call>'
    calls = ChatCalls().read(said+'<tool_call>{"name": "two", "arguments": {"query": 7}}</tool_call><tool_call>{"name": "two"}</tool_call><tool_call>oh no</tool_call>')
    results = Toolbox([two]).run(calls)
    assert [(r.text, r.failure) for r in results[:2]] == [('7 7', ''), ('7 3', '')]
    assert [r.failure for r in results[2:]] == ['arguments','unparsable']
    assert all(isinstance(r, Result) and r.text.startswith('Error: ') for r in results[2:])
    assert json.dumps([dataclasses.asdict(r) for r in results])

# what may be a tool

def untyped(x):
    """Do it.

    Args:
        x: What
    """
def undocumented(x: int): pass
def half(x: int, y: int):
    """Do it.

    Args:
        x: What
    """
def starred(*x: int):
    """Do it.

    Args:
        x: What
    """
def keywords(**x: int):
    """Do it.

    Args:
        x: What
    """
def custom(x: Row):
    """Do it.

    Args:
        x: What
    """
@pytest.mark.parametrize('f', [untyped, undocumented, half, starred, keywords, custom, lambda: 1, 'two', None, 7, two.__call__.__class__])
def test_what_is_no_tool_is_said_at_once(f):
    with pytest.raises(ValueError, match='tool'): Toolbox([f])

def test_names_are_unique():
    with pytest.raises(ValueError, match='two tools are called two'): Toolbox([two, two])

class Bag:
    def __init__(self): self.items = []
    def put(self, item: str) -> list[str]:
        """
        Put something in.

        Args:
            item: What
        """
        time.sleep(.01*(3-len(self.items) % 3))
        self.items.append(item)
        return self.items

def test_methods_take_turns():
    bag = Bag()
    results = Toolbox([bag.put, two]).run([Call('put', dict(item=str(i))) for i in range(6)]+[Call('two', dict(query='a'))])
    assert bag.items == list('012345') and results[3].text == '["0", "1", "2", "3"]'

def test_many_toolboxes_of_one_class_are_cheap_and_go_away():
    bags = [Bag() for _ in range(2000)]
    began = time.process_time()
    boxes = [Toolbox([b.put]) for b in bags]
    assert time.process_time()-began < 5
    assert boxes[0].schemas[0] is boxes[1].schemas[0] and boxes[0].schemas[0]['function']['name'] == 'put'
    assert list(boxes[0].schemas[0]['function']['parameters']['properties']) == ['item']
    boxes[0].run([Call('put', dict(item='a'))])
    left = [weakref.ref(b) for b in bags]
    del bags, boxes
    gc.collect()
    assert not any(r() for r in left)

@pytest.mark.skipif(not hasattr(signal, 'SIGALRM'), reason='no alarms here')
def test_a_tool_with_an_alarm():
    def act(seconds):
        def ring(*_): raise TimeoutError('rang')
        signal.signal(signal.SIGALRM, ring)
        signal.alarm(1)
        try:
            time.sleep(seconds)
            return f'slept {seconds}'
        finally: signal.alarm(0)
    before = signal.getsignal(signal.SIGALRM)
    box = Toolbox([tool(act, dict(seconds=float))], timeout=20.)
    assert box.run([Call('act', dict(seconds=.01))])[0].text == 'slept 0.01'
    assert box.run([Call('act', dict(seconds=30))])[0].text == 'Error: TimeoutError: rang'
    assert signal.getsignal(signal.SIGALRM) is before
