"What a run shows by default: in a terminal, in a file, in a notebook; once, in 80 columns, and again when it is called again"
import io, logging, os, re, subprocess, sys, threading, time
import pytest, torch
from grpo_lit.core import four_answers
from grpo_lit.policy import load_policy, tiny_tokenizer
from grpo_lit.run import display, phases, screen
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.experiment import fitting_table
from grpo_lit.run.trainer import GRPOTrainer
from grpo_lit.run.display import LiveDisplay, ProgressLine
from grpo_lit.tasks import addition_task

pytestmark = [pytest.mark.filterwarnings('ignore::UserWarning'), pytest.mark.filterwarnings('ignore::FutureWarning')]
rows = addition_task().train[:64]
SMALL = dict(max_steps=4, num_generations=4, per_device_train_batch_size=8, max_completion_length=8, learning_rate=1e-4,
             seed=1, use_cpu=True, gold_check=0)

def varied(completions, **columns): return [sum(map(ord, c))%7/7 for c in completions]

def trainer(callbacks=(), rewards=varied, **settings):
    model, tokenizer = load_policy('tiny', device='cpu')
    return GRPOTrainer(model, rewards, GRPOConfig(**SMALL | settings), rows, rows[:2], tokenizer, callbacks=callbacks)

class Terminal(io.StringIO):
    def isatty(self): return True

def screen_of(text): # What stays on the screen, line by line
    "Carriage returns go back, and the erased is gone"
    return [re.split('\r(?:\x1b\\[K)?', line)[-1] for line in text.split('\n')]

@pytest.fixture
def terminal(monkeypatch):
    "A terminal of 80 columns, for what is shown by default"
    monkeypatch.setenv('COLUMNS', '80')
    monkeypatch.setenv('TERM', 'xterm')
    stream = Terminal()
    monkeypatch.setattr(display, 'ProgressLine', lambda: ProgressLine(stream))
    monkeypatch.setattr(screen, 'can_draw', lambda stream: False) # as without rich
    return stream

@pytest.fixture
def notebook(monkeypatch):
    "Pages as a notebook would get them: (display id, page)"
    pages = []
    class Handle:
        def __init__(self, n): self.n = n
        def update(self, page): pages.append((self.n, page))
    def show(page, display_id=None):
        n = len({n for n, _ in pages})
        pages.append((n, page))
        return Handle(n)
    monkeypatch.setattr('IPython.display.display', show)
    for module in (display, phases): monkeypatch.setattr(module, 'in_notebook', lambda: True)
    return pages

# In a terminal -----------------------------------------------------------------------------------------------------------

def test_a_table_and_a_bar(terminal):
    trainer().train()
    lines = screen_of(terminal.getvalue())
    assert lines[0].split() == ['step', 'reward', 'KL', 'length', 'cut', 'dead', 's/step']
    assert [line.split()[0] for line in lines[1:5]] == ['1', '2', '3', '4']
    assert lines[5].startswith('█'*16) and '4/4' in lines[5] and lines[6:] == ['']
    assert 'ETA' in terminal.getvalue() and max(map(len, lines)) < 80

def test_every_line_fits_also_with_long_numbers(terminal):
    trainer(rewards=lambda completions, **kw: [1e12*v for v in varied(completions)], max_steps=2, eval_steps=1).train()
    pieces = re.split('[\r\n]', terminal.getvalue().replace('\x1b[K', ''))
    assert max(map(len, pieces)) < 80 and 'eval' in pieces[2]

@pytest.mark.slow
@pytest.mark.parametrize('columns', ['40', '20'])
def test_a_narrow_terminal(columns, terminal, monkeypatch):
    monkeypatch.setenv('COLUMNS', columns)
    trainer(max_steps=2).train()
    pieces = re.split('[\r\n]', terminal.getvalue().replace('\x1b[K', ''))
    assert max(map(len, pieces)) < int(columns)

def test_a_line_of_the_log_does_not_break_the_bar(terminal):
    package = logging.getLogger('grpo_lit')
    before = list(package.handlers)
    def warns(trainer, m):
        if m['step'] == 2: display.log.warning('careful \x1b[2J')
    t = trainer([warns])
    root = logging.getLogger()
    kept, root.handlers = root.handlers, [] # pytest has some
    try: t.train()
    finally: root.handlers = kept
    assert 'careful \\x1b[2J' in screen_of(terminal.getvalue()) and package.handlers == before

