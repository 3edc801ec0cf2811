"""Disks that are full, read-only or gone in the middle of a run; two runs in one directory. Nothing that was computed is lost."""
import errno, json, os, resource, select, shutil, signal, subprocess, sys, threading, time, traceback
from contextlib import contextmanager
from pathlib import Path
import pytest
import torch
from grpo_lit.policy import load_policy
from grpo_lit.rewards import accuracy_reward
from grpo_lit.run import cli, display, files, logs, runs
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.files import NotSaved, write_whole
from grpo_lit.run.lock import RunLock, card
from grpo_lit.run.manifest import is_whole
from grpo_lit.run.resume import newest_whole
from grpo_lit.run.runs import Run
from grpo_lit.run.trainer import GRPOTrainer
from grpo_lit.tasks import addition_task

def some(cases, *cheap):
    "All cases, those that are not named only in the slow run"
    return [c if c in cheap else pytest.param(c, marks=pytest.mark.slow) for c in cases]

@pytest.fixture(scope='module', autouse=True)
def quiet():
    torch.set_num_threads(1)
    cli.quiet()

@pytest.fixture
def mounted(tmp_path):
    "Mounts a small disk, if this user may"
    places = []
    def mount(options):
        place = tmp_path/f'disk-{len(places)}'
        place.mkdir()
        if subprocess.run(['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', place], capture_output=True).returncode:
            pytest.skip('mounting needs root')
        places.append(place)
        return place
    yield mount
    for place in places: subprocess.run(['umount', '-l', place], check=True)

def small(out, second, callbacks=(), **settings):
    model, tokenizer = load_policy('tiny', device='cpu')
    args = GRPOConfig(output_dir=str(out), fallback_dir=str(second), num_generations=4, per_device_train_batch_size=8,
                      max_completion_length=12, use_cpu=True, **dict(max_steps=4) | settings)
    return GRPOTrainer(model, accuracy_reward, args, addition_task().train, processing_class=tokenizer, callbacks=callbacks)

def fill(disk):
    "Leave no byte"
    with open(disk/'filler', 'wb', buffering=0) as f:
        for size in (1<<16, 1<<12, 1):
            try:
                while True: f.write(bytes(size))
            except OSError: pass

def use_up_inodes(disk):
    try:
        for n in range(10**5): (disk/f'filler-{n}').touch()
    except OSError: pass

def free(disk):
    for p in disk.glob('filler*'): p.unlink()

def remount(disk, how): subprocess.run(['mount', '-o', f'remount,{how}', disk], check=True)
def stand_in_the_way(disk):
    shutil.rmtree(disk/'run')
    (disk/'run').write_text('a file')

DISKS = { # What happens to it, and how it is undone
    'full': ('size=40m', fill, free),
    'without inodes': ('size=40m,nr_inodes=60', use_up_inodes, free),
    'read-only': ('size=40m', lambda d: remount(d, 'ro'), lambda d: remount(d, 'rw')),
    'removed': ('size=40m', lambda d: shutil.rmtree(d/'run'), lambda d: None),
    'a file in its place': ('size=40m', stand_in_the_way, lambda d: (d/'run').unlink())}

def events(*pairs):
    "A callback: at that step, do that"
    def callback(t, m):
        for step, action in pairs:
            if m['step'] == step: action()
    return callback

@pytest.mark.parametrize('name', some(DISKS, 'full', 'removed'))
def test_for_a_while(name, mounted, tmp_path, caplog):
    "It is said, the run goes on, and what was missed is written when it can be"
    options, harm, mend = DISKS[name]
    disk = mounted(options)
    t = small(disk/'run', tmp_path, [events((1, lambda: harm(disk)), (3, lambda: mend(disk)))], save_steps=2)
    done = t.train()
    assert done['step'] == 4 and not done['interrupted']
    assert [m['step'] for m in t.run.metrics()] == [1, 2, 3, 4]
    assert is_whole(disk/'run/checkpoint-4') and not t.run.elsewhere().checkpoints()
    assert not list((disk/'run').rglob('*.part')) and not (disk/'run/run.lock').exists()
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == len(set(said)) and (said or name == 'removed') # each trouble once

