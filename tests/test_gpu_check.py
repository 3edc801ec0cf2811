"""`tools/gpu_check.py` in its small mode: every check that a CPU can make, the table, and what survives a crash."""
import importlib.util, json, os, signal, subprocess, sys, time
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
script = root/'tools/gpu_check.py'
pytestmark = pytest.mark.skipif(not script.exists(), reason='only in a clone')

def run(*flags):
    "The command, on the CPU"
    command = [sys.executable, str(script), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=300)

@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "The results of a small run of what is quickest"
    out = tmp_path_factory.mktemp('gpu')/'found.json'
    quick = ['environment', 'same', 'graphs', 'attention', 'two steps: plain', 'two steps: fp16', 'step', 'top',
             'learning: bf16', 'cells']
    done = run('--small', '--cpu', '--out', out, '--only', *quick)
    return done, json.loads(out.read_text()), out

def names(*flags):
    "Those that --list names"
    return [line.split(' s  ', 1)[1] for line in run('--list', *flags).stdout.splitlines()]

@pytest.mark.slow
def test_nothing_fails_and_nothing_is_left_out(small):
    done, found, _ = small
    assert done.returncode == 0, done.stderr[-3000:]
    states = {name: r['state'] for name, r in found['checks'].items()}
    assert 'FAILED' not in states.values(), found
    quick = [n for n in names() if not n.startswith(('two steps', 'LoRA', 'memory', 'as on', 'a prompt', 'learning'))]
    assert set(quick) <= set(states)
    assert states['step of ours, 8 x 8, 256 + 256'] == states['two steps: plain'] == 'ok'

@pytest.mark.slow
def test_what_a_cpu_cannot_answer_says_so(small):
    _, found, _ = small
    cells = [n for n in found['checks'] if n.startswith('cells: ')]
    assert any(n.endswith('_tiles') for n in cells)
    for name in ('two steps: fp16', 'graphs against eager', *cells):
        assert found['checks'][name]['why'] == 'needs a GPU', name

@pytest.mark.slow
def test_figures_of_a_step(small):
    _, found, _ = small
    ours = found['checks']['step of ours, 8 x 8, 256 + 256']['figures']
    assert 0 < ours['sample'] < ours['step']
    assert ours['tokens/s'] == pytest.approx(64/ours['step'])
    theirs = found['checks']['step with generate, 8 x 8, 256 + 256']['figures']
    assert theirs['ours/theirs'] == pytest.approx(ours['step']/theirs['step'])

@pytest.mark.slow
def test_the_table_has_a_line_for_each(small):
    done, found, out = small
    lines = run('--table', out).stdout.splitlines()
    rows = [line for line in lines if line.startswith('| ')][2:]
    assert [row.split(' | ')[0][2:] for row in rows] == list(found['checks'])
    assert '\n'.join(lines) in done.stdout

def test_too_little_time(tmp_path):
    done = run('--small', '--cpu', '--seconds', 4, '--out', tmp_path/'o.json', '--only', 'learning', 'same')
    checks = json.loads((tmp_path/'o.json').read_text())['checks']
    assert checks['learning: bf16']['state'] == 'skipped'
    assert 'out of time' in checks['learning: bf16']['why']
    assert done.returncode == 0

def test_unknown_names_are_refused():
    done = run('--only', 'nonsense')
    assert done.returncode and 'no check begins with nonsense' in done.stderr

# --- a process that dies or hangs costs one row

