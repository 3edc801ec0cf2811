"Real programs through the sandbox: every canonical solution passes its tests, no stub does; skipped where the data files are absent"
import ast, gzip, json, os, resource
from pathlib import Path
import pytest
from grpo_lit.rewards.sandbox import in_parallel, nursery, run_code, run_tests

DATA = Path(__file__).resolve().parents[2]/'shared'/'data'

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

@pytest.mark.skipif(not DATA.exists(), reason='needs the data files')
@pytest.mark.parametrize('source,count', [(humaneval, 164), (mbpp, 427)])
def test_solutions_pass_and_stubs_fail(source, count):
    right, stubs, tests = zip(*source())
    assert len(right)==count
    bad = [(i, v) for i,v in enumerate(in_parallel(lambda p, t: run_tests(p, t, timeout=20), right, tests)) if not v.correct]
    assert not bad
    assert not [i for i,v in enumerate(in_parallel(run_tests, stubs, tests)) if v.correct]

def test_a_thousand_runs_leave_nothing():
    run_code('1'); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; fds = len(os.listdir('/dev/fd'))
    assert all(v.status=='ok' for v in in_parallel(run_code, ['print(1)']*1000))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before)/1024 < 50
    assert len(os.listdir('/dev/fd')) <= fds+2 and not os.listdir(nursery().scratch)

def test_the_nursery_dies_with_its_process():
    import subprocess, sys, time
    p = subprocess.Popen([sys.executable, '-c', 'from grpo_lit.sandbox import *\nimport os\nprint(nursery().process.pid, flush=True)\nrun_code("while True: pass", timeout=60)'], stdout=subprocess.PIPE, text=True)
    pid = int(p.stdout.readline()); time.sleep(.5); p.kill(); p.wait()
    for _ in range(50):
        if not os.path.exists(f'/proc/{pid}') or open(f'/proc/{pid}/stat').read().split(')')[1].split()[0]=='Z': break
        time.sleep(.1)
    else: pytest.fail('it lives')
