"What was tried to get out of the walls, and to bring down the process that runs the programs"
import contextlib, json, os, platform, re, resource, shutil, signal, site, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch
import pytest
from grpo_lit.rewards import forking, sandbox, syscalls
from grpo_lit.rewards.accounts import size_below
from grpo_lit.rewards.forking import PREFIX, fork_server, sweep
from grpo_lit.rewards.sandbox import run_code, run_tests
from grpo_lit.rewards.workers import Worker, end_child, in_parallel, send
import faults_walls as programs
from faults_walls import FORKS, processes_of, wait_until

linux = sys.platform.startswith('linux')
pytestmark = pytest.mark.skipif(not linux or platform.machine()!='x86_64', reason='numbers of system calls are those of x86_64')
NOBODY = 65534
root = Path(__file__).parent.parent

# --- programs ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind', programs.CLASSES)
def test_no_program_gets_out(kind):
    found = programs.attack([kind])[kind]
    assert {name: what for name, what in found.items() if what}=={}
    assert not os.listdir(fork_server().scratch)

def other_python():
    "An interpreter that any user can read; None where there is none"
    for python in (sys.executable, '/usr/bin/python3'):
        if not shutil.which(python): continue
        try: done = subprocess.run([python, '-c', 'print(1)'], user=NOBODY if os.geteuid()==0 else None, capture_output=True)
        except OSError: continue
        if done.returncode==0: return python

def elsewhere(args, user=None, python=None, setup=None, **env):
    "Run a line of Python or a file of this directory as another user, with another interpreter, in another environment"
    python = python or (other_python() if user else sys.executable)
    if user and (os.geteuid()!=0 or python is None): pytest.skip('needs root, and a Python that others can read')
    env = {'PATH': os.environ['PATH'], 'PYTHONPATH': str(root), **env}
    ids = dict(user=user, group=user, extra_groups=[]) if user else {}
    command = ['-c', args] if '\n' in args else [str(root/'tests'/args.split()[0]), *args.split()[1:]]
    return subprocess.run([python, *command], env=env, capture_output=True, text=True, timeout=400, cwd='/', preexec_fn=setup, **ids)

# name: (user, environment, walls that must be there, classes of programs that it does not hold)
MACHINES = dict(
    user=(NOBODY, {}, {'landlock','seccomp'}),
    user_version_1=(NOBODY, dict(GRPO_LIT_LANDLOCK='1'), {'landlock','seccomp'}),
    user_version_3=(NOBODY, dict(GRPO_LIT_LANDLOCK='3'), {'landlock','seccomp'}),
    user_version_5=(NOBODY, dict(GRPO_LIT_LANDLOCK='5'), {'landlock','seccomp'}),
    user_without_landlock=(NOBODY, dict(GRPO_LIT_LANDLOCK='0'), {'namespaces','seccomp'}),
    root_version_2=(None, dict(GRPO_LIT_LANDLOCK='2'), {'landlock','seccomp'}),
    root_version_4=(None, dict(GRPO_LIT_LANDLOCK='4'), {'landlock','seccomp'}),
    root_without_landlock=(None, dict(GRPO_LIT_LANDLOCK='0'), {'namespaces','seccomp'}),
    root_without_namespaces=(None, dict(GRPO_LIT_WITHOUT='namespaces'), {'landlock','seccomp'}),
    root_that_stays_root=(None, dict(GRPO_LIT_WITHOUT='namespaces nobody'), {'landlock','seccomp','capabilities'}))

def run_machine(name, kinds=''):
    user, env, walls = MACHINES[name]
    done = elsewhere('faults_walls.py '+kinds, user=user, **env)
    assert done.returncode==0, done.stderr[-1000:]
    told = json.loads(done.stdout)
    if not walls <= set(told['walls']): pytest.skip(f'this machine has only {told["walls"]}')
    assert not told['left']
    return {f'{kind} {n}': what for kind, found in told['found'].items() for n, what in found.items() if what}

@pytest.mark.slow
@pytest.mark.parametrize('name', MACHINES)
def test_no_program_gets_out_of(name): assert run_machine(name)=={}

