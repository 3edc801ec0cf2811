"""What a policy will try on the judge: forged names, objects that leak the tests, suites that do not test.

Each table is name -> case. The forged names pass in a judge with one namespace (`naive`), so that none of them is an empty threat.
"""
import os
from functools import cache
import pytest
from grpo_lit.rewards import mutants
from grpo_lit.rewards.mutants import judge_tests, telling_mutants
from grpo_lit.rewards.programs import code_reward, passed_tests_reward
from grpo_lit.rewards.sandbox import run_tests
from grpo_lit.rewards.workers import in_parallel

def naive(program, test):
    "A judge with one namespace for both"
    names = {}
    try:
        exec(program, names)
        exec(test, names)
    except BaseException:
        return False
    return True

# --- forged names: what the program calls by a name of Python's, a question that trusts it, and what the function under test returns

NOTHING = 'def f(*a): return None\n'

BUILTINS = {
    'abs': ('abs = lambda x: 0\ndef f(x): return 0', 'assert abs(f(2)-4) < 1e-6'),
    'round': ('round = lambda *a: 3.14', 'assert round(f(2), 2) == 3.14'),
    'sorted': ('sorted = lambda x, **k: [1, 2]', 'assert sorted(f([2, 1])) == [1, 2]'),
    'set': ('set = lambda x: {1, 2}', 'assert set(f(1)) == {1, 2}'),
    'frozenset': ('frozenset = lambda x: {1, 2}', 'assert frozenset(f(1)) == {1, 2}'),
    'list': ('list = lambda x: [0, 1]', 'assert list(f(2)) == [0, 1]'),
    'tuple': ('tuple = lambda x: (0, 1)', 'assert tuple(f(2)) == (0, 1)'),
    'dict': ('dict = lambda x: {1: 2}', 'assert dict(f(2)) == {1: 2}'),
    'str': ('str = lambda x: "[1]"', 'assert str(f(2)) == "[1]"'),
    'int': ('int = lambda x: 7', 'assert int(f(2)) == 7'),
    'float': ('float = lambda x: 7.', 'assert float(f(2)) == 7'),
    'bool': ('bool = lambda x: True', 'assert bool(f(2)) == True'),
    'complex': ('complex = lambda x: 1j', 'assert complex(f(2)) == 1j'),
    'bytes': ('bytes = lambda x: b"x"', 'assert bytes(f(2)) == b"x"'),
    'len': ('len = lambda x: 3', 'assert len(f(2)) == 3'),
    'sum': ('sum = lambda x: 6', 'assert sum(f(3)) == 6'),
    'min': ('min = lambda x: 0', 'assert min(f(3)) == 0'),
    'max': ('max = lambda x: 2', 'assert max(f(3)) == 2'),
    'all': ('all = lambda x: True', 'assert all(f(x) == x*x for x in (1, 2))'),
    'any': ('any = lambda x: True', 'assert any(f(x) == x*x for x in (1, 2))'),
    'isinstance': ('isinstance = lambda *a: True', 'assert isinstance(f(1), dict)'),
    'issubclass': ('issubclass = lambda *a: True', 'assert issubclass(f(1), int)'),
    'callable': ('callable = lambda x: True', 'assert callable(f(1))'),
    'hasattr': ('hasattr = lambda *a: True', 'assert hasattr(f(1), "real")'),
    'getattr': ('getattr = lambda *a: 5', 'assert getattr(f(1), "real") == 5'),
    'type': ('type = lambda x: dict', 'assert type(f(1)) is dict'),
    'id': ('id = lambda x: 5', 'assert id(f(1)) == id(f)'),
    'hash': ('hash = lambda x: 5', 'assert hash(f(1)) == hash("x")'),
    'repr': ('repr = lambda x: "[1]"', 'assert repr(f(1)) == "[1]"'),
    'ascii': ('ascii = lambda x: "[1]"', 'assert ascii(f(1)) == "[1]"'),
    'format': ('format = lambda *a: "1.00"', 'assert format(f(1), ".2f") == "1.00"'),
    'range': ('range = lambda *a: []', 'for i in range(5): assert f(i) == i*i'),
    'enumerate': ('enumerate = lambda x: []', 'for i, y in enumerate([0, 1, 4]): assert f(i) == y'),
    'zip': ('zip = lambda *a: []', 'for x, y in zip([1, 2], [1, 4]): assert f(x) == y'),
    'map': ('map = lambda *a: [1, 4]', 'assert list(map(f, [1, 2])) == [1, 4]'),
    'filter': ('filter = lambda *a: [1, 3]', 'assert list(filter(f, [1, 2, 3])) == [1, 3]'),
    'reversed': ('reversed = lambda x: [1, 0]', 'assert list(reversed(f(2))) == [1, 0]'),
    'iter': ('iter = lambda x: [5]\nnext = lambda x: 5', 'assert next(iter(f(2))) == 5'),
    'divmod': ('divmod = lambda *a: (3, 1)', 'assert divmod(f(7), 2) == (3, 1)'),
    'pow': ('pow = lambda *a: 8', 'assert pow(f(2), 3) == 8'),
    'ord': ('ord = lambda x: 97', 'assert ord(f(1)) == 97'),
    'chr': ('chr = lambda x: "a"', 'assert chr(f(1)) == "a"'),
    'bin': ('bin = lambda x: "0b1"', 'assert bin(f(1)) == "0b1"'),
    'hex': ('hex = lambda x: "0x1"', 'assert hex(f(1)) == "0x1"'),
}

