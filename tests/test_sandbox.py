"Real programs through the sandbox: every canonical solution passes its tests, no stub does; skipped where the data files are absent"
import ast, gzip, json, os, resource, subprocess, sys, time
from pathlib import Path
import pytest
from grpo_lit.rewards.sandbox import run_code, run_tests
from grpo_lit.rewards.workers import fork_server, in_parallel

CASES = os.environ.get('GRPO_LIT_CASES')
DATA = Path(CASES or '.')/'data'
needs_data = pytest.mark.skipif(not CASES, reason='needs the data files (set GRPO_LIT_CASES to the folder that holds data/)')

def humaneval():
    "Prompt and solution, a stub in its place, and the tests; helpers that the prompt defines belong to the tests"
    for line in gzip.open(DATA/'humaneval'/'HumanEval.jsonl.gz', 'rt'):
        r = json.loads(line)
        helpers = r['prompt'][:r['prompt'].index('def '+r['entry_point']+'(')]
        yield r['prompt']+r['canonical_solution'], r['prompt']+'\n    return None\n', helpers+r['test']+f'\ncheck({r["entry_point"]})'

def mbpp():
    for r in json.loads((DATA/'mbpp'/'sanitized-mbpp.json').read_text()):
        tree = ast.parse(r['code'])
        for f in ast.walk(tree):
            if isinstance(f, (ast.FunctionDef,)): f.body = [ast.Return(ast.Constant(None))]
        yield r['code'], ast.unparse(tree), ['\n'.join([*r['test_imports'], t]) for t in r['test_list']]

@needs_data
@pytest.mark.parametrize('source,count', [(humaneval, 164), (mbpp, 427)])
def test_solutions_pass_and_stubs_fail(source, count):
    right, stubs, tests = zip(*source())
    assert len(right)==count
    bad = [(i, v) for i,v in enumerate(in_parallel(lambda p, t: run_tests(p, t, timeout=20), right, tests)) if not v.correct]
    assert not bad
    assert not [i for i,v in enumerate(in_parallel(run_tests, stubs, tests)) if v.correct]

def test_a_thousand_runs_leave_nothing():
    run_code('1')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fds = len(os.listdir('/dev/fd'))
    assert all(v.status=='ok' for v in in_parallel(run_code, ['print(1)']*1000))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before)/1024 < 50
    assert len(os.listdir('/dev/fd')) <= fds+2 and not os.listdir(fork_server().scratch)

ENDLESS = '''
from grpo_lit.rewards.sandbox import run_code
from grpo_lit.rewards.workers import fork_server
print(fork_server().process.pid, flush=True)
run_code('while True: pass', timeout=60)
'''

def is_gone(pid):
    "No process, or one that waits for its parent to notice"
    try: stat = Path(f'/proc/{pid}/stat').read_text()
    except OSError: return True
    return stat.split(')')[1].split()[0]=='Z'

def test_the_fork_server_dies_with_its_process():
    p = subprocess.Popen([sys.executable, '-c', ENDLESS], stdout=subprocess.PIPE, text=True)
    pid = int(p.stdout.readline())
    time.sleep(.5)
    p.kill()
    p.wait()
    for _ in range(50):
        if is_gone(pid): return
        time.sleep(.1)
    pytest.fail('it lives')

FORGED = '''
import os
for fd in range(3, 64):
    try: os.write(fd, len(m).to_bytes(4, 'big')+m)
    except OSError: pass
os._exit(0)
'''

@pytest.mark.parametrize('message', [b'no json', b'[' * 60000, b'{"failed": 5}', b'{"failed": ["x"]}'], ids=['no json', 'deep', 'number', 'short'])
def test_a_forged_note_is_no_error_of_ours(message):
    assert not run_tests(f'm = {message!r}'+FORGED, ['assert add(1, 2) == 3'], timeout=2).correct

def test_the_child_has_nothing_of_the_package():
    v = run_code('import sys\nprint(*[m for m in sys.modules if m.startswith(("grpo_lit", "inside"))])\nimport inside.sandbox')
    seen = v.stdout.split()
    assert seen[-1]=='inside.server' and not [m for m in seen if m.startswith('grpo_lit') or m in ('inside.sandbox', 'inside.workers')]
    assert "No module named 'inside.sandbox'" in v.stderr

def test_the_old_name():
    from grpo_lit.rewards.sandbox import Verdict, run_code, run_tests
    from grpo_lit.rewards.workers import in_parallel
    assert in_parallel(lambda x: x+1, [1]) == [2]