@pytest.fixture
def runner(monkeypatch):
    monkeypatch.syspath_prepend(str(script.parent))
    spec = importlib.util.spec_from_file_location('gpu_check', script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

FAKE = '''
import json, os, sys, time
pipe, *names = sys.argv[1:]
with os.fdopen(int(pipe), 'w', buffering=1) as pipe:
    for name in names:
        print(json.dumps(dict(begins=name, seconds=0)), file=pipe)
        if name == 'dies': os._exit(9)
        if name == 'hangs': time.sleep(100)
        if name == 'broken':
            print(json.dumps(dict(name=name, state='FAILED', why='left broken')), file=pipe)
            break
        print(json.dumps(dict(name=name, state='ok', figures=dict(process=os.getpid()))), file=pipe)
'''

def followed(runner, monkeypatch, tmp_path, names, seconds=60):
    "What is written down when these are made by a process of `FAKE`"
    def started(a, names):
        here, there = os.pipe()
        command = [sys.executable, '-c', FAKE, str(there), *names]
        process = subprocess.Popen(command, pass_fds=[there], start_new_session=True)
        os.close(there)
        return process, here
    monkeypatch.setattr(runner, 'started', started)
    monkeypatch.setattr(runner, 'chosen', lambda a: names)
    monkeypatch.setattr(sys, 'argv', ['gpu_check', '--seconds', str(seconds), '--out', str(tmp_path/'o.json')])
    runner.run(runner.flags())
    return json.loads((tmp_path/'o.json').read_text())['checks']

@pytest.mark.parametrize('ill', ['dies', 'broken'])
def test_the_checks_behind_a_crash_are_made(runner, monkeypatch, tmp_path, ill):
    checks = followed(runner, monkeypatch, tmp_path, ['first', ill, 'last'])
    assert [checks[n]['state'] for n in ('first', ill, 'last')] == ['ok', 'FAILED', 'ok']
    assert checks['first']['figures'] != checks['last']['figures']

def test_a_check_that_hangs_is_ended(runner, monkeypatch, tmp_path):
    monkeypatch.setattr(runner, 'PATIENCE', 1)
    began = time.time()
    checks = followed(runner, monkeypatch, tmp_path, ['first', 'hangs', 'last'])
    assert [checks[n]['state'] for n in ('first', 'hangs', 'last')] == ['ok', 'FAILED', 'ok']
    assert 'too long' in checks['hangs']['why'] and time.time()-began < 40

def test_a_process_that_never_begins(runner, monkeypatch, tmp_path):
    def started(a, names):
        here, there = os.pipe()
        process = subprocess.Popen([sys.executable, '-c', ''], pass_fds=[there], start_new_session=True)
        os.close(there)
        return process, here
    checks = followed(runner, monkeypatch, tmp_path, [])
    monkeypatch.setattr(runner, 'started', started)
    monkeypatch.setattr(runner, 'chosen', lambda a: ['one', 'two'])
    runner.run(runner.flags())
    checks = json.loads((tmp_path/'o.json').read_text())['checks']
    assert {r['state'] for r in checks.values()} == {'FAILED'} and len(checks) == 2

@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM'])
def test_what_was_made_before_an_interruption_is_kept(name, tmp_path):
    "And the process that makes the checks is ended, which is in a session of its own"
    out, here = tmp_path/'o.json', tmp_path/'fake.py'
    here.write_text(FAKE)
    code = f"""
import os, subprocess, sys
sys.path.insert(0, {str(script.parent)!r})
sys.argv = ['gpu_check', '--out', {str(out)!r}]
import gpu_check
def started(a, names):
    here, there = os.pipe()
    command = [sys.executable, {str(here)!r}, str(there), *names]
    process = subprocess.Popen(command, pass_fds=[there], start_new_session=True)
    os.close(there)
    print('child', process.pid, flush=True)
    return process, here
gpu_check.started, gpu_check.chosen = started, lambda a: ['first', 'hangs', 'last']
gpu_check.main()
"""
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child = int(process.stdout.readline().split()[1])
    assert 'first' in process.stdout.readline()
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=30)
    checks = json.loads(out.read_text())['checks']
    assert [checks[n]['state'] for n in ('first', 'hangs', 'last')] == ['ok', 'skipped', 'skipped']
    assert process.returncode and 'interrupted: 2 checks' in said and 'Traceback' not in said
    with pytest.raises(ProcessLookupError): os.kill(child, 0)