@pytest.mark.slow
def test_an_error_leaves_no_handler(terminal):
    def breaks(trainer, m): raise KeyError('mine')
    before = list(logging.getLogger('grpo_lit').handlers)
    with pytest.raises(KeyError): trainer([breaks]).train()
    assert logging.getLogger('grpo_lit').handlers == before

# In a file, and not at all -----------------------------------------------------------------------------------------------

def test_a_file_gets_a_line_now_and_then(capsys):
    trainer(max_steps=30, max_completion_length=2).train()
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith('step ') and 'ETA' in line]) == 11 # the first, and ten more
    assert '\r' not in ''.join(lines) and max(len(line) for line in lines if 'ETA' in line) < 80

def test_nothing_if_it_is_switched_off(capsys, terminal):
    trainer(disable_tqdm=True).train()
    assert terminal.getvalue() == ''

def test_steps_show_nothing(capsys):
    "Who makes the steps has the metrics"
    list(trainer().steps())
    assert capsys.readouterr() == ('', '')

@pytest.mark.parametrize('callback', [ProgressLine, LiveDisplay])
def test_a_callback_that_shows_takes_the_place(callback, terminal, notebook):
    view = callback(screen := Terminal()) if callback is ProgressLine else callback(hz=1e9)
    trainer([view]).train()
    assert terminal.getvalue() == ''
    if callback is ProgressLine: assert notebook == [] and screen.getvalue().count('s/step') == 1
    else: assert len({n for n, _ in notebook}) == 1

def test_a_view_that_fails_ends_no_run(monkeypatch):
    class Broken:
        __slots__ = ()
        shows_progress = True
        def begin(self, trainer): raise OSError('no display')
        def __call__(self, trainer, m): raise OSError('no display')
        def end(self, trainer): raise OSError('no display')
    monkeypatch.setattr(display, 'ProgressLine', Broken)
    assert trainer().train()['step'] == 4

# In a notebook -----------------------------------------------------------------------------------------------------------

def test_one_output_that_is_updated(notebook):
    trainer().train()
    assert {n for n, _ in notebook} == {0}
    page = notebook[-1][1]
    assert '4/4' in str(page) and 'done' in str(page) and str(page).count('\n') == 5
    assert '<table>' in page._repr_html_() and 'width:100%' in page._repr_html_()
    assert page._repr_html_().count('<img') >= 5 # curves

def test_the_cell_is_run_again(notebook):
    "A run that is done shows itself again, in the cell that asked; so does one with a view of its own"
    view = LiveDisplay()
    for callbacks in ([], [view]):
        notebook.clear()
        t = trainer(callbacks)
        t.train()
        t.train()
        assert {n for n, _ in notebook} == {0, 1}

@pytest.mark.slow
def test_long_runs_show_the_newest_steps(notebook):
    trainer(max_steps=14, max_completion_length=2).train()
    assert [line.split()[0] for line in str(notebook[-1][1]).splitlines()[2:]] == [str(n) for n in range(5, 15)]

def test_how_it_ended_stays_on_the_page(notebook):
    def breaks(trainer, m):
        if m['step'] == 2: raise KeyError('<i>mine</i>')
    with pytest.raises(KeyError): trainer([breaks]).train()
    page = notebook[-1][1]
    assert "failed: KeyError: '<i>mine</i>'" in str(page)
    assert 'failed' in page._repr_html_() and '<i>' not in page._repr_html_()

@pytest.mark.slow
def test_an_interrupt_stays_on_the_page(notebook):
    def stops(trainer, m):
        if m['step'] == 2: raise KeyboardInterrupt
    trainer([stops]).train()
    assert 'interrupted' in str(notebook[-1][1]) and '2/4' in str(notebook[-1][1])

@pytest.mark.slow
def test_two_trainers_take_turns_in_two_cells(notebook):
    runs = [trainer(), trainer()]
    views = [display.LiveDisplay(hz=1e9) for _ in runs]
    for t, view in zip(runs, views): view.begin(t)
    for steps in zip(*(t.steps() for t in runs)):
        for t, view, m in zip(runs, views, steps): view(t, m)
    assert [n for n, _ in notebook] == [0, 1]+[0, 1]*4

def test_switched_off_for_one_call(notebook, terminal):
    t = trainer(max_steps=2, eval_steps=1)
    t.train(live=False)
    assert notebook == [] and terminal.getvalue() == ''