@pytest.mark.parametrize('name', some([n for n in DISKS if n != 'removed'], 'full', 'without inodes'))
def test_to_the_end(name, mounted, tmp_path, caplog):
    "Checkpoint and metrics are in the second place, and a new trainer goes on from there"
    options, harm, mend = DISKS[name]
    disk = mounted(options)
    t = small(disk/'run', tmp_path, [events((2, lambda: harm(disk)))])
    assert t.train()['step'] == 4
    there = t.run.elsewhere()
    assert newest_whole(t.run) == there.path/'checkpoint-4' and is_whole(there.path/'checkpoint-4')
    written = runs.joined(t.run.metrics() if t.run.path.is_dir() else [], there.metrics()) # a line may find room where a file finds none
    assert [m['step'] for m in written] == [1, 2, 3, 4]
    assert there.path.stat().st_mode & 0o77 == 0
    words = {'full': 'no space', 'without inodes': 'inodes', 'read-only': 'can only be read'}.get(name, 'the directory is gone')
    assert words in caplog.text
    mend(disk)
    again = small(disk/'run', tmp_path, max_steps=5)
    assert again.train(resume_from_checkpoint=True)['step'] == 5
    assert [m['step'] for m in again.run.metrics()] == [1, 2, 3, 4, 5]

def test_full_everywhere(mounted, tmp_path, caplog):
    "A run that can save nothing still runs; asked for a checkpoint it says why there is none, and the older one stays"
    disk = mounted('size=40m')
    t = small(disk/'run', disk/'second', [events((2, lambda: fill(disk)))], save_steps=1, save_total_limit=1)
    assert t.train()['step'] == 4
    assert [p.name for p in t.run.checkpoints()] == ['checkpoint-2'] and is_whole(disk/'run/checkpoint-2')
    assert not list(disk.rglob('*.part')) and [m['step'] for m in t.history] == [1, 2, 3, 4]
    with pytest.raises(NotSaved, match='no space left on the disk, nor in the second place'): t.save_checkpoint()

def test_there_is_no_room_for_a_second_checkpoint(mounted, tmp_path):
    "The old one goes when the new one is whole, not before"
    disk = mounted('size=16m') # one takes 11 MB
    t = small(disk/'run', tmp_path, save_steps=1, save_total_limit=1)
    t.train()
    assert is_whole(disk/'run/checkpoint-1') and not list(disk.rglob('*.part'))
    assert [p.name for p in t.run.elsewhere().checkpoints()] == ['checkpoint-4']
    assert newest_whole(t.run).name == 'checkpoint-4'

def forked(work):
    "The exit code of `work` in a fork"
    child = os.fork()
    if not child:
        code = 99
        try: code = work()
        except BaseException: traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def test_files_may_not_grow(tmp_path):
    "RLIMIT_FSIZE, as batch systems set it: weights do not fit, lines do"
    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1<<20, 1<<20))
        t = small(tmp_path/'run', tmp_path/'second', save_steps=2)
        assert t.train()['step'] == 4 and len(t.run.metrics()) == 4
        assert not t.run.checkpoints() and not list(tmp_path.rglob('*.part'))
        with pytest.raises(NotSaved, match='no space left: files may not grow'): t.save_checkpoint()
        return 0
    assert forked(work) == 0

ERRORS = ('ENOSPC', 'EDQUOT', 'EROFS', 'EIO', 'EACCES', 'ESTALE', 'ENOTCONN', 'EMFILE', 'ENOMEM')

