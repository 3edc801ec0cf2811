"""Signals at every phase of the command, once and many times: the exit code says which, a checkpoint stands, nobody sees a traceback."""
import contextlib, os, pty, select, signal, subprocess, sys, threading, time, traceback
from pathlib import Path
import pytest
import torch
from grpo_lit.policy import load_policy
from grpo_lit.rewards import accuracy_reward
from grpo_lit.run import checkpoints, cli, collect, commands, ending, experiment, files, sampler, signals, trainer, update
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.resume import newest_whole
from grpo_lit.run.runs import Run
from grpo_lit.run.trainer import GRPOTrainer
from grpo_lit.tasks import addition_task

PHASES = { # Where: an object, its function, at which call; and the least step of the checkpoint, None: there is none
    'loading': (commands, 'policy_and_tokenizer', 1, None),
    'evaluation before': (experiment, 'evaluate', 1, None),
    'first group shown': (experiment, 'show_group', 1, None),
    'beginning': (Run, 'start', 1, None),
    'forgetting': (Run, 'forget', 1, None),
    'sampling of the first step': (sampler, 'sample_groups', 2, 0),
    'sampling': (sampler, 'sample_groups', 3, 1),
    'rewards': (collect, 'score_completions', 3, 1),
    'log-probs': (collect, 'add_reference', 3, 1),
    'gradients': (update.Updater, 'gradients', 2, 1),
    'optimizer': (update.Updater, 'apply', 2, 2),
    'recording': (Run, 'log', 2, 2),
    'rollouts': (Run, 'save_rollouts', 2, 2),
    'saving': (ending, 'write_checkpoint', 1, 2),
    'manifest': (checkpoints, 'write_manifest', 1, 2),
    'moving': (files, 'move_into_place', 4, 1),
    'callback': (commands.ProgressLine, '__call__', 3, 3),
    'curves': (experiment, 'plot_run', 1, 4),
    'policy': (experiment, 'save_policy', 1, 4),
    'evaluation after': (experiment, 'evaluate', 2, 4),
    'summary': (experiment, 'summary_of', 2, 4),
    'the end': (experiment, 'say_end', 1, 4)}
SIGNALS = dict(SIGINT=130, SIGTERM=143, SIGHUP=129, SIGXCPU=152, SIGUSR1=138)
OPTIONS = ('--model tiny --data addition --eval-questions 4 --max-steps 4 --num-generations 4 --per-device-train-batch-size 8 '
           '--max-completion-length 12 --save-steps 2 --device cpu').split()

@pytest.fixture(scope='module', autouse=True)
def warm(tmp_path_factory):
    "What is loaded and measured here, the children have"
    torch.set_num_threads(1)
    cli.quiet()
    folder = tmp_path_factory.mktemp('warm')
    assert cli.main(['train', *OPTIONS, '--out', str(folder/'run')]) == 0

def forked(work, folder, timeout=60):
    "Exit code and output of `work` in a fork"
    child, log = os.fork(), folder/'log'
    if not child:
        code = 99
        try:
            fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(fd, 1)
            os.dup2(fd, 2)
            sys.stdout, sys.stderr = open(1, 'w', closefd=False), open(2, 'w', closefd=False)
            code = work()
        except SystemExit as e:
            code = e.code
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 98)
    return ended(child, timeout), log.read_text() if log.exists() else ''