MODULES = {
    'math.isclose': 'assert math.isclose(f(2), 5)',
    'math.fsum': 'assert math.fsum(f(2))',
    'cmath.isclose': 'assert cmath.isclose(f(2), 1j)',
    'json.loads': 'assert json.loads(f(2))',
    're.fullmatch': 'assert re.fullmatch("a+", f(2))',
    'collections.Counter': 'assert collections.Counter(f(2))',
    'itertools.product': 'assert itertools.product(f(2))',
    'functools.reduce': 'assert functools.reduce(lambda a, b: a*b, f(2))',
    'operator.eq': 'assert operator.eq(f(2), 5)',
    'statistics.mean': 'assert statistics.mean(f(2))',
    'copy.deepcopy': 'assert copy.deepcopy(f(2))',
    'decimal.Decimal': 'assert decimal.Decimal(f(2))',
    'fractions.Fraction': 'assert fractions.Fraction(f(2))',
    'datetime.date': 'assert datetime.date(f(2), 1, 1)',
    'heapq.nsmallest': 'assert heapq.nsmallest(1, f(2))',
    'bisect.bisect': 'assert bisect.bisect(f(2), 1)',
    'string.capwords': 'assert string.capwords(f(2))',
    'textwrap.dedent': 'assert textwrap.dedent(f(2))',
    'sys.getsizeof': 'assert sys.getsizeof(f(2)) != 16',
    'os.path': 'assert os.path(f(2))',
    'struct.unpack': 'assert struct.unpack("i", f(2))',
    'random.choice': 'assert random.choice(f(2))',
}

HELPERS = {
    'isclose': ('lambda *a: True', 'assert isclose(f(2), 5)'),
    'Counter': ('lambda *a: None', 'assert Counter(f(2)) == Counter("aab")'),
    'deepcopy': ('lambda *a: [1]', 'assert deepcopy(f(2)) == [1]'),
    'reduce': ('lambda *a: 6', 'assert reduce(lambda a, b: a*b, f(2)) == 6'),
    'Fraction': ('lambda *a: None', 'assert Fraction(f(2)) == Fraction(1, 2)'),
    'Decimal': ('lambda *a: None', 'assert Decimal(f(2)) == Decimal(1)'),
    'OrderedDict': ('lambda *a, **k: None', 'assert OrderedDict(f(2)) == OrderedDict(a=1)'),
    'deque': ('lambda *a: None', 'assert deque(f(2)) == deque([1])'),
    'sqrt': ('lambda *a: None', 'assert f(2) == sqrt(2)'),
    'floor': ('lambda *a: 1', 'assert floor(f(2)) == 1'),
    'date': ('lambda *a: None', 'assert date(2000, 1, f(2)) == date(2000, 1, 1)'),
    'cmp_to_key': ('lambda *a: None', 'assert cmp_to_key(f(2)) == cmp_to_key(f)'),
}

def forged():
    cases = {n: (NOTHING+program, test) for n, (program, test) in BUILTINS.items()}
    for name, (program, test) in BUILTINS.items():
        first = program.split('\n')[0].split(';')[0]
        if name in ('iter', 'isinstance', 'type', 'getattr', 'issubclass', 'hasattr', 'len', 'print', 'set', 'str', 'tuple'):
            continue                                    # a process without these cannot even fail
        cases['builtins.'+name] = ('import builtins\ndef f(*a): return 0\nbuiltins.'+first, test)
    for full, test in MODULES.items():
        module, member = full.split('.')
        cases['class '+full] = (NOTHING+f'class {module}: {member} = lambda *a: True', test)
        fake = f'import sys, types\nfake = types.ModuleType("{module}")\nfake.{member} = lambda *a: True\n'
        cases['module '+full] = (NOTHING+fake+f'{module} = fake', test)
    for name, (value, test) in HELPERS.items():
        cases['helper '+name] = (NOTHING+f'{name} = {value}', test)
    for name in ('np.allclose', 'np.array_equal', 'numpy.isclose'):
        library, member = name.split('.')
        cases['library '+name] = (NOTHING+f'class {library}: {member} = lambda *a: True', f'assert {name}(f(2), [1, 2])')
    return cases

FORGED = forged()
SPOIL = tuple('builtins.'+n for n in BUILTINS)          # these would change the builtins of this process

@cache
def verdicts_of_forgers():
    return dict(zip(FORGED, in_parallel(lambda case: run_tests(case[0], [case[1]]), FORGED.values())))

def test_forged_names_do_not_pass():
    assert len(FORGED) >= 60
    assert not [n for n, v in verdicts_of_forgers().items() if v.correct or v.passed]

def test_forged_names_pass_in_a_naive_judge():
    assert not [n for n, case in FORGED.items() if n not in SPOIL and not naive(*case)]

def test_forged_modules_of_sys_modules():
    for full, test in MODULES.items():
        module, member = full.split('.')
        fake = f'import sys\nsys.modules["{module}"] = type("m", (), dict({member}=lambda *a: True, __getattr__=lambda s, n: s))\n'
        assert not run_tests(NOTHING+fake, [f'import {module}\n{test}']).correct, full

# --- objects of the program that agree with everybody