@pytest.mark.parametrize('name', some(ERRORS, 'EDQUOT', 'EIO'))
def test_each_error_of_the_system(name, tmp_path, monkeypatch, caplog):
    "Raised by everything that a run writes with, below its directory, from the second step on"
    number, t = getattr(errno, name), None
    def below(path): return t is not None and t.state.step >= 1 and str(tmp_path/'run') in str(path) and 'lock' not in str(path)
    def failing(f):
        def call(*args, **kwargs):
            if any(below(a) for a in args[:1]): raise OSError(number, os.strerror(number))
            return f(*args, **kwargs)
        return call
    monkeypatch.setattr(logs, 'open', failing(open), raising=False)
    for f in ('replace', 'mkdir', 'fsync'): monkeypatch.setattr(os, f, failing(getattr(os, f)))
    t = small(tmp_path/'run', tmp_path/'second', save_steps=2)
    assert t.train()['step'] == 4
    assert newest_whole(t.run) == t.run.elsewhere().path/'checkpoint-4'
    assert [m['step'] for m in t.run.elsewhere().metrics()] == [1, 2, 3, 4]
    assert files.TROUBLES.get(number, os.strerror(number)) in caplog.text

def test_the_second_place_of_somebody_else(tmp_path, monkeypatch):
    "What lies there under our name, but is not ours, is neither used nor written to"
    run = Run(tmp_path/'run', second=str(tmp_path/'second'))
    place = runs.second_place(run.path, run.second)
    place.mkdir(parents=True)
    (place/'checkpoint-9').mkdir()
    monkeypatch.setattr(runs.os, 'getuid', lambda: 12345, raising=False)
    theirs = runs.second_place(run.path, run.second)
    shutil.copytree(place, theirs)
    assert run.elsewhere().checkpoints() == [] and newest_whole(run) is None
    def full(part): raise OSError(errno.ENOSPC, 'No space left on device')
    with pytest.raises(NotSaved, match='belongs to somebody else'): run.keep('policy', full)

def test_a_new_run_does_not_inherit_the_second_place(tmp_path):
    "An old checkpoint there is of another run, once one was begun here anew"
    run = Run(tmp_path/'run', second=str(tmp_path/'second')).start({})
    place = runs.second_place(run.path, run.second)
    (place/'checkpoint-9').mkdir(parents=True)
    shutil.rmtree(run.path)
    again = Run(tmp_path/'run', second=str(tmp_path/'second')).start({})
    assert newest_whole(again) is None and (place/'abandoned-checkpoint-9').exists()

def test_synced_before_it_has_its_name(tmp_path, monkeypatch):
    "Each file and directory of a checkpoint reaches the disk before the rename, and the rename after"
    done = []
    def noting(name, f):
        def call(*args):
            done.append((name, os.fstat(args[0]).st_ino if name == 'fsync' else None))
            return f(*args)
        return call
    monkeypatch.setattr(os, 'fsync', noting('fsync', os.fsync))
    monkeypatch.setattr(os, 'replace', noting('replace', os.replace))
    def write(part):
        (part/'inside').mkdir(parents=True)
        (part/'inside/file').write_text('1')
        (part/'file').write_text('2')
    path = write_whole(tmp_path/'box', write)
    names = [n for n, _ in done]
    before = {inode for n, inode in done[:names.index('replace')]}
    assert {p.stat().st_ino for p in (path, *path.rglob('*'))} <= before
    assert done[-1] == ('fsync', tmp_path.stat().st_ino)

def test_two_that_write_one_file_at_once(tmp_path):
    "Without a lock each has a part of its own, and what gets the name is whole"
    def other(): write_whole(tmp_path/'page', lambda part: part.write_text('theirs'), alone=False)
    def write(part):
        part.write_text('ha')
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert (tmp_path/'page').read_text() == 'theirs'
        with open(part, 'a') as f: f.write('lf and half')
    write_whole(tmp_path/'page', write, alone=False)
    assert (tmp_path/'page').read_text() == 'half and half' and [p.name for p in tmp_path.iterdir()] == ['page']

