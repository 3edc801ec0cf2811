"A run that another process writes, shown from its directory: half lines, files that are replaced, processes that are gone, tables that are damaged"
import io, json, os, re, shutil, socket, subprocess, sys, threading, time
import pytest, torch
from grpo_lit.core import four_answers
from grpo_lit.policy import tiny_tokenizer
from grpo_lit.run import cli, following, watch as watching
from grpo_lit.run.following import Followed, Lines, Steps
from grpo_lit.run.livepage import Page
from grpo_lit.run.runs import Run
from grpo_lit.run.watch import watch

def metrics(n, total=6): return {'step': n, 'total': total, 'reward': n/total, 'reward_std': .2, 'step_time': .1, 'kl': .01*n,
                                 'tokens_per_second': 99., 'completions/mean_length': 9., 'rewards/right/mean': n/total}

def written(tmp_path, steps=3, total=6, **config):
    "A run directory as a run leaves it"
    run = Run(tmp_path/'run')
    run.start(dict(args=config))
    for n in range(1, steps+1): run.log(metrics(n, total))
    return run

def dead():
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    return process.pid

def seen(path, **how):
    "What was said of it, and how it stands"
    out = io.StringIO()
    return watch(path, stream=out, poll=.01, **how), out.getvalue()

# How it stands -----------------------------------------------------------------------------------------------------------

def test_a_run_that_is_done(tmp_path):
    state, said = seen(written(tmp_path, 6).path)
    assert state == 'done' and 'step 6/6' in said

def test_a_run_that_has_stopped(tmp_path):
    assert seen(written(tmp_path).path)[0] == 'stopped'

def test_a_run_that_was_killed(tmp_path):
    run = written(tmp_path)
    (run.path/'run.lock').write_text(json.dumps(dict(pid=dead(), host=socket.gethostname(), began=None)))
    state, _ = seen(run.path)
    assert state.startswith('gone: process') and 'after step 3 of 6' in state
    assert 'gone' in Page(Followed(run.path).figures()).html

@pytest.mark.parametrize('age, state', [(60, 'running'), (7200, 'gone')])
def test_a_run_on_another_machine(age, state, tmp_path):
    run = written(tmp_path)
    (run.path/'run.lock').write_text(json.dumps(dict(pid=1, host='<b>far\x1b', began=None)))
    os.utime(run.path/'run.lock', (time.time()-age,)*2)
    found = Followed(run.path).figures()
    assert found.state.startswith(state) and '<b>far' not in Page(found).html and '\x1b' not in str(Page(found))
    assert ('no sign of life' in found.note) == (state == 'running')

@pytest.mark.parametrize('card', ['', '{', '[]', '{"pid": "x"}'])
def test_a_card_that_is_being_written(card, tmp_path):
    "It is no reason to think that the run has ended, for a while"
    run = written(tmp_path)
    (run.path/'run.lock').write_text(card)
    assert Followed(run.path).figures().state == 'running'
    os.utime(run.path/'run.lock', (time.time()-60,)*2)
    assert Followed(run.path).figures().state == 'stopped'

def test_one_that_has_not_begun(tmp_path):
    assert seen(tmp_path/'nothing', wait=False)[0].startswith('waiting')
    assert seen(tmp_path/'nothing', timeout=.05)[0].startswith('waiting')
    assert not (tmp_path/'nothing').exists()