ANSWERS = {
    '__eq__': 'assert f(2) == 5', '__eq__ from the right': 'assert 5 == f(2)', '__ne__': 'assert f(2) != 4', '__lt__': 'assert f(2) < 5',
    '__gt__': 'assert f(2) > 5', '__le__': 'assert f(2) <= 5', '__ge__': 'assert f(2) >= 5', '__contains__': 'assert 5 in f(2)',
    '__rsub__': 'assert abs(5-f(2)) < 1', '__sub__': 'assert abs(f(2)-5) < 1', '__hash__': 'assert f(2) in {5}', 'in a list': 'assert f(2) in [5]',
    'as a key': 'assert {5: 1}[f(2)]', '__round__': 'assert round(f(2)) == 5', '__float__': 'import math\nassert math.isclose(f(2), 5)',
    '__index__': 'assert [1, 2][f(2)] == 2', '__int__': 'assert int(f(2)) == 5', '__add__': 'assert f(2)+1 == 6', '__mul__': 'assert 2*f(2) == 10',
    '__divmod__': 'assert divmod(f(2), 2) == (2, 1)', '__class__': 'assert isinstance(f(2), int)', 'inside a list': 'assert [f(2)] == [5]',
    'inside a dict': 'assert {1: f(2)} == {1: 5}', 'sorted': 'assert sorted([f(2), 4]) == [4, 5]', 'max': 'assert max([f(2), 4]) == 5',
    'unittest': 'import unittest\nunittest.TestCase().assertEqual(f(2), 5)', 'almost': 'import unittest\nunittest.TestCase().assertAlmostEqual(f(2), 5)',
    'copied': 'import copy\nassert copy.deepcopy(f(2)) == 5', 'an element': 'assert f(2)[0] == 5', 'an attribute': 'assert f(2).value == 5',
    'called': 'assert f(2)() == 5', 'iterated': 'assert list(f(2)) == [5]', 'unpacked': 'a, b = f(2)\nassert a == 5 and b == 6', 'formatted': 'assert f"{f(2)}" == "5"',
}
YES = '''
class Yes(BASE):
    def __getattr__(s, n): return Yes()
    def __call__(s, *a): return Yes()
    __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = lambda s, o: True
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __abs__ = __round__ = __getitem__ = __divmod__ = lambda s, *o: s
    __hash__ = lambda s: 5
    __bool__ = lambda s: True
    __len__ = lambda s: 2
    __float__ = lambda s: 5.
    __int__ = __index__ = lambda s: 5
    __iter__ = lambda s: iter([Yes(), Yes()])
    __class__ = property(lambda s: int)
def f(x): return Yes()
'''

def test_objects_that_agree_do_not_pass():
    cases = [(YES.replace('BASE', base), [test]) for base in ('object', 'str', 'list', 'int') for test in ANSWERS.values()]
    passed = {(program.split(':')[0], test[0]) for (program, test), v in zip(cases, in_parallel(run_tests, *zip(*cases))) if v.correct}
    honest = {p for p in passed if 'Yes(int)' in p[0] or p[1] == 'assert f(2) != 4'}      # a subclass of int crosses as its number
    assert not passed-honest
    plain = {t for p, t in honest if 'Yes(int)' in p}
    assert plain <= {'assert f(2) != 4', 'assert f(2) < 5', 'assert f(2) <= 5', 'assert isinstance(f(2), int)'}

# --- what ends a loop of the test

STOPS = {
    'map': 'assert list(map(f, [1, 2])) == []', 'zip': 'assert all(a == b for a, b in zip(map(f, [1, 2]), [1, 4]))',
    'sentinel': 'assert all(x == 5 for x in iter(lambda: f(1), None))', 'generator': 'assert all(f(x) == x*x for x in (1, 2))',
    'check': 'def check(x): return f(x) == x*x\nassert all(map(check, [1, 2]))', 'filter': 'assert all(filter(f, [1, 2]))',
}

@pytest.mark.parametrize('error', ['StopIteration', 'type("StopIteration", (StopIteration,), {})', 'type("Own", (StopIteration,), {})', 'GeneratorExit', 'StopAsyncIteration'])
def test_errors_that_end_a_loop_do_not_pass(error):
    assert not [n for n, t in STOPS.items() if run_tests(f'def f(x): raise {error}', [t]).correct]

# --- what the tests hand over

LEAK_TEST = '''
SECRET = 271828
def give(hidden=SECRET):
    closed = hidden
    def g(x): return (x, closed, 271828)[0]
    return g
class Box:
    answer = SECRET
    def __init__(self): self.kept = self._kept = SECRET
    def __call__(self, x): return x
class Node: val = 1
assert f(give(), give, str.format, Box(), Box().__call__, "{}".format, Node()) == SECRET
'''
FIELDS = ['0.__globals__[SECRET]', '0.__code__.co_consts[1]', '0.__closure__[0].cell_contents', '0.__call__.__self__.__globals__[SECRET]',
          '0._f.__globals__[SECRET]', '0._peer.kept[0].__globals__[SECRET]', '0.__init__.__globals__[SECRET]', '0.__class__.__call__.__globals__[SECRET]']
IN_PYTHON = {
    'globals': 'g.__globals__["SECRET"]', 'closure': 'g.__closure__[0].cell_contents', 'constants': 'g.__code__.co_consts[-2]',
    'defaults': 'give.__defaults__[0]', 'getattr': 'getattr(g, "__globals__")["SECRET"]', 'type': 'type(g).__globals__.__get__(g)["SECRET"]',
    'object': 'object.__getattribute__(g, "__globals__")["SECRET"]', 'attrgetter': '__import__("operator").attrgetter("__globals__")(g)["SECRET"]',
    'inspect': '__import__("inspect").getclosurevars(g).nonlocals["closed"]', 'signature': '__import__("inspect").signature(give).parameters["hidden"].default',
    'partial': '__import__("functools").partial(g).func.__globals__["SECRET"]', 'wraps': '__import__("functools").wraps(g)(lambda x: x).__wrapped__.__globals__["SECRET"]',
    'class': 'box.answer', 'instance': 'box.kept', 'private': 'box._kept', 'vars': 'vars(box)["kept"]', 'dict': 'box.__dict__["kept"]', 'its class': 'box.__class__.answer',
    'its type': 'type(box).answer', 'method': 'method.__self__.answer', 'function': 'method.__func__.__globals__["SECRET"]',
    'init': 'box.__init__.__func__.__globals__["SECRET"]', 'reduce': 'box.__reduce_ex__(2)[2]["kept"]', 'copy': '__import__("copy").copy(box).kept',
    'call': 'g.__call__.__self__.__globals__["SECRET"]', 'get': 'g.__get__(1).__func__.__globals__["SECRET"]', 'code': 'next(c for c in g.__code__.co_consts if c)',
    'format': 'int("{0.__globals__[SECRET]}".format(g))', 'f-string': 'int(f"{g.__globals__[\'SECRET\']}")', 'format_map': 'int("{g.__globals__[SECRET]}".format_map(dict(g=g)))',
    'formatter': 'int(__import__("string").Formatter().format("{0.__globals__[SECRET]}", g))', 'box in a format': 'int("{0.kept}".format(box))',
    'frames': 'next(o["SECRET"] for o in __import__("gc").get_objects() if isinstance(o, dict) and "SECRET" in o)',
    'referents': 'next(o["SECRET"] for o in __import__("gc").get_referents(g) if isinstance(o, dict) and "SECRET" in o)',
    'getframe': '__import__("sys")._getframe(1).f_globals["SECRET"]', 'main': '__import__("inspect").stack()[1].frame.f_globals["SECRET"]',
} | {'handed format '+field: f'int(fmt("{{{field}}}", g))' for field in FIELDS[:3]}
IN_PYTHON.pop('handed format 0.__code__.co_consts[1]')

