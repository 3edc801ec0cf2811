"""A run in processes of its own. The scripts here write a run directory by hand, so that they start in no time; nothing is compared with a clock."""
import io, json, os, signal, subprocess, sys, textwrap, threading, time
from pathlib import Path
import psutil, pytest
from grpo_lit.scale import launched as module
from grpo_lit.scale import commandline
from grpo_lit.scale.commandline import command_words, directory_asked, known_options
from grpo_lit.scale.launched import last_lines, launch, words_of_code

HEAD = '''
import json, os, signal, subprocess, sys, time
from pathlib import Path
out = Path(sys.argv[1])
def step(n, total=3):
    out.mkdir(exist_ok=True)
    with open(out/'metrics.jsonl', 'a') as f:
        f.write(json.dumps(dict(step=n, total=total, reward=n/total, reward_std=.1, step_time=.1))+'\\n')
def child():
    "One in a session of its own that ends for no signal but one"
    code = 'import signal, time\\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\\nprint("up", flush=True)\\ntime.sleep(600)'
    p = subprocess.Popen([sys.executable, '-c', code], start_new_session=True, stdout=subprocess.PIPE)
    p.stdout.readline()
    (out.parent/'child').write_text(str(p.pid))
'''

@pytest.fixture
def script(tmp_path):
    def write(text):
        path = tmp_path/'script.py'
        path.write_text(HEAD+textwrap.dedent(text))
        return str(path)
    return write

def begun(tmp_path, script, text, **how):
    "It, and what it draws"
    out, stream = str(tmp_path/'run'), io.StringIO()
    return launch(script(text), out, out=out, stream=stream, poll=.02, **how), stream

def until(true, seconds=60):
    end = time.monotonic()+seconds
    while not true() and time.monotonic() < end: time.sleep(.01)
    assert true()

def is_gone(tmp_path): return not psutil.pid_exists(int((tmp_path/'child').read_text()))

# --- shown

def test_each_step_is_shown_and_the_last_one_too(tmp_path, script):
    run, stream = begun(tmp_path, script, 'print("hello")\nfor n in (1, 2, 3): step(n)\n(out/"summary.json").write_text(json.dumps(dict(steps=3)))')
    assert [f'step {n}/3' in stream.getvalue() for n in (1, 2, 3)] == [True]*3
    assert run.state == 'done' and run.summary == dict(steps=3) and run.said() == 'hello' and run.checked() is run
    assert repr(run) == f'script.py in {tmp_path}/run: done'

def test_without_waiting(tmp_path, script):
    run, _ = begun(tmp_path, script, 'step(1)\nsys.stdout.write("step two\\n")\ntime.sleep(600)', wait=False)
    until(lambda: run.said(1) == 'step two')
    assert run.state == 'running' and run.summary == {} and run.process.poll() is None
    run.stop()
    assert run.process.poll() == -signal.SIGTERM and run.state == 'ended by SIGTERM'

def test_nothing_is_inherited(tmp_path, script, monkeypatch):
    for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MPLBACKEND'): monkeypatch.setenv(name, '7')
    monkeypatch.setenv('KEPT', 'yes')
    run, _ = begun(tmp_path, script, 'print(os.environ.get("RANK"), os.environ.get("MPLBACKEND"), os.environ["KEPT"], sys.stdin.read())\nimport grpo_lit; print(grpo_lit.__file__)')
    assert commandline.childs_environment()['TORCH_ELASTIC_SHUTDOWN_TIMEOUT'] == '3600' # of itself a launcher kills after 30 s
    first, second = run.said().split('\n')
    assert first.strip() == 'None None yes' and Path(second).parent == Path(commandline.PACKAGE[0])

def test_a_run_that_goes_on_says_so(tmp_path, script):
    "Its directory says that it has stopped, until the new process is there"
    (tmp_path/'run').mkdir()
    (tmp_path/'run'/'config.json').write_text('{}')
    (tmp_path/'run'/'metrics.jsonl').write_text(json.dumps(dict(step=1, total=3, reward=.1))+'\n')
    (tmp_path/'run.log').write_text('of the run before\n')
    run, _ = begun(tmp_path, script, 'print("loading")\ntime.sleep(600)', wait=False)
    until(lambda: run.said(1) == 'loading')
    figures = module.FollowedChild(run).figures()
    assert (figures.state, figures.note, figures.done) == ('running', 'loading', 1)
    run.stop()
    assert 'of the run before' in run.log.read_text()