@pytest.mark.slow
def test_root_with_a_python_that_all_can_read():
    python = other_python()
    if os.geteuid() or not python: pytest.skip('needs root')
    done = elsewhere('faults_walls.py', python=python)
    told = json.loads(done.stdout)
    assert 'nobody' in told['walls']
    assert not [n for found in told['found'].values() for n, what in found.items() if what]

# --- system calls -----------------------------------------------------------------------------------------------------

def header_numbers(path):
    "Name -> number, by one of the kernel's header files"
    if not Path(path).exists(): pytest.skip(f'there is no {path}')
    defined = re.findall(r'#define\s+__NR(?:3264)?_(\w+)\s+(\S+)', Path(path).read_text())
    numbers = {}
    for name, value in defined:
        other = re.match(r'__NR(?:3264)?_(\w+)$', value)
        if value.isdigit(): numbers.setdefault(name, int(value))
        elif other and other[1] in numbers: numbers.setdefault(name, numbers[other[1]])
    return numbers

def listed(column):
    "Name -> number, by our tables"
    tables = {**syscalls.ALLOWED, **syscalls.ONLY, **syscalls.LOOKED_AT}
    return {name: t[column] for name, t in tables.items() if t[column] is not None}

@pytest.mark.parametrize('column,path', [(0, '/usr/include/x86_64-linux-gnu/asm/unistd_64.h'), (1, '/usr/include/asm-generic/unistd.h')])
def test_numbers_are_those_of_the_kernel(column, path):
    theirs = header_numbers(path)
    wrong = {name: (n, theirs.get(name)) for name, n in listed(column).items() if theirs.get(name)!=n}
    assert not wrong
    old = {name for name, t in {**syscalls.ALLOWED, **syscalls.ONLY, **syscalls.LOOKED_AT}.items() if t[1] is None}
    if column==1: assert not old & set(theirs)

EVERY_CALL = '''
import ctypes, json
libc = ctypes.CDLL(None, use_errno=True)
came = {}
for n in json.loads(input()):
    got = libc.syscall(ctypes.c_long(n), *[ctypes.c_long(0)]*6)
    came[n] = ctypes.get_errno() if got<0 else 0
print(json.dumps(came))
'''

def test_every_other_call_is_refused():
    "All numbers there are and will be for long, but those on the list"
    probes = {335, 336}                    # of uprobes: no filter is asked, and whoever calls them out of turn is killed
    numbers = sorted(set(range(1000)) - set(listed(0).values()) - probes) + [2**30, 2**30+57, 2**31-1]
    v = run_code(EVERY_CALL, stdin=json.dumps(numbers))
    assert v.status=='ok', v
    came = {int(n): e for n, e in json.loads(v.stdout).items()}
    assert set(came)==set(numbers) and set(came.values())=={1, 38}
    assert all((e==38)==(syscalls.NEWER<=n<2**30) for n, e in came.items())

# call: (arguments, is it allowed?) for a process with number 77
ARGUMENTS = [
    ('kill', [77, 9], True), ('kill', [78, 9], False), ('kill', [0, 9], False), ('kill', [2**32-1, 9], False),
    ('tgkill', [77, 77, 9], True), ('tgkill', [1, 1, 9], False), ('prlimit64', [0], True), ('prlimit64', [5], False),
    ('socketpair', [1], True), ('socketpair', [2], False), ('prctl', [15], True), ('prctl', [1], False), ('prctl', [22], False),
    ('ioctl', [0, 0x5401], True), ('ioctl', [0, 0x8901], False), ('ioctl', [0, 0x5452], False), ('ioctl', [0, 0x5412], False),
    ('ioctl', [0, 0x8901 | 1<<32], False), ('ioctl', [0, 0x40086602], False), ('ioctl', [0, 0x40049409], False),
    ('fcntl', [0, 4, 0x800], True), ('fcntl', [0, 4, 0x2000], False), ('fcntl', [0, 4 | 1<<32, 0x2000], False),
    ('fcntl', [0, 8, 1], False), ('fcntl', [0, 10, 9], False), ('fcntl', [0, 15, 9], False), ('fcntl', [0, 1024, 0], False),
    ('fcntl', [0, 1026, 4], False), ('fcntl', [0, 1031, 2**20], False), ('fcntl', [0, 1030, 5], True), ('fcntl', [0, 37, 5], False),
    ('openat', [0, 0, 0], True), ('openat', [0, 0, 0x241], True), ('openat', [0, 0, 0x200], False), ('openat', [0, 0, 0x80200], False),
    ('sendto', [3, 1, 1, 0, 0], True), ('sendto', [3, 1, 1, 0, 1], False), ('sendto', [3, 1, 1, 0, 1<<40], False),
    ('clone', [0x3d0f00], True), ('clone', [0x7d0f00], True), ('clone', [17], False), ('clone', [0x1200011], False),
    ('clone', [0x3d0f00 | 0x10000000], False), ('clone', [0x3d0f00 | 0x20000], False), ('clone', [0x10000 | 0x2000], False)]