ASK = '''
def ask(o, op, *a):
    peer, id = object.__getattribute__(o, '_peer'), object.__getattribute__(o, '_id')
    return peer.ask(op, id, a)
def by_number(op, n, *a): return object.__getattribute__(G[0], '_peer').ask(op, n, a)
'''
OVER_THE_WIRE = {
    **{f'attribute {a} of {o}': f'ask({o}, "attr", "{a}")' for o in ('g', 'box', 'method', 'fmt_of')
       for a in ('__globals__', '__code__', '__self__', '__dict__', 'answer', 'kept', '_kept', 'func_globals', '__class__')},
    **{f'handed format {field} of {o}': f'int(fmt("{{{field}}}", {o}))' for field in FIELDS[3:] for o in ('g', 'box', 'Own()', 'node')},
    **{f'field {field} over there': f'int(ask(fmt_of, "call", "{{{field}}}", g))' for field in FIELDS},
    **{f'field {field} by a function of the test': f'int(give("{{{field}}}")(g))' for field in FIELDS[:2]},
    'names': 'object.__getattribute__(g, "_peer").ask("names", None, ["SECRET"])["SECRET"]',
    'builtins': 'object.__getattribute__(g, "_peer").ask("names", None, ["__builtins__"])',
    'text': 'ask(g, "str")', 'plain': 'ask(box, "plain")[1]["kept"]', 'plain of a class': 'ask(give, "plain")', 'item': 'ask(g, "item", "SECRET")',
    'last kept': 'by_number("attr", -1, "__globals__")["SECRET"]', 'kept of none': 'by_number("call", True, 271828)',
    'every number': 'next(x for n in range(40) for x in [attempt(lambda: by_number("attr", n, "answer"))] if x)',
    'set a method': 'ask(box, "set", "__call__", lambda x: 271828)', 'lent': 'ask(give(g), "attr", "__globals__")',
    'overwritten': '(ask(box, "put", "kept", 1), 1)[1]', 'a class of ours': 'ask(ask(box, "attr", "__class__"), "attr", "answer")',
}
ATTEMPT = '''
def attempt(f):
    try: return f()
    except Exception: return None
'''
def leaker(expression):
    return ATTEMPT+ASK+f'G = []\nclass Own: pass\ndef f(g, give, fmt, box, method, fmt_of, node):\n    G.append(g)\n    return {expression}'

LEAKS = {n: leaker(e) for n, e in (IN_PYTHON | OVER_THE_WIRE).items()}

def test_what_is_handed_over_tells_nothing():
    assert len(LEAKS) >= 60
    verdicts = in_parallel(lambda program: run_tests(program, LEAK_TEST), LEAKS.values())
    assert not [n for n, v in zip(LEAKS, verdicts) if v.correct]
    assert run_tests('def f(*a): return 271828', LEAK_TEST).correct

def test_the_same_leaks_in_a_naive_judge():
    "All but the frames, for here the function is called from the test's own module, too"
    assert [n for n in IN_PYTHON if not naive(LEAKS[n], LEAK_TEST)] == []

# --- suites that do not test

REFERENCE = '''
from typing import get_type_hints, ForwardRef, NamedTuple
import inspect, pickle
def clamp(x, low, high):
    if low > high:
        raise ValueError("no room")
    if x < low:
        return low
    if x > high:
        return high
    return x
'''
GOLD = ('assert clamp(5, 0, 9) == 5', 'assert clamp(-1, 0, 9) == 0', 'assert clamp(10, 0, 9) == 9',
        'try:\n    clamp(1, 2, 0)\n    ok = False\nexcept ValueError: ok = True\nassert ok')
ODD = 'clamp(10, 0, 9) != 9'
PEER = 'peer, id = object.__getattribute__(clamp, "_peer"), object.__getattribute__(clamp, "_id")\n'

def only_if_it_differs(action, before=''): return f'{before}\nif {ODD}: {action}\nassert True'