# --- failures

@pytest.mark.parametrize('ending, said', [('raise KeyError("no")', "KeyError: 'no'"), ('sys.exit(2)', 'wrong input'), ('sys.exit("words")', 'words'),
                                          ('os.kill(os.getpid(), 9)', 'SIGKILL, as the kernel does when memory runs out'), ('os._exit(99)', 'exit code 99')])
def test_a_failure_is_raised_with_what_was_said(ending, said, tmp_path, script):
    with pytest.raises(RuntimeError) as e: begun(tmp_path, script, f'print("\\x1b[2Jbefore", flush=True)\n{ending}')
    assert said in str(e.value) and 'before' in str(e.value) and '\x1b' not in str(e.value) and 'run.log' in str(e.value)

def test_nothing_learned_is_no_failure(tmp_path, script):
    run, _ = begun(tmp_path, script, 'sys.exit(3)')
    assert run.process.returncode == 3 and run.state == 'nothing could be learned'

@pytest.mark.parametrize('how, said', [
    (dict(what='trian'), "did you mean 'train'"), (dict(what='eval'), 'no command'), (dict(what='no.py', out='x'), 'there is no script'),
    (dict(model='tiny', data='addition', max_step=1), "did you mean 'max_steps'"), (dict(model='tiny', learning_rate='fast'), 'learning_rate'),
    (dict(model='tiny', max_steps=True), 'max_steps')])
def test_wrong_options_start_nothing(how, said, monkeypatch):
    monkeypatch.setattr(module, 'Launched', lambda *a: pytest.fail('it was started'))
    with pytest.raises(ValueError, match=said): launch(**how)

def test_wrong_ways_to_start_a_script(script, monkeypatch):
    monkeypatch.setattr(module, 'Launched', lambda *a: pytest.fail('it was started'))
    for args, how, said in ((), {}, "out='...'"), ((), dict(out='x', seed=1), 'as words'), ((), dict(out='x', processes=0), 'at least 1'):
        with pytest.raises(ValueError, match=said): launch(script(''), *args, **how)
    with pytest.raises(ValueError, match='by name'): launch('train', 'tiny')

# --- the end

def test_a_tree_ends_with_its_root(tmp_path, script):
    "Whoever is left behind, in a session of its own and deaf, goes too"
    begun(tmp_path, script, 'step(1)\nchild()\ntime.sleep(.5)')
    until(lambda: is_gone(tmp_path))

def test_stopped(tmp_path, script):
    text = '''
        child()
        def save(*a):
            (out/'checkpoint').write_text('whole')
            sys.exit(143)
        signal.signal(signal.SIGTERM, save)
        step(1)
        time.sleep(600)'''
    run, _ = begun(tmp_path, script, text, wait=False)
    until(lambda: (tmp_path/'run'/'metrics.jsonl').exists())
    assert run.stop() is run and (tmp_path/'run'/'checkpoint').read_text() == 'whole'
    assert run.process.returncode == 143 and run.stop().process.returncode == 143
    until(lambda: is_gone(tmp_path))
    assert run.checked() is run

@pytest.mark.parametrize('ending, said', [
    ('sys.exit(1)', 'something could not be written'), ('sys.exit(4)', 'one of several processes was lost'),
    ('os.kill(os.getpid(), 9)', 'SIGKILL'), ('print("x.SignalException: got 15") or sys.exit(1)', '')])
def test_a_failure_while_it_ends_is_said(tmp_path, script, ending, said):
    run, _ = begun(tmp_path, script, f'signal.signal(signal.SIGTERM, lambda *a: {ending})\nstep(1)\ntime.sleep(600)', wait=False)
    until(lambda: (tmp_path/'run'/'metrics.jsonl').exists())
    if not said: assert run.stop() is run # so plain `accelerate launch` ends
    else:
        with pytest.raises(RuntimeError, match=said): run.stop()