@pytest.mark.parametrize('what', ['figures', 'page', 'picture'])
def test_what_is_written_without_a_lock_has_a_part_of_its_own(what, tmp_path, monkeypatch):
    from grpo_lit.run import plotting
    from grpo_lit.seeing import page
    parts = []
    monkeypatch.setattr(page, 'page_html', lambda *args, **kw: 'page')
    monkeypatch.setattr(plotting, 'save_figure', lambda figure, part, kind: part.write_text('picture'))
    monkeypatch.setattr(files, 'sync', parts.append)
    writes = dict(figures=lambda: Run(tmp_path).write('x.png', {}), page=lambda: page.write_page(None, tmp_path/'x.png'),
                  picture=lambda: plotting.finished(None, tmp_path/'x.png'))
    thread = threading.Thread(target=writes[what])
    thread.start()
    thread.join()
    writes[what]()
    assert len({p.name for p in parts}) == 2 and all(p.suffix == '.part' for p in parts)

OPTIONS = ('--model tiny --data addition --eval-questions 4 --max-steps 4 --num-generations 4 --per-device-train-batch-size 8 '
           '--max-completion-length 12 --device cpu').split()

def command(out, capsys, *more):
    "Exit code and error lines of the command"
    code = cli.main(['train', *OPTIONS, '--out', str(out), *more])
    return code, capsys.readouterr().err

def test_the_command_on_a_full_disk(mounted, tmp_path, capsys, caplog):
    disk = mounted('size=40m')
    fill(disk)
    code, err = command(disk/'run', capsys)
    assert code == 1 and 'no space left on the disk' in err and 'Traceback' not in err and len(err.splitlines()) == 1

def test_the_command_on_a_disk_that_fills(mounted, tmp_path, capsys, caplog, monkeypatch):
    "What does not fit is elsewhere, said, and the exit code is 1"
    disk = mounted('size=40m')
    monkeypatch.setattr(display.ProgressLine, '__call__', lambda self, t, m: fill(disk))
    code, err = command(disk/'run', capsys, '--fallback-dir', str(tmp_path))
    there = Run(disk/'run', str(tmp_path)).elsewhere()
    assert code == 1 and 'Traceback' not in err
    assert is_whole(there.path/'policy') and there.read('summary.json')['steps'] == 4 and (there.path/'curves.png').exists()
    assert len(there.metrics()) == 4 and is_whole(there.path/'checkpoint-4')

# ## Two runs in one directory

def gone():
    "The number of a process that is no more"
    process = subprocess.Popen(['true'])
    process.wait()
    return process.pid

CARDS = { # Of a run that was here: may it be taken over?
    'a process that is gone': (lambda me: me | dict(pid=gone()), 0, True),
    'a number that was used again': (lambda me: me | dict(pid=os.getppid(), began=1e9), 0, True),
    'our own number, of an earlier life': (lambda me: me | dict(began=me['began']-1000), 0, True),
    'far away, long ago': (lambda me: me | dict(host='elsewhere'), 7200, True),
    'far away, just now': (lambda me: me | dict(host='elsewhere'), 60, False),
    'another that is alive': (lambda me: me | dict(pid=os.getppid(), began=None), 0, False),
    'empty': (lambda me: '', 0, True),
    'half': (lambda me: json.dumps(me)[:20], 0, True),
    'a list': (lambda me: [1, 2], 0, True),
    'words for numbers': (lambda me: me | dict(pid='one'), 0, True),
    'nothing in it': (lambda me: {}, 0, True)}