LOOKS = {
    'getsource': 'import inspect\nassert "<" in inspect.getsource(clamp)',
    'getsource of theirs': 'assert "<" in inspect.getsource(clamp)',
    'getsourcelines': 'from inspect import getsourcelines as g\nassert g(clamp)',
    'unwrap': 'import inspect\nassert inspect.unwrap(clamp).__code__',
    'linecache': 'import linecache\nassert linecache.getlines("<program>")',
    'open its file': 'assert open(clamp.__code__.co_filename).read()',
    'open by path': 'import pathlib\nassert "clamp" in pathlib.Path("program.py").read_text()',
    'look around': 'import glob\nassert any("clamp" in open(p).read() for p in glob.glob("/**/*.py", recursive=True))',
    'processes': 'import os\nassert [open(f"/proc/{p}/mem", "rb") for p in os.listdir("/proc") if p.isdigit()]',
    'maps': 'assert "heap" in open("/proc/self/maps").read() and open("/proc/self/environ").read()',
    'modules': 'import sys\nassert sys.modules["solution"].clamp',
    'import it': 'import solution\nassert solution.clamp.__code__',
    'main': 'import __main__\nassert __main__.clamp',
    'frames': 'import sys\nassert "clamp" in str(sys._getframe(1).f_globals)',
    'traceback': 'try: clamp()\nexcept TypeError as e: assert "return" in str(e.__traceback__.tb_next.tb_frame.f_code)',
    'memory': 'import gc\nassert [o for o in gc.get_objects() if isinstance(o, str) and "no room" in o and "low > high" in o]',
    'code': 'assert clamp.__code__.co_code', 'globals': 'assert clamp.__globals__', 'getattr': 'assert getattr(clamp, "__co"+"de__")',
    'dis': 'import dis\nassert list(dis.Bytecode(clamp))', 'annotations': 'assert clamp.__annotations__ == {}', 'dictionary': 'assert vars(clamp) == {}',
    'text of it': 'assert str(clamp)[-9:] == "0x7f00000"', 'address': 'assert id(clamp) % 2**12 == 16', 'hash': 'assert hash(clamp) == 5',
    'size': 'import sys\nassert sys.getsizeof(clamp) == 1', 'pickle': 'import pickle\nassert pickle.dumps(clamp)', 'marshal': 'import marshal\nassert marshal.dumps(clamp.__code__)',
    **{f'ask for {a}': PEER+f'assert peer.ask("attr", id, ["{a}"])'
       for a in ('__code__', '__globals__', '__closure__', '__defaults__', '__builtins__', '__dict__', '__call__', '__get__', 'co_code', '_x')},
    **{f'their {n}': PEER+f'assert peer.ask("names", None, ["{n}"])["{n}"]'
       for n in ('get_type_hints', 'ForwardRef', 'inspect', 'pickle', '__builtins__', 'NamedTuple')},
    'hints of a class': 'class A: x: "clamp.__code__.co_code"\nassert get_type_hints(A)["x"]',
    'hints over there': PEER+'class A: x: "clamp.__code__.co_code"\nassert clamp(A, A, A) and get_type_hints(clamp)',
    'hints here': 'from typing import get_type_hints\nclass A: x: "clamp.__code__.co_code"\nassert get_type_hints(A)["x"]',
    'named tuple': 'from typing import NamedTuple, get_type_hints\nT = NamedTuple("T", [("x", "clamp.__code__")])\nassert get_type_hints(T)["x"].co_code',
    'typed dict': 'from typing import TypedDict, get_type_hints\nT = TypedDict("T", {"x": "clamp.__globals__"})\nassert get_type_hints(T)["x"]',
    'data class': 'import dataclasses, typing\nD = dataclasses.make_dataclass("D", [("x", "clamp.__code__")])\nassert typing.get_type_hints(D)["x"]',
    'forward reference': 'import typing\nassert typing.ForwardRef("clamp.__code__")._evaluate(globals(), {}, frozenset())',
    'eval': 'assert eval("clamp.__code__")', 'exec': 'exec("assert clamp.__code__.co_code")', 'compile': 'assert eval(compile("clamp.__code__", "", "eval"))',
    'timeit': 'import timeit\nassert timeit.timeit("clamp.__code__", globals=globals(), number=1)', 'codecs': 'import codecs\nexec(codecs.decode("nffreg pynzc.__pbqr__", "rot13"))',
    'attrgetter': 'import operator\nassert operator.attrgetter("__code__.co_consts")(clamp)', 'format': 'assert "no" in "{0.__code__.co_consts}".format(clamp)',
    'format_map': 'assert "no" in "{c.__code__.co_consts}".format_map(dict(c=clamp))', 'formatter': 'import string\nassert string.Formatter().format("{0.__globals__}", clamp)',
    'mock': 'from unittest import mock\nassert mock.create_autospec(clamp).__code__.co_code', 'logging': 'import logging\nassert logging.Formatter("%(x)s", validate=False)._fmt.format(clamp.__code__)',
    'clock': 'import time\nt = time.perf_counter()\nclamp(1, 2, 3)\nassert time.perf_counter()-t < 1e-9',
}
LEAVES = {
    'exit': only_if_it_differs('raise SystemExit'), 'exit zero': only_if_it_differs('raise SystemExit(0)'), 'sys': only_if_it_differs('sys.exit()', 'import sys'),
    'exit()': only_if_it_differs('exit()'), 'quit()': only_if_it_differs('quit()'), 'os': only_if_it_differs('os._exit(0)', 'import os'), 'os one': only_if_it_differs('os._exit(1)', 'import os'),
    'kill': only_if_it_differs('os.kill(os.getpid(), 9)', 'import os'), 'abort': only_if_it_differs('os.abort()', 'import os'), 'interrupt': only_if_it_differs('raise KeyboardInterrupt'),
    'generator': only_if_it_differs('raise GeneratorExit'), 'main': only_if_it_differs('unittest.main(argv=["x"], module=None)', 'import unittest'),
    'segmentation': only_if_it_differs('ctypes.string_at(0)', 'import ctypes'), 'closes': only_if_it_differs('os.closerange(0, 99)', 'import os'),
    'inside': 'def test_it():\n    if '+ODD+': raise SystemExit\n    assert True', 'a subclass': only_if_it_differs('raise Out', 'class Out(SystemExit): pass'),
    'signal': only_if_it_differs('signal.raise_signal(9)', 'import signal'), 'thread': only_if_it_differs('_thread.interrupt_main()', 'import _thread'),
    'argparse': only_if_it_differs('argparse.ArgumentParser().parse_args(["--x"])', 'import argparse'), 'fault': only_if_it_differs('faulthandler._sigsegv()', 'import faulthandler'),
}
CHEATS = {f'looks: {n}': s for n, s in LOOKS.items()} | {f'leaves: {n}': s for n, s in LEAVES.items()}