@pytest.mark.slow
def test_an_evaluation_is_said_and_leaves_no_output_of_its_own(notebook, monkeypatch):
    monkeypatch.setattr(phases.Phase, '__init__', at_once(phases.Phase.__init__))
    t = trainer(max_steps=2, eval_steps=1)
    slow = t.evaluate
    def evaluates():
        time.sleep(1.2)
        return slow()
    t.evaluate = evaluates
    t.train()
    assert {n for n, _ in notebook} == {0} and any('evaluating' in str(page) for _, page in notebook)
    assert 'evaluating' not in str(notebook[-1][1])

def at_once(init):
    def begin(self, *args, **kw):
        init(self, *args, **kw)
        self.began -= 60
    return begin

def test_steps_of_a_resumed_run_begin_where_the_run_did(notebook, tmp_path):
    trainer(max_steps=2, output_dir=str(tmp_path)).train(live=False)
    notebook.clear()
    trainer(max_steps=4, output_dir=str(tmp_path)).train(resume_from_checkpoint=True)
    assert [line.split()[0] for line in str(notebook[-1][1]).splitlines()[1:]] == ['step', '1', '2', '3', '4']

@pytest.mark.parametrize('rewards, named', [([varied], ['reward (varied)']), ([varied, lambda completions, **kw: [0.]*len(completions)], ['varied', '&lt;lambda&gt;'])])
def test_each_reward_function_has_a_curve(rewards, named, notebook):
    trainer(rewards=rewards, max_steps=2).train()
    html = notebook[-1][1]._repr_html_()
    assert all(f'{name}' in html for name in named)

def figures_of_steps(n, **more):
    "A run of so many steps that never was"
    def step(k): return {'step': k, 'total': n, 'reward': k%7, 'reward_std': .5, 'kl': 1/k, 'entropy': float('nan'), 'step_time': 1.,
        'tokens_per_second': 9., 'completions/mean_length': 5., 'time/sample': .5, 'rewards/a/mean': 1., 'rewards/b/mean': float('inf')}
    return display.Figures([step(k) for k in range(1, n+1)], n, n, **more)

def test_the_page_of_a_long_run_is_as_small():
    from grpo_lit.run.livepage import Page
    short, long = (len(Page(figures_of_steps(n)).html) for n in (200, 20_000))
    assert long < 1.2*short < 60_000

def test_figures_that_are_no_numbers_are_no_points():
    from grpo_lit.run.livepage import Page
    figures = figures_of_steps(3)
    assert [c.title for c in figures.curves] == ['reward', 'a', 'KL', 'length', 'tokens/s']
    assert 'nan' not in Page(figures).html and 'inf' not in Page(figures).html

@pytest.mark.parametrize('steps', [[], [{'step': 1}], [{'step': 1, 'reward': float('nan')}], [{'eval_reward': .5, 'step': 3}],
                                   [{'step': 1, 'reward': None, 'kl': 'no', 'event/beta': {'a': '<b>'}}]])
def test_a_page_of_nearly_nothing(steps):
    from grpo_lit.run.livepage import Page
    page = Page(display.Figures(steps, len(steps), 0))
    assert "'<b>'" not in page.html and str(page)
    for kind in (screen.LineScreen, screen.TableScreen):
        shown = kind(io.StringIO())
        shown.open(figures := display.Figures(steps, len(steps), 0))
        shown.draw(figures)
        shown.close(figures)

def test_drawing_that_is_slow_is_done_less_often(monkeypatch):
    from grpo_lit.run import livepage
    now, pace = [100.], livepage.RedrawPace(hz=1e9)
    monkeypatch.setattr(livepage.time, 'monotonic', lambda: now[0])
    for seconds in (.2, .01, .01): # the first has loaded something
        with pace.drawing(): now[0] += seconds
    waits = pace.next-now[0]
    monkeypatch.undo()
    assert .5 < waits < 1 # at least 50 times as long