@pytest.mark.parametrize('name', CARDS)
def test_a_card_that_was_left(name, tmp_path):
    make, age, free = CARDS[name]
    left, path = make(card()), tmp_path/'run.lock'
    path.write_text(left if isinstance(left, str) else json.dumps(left))
    os.utime(path, (time.time()-age,)*2)
    lock = RunLock(tmp_path)
    if free:
        with lock: assert json.loads(path.read_text()) == card()
        assert not path.exists()
    else:
        with pytest.raises(ValueError, match='is in use by another run'): lock.take()
        assert json.loads(path.read_text()) == left

def test_a_second_run_is_refused(tmp_path, capsys):
    "In another process, in this one, and by the command; the first goes on"
    t = small(tmp_path/'run', tmp_path)
    steps = t.steps()
    next(steps)
    def second():
        with pytest.raises(ValueError, match='is in use by another run'):
            small(tmp_path/'run', tmp_path).train(resume_from_checkpoint=True)
        return 0
    assert second() == forked(second) == 0
    code, err = command(tmp_path/'run', capsys, '--resume')
    assert code == 2 and 'is in use by another run' in err and len(err.splitlines()) == 1
    assert len(list(steps)) == 3 and not (tmp_path/'run/run.lock').exists()

def test_killed_and_taken_over(tmp_path, caplog):
    def work():
        small(tmp_path/'run', tmp_path, [events((2, lambda: os.kill(os.getpid(), signal.SIGKILL)))], save_steps=1).train()
    assert forked(work) == -signal.SIGKILL and (tmp_path/'run/run.lock').exists()
    assert small(tmp_path/'run', tmp_path).train(resume_from_checkpoint=True)['step'] == 4
    assert 'is taken over' in caplog.text

def test_children_hold_nothing(tmp_path):
    "A child that was forked in the middle neither releases the lock at its end nor holds it afterwards"
    lock = RunLock(tmp_path)
    with lock:
        def work():
            lock.release()
            return 0
        assert forked(work) == 0 and (tmp_path/'run.lock').exists()
        child = os.fork()
        if not child:
            time.sleep(20)
            os._exit(0)
    try:
        with RunLock(tmp_path): pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

def test_only_one_takes_over(tmp_path):
    "Eight processes find the card of one that is gone at the same moment"
    for _ in range(2):
        (tmp_path/'run.lock').write_text(json.dumps(card() | dict(pid=gone())))
        start, children, (tried, tell) = time.time()+.1, [], os.pipe()
        for n in range(8):
            child = os.fork()
            if not child:
                time.sleep(max(start-time.time(), 0))
                try: RunLock(tmp_path).take()
                except ValueError: os._exit(os.write(tell, b'1'))
                except BaseException: os._exit(2)
                for _ in range(7): # it is at work until all others have tried
                    if not select.select([tried], [], [], 10)[0] or not os.read(tried, 1): break
                os._exit(0)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children]
        os.close(tried)
        os.close(tell)
        assert sorted(codes) == [0]+[1]*7

def test_released_after_an_error(tmp_path):
    def broken(t, m): raise KeyError('a callback')
    with pytest.raises(KeyError): small(tmp_path/'run', tmp_path, [broken]).train()
    assert not (tmp_path/'run/run.lock').exists()

@pytest.mark.parametrize('command', ['inspect', 'plot'])
def test_a_picture_or_page_never_replaces_a_directory(command, tmp_path, capsys):
    run = Run(tmp_path/'run.png').start({})
    run.log(dict(step=1, reward=1.))
    before = sorted(p.name for p in run.path.iterdir())
    assert cli.main([command, str(run.path), '-o', str(run.path)]) == 1
    assert 'there is a directory with this name' in capsys.readouterr().err
    assert sorted(p.name for p in run.path.iterdir()) == before

def test_a_file_never_replaces_a_device(tmp_path):
    os.mkfifo(tmp_path/'pipe')
    with pytest.raises(NotSaved, match='there is a device with this name'): write_whole(tmp_path/'pipe', Path.touch)
    assert [p.name for p in tmp_path.iterdir()] == ['pipe'] and not (tmp_path/'pipe').is_file()