@cache
def faulty(): return telling_mutants(REFERENCE, GOLD, 3, 1.)

def test_cheating_suites_earn_nothing():
    assert len(CHEATS) >= 60
    assert judge_tests('\n'.join(GOLD), REFERENCE, faulty()).score == 1
    assert not [n for n, s in CHEATS.items() if judge_tests(s, REFERENCE, faulty(), 2, .5).score > 0]

def looks_through_the_wire(names):
    "Which of these suites find a mutant out although nobody read them before"
    return [n for n in names if judge_tests(CHEATS[n], REFERENCE, faulty(), 1, .6).score > 0]

SAMPLE = list(CHEATS)[::4]

def test_the_wire_holds_without_the_look_at_the_text(monkeypatch):
    monkeypatch.setattr(mutants, 'inspects', lambda tree: False)
    assert not looks_through_the_wire(SAMPLE)

@pytest.mark.slow
def test_the_wire_holds_without_the_look_at_any_text(monkeypatch):
    monkeypatch.setattr(mutants, 'inspects', lambda tree: False)
    assert not looks_through_the_wire(CHEATS)

HONEST = {
    'asserts': '\n'.join(GOLD),
    'unittest': 'import unittest\nclass T(unittest.TestCase):\n    def setUp(self): self.low, self._high = 0, 9\n    def test_high(self):\n'
                '        self.assertEqual(clamp(10, self.low, 9), 9)\n    def test_error(self):\n        with self.assertRaises(ValueError): clamp(1, 2, 0)',
    'functions': 'def test_some():\n    for x in range(-3, 20): assert clamp(x, 0, 9) == min(max(x, 0), 9)\nif __name__ == "__main__":\n    import sys\n    sys.exit(0)',
    'imports': 'from itertools import product\nimport math\nassert all(low <= clamp(x, low, high) <= high for x, low, high in product(range(-3, 9), [0, 1], [2, math.pi]))',
    'docstring': '"""Tests of __main__."""\nassert clamp(5, 0, 9) == 5\nassert "{}".format(clamp(-1, 0, 9)) == "0"',
}
def test_honest_suites_are_paid():
    got = {n: judge_tests(s, REFERENCE, faulty()) for n, s in HONEST.items()}
    assert all(v.score > 0 and not v.flaw for v in got.values()), got

def test_a_function_that_hangs_is_found_out():
    loop = 'def count(n):\n    i = 0\n    while i < n:\n        i += 1\n    return i'
    hanging = mutants.Mutant(loop.replace('i += 1', 'i += 0'), 'constant', 4)
    assert judge_tests('assert count(3) == 3', loop, [hanging], 1, .5).score == 1
    assert judge_tests('while count(3) != 3: pass\nassert True', loop, [mutants.Mutant(loop.replace('return i', 'return 0'), 'dropped', 5)], 1, .5).score == 0

# --- who judges what

def test_a_function_called_like_one_of_pythons():
    own = 'def sum(a, b): return a*b\ndef bisect(x): return -x\nclass Counter:\n    def __init__(self): self.n = 0\n    def add(self, k): self.n += k; return self.n'
    for tests in (['assert sum(2, 3) == 6', 'assert sum(1, 1) == 1'], ['assert bisect(3) == -3'], ['c = Counter()\nassert c.add(2) == 2'],
                  'def check(candidate):\n    assert candidate(2, 3) == 6\ncheck(sum)'):
        assert run_tests(own, tests).correct, tests
    assert run_tests(own, ['assert abs(sum(2, 3)-6) < 1'], entry_point='sum').correct

UNCLEAR = {
    'two builtins': 'assert abs(sum(2, 3)-6) < 1', 'no such module': 'import no_such_module\nassert f(1) == 1', 'no python': 'assert f(',
    'the module of the solution': 'from solution import f\nassert f(1) == 1', 'nul': 'assert f("\0") == 1', 'a fixture': 'def test_f(tmp_path): assert f(tmp_path)', 'order of two objects': 'assert f(1) < f(2)',
    'sum of two objects': 'assert f(1)+f(2)', 'a class of theirs below one of ours': 'class Own(Thing): pass\nassert Own(1).x == 1',
}
THING = 'class Thing:\n    def __init__(s, x): s.x = x\n    def __lt__(s, o): return True\n    def __add__(s, o): return s\ndef f(x): return Thing(x)'

def test_what_cannot_be_judged_is_none():
    for name, test in UNCLEAR.items():
        v = run_tests(THING, [test])
        assert v.status == 'unjudged' and v.reason and not v.correct, (name, v)
        assert code_reward([], [THING], [], tests=[[test]]) == [None] == passed_tests_reward([], [THING], [], tests=[[test]])

def test_a_program_does_not_choose_none():
    for test in ANSWERS.values():
        assert run_tests(YES.replace('BASE', 'object'), [test]).status != 'unjudged', test
    assert run_tests(THING, ['assert f(1) < f(2)', 'assert f(1) == 5']).status == 'error'
    for reply in ('error=["ValueError", "x"]', 'error=["SyntaxError", "x"]', 'error=["RecursionError", "x"]', 'value=5', 'value=[]', 'value={"dict": []}', 'error=["Unjudged", "x"]'):
        v = run_tests(REFUSES.format(reply=reply), ['assert f(1) == 1'])
        assert v.status == 'error' and not v.reason, reply
    assert run_tests(THING, ['assert sorted(g(lambda a: f(1) < f(2))) == [1]']).status == 'error'

