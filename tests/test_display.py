"What a run shows by default: in a terminal, in a file, in a notebook; once, in 80 columns, and again when it is called again"
import io, logging, re
import pytest, torch
from grpo_lit.core import four_answers
from grpo_lit.policy import load_policy, tiny_tokenizer
from grpo_lit.run import display, phases
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.experiment import fitting_table
from grpo_lit.run.trainer import GRPOTrainer
from grpo_lit.run.watch import LiveDisplay, ProgressLine
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
    screen = Terminal()
    monkeypatch.setattr(display, 'ProgressLine', lambda: ProgressLine(screen))
    return screen

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
    assert '4/4' in str(page) and str(page).count('\n') == 5
    assert '<table>' in page._repr_html_() and 'width:100%' in page._repr_html_()

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