def test_what_cannot_be_killed_is_given_up(monkeypatch):
    class Stuck:
        pid, kill, children = 0, lambda self: None, lambda self, recursive: []
        def is_running(self): return True
        def status(self): return psutil.STATUS_DISK_SLEEP
    monkeypatch.setattr(module, 'UNKILLABLE', .1)
    family = module.Descendants(2**30)
    family.known[0] = Stuck()
    assert family.kill() == [family.known[0]]

def test_a_run_that_does_not_go_on_has_a_directory():
    words = module.of_command('train', (), 'x', 1, dict(model='tiny', data='addition', resume=False))[1]
    assert '--out=x' in words and not any('resume' in w for w in words)

def test_one_that_does_not_listen(tmp_path, script):
    run, _ = begun(tmp_path, script, 'signal.signal(signal.SIGTERM, signal.SIG_IGN)\nstep(1)\ntime.sleep(600)', wait=False)
    until(lambda: (tmp_path/'run'/'metrics.jsonl').exists())
    assert run.stop(patience=.2).process.returncode == -signal.SIGKILL

def press_when(there, *signals):
    "Send this process signals, once something is there"
    def press():
        for n, signum in enumerate(signals):
            until(lambda: there(n) and signal.getsignal(signum) is not signal.default_int_handler)
            os.kill(os.getpid(), signum)
    thread = threading.Thread(target=press)
    thread.start()
    return thread

SAVES = '''
    def save(*a):
        (out/'asked').touch()
        while not (out/'go').exists(): time.sleep(.01)
        (out/'checkpoint').write_text('whole')
        sys.exit(143)
    signal.signal(signal.SIGTERM, save)
    step(1)
    time.sleep(600)'''

def test_ctrl_c_reaches_the_run_which_may_save(tmp_path, script):
    "And a second one does not break into that"
    places = ['metrics.jsonl', 'asked']
    def there(n): return (tmp_path/'run'/places[n]).exists()
    pressing = press_when(there, signal.SIGINT, signal.SIGINT)
    going = threading.Timer(0, lambda: (pressing.join(), (tmp_path/'run'/'go').touch()))
    going.start()
    run, stream = begun(tmp_path, script, SAVES)
    going.join()
    assert (tmp_path/'run'/'checkpoint').read_text() == 'whole' and run.process.returncode == 143
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

def test_who_presses_on_ends_it_at_once(tmp_path, script, monkeypatch):
    monkeypatch.setattr(module, 'HURRY', 0.)
    places = ['metrics.jsonl', 'asked']
    pressing = press_when(lambda n: (tmp_path/'run'/places[n]).exists(), signal.SIGINT, signal.SIGINT)
    run, _ = begun(tmp_path, script, SAVES)
    pressing.join()
    assert run.process.returncode == -signal.SIGKILL and not (tmp_path/'run'/'checkpoint').exists()