def test_drawn_from_several_threads(notebook):
    t = trainer(max_steps=2)
    view = display.LiveDisplay(hz=1e9)
    view.begin(t)
    for m in t.steps():
        threads = [threading.Thread(target=view, args=(t, m)) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    view.end(t)
    assert {n for n, _ in notebook} == {0}

# In a terminal with rich -------------------------------------------------------------------------------------------------

SCRIPT = """
import logging, sys, warnings
from grpo_lit.run.figures import Figures
from grpo_lit.run.screen import screen_for, log
steps = [{'step': n, 'total': 9, 'reward': n/9, 'reward_std': .1, 'kl': .01, 'step_time': .5, 'tokens_per_second': 99.,
          'time/sample': .3, 'rewards/[bold]a/mean': .5, 'rewards/b/mean': .1} for n in range(1, 10)]
screen = screen_for(sys.stderr)
screen.open(Figures([], 0, 9))
for n in range(1, 10):
    screen.draw(Figures(steps[:n], n, 9))
    if n == 3: print('printed by a reward')
    if n == 4: log.warning('careful \x1b[2J')
    if n == 5: print('to stderr', file=sys.stderr)
screen.close(Figures(steps, 9, 9, 'done'))
print(type(screen).__name__)
"""

def in_a_terminal(columns=80, lines=30, **environment): # What was written to it
    "Run the script in a terminal of its own"
    pty = pytest.importorskip('pty')
    import fcntl, struct, termios
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', lines, columns, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ('COLUMNS', 'LINES', 'NO_COLOR')} | dict(TERM='xterm-256color') | environment
    process = subprocess.Popen([sys.executable, '-c', SCRIPT], stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True)
    os.close(theirs)
    written = b''
    while True:
        try: piece = os.read(ours, 65536)
        except OSError: break # it has been closed
        if not piece: break
        written += piece
    os.close(ours)
    assert process.wait(60) == 0, written.decode(errors='replace')
    return written.decode(errors='replace')

def plain_text(written): return re.sub('\x1b\\[[0-9;?]*[a-zA-Z]', '', written)

@pytest.mark.slow
def test_rich_draws_and_what_is_printed_stays():
    pytest.importorskip('rich')
    written = in_a_terminal()
    text = plain_text(written)
    assert 'RichScreen' in text and '\x1b[2J' not in written
    for kept in ('printed by a reward', 'careful \\x1b[2J', 'to stderr'): assert text.count(kept) == 1
    assert '[bold]a' in text and text.rindex('done · step 9/9') < text.rindex('RichScreen')
    assert written.count('\x1b[?25l') == written.count('\x1b[?25h') # the cursor is back

@pytest.mark.slow
@pytest.mark.parametrize('environment, kind', [(dict(TERM='dumb'), 'TableScreen'), (dict(NO_COLOR='1'), 'RichScreen'),
                                               (dict(PYTHONIOENCODING='ascii'), 'TableScreen')])
def test_other_terminals(environment, kind):
    pytest.importorskip('rich')
    written = in_a_terminal(**environment)
    assert kind in written and '9/9' in written
    if 'NO_COLOR' in environment: assert not re.search('\x1b\\[[0-9;]*3[0-9]m', written)
    if kind == 'TableScreen': assert '####' in written or '████' in written

@pytest.mark.slow
@pytest.mark.parametrize('columns, lines', [(44, 24), (200, 8), (80, 3)])
def test_small_terminals_with_rich(columns, lines):
    written = plain_text(in_a_terminal(columns, lines))
    assert max(map(len, re.split('[\r\n]+', written))) <= columns

@pytest.mark.parametrize('width', [40, 80, 200])
def test_a_picture_fits(width):
    console, cells = pytest.importorskip('rich.console'), pytest.importorskip('rich.cells')
    group = screen_group(['x'*5000, '\x1b[2J[red]漢字'*99])
    figures = figures_of_steps(300, events=[dict(step=3, event='beta', value=.1, before=.04)], group=lambda: group)
    for height in (4, 10, 40):
        seen = console.Console(file=io.StringIO(), width=width, height=height)
        seen.print(screen.rich_page(figures, width, height))
        rows = seen.file.getvalue().splitlines()
        assert len(rows) <= height and max(map(cells.cell_len, rows)) <= width and '\x1b' not in seen.file.getvalue()

def screen_group(texts):
    from grpo_lit.run.figures import shown_group
    rows = [dict(completion=t, reward=1., advantage=.5) for t in texts]
    return shown_group(3, [rows], 0, 'why?'*50, None, [])

def test_a_second_run_in_the_terminal_gets_lines(monkeypatch):
    pytest.importorskip('rich')
    monkeypatch.setenv('TERM', 'xterm')
    first = screen.RichScreen(Terminal())
    first.open(figures_of_steps(1))
    try: assert isinstance(screen.screen_for(Terminal()), screen.TableScreen)
    finally: first.close(figures_of_steps(1))
    assert isinstance(screen.screen_for(Terminal()), screen.RichScreen)

@pytest.mark.parametrize('encoding', ['ascii', 'cp1252', 'cp437', 'utf-8'])
def test_letters_that_a_terminal_does_not_have(encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    lines_there = screen.TableScreen(stream)
    lines_there.open(figures_of_steps(1))
    lines_there.draw(figures_of_steps(5))
    lines_there.close(figures_of_steps(5))
    stream.flush()
    assert '5/5' in raw.getvalue().decode(encoding)

# Groups ------------------------------------------------------------------------------------------------------------------

CHAT = [dict(role='system', content='Think first. '*20), dict(role='user', content='first?'),
        dict(role='assistant', content='no'), dict(role='user', content='what is 47+85?')]

def group(prompt, completions=None):
    ro = four_answers(tiny_tokenizer())
    ro.prompts = [prompt]
    if completions: ro.completions = completions
    ro.reward_names, ro.reward_table = ['a_reward_with_a_long_name', 'another_one'], torch.zeros(4, 2)
    ro.rewards, ro.advantages = torch.zeros(4), torch.zeros(4)
    return ro

@pytest.mark.parametrize('prompt, title', [(CHAT, 'what is 47+85?'), (CHAT[:1], 'Think first.'), ('47+85=?', '47+85=?'),
                                           ([dict(role='user', content=[dict(type='text', text='hi')])], 'hi')])
def test_the_question_is_shown(prompt, title):
    ro = group(prompt)
    assert title in ro.table().splitlines()[0] and title in ro._repr_html_()

def test_completions_stand_on_the_left():
    html = group(CHAT)._repr_html_()
    assert html.count('<td style="text-align:left"><code>') == 4

@pytest.mark.parametrize('room', [80, 100, 200])
def test_a_group_fits(room):
    wide = group(CHAT, ['x'*500]*4)
    assert max(map(len, fitting_table(wide, room).splitlines())) <= room

def test_hostile_texts_are_escaped():
    ro = group([dict(role='user', content='<script>\x1b[2J\u202e')], ['<img onerror=x>\x1b]0;t\x07']*4)
    assert not {'\x1b', '\u202e', '\x07'} & set(fitting_table(ro, 80)+ro._repr_html_())
    assert '<script>' not in ro._repr_html_() and '<img' not in ro._repr_html_()

# Phases ------------------------------------------------------------------------------------------------------------------

def test_a_phase_in_a_terminal_leaves_nothing(terminal):
    with phases.phase('asking', after=0., stream=terminal) as progress:
        progress(3, 8)
        while '3/8' not in terminal.getvalue(): pass
    assert screen_of(terminal.getvalue()) == ['']

def test_a_phase_in_a_file_is_one_line():
    with phases.phase('asking', after=0., stream=(file := io.StringIO())) as progress:
        while not file.getvalue(): progress(1, 2)
    assert file.getvalue() == 'asking ...\n'

def test_a_phase_that_is_off_or_short_says_nothing(terminal):
    with phases.phase('asking', off=True, after=0., stream=terminal): pass
    with phases.phase('asking', stream=terminal): pass
    assert terminal.getvalue() == ''

def test_an_error_ends_the_phase(terminal):
    with pytest.raises(KeyError):
        with phases.phase('asking'): raise KeyError

def closed():
    stream = io.StringIO()
    stream.close()
    return stream

@pytest.mark.parametrize('stream', [lambda: None, closed], ids=['none', 'closed'])
def test_a_program_without_stderr_trains(stream, monkeypatch):
    t = trainer(max_steps=2)
    monkeypatch.setattr('sys.stderr', stream())
    monkeypatch.setattr('sys.stdout', stream())
    assert t.train()['step'] == 2

@pytest.mark.parametrize('encoding, draws', [('gbk', False), ('big5', False), ('cp437', False), ('latin-1', False), ('utf-8', True), ('gb18030', True)])
def test_a_picture_needs_all_letters(encoding, draws, monkeypatch):
    "Chinese terminals have blocks, and not the letters of every text"
    pytest.importorskip('rich')
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setenv('COLUMNS', '80')
    assert screen.can_draw(io.TextIOWrapper(io.BytesIO(), encoding=encoding)) is draws

def test_a_terminal_without_commands_gets_none(terminal, monkeypatch):
    monkeypatch.setenv('TERM', 'dumb')
    shown = screen.TableScreen(terminal)
    shown.above('a line')
    shown.rewrite('the bar')
    assert '\x1b' not in terminal.getvalue() and 'a line' in terminal.getvalue()