def ended(child, timeout=60):
    "The exit code of a child that must end in time"
    for _ in range(int(timeout*50)):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid: return os.waitstatus_to_exitcode(status)
        time.sleep(.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError('it hangs')

def at(place, name, call, action):
    "Do something at that call of a function, before it"
    f, calls = getattr(place, name), []
    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == call: action()
        return f(*args, **kwargs)
    setattr(place, name, wrapped)

def send(*names):
    def action():
        for n in names: os.kill(os.getpid(), getattr(signal, n))
    return action

def storm(first, *others, every=.01):
    "That signal, and then others without end"
    def action():
        me, (sent, tell) = os.getpid(), os.pipe()
        if not os.fork():
            for s in signals.ENDING: signal.signal(s, signal.SIG_DFL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(me, getattr(signal, first))
                os.write(tell, b'!')
                while os.getppid() == me:
                    for n in others:
                        time.sleep(every)
                        os.kill(me, getattr(signal, n))
            os._exit(0)
        os.read(sent, 1)
    return action

def command(out, phase, action):
    "The command, in a process that gets signals in that phase"
    place, name, call, _ = PHASES[phase]
    def work():
        at(place, name, call, action)
        sys.argv = ['grpo-lit', 'train', *OPTIONS, '--out', str(out)]
        return cli.main()
    return work

def check(phase, name, action, folder, storm=False):
    "Exit code, no traceback, a checkpoint that can be gone on from; what comes in one moment, Python tells in the order of the numbers"
    least = PHASES[phase][3]
    code, said = forked(command(folder/'run', phase, action), folder)
    assert code in (SIGNALS.values() if storm else [SIGNALS[name]]), said
    assert 'Traceback' not in said and 'Error' not in said and 'Exception' not in said, said
    run = Run(folder/'run')
    assert not (run.path/'run.lock').exists()
    assert not list(run.path.glob('*.part'))
    saved = newest_whole(run)
    if least is None:
        assert saved is None
        return
    assert saved is not None and int(saved.name.split('-')[1]) >= least, said
    steps = [m['step'] for m in run.metrics()]
    assert steps == list(range(1, int(saved.name.split('-')[1])+1)), said

def resumed(folder):
    "The same command with --resume gets to the end"
    def work():
        sys.argv = ['grpo-lit', 'train', *OPTIONS, '--out', str(folder/'run'), '--resume']
        return cli.main()
    code, said = forked(work, folder)
    assert code == 0, said
    run = Run(folder/'run')
    assert [m['step'] for m in run.metrics()] == [1, 2, 3, 4]
    assert not run.read('summary.json')['interrupted'] and 'accuracy_after' in run.read('summary.json')

CHEAP = [('evaluation before', 'SIGTERM'), ('sampling', 'SIGTERM'), ('rewards', 'SIGHUP'), ('optimizer', 'SIGINT')]

@pytest.mark.parametrize('phase, name', CHEAP)
def test_one_signal(phase, name, tmp_path):
    check(phase, name, send(name), tmp_path)

@pytest.mark.slow
@pytest.mark.parametrize('phase', PHASES)
@pytest.mark.parametrize('name', SIGNALS)
def test_each_signal_in_each_phase(phase, name, tmp_path):
    check(phase, name, send(name), tmp_path)
    resumed(tmp_path)

@pytest.mark.parametrize('phase', ['manifest'])
def test_five_times(phase, tmp_path):
    check(phase, 'SIGINT', send(*['SIGINT']*5), tmp_path)

@pytest.mark.parametrize('phase', ['loading', 'saving'])
def test_a_storm(phase, tmp_path):
    check(phase, 'SIGINT', storm('SIGINT', 'SIGINT', 'SIGTERM'), tmp_path)

@pytest.mark.slow
@pytest.mark.parametrize('phase', PHASES)
@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM', 'SIGHUP'])
def test_a_storm_in_each_phase(phase, name, tmp_path):
    check(phase, name, storm(name, 'SIGINT', 'SIGHUP', 'SIGTERM'), tmp_path, storm=True)

def test_resumed_after_a_signal(tmp_path):
    check('evaluation after', 'SIGTERM', send('SIGTERM'), tmp_path)
    resumed(tmp_path)

def test_the_terminal_is_closed(tmp_path):
    "Its reader is gone and SIGHUP comes: every print fails from then on"
    child, terminal = pty.fork()
    if not child:
        sys.stdout, sys.stderr = open(1, 'w', closefd=False), open(2, 'w', closefd=False)
        os._exit(command(tmp_path/'run', 'callback', lambda: time.sleep(1))())
    run, begun = Run(tmp_path/'run'), time.time()
    while len(run.metrics()) < 3 and time.time()-begun < 240:
        if select.select([terminal], [], [], .1)[0]: os.read(terminal, 1000)
    os.close(terminal)
    assert ended(child) == 129
    assert int(newest_whole(run).name.split('-')[1]) >= 2

def test_nobody_reads(tmp_path):
    "A pipe that was closed (`| head -1`) ends nothing"
    def work():
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, 1)
        sys.stdout = open(1, 'w', closefd=False)
        sys.argv = ['grpo-lit', 'train', *OPTIONS, '--out', str(tmp_path/'run')]
        return cli.main()
    code, said = forked(work, tmp_path)
    assert (code, said) == (0, '')
    assert len(Run(tmp_path/'run').metrics()) == 4

def small(out, reward=accuracy_reward, callbacks=()):
    model, tokenizer = load_policy('tiny', device='cpu')
    args = GRPOConfig(output_dir=str(out), max_steps=4, num_generations=4, per_device_train_batch_size=8,
                      max_completion_length=12, use_cpu=True)
    return GRPOTrainer(model, reward, args, addition_task().train, processing_class=tokenizer, callbacks=callbacks)

def killing(name, step=2):
    return lambda t, m: os.kill(os.getpid(), getattr(signal, name)) if m['step'] == step else None

LIBRARY = {} # What a script or a notebook may do
def in_a_script(f):
    LIBRARY[f.__name__] = f
    return f

@in_a_script
def ctrl_c_returns(out):
    before = [signal.getsignal(s) for s in signals.ENDING]
    t = small(out, callbacks=[killing('SIGINT')])
    assert t.train()['interrupted'] and t.state.step < 3
    assert [signal.getsignal(s) for s in signals.ENDING] == before
    t.callbacks.clear()
    assert not t.train()['interrupted'] and t.state.step == 4

@in_a_script
def sigterm_is_a_system_exit(out):
    before = [signal.getsignal(s) for s in signals.ENDING]
    with pytest.raises(SystemExit) as e: small(out, callbacks=[killing('SIGTERM')]).train()
    assert e.value.code == 143 and newest_whole(Run(out)).name == 'checkpoint-2'
    assert [signal.getsignal(s) for s in signals.ENDING] == before

@in_a_script
def ignored_stays_ignored(out):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert not small(out, callbacks=[killing('SIGHUP')]).train()['interrupted']
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

@in_a_script
def a_handler_of_ones_own_is_called(out):
    came = []
    signal.signal(signal.SIGTERM, lambda *args: came.append(args))
    assert not small(out, callbacks=[killing('SIGTERM')]).train()['interrupted']
    assert len(came) == 1

@in_a_script
def another_thread_trains(out):
    before = [signal.getsignal(s) for s in signals.ENDING]
    thread = threading.Thread(target=small(out).train)
    thread.start()
    while thread.is_alive():
        assert [signal.getsignal(s) for s in signals.ENDING] == before
        thread.join(.05)
    assert len(Run(out).metrics()) == 4

@in_a_script
def a_reward_swallows_it(out):
    calls = []
    def greedy(completions, **columns):
        calls.append(1)
        try:
            if len(calls) == 4: os.kill(os.getpid(), signal.SIGINT)
            time.sleep(.01)
        except: pass
        return [float(len(c)) for c in completions]
    t = small(out, greedy)
    calls[:] = [1, 1]
    assert t.train()['interrupted'] and t.state.step < 3

@in_a_script
def a_library_turns_it_into_an_error(out):
    def callback(t, m):
        if m['step'] != 2: return
        try: os.kill(os.getpid(), signal.SIGINT), time.sleep(1)
        except BaseException as e: raise RuntimeError('the writer is at an unexpected place') from e
    t = small(out, callbacks=[callback])
    assert t.train()['interrupted'] and newest_whole(Run(out)).name == 'checkpoint-2'

@in_a_script
def a_child_of_ours_is_terminated(out):
    def reward(completions, **columns):
        child = os.fork()
        if not child:
            time.sleep(30)
            os._exit(0)
        time.sleep(.1) # Python forgets signals that come while it forks
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        return [1.]*len(completions)
    assert not small(out, reward).train()['interrupted']

@in_a_script
def steps_are_driven_by_hand(out):
    with signals.stoppable(exits=False) as stop:
        t = small(out, callbacks=[killing('SIGTERM')])
        assert stop.until(lambda: list(t.steps()))
        t.save_checkpoint()
    assert stop.code == 143 and newest_whole(Run(out)).name == 'checkpoint-2'

@in_a_script
def faulthandler_keeps_its_signal(out):
    import faulthandler
    faulthandler.register(signal.SIGUSR1, file=open(os.devnull, 'w'))
    assert not small(out, callbacks=[killing('SIGUSR1')]).train()['interrupted']

@in_a_script
def an_error_leaves_a_checkpoint(out):
    def broken(t, m):
        if m['step'] == 3: raise RuntimeError('a callback of mine')
    with pytest.raises(RuntimeError, match='of mine'): small(out, callbacks=[broken]).train()
    assert newest_whole(Run(out)).name == 'checkpoint-3' and not (Path(out)/'run.lock').exists()

CHEAP_IN_A_SCRIPT = 'ctrl_c_returns sigterm_is_a_system_exit another_thread_trains a_reward_swallows_it'.split()

@pytest.mark.parametrize('case', [c if c in CHEAP_IN_A_SCRIPT else pytest.param(c, marks=pytest.mark.slow) for c in LIBRARY])
def test_in_a_script(case, tmp_path):
    def work():
        LIBRARY[case](tmp_path/'run')
        return 0
    code, said = forked(work, tmp_path)
    assert code == 0, said

START = 'import sys; from grpo_lit.run.cli import main; sys.exit(main())'

@pytest.mark.parametrize('seconds', [.6, pytest.param(1.2, marks=pytest.mark.slow), pytest.param(2.5, marks=pytest.mark.slow)])
def test_five_times_while_it_loads(seconds, tmp_path):
    "The libraries take seconds to load, in which people change their minds"
    line = [sys.executable, '-c', START, 'train', *OPTIONS, '--out', str(tmp_path/'run')]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while 'grpo_lit' not in Path(f'/proc/{process.pid}/maps').read_text() and not wants_signals(process.pid): time.sleep(.01)
    time.sleep(seconds)
    for _ in range(5):
        with contextlib.suppress(ProcessLookupError): process.send_signal(signal.SIGINT)
        time.sleep(.02)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert 'Traceback' not in err and 'interrupted' in out+err

def wants_signals(pid):
    "Does a process have a handler for SIGTERM?"
    caught = next(l for l in Path(f'/proc/{pid}/status').read_text().splitlines() if l.startswith('SigCgt'))
    return int(caught.split()[1], 16) >> (signal.SIGTERM-1) & 1

@pytest.mark.slow
def test_a_storm_until_the_process_is_gone(tmp_path):
    "In a process of its own, so that the interpreter's end is part of it"
    line = [sys.executable, '-c', START, 'train', *OPTIONS, '--max-steps', '1000', '--out', str(tmp_path/'run')]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(Run(tmp_path/'run').metrics()) < 2 and process.poll() is None: time.sleep(.1)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(.02)
    out, err = process.communicate()
    assert process.returncode == 130 and 'Traceback' not in err, err
    assert newest_whole(Run(tmp_path/'run'))