def test_it_ends_with_who_started_it(tmp_path, script):
    code = f'''
import sys, time
from pathlib import Path
from grpo_lit.scale.launched import launch
run = launch({script(SAVES)!r}, {str(tmp_path/"run")!r}, out={str(tmp_path/"run")!r}, wait=False)
while not Path({str(tmp_path/"run"/"metrics.jsonl")!r}).exists(): time.sleep(.01)
print(run.process.pid)'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=300)
    until(lambda: (tmp_path/'run'/'asked').exists())
    (tmp_path/'run'/'go').touch()
    until(lambda: not psutil.pid_exists(int(done.stdout)))
    assert (tmp_path/'run'/'checkpoint').exists()

# --- words

def test_every_option_survives_its_words():
    "What the parser of the command reads is what was given"
    from grpo_lit.run.cli import parse_command
    given = dict(model='-tiny --x', data='a b;c', out='r', reward=['a.py:f', 'b'], reward_weights=[1., -.5], lr_scheduler_kwargs=dict(num_cycles=2), dry_run=True,
                 chat=False, max_steps=-1, learning_rate=1e-6, resume=True, optim_args='momentum=0.9', system='', use_cpu=True, seed=0, stop=['\n\n', 'x y'])
    with pytest.raises((SystemExit, ValueError)): parse_command(['train', '--modle=x'])
    name, found = parse_command(command_words('train', known_options('train', {k: v for k, v in given.items() if k != 'resume'}))[1:])
    def plain(v): return list(v) if isinstance(v, tuple) else json.dumps(v) if isinstance(v, dict) else v
    assert name == 'train' and {k: plain(found[k]) for k in given if k != 'resume'} == {k: plain(v) for k, v in given.items() if k != 'resume'}

def test_names_of_others_are_understood():
    assert known_options('train', dict(model_name_or_path='m', output_dir='o', torch_dtype='float32', seed=None, stop=[])) == dict(model='m', out='o', dtype='float32')

def test_the_directory_is_chosen_anew_each_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert directory_asked('train', dict(data='x/gsm8k.jsonl')) == 'runs/gsm8k'
    Path('runs/gsm8k/a').mkdir(parents=True)
    assert directory_asked('train', dict(data='gsm8k')) == 'runs/gsm8k-2' and directory_asked('demo', {}) == 'runs/demo'
    assert directory_asked('train', dict(resume='a/b', out='')) == 'a/b'

def test_what_it_said_without_what_would_steer(tmp_path):
    (tmp_path/'log').write_bytes(b'x'*30_000+b'\n\xff\x00 1 %\r 2 %\n\n\x1b]0;owned\x07\n')
    said = last_lines(tmp_path/'log')
    assert said.count('\n') == 2 and '2 %' in said and '1 %' not in said and '\x1b' not in said and '\x07' not in said
    assert last_lines(tmp_path/'nothing') == ''

def test_codes():
    assert [words_of_code(c) for c in (0, 4, 130, -11, 200)] == ['done', 'one of several processes was lost', 'ended by SIGINT', 'ended by SIGSEGV', 'exit code 200']

def test_several_processes_of_a_script():
    words = commandline.script_words('a.py', ('--x', 1), 2)
    assert words[1:3] == ['-m', 'accelerate.commands.launch'] and words[-3:] == ['a.py', '--x', '1'] and words[words.index('--num_processes')+1] == '2' and '--multi_gpu' in words

def test_a_script_in_two_processes(tmp_path, script):
    "Each has its number, and a failure of one ends both"
    run, _ = begun(tmp_path, script, 'print("number", os.environ["RANK"], os.environ["ACCELERATE_USE_CPU"], flush=True)', processes=2)
    assert {'number 0 true', 'number 1 true'} <= set(run.said().split('\n'))

@pytest.mark.slow
def test_the_command_itself_stopped_and_resumed(tmp_path):
    how = dict(model='tiny', data='addition', device='cpu', max_steps=400, per_device_train_batch_size=8, max_completion_length=8, eval_questions=0)
    run = launch(out=str(tmp_path/'run'), wait=False, **how)
    until(lambda: (tmp_path/'run'/'metrics.jsonl').exists() and len((tmp_path/'run'/'metrics.jsonl').read_text().splitlines()) > 2, 300)
    run.stop()
    assert run.process.returncode == 143 and list((tmp_path/'run').glob('checkpoint-*'))
    before = len((tmp_path/'run'/'metrics.jsonl').read_text().splitlines())
    again = launch(resume=str(tmp_path/'run'), wait=False)
    until(lambda: len((tmp_path/'run'/'metrics.jsonl').read_text().splitlines()) > before, 300)
    assert again.state == 'running'
    again.stop()

@pytest.mark.slow
def test_the_command_in_two_processes(tmp_path):
    "Started, stopped in the middle with a checkpoint, and nobody is left"
    how = dict(model='tiny', data='addition', device='cpu', max_steps=3000, per_device_train_batch_size=16, max_completion_length=16, eval_questions=0)
    run = launch(out=str(tmp_path/'run'), processes=2, wait=False, **how)
    until((tmp_path/'run'/'metrics.jsonl').exists, 300)
    run.family.look()
    assert len(run.family.alive()) >= 3 # a launcher and two
    run.stop()
    assert run.process.returncode == 143 and list((tmp_path/'run').glob('checkpoint-*')) and run.family.alive() == []