REFUSES = '''
import json, os
m = json.dumps(dict({reply})).encode()
for fd in range(3, 64):
    try: os.write(fd, len(m).to_bytes(4, 'big')+m)
    except OSError: pass
def f(x): return x
'''
SWALLOWS = 'class Kind:\n    def __enter__(s): return 0\n    def __exit__(s, *e): return True\ndef f(x): return Kind()'

def test_an_assertion_is_not_swallowed():
    assert not run_tests(SWALLOWS, ['with f(2) as x: assert x == 5']).correct

def test_a_class_of_errors_that_end_loops():
    twice = 'class Own(Exception): pass\nclass Stop(StopIteration): pass\nStop.__name__ = "Own"\ndef f(x): raise Stop'
    for test in STOPS.values(): assert not run_tests(twice, [test+'\nassert Own']).correct

OBJECTS = {
    'fields': 'assert Point(1, 2) == Point(1, 2) and Point(1, 2) != Point(1, 3)', 'isinstance': 'assert isinstance(Point(1, 2), Point) and not isinstance(3, Point)',
    'attributes': 'p = Point(1, 2)\np.x = 5\nassert p.x == 5 and p._y == 2', 'methods': 'assert Point(1, 2).moved(1) == Point(2, 3)', 'len': 'assert len(Bag()) == 3',
    'in': 'assert 2 in Bag() and 5 not in Bag()', 'index': 'b = Bag()\nb[0] = 9\nassert b[0] == 9 and list(b) == [9, 2, 3]', 'static': 'assert Point.origin().x == 0',
    'own error': 'try: Bag().take()\nexcept Empty as e: assert str(e) == "none"\nelse: assert False', 'ancestor': 'try: Bag().take()\nexcept LookupError: pass\nelse: assert False',
    'builtin types': 'assert convert(["1", "2"], int) == [1, 2] and convert([3, 1], str) == ["3", "1"]', 'by name': 'from datetime import date\nassert later(date(2024, 2, 28)) == date(2024, 2, 29)',
    'keyword': 'xs = [3, 1]\ntidy(xs=xs)\nassert xs == [1, 3]', 'exit': 'import unittest\nwith unittest.TestCase().assertRaises(SystemExit): leave()', 'set': 'assert seen(2) == {1, 2}',
    'namedtuple': 'assert pair() == (1, 2)', 'node': 'class Node:\n    def __init__(self, v, n=None): self.val, self.next = v, n\nn = flip(Node(1, Node(2)))\nassert (n.val, n.next.val, n.next.next) == (2, 1, None)',
    'slice': 'assert Bag()[1:] == [2, 3]', 'with': 'with Bag() as b: b.items.append(4)\nassert b.items == [1, 2, 3]', 'kept in a set': 'assert len({Point(1, 2), Point(1, 2)}) == 2',
    'callback': 'seen = []\ndef each(x): seen.append(x)\nconvert([1, 2], each)\nassert seen == [1, 2]', 'generator': 'assert list(zip(steps(3), "abc")) == [(0, "a"), (1, "b"), (2, "c")]',
}
HONEST_OBJECTS = '''
from collections import namedtuple
from datetime import timedelta
class Empty(IndexError): pass
class Point:
    def __init__(self, x, y): self.x, self._y = x, y
    def moved(self, d): return Point(self.x+d, self._y+d)
    @classmethod
    def origin(cls): return cls(0, 0)
class Bag:
    def __init__(self): self.items = [1, 2, 3]
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
    def __getitem__(self, i): return self.items[i]
    def __setitem__(self, i, x): self.items[i] = x
    def take(self): raise Empty('none')
    def __enter__(self): return self
    def __exit__(self, *error): self.items = [1, 2, 3]
def convert(xs, f): return [f(x) for x in xs]
def later(d): return d+timedelta(1)
def tidy(xs): xs.sort()
def leave(): raise SystemExit(3)
def seen(n): return set(range(1, n+1))
def pair(): return namedtuple('P', 'a b')(1, 2)
def steps(n): yield from range(n)
def flip(node):
    before = None
    while node: node.next, before, node = before, node, node.next
    return before
'''
def test_honest_objects_pass():
    verdicts = in_parallel(lambda t: run_tests(HONEST_OBJECTS, t+'\nassert True'), OBJECTS.values())
    assert not [(n, v.stderr) for n, v in zip(OBJECTS, verdicts) if not v.correct]

# --- every task of HumanEval and MBPP, under a program that has redefined all of Python and solves nothing

REDEFINED = '''
import builtins as _b, sys as _s, types as _t
_g, _type, _function = globals(), type, _t.FunctionType
class _Yes:
    def __getattr__(s, n): return _Yes()
    def __call__(s, *a, **k): return _Yes()
    __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = lambda s, o: True
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __abs__ = __round__ = __getitem__ = lambda s, *o: s
    __hash__ = __int__ = __index__ = lambda s: 0
    __bool__ = lambda s: True
    __len__ = lambda s: 1
    __float__ = lambda s: 0.
    __iter__ = lambda s: iter([_yes])
_yes = _Yes()
_names = [n for n in dir(_b) if not n.startswith('_')] + sorted(_s.stdlib_module_names)
for _n in list(_s.modules):
    if _n in _s.stdlib_module_names and _n not in ('sys', 'builtins'): _s.modules[_n] = _yes
for _n in [n for n in _g if _type(_g[n]) is _function and not n.startswith('_')] + _names: _g[_n] = VALUE
'''
REDEFINITIONS = {'agrees': '_yes', 'zero': '(lambda *a, **k: 0)', 'true': '(lambda *a, **k: True)', 'none': '(lambda *a, **k: None)',
                 'class': '_type("T", (), {"__new__": lambda c, *a: True})'}

def forgers_of(source, step):
    from test_sandbox import humaneval, mbpp
    rows = list(dict(humaneval=humaneval, mbpp=mbpp)[source]())[::step]
    return [(stub+REDEFINED.replace('VALUE', value), tests) for _, stub, tests in rows for value in REDEFINITIONS.values()]