def children(pid): # Of a process, on Linux
    return [int(n) for n in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]

def is_alive(pid): # A zombie is not
    try: return ' Z ' not in Path(f'/proc/{pid}/stat').read_text()
    except FileNotFoundError: return False

@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='looks into /proc')
def test_nothing_is_left_when_the_command_is_killed(tmp_path):
    "Without any chance to end its checks; and on a machine without a GPU their sizes are small"
    command = [sys.executable, str(script), '--cpu', '--only', 'two steps', '--out', str(tmp_path/'found.json')]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert 'ok' in process.stdout.readline()
    child, = children(process.pid)
    process.kill()
    process.wait()
    end = time.time()+30
    while is_alive(child) and time.time() < end: time.sleep(.1)
    assert not is_alive(child)
    assert 'tiny sizes' in process.stderr.read()

@pytest.mark.parametrize('flags, said', [
    (['--seconds', '0'], 'above 0'), (['--seconds=-3'], 'above 0'), (['--seconds', 'nan'], 'above 0'), (['--seconds', 'soon'], 'soon'),
    (['--out', 'nowhere/o.json'], 'cannot be written'), (['--out', '.'], 'it is a folder'),
    (['--table', 'nowhere.json'], 'cannot be read'), (['--table', 'old.json'], 'is no result'), (['--table', 'broken.json'], 'is no result')])
def test_what_is_asked_wrongly(runner, monkeypatch, capsys, tmp_path, flags, said):
    monkeypatch.chdir(tmp_path)
    Path('old.json').write_text('{"checks": {"a": {}}}')
    Path('broken.json').write_text('{"title": ')
    monkeypatch.setattr(sys, 'argv', ['gpu_check', *flags])
    monkeypatch.setattr(signal, 'signal', lambda *args: None)
    monkeypatch.setattr(runner, 'started', None) # nothing is begun
    with pytest.raises(SystemExit) as found: runner.main()
    text = str(found.value.code)+capsys.readouterr().err
    assert said in text and found.value.code
    assert 'o.json' not in os.listdir()

BENCH = {'--weights': 'no model in', '--against': 'no grpo_lit in', '--rounds': 'at least 1', '--micro-batch': 'parts of', '--out': 'no folder'}
WRONG = {'--weights': 'nowhere', '--against': 'nowhere', '--rounds': '0', '--micro-batch': '3', '--out': 'nowhere/x.json'}

@pytest.mark.parametrize('flag', BENCH)
def test_the_benchmark_says_what_is_wrong_before_it_loads_anything(flag, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(root/'bench'))
    spec = importlib.util.spec_from_file_location('speed', root/'bench'/'speed.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, 'argv', ['speed.py', flag, WRONG[flag]])
    monkeypatch.setattr(module, 'prepare', None) # nothing is begun
    with pytest.raises(SystemExit): module.main()
    assert BENCH[flag] in capsys.readouterr().err.splitlines()[-1]

@pytest.mark.slow
def test_all_of_it(tmp_path):
    done = run('--small', '--cpu', '--out', tmp_path/'o.json')
    checks = json.loads((tmp_path/'o.json').read_text())['checks']
    assert list(checks) == names()
    assert [n for n, r in checks.items() if r['state'] == 'FAILED'] == [], done.stderr[-3000:]

def test_cells_that_a_marked_one_builds_on(runner):
    "And no others"
    from gpu_checks.cells import needed
    cells = ['import math', 'def f(x): return x+shift', 'shift = 1', 'other = f(2)', 'shift = 2',
             'y = [x for x in range(3)]', '#| slow\nz = 1', '#| cuda\nassert f(1) == 3', 'z = 2']
    kept = needed(list(enumerate(cells)))
    assert [i for i, _ in kept] == [1, 4, 7]
    space = {}
    for _, source in kept:
        exec(source, space)