def test_a_file_is_no_run(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(ValueError, match='is a file'): watch(tmp_path/'file')

def test_the_summary_of_a_run_that_was_cut_short(tmp_path):
    run = written(tmp_path)
    run.write('summary.json', dict(steps=3))
    assert seen(run.path)[0] == 'done'

# While it is written -----------------------------------------------------------------------------------------------------

def test_it_stays_until_the_end(tmp_path):
    def works():
        with run.lock:
            run.start(dict(args={}))
            for n in range(1, 7):
                run.log(metrics(n))
                time.sleep(.05)
    run = Run(tmp_path/'run')
    thread = threading.Thread(target=works)
    begun = threading.Timer(.1, thread.start)
    begun.start()
    state, said = seen(run.path)
    thread.join()
    assert state == 'done' and [int(n) for n in re.findall(r'step (\d)/6', said)] == [1, 2, 3, 4, 5, 6]

def test_all_steps_of_a_run_that_ends_between_two_looks(tmp_path, monkeypatch):
    "Who is at work is asked before the steps are read: whoever is gone then has written all"
    run, real = written(tmp_path, 5), following.Holder
    def ends_meanwhile(record):
        owner = real(record)
        run.log(metrics(6))
        return owner
    monkeypatch.setattr(following, 'Holder', ends_meanwhile)
    assert Followed(run.path).figures().state == 'done'

@pytest.mark.parametrize('cut', [1, 9, -1])
def test_half_a_line_waits(cut, tmp_path):
    run = written(tmp_path, 2)
    steps, file = Steps(run.path/'metrics.jsonl'), run.path/'metrics.jsonl'
    assert len(steps()) == 2
    line = (json.dumps(metrics(3))+'\n').encode()
    with open(file, 'ab', buffering=0) as f:
        f.write(line[:cut])
        assert len(steps()) == 2
        f.write(line[cut:])
    assert steps()[2] == metrics(3)

def test_a_file_that_is_replaced_is_read_anew(tmp_path):
    "A run that goes on from a checkpoint forgets what stands behind it"
    run = written(tmp_path, 5)
    followed = Followed(run.path)
    assert followed.figures().done == 5
    run.forget(2)
    assert followed.figures().done == 2
    run.log(metrics(3))
    assert [m['step'] for m in followed.figures().steps] == [1, 2, 3]

def test_a_file_that_is_shorter_or_gone(tmp_path):
    run = written(tmp_path, 5)
    followed = Followed(run.path)
    followed.figures()
    (run.path/'metrics.jsonl').write_text(json.dumps(metrics(1))+'\n')
    assert followed.figures().done == 1
    (run.path/'metrics.jsonl').unlink()
    assert followed.figures().steps == []

@pytest.mark.parametrize('away', ['moved', 'removed', 'a file in its place'])
def test_a_directory_that_is_no_longer_there(away, tmp_path, monkeypatch):
    "What was seen stays to be seen; a moment later the watching ends"
    run = written(tmp_path, 2)
    with run.lock:
        followed = Followed(run.path)
        assert followed.figures().state == 'running'
        os.rename(run.path, tmp_path/'elsewhere')
        if away == 'removed': shutil.rmtree(tmp_path/'elsewhere')
        if away == 'a file in its place': run.path.write_text('')
        found = followed.figures()
        assert (found.state, found.done) == ('running', 2) # a network disk comes back
        monkeypatch.setattr(following, 'ABSENCE', -1.)
        found = followed.figures()
    assert found.state == 'gone: the directory is no longer there, after step 2 of 6' and len(found.steps) == 2
    if away == 'moved':
        os.rename(tmp_path/'elsewhere', run.path)
        assert followed.figures().state == 'running'

@pytest.mark.parametrize('junk', [b'\0\0\0\n', b'\xff\xfe\n', b'[1]\n', b'{"step": -1}\n', b'{"step": "x", "reward": 1}\n', b'{"reward": 1}\n', b'\n'*9, b'['*9999+b'\n'])
def test_damaged_lines_are_left_out(junk, tmp_path):
    run = written(tmp_path, 1)
    with open(run.path/'metrics.jsonl', 'ab') as f: f.write(junk)
    run.log(metrics(2))
    assert [m['step'] for m in Followed(run.path).figures().steps] == [1, 2]

HUGE = '1'+'0'*400
ODD = [(name, value) for name in ('total', 'step', 'reward', 'step_time', 'kl')
       for value in ('"abc"', 'null', '[1]', HUGE, '1e308', 'NaN', '-5')]

@pytest.mark.parametrize('name,value', ODD)
def test_odd_figures_are_shown_somehow(name, value, tmp_path):
    run, rest = written(tmp_path, 1), metrics(2)
    rest.pop(name)
    with open(run.path/'metrics.jsonl', 'a') as f: f.write(f'{json.dumps(rest)[:-1]}, "{name}": {value}}}\n')
    assert seen(run.path, wait=False)[0]
    assert Page(Followed(run.path).figures()).html

def test_what_is_null_in_the_file(tmp_path):
    run = written(tmp_path, 1)
    run.log(metrics(2) | dict(reward=float('nan'), kl=float('inf'), tokens_per_second=None))
    state, said = seen(run.path)
    assert state == 'stopped' and 'step 2/6' in said

def test_an_evaluation_joins_its_step(tmp_path):
    run = written(tmp_path, 2)
    run.log(dict(step=2, eval_reward=.75, eval_reward_interval=.1))
    figures = Followed(run.path).figures()
    assert len(figures.steps) == 2 and 'evaluation' in [c.title for c in figures.curves]

def test_lines_of_a_directory(tmp_path):
    "Nothing that can be read, and no error"
    assert Lines(tmp_path).new() == ([], False)

# What it shows -----------------------------------------------------------------------------------------------------------

def rollouts(completions=None, rewards=(0., 1., 0., 0.)):
    ro = four_answers(tiny_tokenizer())
    ro.completions = completions or ro.completions
    ro.reward_names, ro.reward_table = ['right'], torch.tensor(rewards)[:,None]
    ro.rewards, ro.advantages = torch.tensor(rewards), torch.tensor(rewards)
    return ro

def test_the_newest_group(tmp_path):
    run = written(tmp_path)
    run.save_rollouts(1, rollouts(['antique']*4))
    run.save_rollouts(3, rollouts(['<b>new</b>\x1b']*4))
    page = Page(Followed(run.path).figures())
    assert 'step 3, group 1 of 1' in page.html and '&lt;b&gt;new&lt;/b&gt;\\x1b' in page.html and 'antique' not in page.html

def test_a_table_that_is_damaged(tmp_path):
    run = written(tmp_path)
    run.save_rollouts(1, rollouts(['older']*4))
    (run.path/'rollouts'/'step-000002.parquet').write_bytes(b'PAR1 half')
    assert Followed(run.path).figures().group.title.startswith('step 1')
    (run.path/'rollouts'/'step-000003.parquet.part').write_bytes(b'x')
    (run.path/'rollouts'/'notes.parquet').write_bytes(b'x')
    assert Followed(run.path).figures().group.title.startswith('step 1')

def test_a_table_that_is_replaced_is_read_again(tmp_path):
    run = written(tmp_path)
    run.save_rollouts(1, rollouts(['first']*4))
    followed = Followed(run.path)
    assert followed.figures().group.rows[0]['completion'] == 'first'
    run.save_rollouts(1, rollouts(['second']*4))
    os.utime(run.rollout_file(1), (1, 1))
    assert followed.figures().group.rows[0]['completion'] == 'second'

def test_events_as_they_come(tmp_path):
    run = written(tmp_path)
    followed = Followed(run.path)
    assert followed.figures().events == []
    with open(run.path/'events.jsonl', 'a') as f: f.write('{"step": 2, "event": "beta", "value": 0.1, "before": 0.04}\n{"step": 3, "ev')
    assert [e['event'] for e in followed.figures().events] == ['beta']
    page = Page(followed.figures())
    assert 'beta 0.04 → 0.1' in page.html and 'stroke-dasharray' in page.html

@pytest.mark.slow
def test_a_large_table_is_not_read_whole(tmp_path, monkeypatch):
    import pyarrow as pa, pyarrow.parquet as pq
    run = written(tmp_path)
    rows = [dict(step=1, group=n//8, prompt='p', completion='x', reward=float(n%2)) for n in range(100_000)]
    pq.write_table(pa.Table.from_pylist(rows), run.rollout_file(1))
    found = following.first_rows(run.rollout_file(1))
    assert len(found) <= following.MOST_READ and len(found)%8 == 0

# In a notebook, and from a command line ----------------------------------------------------------------------------------

def test_one_output_in_a_notebook(tmp_path, monkeypatch):
    pages = []
    class Handle:
        def update(self, page): pages.append(page)
    monkeypatch.setattr('IPython.display.display', lambda page, display_id: pages.append(page) or Handle())
    monkeypatch.setattr(watching, 'in_notebook', lambda: True)
    assert watch(written(tmp_path, 6).path) == 'done'
    assert '6/6' in str(pages[-1]) and 'done' in pages[-1].html

def test_an_interrupt_ends_the_watching(tmp_path, monkeypatch):
    run, closed = written(tmp_path), []
    class Screen:
        calm = True
        def __init__(self, stream): pass
        def open(self, figures): pass
        def draw(self, figures): raise KeyboardInterrupt
        def close(self, figures): closed.append(figures)
    monkeypatch.setattr(watching, 'screen_for', Screen)
    with pytest.raises(KeyboardInterrupt): watch(run.path, stream=io.StringIO())
    assert closed[0].note == 'no longer watched'

def test_the_command(tmp_path, capsys):
    assert cli.main(['watch', str(written(tmp_path, 6).path)]) == 0
    assert 'step 6/6' in capsys.readouterr().out
    (tmp_path/'run'/'run.lock').write_text(json.dumps(dict(pid=dead(), host=socket.gethostname(), began=None)))
    assert cli.main(['watch', str(tmp_path/'run')]) == 1

def test_the_command_on_what_is_no_run(tmp_path, capsys):
    assert cli.main(['watch', __file__]) == 2
    assert cli.main(['watch', str(tmp_path/'nothing'), '--no-wait']) == 0
    assert 'has not begun' in capsys.readouterr().out

@pytest.mark.slow
def test_a_process_that_trains_and_is_killed(tmp_path):
    code = f"""
from grpo_lit import GRPOConfig, GRPOTrainer, load_policy
from grpo_lit.tasks import addition_task
model, tokenizer = load_policy('tiny', device='cpu')
def short(completions, **kw): return [-float(len(c)) for c in completions]
args = GRPOConfig({str(tmp_path/'run')!r}, max_steps=1000, per_device_train_batch_size=8, num_generations=4, max_completion_length=8, use_cpu=True, gold_check=0)
GRPOTrainer(model, short, args, addition_task().train, processing_class=tokenizer).train()
"""
    process = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.DEVNULL)
    def kill():
        while not len(Run(tmp_path/'run').metrics()) > 3: time.sleep(.1)
        process.kill()
        process.wait()
    killer = threading.Thread(target=kill)
    killer.start()
    out = io.StringIO()
    state = watch(tmp_path/'run', stream=out, timeout=300)
    killer.join()
    assert state.startswith('gone: process') and 'step 1/1000' in out.getvalue()
    assert Followed(tmp_path/'run').figures().group is not None

def test_a_picture_that_fails_at_once_gives_the_terminal_back(monkeypatch):
    pytest.importorskip('rich')
    from grpo_lit.run import screen
    def broken(*args): raise ValueError('no picture')
    monkeypatch.setattr(screen, 'rich_page', broken)
    shown = screen.RichScreen(io.StringIO())
    with pytest.raises(ValueError, match='no picture'): shown.open(None)
    assert not screen.RichScreen.is_open and shown.handler not in screen.log.handlers
    assert not shown.live.is_started

def test_looks_without_a_pause(tmp_path):
    assert watch(tmp_path, stream=io.StringIO(), poll=-1, timeout=.05).startswith('waiting')

@pytest.mark.parametrize('pid', [-1, 0, 10**30])
def test_a_card_with_a_number_that_no_process_has(pid, tmp_path):
    run = written(tmp_path)
    (run.path/'run.lock').write_text(json.dumps(dict(pid=pid, host=socket.gethostname(), began=None)))
    assert Followed(run.path).figures().state.startswith(f'gone: process {pid} ')

def test_a_run_that_does_not_say_how_long_it_will_be(tmp_path):
    run = written(tmp_path, steps=0)
    for n in (1, 2): run.log(dict(step=n, reward=1e299, step_time=.1, kl=1e299, tokens_per_second=1e299))
    _, text = seen(run.path)
    assert 'step 2' in text and '2/0' not in text and '█' not in text and 'ETA' not in text and '1e+299' in text and '0'*20 not in text

@pytest.mark.parametrize('wrong', [None, 3, b'x'], ids=repr)
def test_what_names_no_run(wrong):
    with pytest.raises(ValueError, match='a run is given by its directory'): watch(wrong, wait=False)