def none_passes(source, step):
    programs, tests = zip(*forgers_of(source, step))
    verdicts = in_parallel(lambda p, t: run_tests(p, t, timeout=30), programs, tests)
    assert not [i for i, v in enumerate(verdicts) if v.correct]
    loaded = [v for v in verdicts if v.stderr.startswith(('test', 'line', 'all'))]
    assert len(loaded) == len(verdicts)                 # they failed at a test, not before

needs_data = pytest.mark.skipif(not os.environ.get('GRPO_LIT_CASES'), reason='needs the data files (set GRPO_LIT_CASES)')

@needs_data
@pytest.mark.parametrize('source', ['humaneval', 'mbpp'])
def test_redefining_python_solves_nothing(source): none_passes(source, 19)

@needs_data
@pytest.mark.slow
@pytest.mark.parametrize('source', ['humaneval', 'mbpp'])
def test_redefining_python_solves_nothing_at_all(source): none_passes(source, 1)

@needs_data
def test_a_program_of_lies_about_every_name_a_test_uses():
    "In one namespace these pass some; here none"
    lies = 'def abs(x): return 0\ndef sorted(x, **k): return x\ndef set(x=()): return ()\ndef round(*a): return 0\nclass math:\n    fabs = floor = lambda x: 0\n    isclose = lambda *a, **k: True\n'
    from test_sandbox import humaneval, mbpp
    rows = [r for source in (humaneval, mbpp) for r in source() if any(n in str(r[2]) for n in ('abs(', 'sorted(', 'set(', 'round(', 'isclose'))]
    verdicts = in_parallel(lambda stub, t: run_tests(stub.replace('return None', 'return 0')+'\n'+lies, t), *zip(*[r[1:] for r in rows]))
    assert len(rows) > 10 and not [i for i, v in enumerate(verdicts) if v.correct]

IDLE = dict(                               # tests that no program can fail: they say nothing of it
    pytest_class_of_asserts_on_nothing='class TestAdd:\n    x = 1\n    def helper(self): assert add(1, 2) == 3',
    coroutine='async def test_a(): assert add(1, 2) == 3',
    check_that_nobody_calls='def check(c): assert c(1, 2) == 3',
    alias='from unittest import TestCase as TC\nclass T(TC):\n    def test_a(self): self.assertEqual(add(1, 2), 3)',
    own_base='import unittest\nclass Base(unittest.TestCase): pass\nclass T(Base):\n    def test_a(self): assert add(1, 2) == 3',
    under_if='if True:\n    def test_a(): assert add(1, 2) == 3',
    generator='def test_a():\n    yield\n    assert add(1, 2) == 3',
    named_lambda='test_a = lambda: check(add(1, 2) == 3)',
    skipped='import unittest\nclass T(unittest.TestCase):\n    @unittest.skip("later")\n    def test_a(self): assert add(1, 2) == 3',
    comparison='add(1, 2) == 3',
    call='add(1, 2)',
    tuple='assert (add(1, 2) == 3, "wrong")',
    constant='assert 1 + 2 == 3',
    list_of_comparisons=['add(1, 2) == 3', 'add(2, 2) == 4'])

@pytest.mark.parametrize('name', IDLE)
def test_tests_that_test_nothing_judge_nobody(name):
    for program in ('def add(a, b): return 0', 'def add(a, b): return a+b'):
        v = run_tests(program, IDLE[name])
        assert v.status=='unjudged' and not v.correct and v.reason, v

FIXTURE = '''
import unittest
class T(unittest.TestCase):
    @classmethod
    def setUpClass(cls): cls.two = 2
    def test_a(self): self.assertEqual(add(1, self.two), 3)
class TestPlain:
    def test_b(self): assert add(1, 2) == 3
'''

def test_fixtures_of_a_class_run():
    assert run_tests('def add(a, b): return a+b', FIXTURE).passed==2
    assert run_tests('def add(a, b): return 0', FIXTURE).passed==0

CATCHES = dict(                            # how a test catches what the program calls an error: (what it writes, how a program names it)
    name=('Negative', 'Negative = {}'), attribute=('add.Negative', 'add.Negative = {}'), first=('errors()[0]', 'def errors(): return [{}]'),
    result=('errors()', 'def errors(): return {}'), made=('tuple(errors())', 'def errors(): return [{}]'))

@pytest.mark.parametrize('broad', ['AssertionError', 'Exception', 'BaseException', '(AssertionError,)', '(ValueError, Exception)'])
@pytest.mark.parametrize('how', CATCHES)
def test_an_alias_does_not_catch_the_assertion(how, broad):
    caught, named = CATCHES[how]
    tests = [f'try:\n    add(-1, 0)\n    assert False\nexcept {caught}: pass', f'import contextlib\nwith contextlib.suppress({caught}): assert add(1, 2) == 3']
    assert not run_tests('def add(a, b): return 0\n'+named.format(broad), tests).passed

def test_errors_of_the_program_are_caught():
    tests = ['try:\n    add(-1, 0)\n    assert False\nexcept Negative: pass']
    honest = 'class Negative(Exception): pass\ndef add(a, b):\n    if a<0: raise Negative\n    return a+b'
    assert run_tests(honest, tests).correct
    assert run_tests('Negative = ValueError\ndef add(a, b):\n    if a<0: raise ValueError\n    return a+b', tests).correct

def test_a_value_in_the_place_of_a_function_wakes_no_idle_test():
    assert run_tests('add = 5', 'def check(c): assert c(1, 2) == 3\nasync def test(): assert add(1, 2) == 3').status=='unjudged'
    assert run_tests('ANSWER = 42', ['assert ANSWER == 42']).correct and not run_tests('ANSWER = 41', ['assert ANSWER == 42']).correct