@pytest.mark.parametrize('machine', syscalls.ARCHS)
def test_filters_of_both_machines(machine):
    column, arch = syscalls.ARCHS[machine]
    code = syscalls.seccomp_filter(machine, pid=77)
    for i, (op, jt, jf, k) in enumerate(code):
        if op!=syscalls.RETURN: assert i+1+max(jt, jf, k if op==syscalls.JUMP else 0) < len(code) and max(jt, jf)<256
    numbers = listed(column)
    def answer(number, args=(), arch=arch): return simulate(code, arch, number, [*args, *[0]*6][:6])
    assert {answer(numbers[name]) for name in syscalls.ALLOWED if name in numbers}=={0x7fff0000}
    for name, args, allowed in ARGUMENTS:
        assert (answer(numbers[name], args)==0x7fff0000) is allowed, (name, args)
    others = set(range(2000))-set(numbers.values())
    assert {answer(n) for n in others}=={0x50001, 0x50026}
    assert answer(0, arch=arch ^ 0x40000000)==0x80000000             # the calls of another machine

def simulate(code, arch, number, args):
    "What the kernel would return"
    data = [number, arch, 0, 0, *[half for a in args for half in (a & 0xffffffff, a >> 32)]]
    a = i = 0
    while True:
        op, jt, jf, k = code[i]
        i += 1
        if op==syscalls.RETURN: return k
        if op==syscalls.LOAD: a = data[k//4]
        elif op==syscalls.JUMP: i += k
        else: i += jt if {syscalls.EQUAL: a==k, syscalls.AT_LEAST: a>=k, syscalls.ANY_BIT: bool(a & k)}[op] else jf

HONEST = dict(
    database='import sqlite3\nc = sqlite3.connect("x.db"); c.execute("create table t(a)"); c.execute("insert into t values(1)"); c.commit(); print(c.execute("select * from t").fetchone())',
    loop='import asyncio\nasync def f():\n    await asyncio.sleep(.01)\n    return 3\nprint(asyncio.run(f()))',
    threads='from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(50) as p: print(sum(p.map(abs, range(-9, 9))))',
    temporary='import tempfile, shutil\nwith tempfile.NamedTemporaryFile("w+") as f: f.write("x"); f.flush(); print(open(f.name).read())\nd = tempfile.mkdtemp(); shutil.rmtree(d)',
    locks='import fcntl\nf = open("x", "w"); fcntl.lockf(f, fcntl.LOCK_EX); fcntl.flock(f, fcntl.LOCK_EX); print(1)',
    archives='import zipfile, gzip, bz2, lzma, io\nz = zipfile.ZipFile("a.zip", "w"); z.writestr("a", "b"); z.close(); print(zipfile.ZipFile("a.zip").read("a"), gzip.decompress(gzip.compress(b"x")))',
    mapping='import mmap\nf = open("x", "wb+"); f.write(bytes(9999)); f.flush(); m = mmap.mmap(f.fileno(), 0); m[0] = 1; print(m[0])',
    signals='import signal, os, time\nsignal.signal(signal.SIGUSR1, lambda *a: print("got")); os.kill(os.getpid(), signal.SIGUSR1)\nsignal.signal(signal.SIGALRM, lambda *a: print("alarm")); signal.setitimer(signal.ITIMER_REAL, .01); time.sleep(.1)',
    zones='import zoneinfo\nprint(zoneinfo.ZoneInfo("Europe/Berlin"))',
    names='import os, pathlib\nopen("a", "w").write("hi"); os.rename("a", "b"); print(pathlib.Path("b").read_text(), os.listdir(".")); os.remove("b"); os.makedirs("x/y/z"); print(list(os.walk(".")))',
    deep='import sys, threading\nsys.setrecursionlimit(50000); threading.stack_size(2**26)\ndef f(n): return n and f(n-1)\nt = threading.Thread(target=lambda: print(f(20000))); t.start(); t.join()',
    clocks='import time, datetime, random, secrets, uuid\ntime.sleep(.01); print(time.monotonic()>0, uuid.uuid4().version)',
    pipes='import os, select, socket\nr, w = os.pipe(); os.write(w, b"x"); print(select.select([r], [], [], 1)[0]==[r]); a, b = socket.socketpair(); a.sendall(b"x"); print(b.recv(1))',
    foreign='import ctypes\nprint(ctypes.CDLL(None).abs(-3))',
    tests='import unittest, doctest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(1, 1)\nunittest.main()',
    append='with open("log", "a") as f: f.write("x")\nwith open("log", "r+") as f: f.truncate(0)\nprint(open("log").read()=="")',
    memory='x = bytearray(300*2**20); print(len(x))')

def test_honest_programs_run_as_before():
    verdicts = in_parallel(run_code, list(HONEST.values()))
    assert {name: v for name, v in zip(HONEST, verdicts) if v.status!='ok'}=={}

# --- weak machines ----------------------------------------------------------------------------------------------------

WEAK = '''
from grpo_lit.rewards.sandbox import run_code, run_tests
from grpo_lit.rewards.workers import Worker
for run in (lambda: run_code('print(1)'), lambda: run_tests('x = 1', ['assert x == 1'])):
    try: print(run().status)
    except OSError as e: print(e)
print(run_code('print(1)', allow_weak=True).status, Worker('def f(): return 1')('f'))
'''

@pytest.mark.parametrize('without,missing', [('landlock namespaces', 'landlock or namespaces'), ('seccomp', 'seccomp')])
def test_a_weak_machine_is_refused_in_words(without, missing):
    done = elsewhere(WEAK, GRPO_LIT_WITHOUT=without)
    lines = done.stdout.splitlines()
    assert len(lines)==3 and all(f'no wall by {missing}' in line and 'allow_weak=True' in line for line in lines[:2]), done
    assert lines[2]=='ok 1'
    assert 'this machine is weak' in done.stderr
    done = elsewhere(WEAK, GRPO_LIT_WITHOUT=without, GRPO_LIT_ALLOW_WEAK='1')
    assert done.stdout.split()==['ok', 'ok', 'ok', '1'], done

OLD_KERNEL = '''
import errno, sys
from grpo_lit.rewards.syscalls import *
from grpo_lit.rewards.syscalls import _pack, _refuse, _when
code = [(LOAD, 0, 0, 0)]
for number in (444, 445, 446): code += _when(number, _refuse(errno.ENOSYS))
if {closed}:
    for number in (272, 165): code += _when(number, _refuse())
install(_pack([*code, ALLOW]))
from grpo_lit.rewards.forking import fork_server
from grpo_lit.rewards.sandbox import run_code
print(*fork_server().walls)
try: print(run_code('import os\\nprint(os.path.exists("/etc/passwd"))').stdout)
except OSError as e: print(e)
'''

@pytest.mark.parametrize('user', [None, NOBODY])
def test_a_kernel_that_has_never_heard_of_landlock(user):
    done = elsewhere(OLD_KERNEL.format(closed=False), user=user)
    assert 'landlock' not in done.stdout.split() and 'False' in done.stdout, done
    done = elsewhere(OLD_KERNEL.format(closed=True), user=user)
    assert 'no wall by landlock or namespaces' in done.stdout, done

UNFILTERED = '''
import json
from grpo_lit.rewards.forking import fork_server
from grpo_lit.rewards.sandbox import run_code
from faults_walls import FORKS, processes_of, wait_until
for name, (_, program) in FORKS.items():
    v = run_code(program, timeout=3, memory_mb=64, allow_weak=True)
    print(name, v.status, wait_until(lambda: processes_of(fork_server().scratch)==[fork_server().process.pid]))
'''

def test_without_a_filter_processes_are_counted_and_ended():
    "As a user who may have 200 processes, should the server fail to end a bomb"
    few = lambda: resource.setrlimit(resource.RLIMIT_NPROC, (200, 200))
    paths = os.pathsep.join([str(root), str(root/'tests'), *site.getsitepackages()])
    done = elsewhere(UNFILTERED, user=NOBODY, setup=few, GRPO_LIT_WITHOUT='seccomp namespaces', PYTHONPATH=paths)
    assert done.stdout.splitlines()==[f'{name} {status} True' for name, (status, _) in FORKS.items()], done

# --- the server dies --------------------------------------------------------------------------------------------------

def gone(scratch, seconds=30):
    until = time.monotonic()+seconds
    while processes_of(scratch) and time.monotonic()<until: time.sleep(.05)
    return not processes_of(scratch)

SLOW = 'import time\nt = time.monotonic()\nwhile time.monotonic()<t+2: {}\nprint(42)'

@pytest.mark.parametrize('how', ['kill', 'terminate'])
def test_a_server_killed_under_twenty_programs_costs_no_verdict(how):
    many = [SLOW.format(do) for do in ('pass', 'time.sleep(.1)')]*10
    with patch.object(sandbox, 'SLOTS', threading.Semaphore(20)), ThreadPoolExecutor(20) as pool:
        server = fork_server()
        runs = [pool.submit(run_code, program, timeout=60) for program in many]
        assert wait_until(lambda: len(processes_of(server.scratch))>20)
        getattr(server.process, how)()
        verdicts = [r.result() for r in runs]
    assert [(v.status, v.stdout) for v in verdicts]==[('ok', '42\n')]*20
    assert gone(server.scratch) and not os.path.exists(server.scratch)
    assert fork_server() is not server

def test_tests_of_a_killed_server_are_judged_right():
    program = 'import time\ndef add(a, b): time.sleep(.05); return a+b'
    tests = [['assert add(2, 3) == 5']*5, ['assert add(2, 3) == 6']*5]*3
    with patch.object(sandbox, 'SLOTS', threading.Semaphore(6)), ThreadPoolExecutor(6) as pool:
        server = fork_server()
        runs = [pool.submit(run_tests, program, t, timeout=60) for t in tests]
        time.sleep(.15)
        server.process.kill()
        assert [r.result().correct for r in runs]==[True, False]*3

def test_children_of_a_killed_server_end():
    server = forking.ForkServer()
    with contextlib.ExitStack() as stack:
        null = stack.enter_context(open(os.devnull, 'r+b'))
        lives = []
        for i in range(20):
            boot, its = forking.socket.socketpair()
            with its: lives.append(server.spawn('script', [its], [null]*3, os.path.join(server.scratch), 60, 256))
            send(boot, dict(program='while True: pass' if i%2 else 'import time, signal\n[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]\ntime.sleep(600)'))
            boot.close()
        assert len(processes_of(server.scratch))>=21
        os.kill(server.process.pid, signal.SIGKILL)
        assert gone(server.scratch)
        for life in lives:
            with pytest.raises(forking.ServerLost): end_child(life)
    server.close()
    assert not os.path.exists(server.scratch)

def test_a_server_that_does_not_answer_is_replaced():
    server = fork_server()
    server.process.send_signal(signal.SIGSTOP)
    with patch.object(forking, 'ANSWER', 5.):
        assert run_code('print(1)').status=='ok'
    assert fork_server() is not server and gone(server.scratch)

@pytest.mark.slow
def test_a_server_that_stops_under_a_program_is_replaced():
    with patch.object(forking, 'ANSWER', 5.), ThreadPoolExecutor(1) as pool:
        server = fork_server()
        server.control.settimeout(5)
        run = pool.submit(run_code, 'import time\ntime.sleep(.5)\nprint(1)', timeout=5)
        time.sleep(.2)
        server.process.send_signal(signal.SIGSTOP)
        assert run.result().stdout=='1\n'
    assert fork_server() is not server and gone(server.scratch)

def test_a_server_that_dies_again_and_again_is_said_in_words():
    def die(server, *_):
        server.process.kill()
        server.process.wait()
        raise forking.ServerLost('it died')
    with patch.object(forking.ForkServer, 'spawn', die), pytest.raises(OSError, match='died 3 times'): run_code('1')
    assert run_code('print(1)').status=='ok'

def test_a_worker_outlives_its_server():
    w = Worker('def double(x): return 2*x')
    assert w('double', 2)==4
    for _ in range(3):
        fork_server().process.kill()
        assert w('double', 3)==6

REPLIES = dict(
    no_json=b'\0\0\0\3abc', not_utf8=b'\0\0\0\2\xff\xfe', deep=(10**5).to_bytes(4, 'big')+b'['*10**5, huge=b'\xff'*8, number=b'\0\0\0\x011',
    text=b'\0\0\0\3"a"', null=b'\0\0\0\4null', list=b'\0\0\0\3[1]', empty=b'\0\0\0\2{}', value=b'\0\0\0\x0b{"value":1}',
    dict=b'\0\0\0\x15{"value":{"dict":[1]}}', digits=(5001).to_bytes(4, 'big')+b'1'*5001, short=b'\0\0\1\0x')

@pytest.mark.parametrize('name', REPLIES)
def test_a_worker_that_answers_nonsense_is_a_runtime_error(name):
    program = f'''
import os
def f(): pass
m = {REPLIES[name]!r}
os.write(4, m)
'''
    w = Worker(program)
    with pytest.raises((RuntimeError, TimeoutError)): w('f', timeout=.5) and pytest.fail('it was believed')

# --- the trainer dies, or is short of something ------------------------------------------------------------------------

TRAINER = '''
import sys
from concurrent.futures import ThreadPoolExecutor
from grpo_lit.rewards import sandbox
from grpo_lit.rewards.workers import fork_server
sandbox.SLOTS = __import__('threading').Semaphore(9)
print(fork_server().scratch, fork_server().process.pid, flush=True)
programs = ['open("x", "w").write("x")\\nwhile True: pass', 'import time\\ntime.sleep(60)']*3
with ThreadPoolExecutor(6) as pool: list(pool.map(lambda p: sandbox.run_code(p, timeout=60), programs))
'''

@pytest.mark.parametrize('both', [False, True])
def test_nothing_is_left_of_a_trainer_that_was_killed(both):
    p = subprocess.Popen([sys.executable, '-c', TRAINER], stdout=subprocess.PIPE, text=True, env=os.environ | {'PYTHONPATH': str(root)})
    scratch, server = p.stdout.readline().split()
    assert wait_until(lambda: len(processes_of(scratch))>=7)
    for pid in [int(server), p.pid] if both else [p.pid]: os.kill(pid, signal.SIGKILL)
    p.wait()
    assert gone(scratch, 5)
    if both: assert scratch in sweep(os.path.dirname(scratch), older=0)
    assert wait_until(lambda: not os.path.exists(scratch))

def test_a_sweep_spares_the_living():
    scratch = fork_server().scratch
    assert scratch not in sweep(os.path.dirname(scratch), older=0) and os.path.isdir(scratch)

SHORT = '''
import os, resource, sys
from grpo_lit.rewards.forking import fork_server
from grpo_lit.rewards.sandbox import run_code
run_code('1')
{short}
try: print(run_code('print(1)').status)
except OSError as e: print(type(e).__name__, e)
{enough}
print(run_code('print(1)').status)
'''
SHORTAGES = dict(
    files=('kept = []\nresource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\ntry:\n    while True: kept.append(os.open("/", 0))\nexcept OSError: pass',
           '[os.close(k) for k in kept]', 'Too many open files'),
    processes=('resource.prlimit(fork_server().process.pid, resource.RLIMIT_NPROC, (1, 40000))',
               'resource.prlimit(fork_server().process.pid, resource.RLIMIT_NPROC, (40000, 40000))', 'no program can be started here'),
    directory=('fork_server().scratch, kept = "/nowhere", fork_server().scratch', 'fork_server().scratch = kept', 'No such file or directory'))

@pytest.mark.parametrize('name', SHORTAGES)
def test_a_machine_short_of_something_is_no_verdict(name):
    short, enough, why = SHORTAGES[name]
    done = elsewhere(SHORT.format(short=short, enough=enough), user=NOBODY if name=='processes' else None)
    lines = done.stdout.splitlines()
    assert len(lines)==2 and why in lines[0] and lines[1]=='ok', done

def test_more_than_a_thousand_open_files():
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most!=resource.RLIM_INFINITY and most<2000: pytest.skip('this machine allows few open files')
    many = 'import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (2000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n' \
           'kept = [open("/dev/null") for _ in range(1500)]\nfrom grpo_lit.rewards.sandbox import run_code, run_tests\n' \
           'print(run_code("print(1)").status, run_tests("x = 1", ["assert x == 1"]).status)\n'
    assert elsewhere(many).stdout.split()==['ok', 'ok']

# --- nothing leaks ----------------------------------------------------------------------------------------------------

def test_a_program_has_three_files_and_nothing_of_its_lifeline():
    look = 'import os\nhave = []\nfor fd in range(1000):\n    try: os.fstat(fd); have.append(fd)\n    except OSError: pass\nprint(have)'
    assert run_code(look).stdout=='[0, 1, 2]\n'

@pytest.mark.parametrize('mode', [0, 0o100, 0o300, 0o400, 0o777])
def test_directories_of_any_mode_are_removed(mode):
    program = f'import os\nos.umask(0)\nos.makedirs("a/b")\nos.mkdir("a/c", {mode})\nos.mkdir("a/d", 0o300)\nopen("a/d/f", "w").close()\nos.mkdir("a/d/e", {mode})'
    assert run_code(program).status=='ok' and not os.listdir(fork_server().scratch)

@pytest.mark.slow
def test_directories_of_a_user_are_removed():
    line = 'import os\nfrom grpo_lit.rewards.sandbox import run_code\nfrom grpo_lit.rewards.forking import fork_server\n' \
           'program = "import os\\nfor i in range(3): os.mkdir(f\'d{i}\', 0o300); open(f\'d{i}/f\', \'w\').close()"\n' \
           'print(run_code(program).status, os.listdir(fork_server().scratch))\n'
    done = elsewhere(line, user=NOBODY, GRPO_LIT_WITHOUT='namespaces')
    assert done.stdout=='ok []\n', done

def test_files_processes_and_memory_stay_as_they_were():
    run_code('1')
    def state(): return len(os.listdir('/proc/self/fd')), len(processes_of(fork_server().scratch)), threading.active_count()
    before, memory = state(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    in_parallel(run_code, ['1', '1/0', 'import os; os._exit(3)', 'x = bytearray(2**40)', 'import os; os.kill(os.getpid(), 9)']*30)
    assert wait_until(lambda: state()<=before), (state(), before)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-memory)/1024 < 30

def test_what_cannot_be_counted_is_too_much(tmp_path):
    (tmp_path/'f').write_bytes(bytes(5000))
    assert 4096<=size_below(str(tmp_path))<10**5 and size_below(None)==size_below(str(tmp_path/'none'))==0
    for i in range(5): (tmp_path/f'link{i}').symlink_to('/')
    assert size_below(str(tmp_path), most=5)==float('inf')
