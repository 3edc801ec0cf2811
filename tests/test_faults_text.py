"""Text of strangers (prompts, completions, columns, names, errors) in tables, pages, log lines and files."""
import html, io, json, logging, subprocess, sys, warnings
from dataclasses import replace
import pytest
import torch
from grpo_lit.core import Rollouts
from grpo_lit.policy import load_policy, tiny_tokenizer
from grpo_lit.rewards.audit import Audit, audit_reward, check_gold
from grpo_lit.rewards.calls import RewardCaller, call_rewards, reward_arguments
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.figures import Curve
from grpo_lit.run.runs import Run, read_parquet, rollout_rows, write_table
from grpo_lit.run.signals import say
from grpo_lit.run.trainer import GRPOTrainer
from grpo_lit.run.sparks import spark
from grpo_lit.scoring import check_rewards, score_completions
from grpo_lit.tensors import no_such, visible

HOSTILE = {
    'escape': '\x1b[2J',
    'title': '\x1b]0;owned\x07',
    'link': '\x1b]8;;http://x\x1b\\here\x1b]8;;\x1b\\',
    'bell': '\x07',
    'null': '\x00',
    'backspace': 'good\x08\x08\x08\x08bad',
    'carriage return': 'good\rbad',
    'vertical tab': '\x0b',
    'form feed': '\x0c',
    'delete': '\x7f',
    'shift out': '\x0e',
    'C1 introducer': '\x9b31m',
    'C1 command': '\x9d0;x\x9c',
    'next line': '\x85',
    'right to left override': '\u202egood',
    'left to right override': '\u202dx',
    'embedding': '\u202bx\u202c',
    'isolates': '\u2066x\u2067y\u2068z\u2069',
    'marks': '\u200e\u200f\u061c',
    'zero width space': 'go\u200bod',
    'zero width joiner in a word': 'go\u200dod',
    'zero width non joiner': 'go\u200cod',
    'word joiner': '\u2060',
    'invisible operators': '\u2061\u2062\u2063\u2064',
    'byte order mark': '\ufeffx',
    'soft hyphen': 'go\xadod',
    'line separator': 'a\u2028b',
    'paragraph separator': 'a\u2029b',
    'tags': '\U000e0041\U000e007f',
    'variation selectors': 'a\ufe01\U000e0101',
    'emoji selector without emoji': 'a\ufe0f',
    'joiner at the end': '👩\u200d',
    'joiners in a row': '👩\u200d\u200d🚀',
    'hangul fillers': '\u115f\u1160\u3164\uffa0',
    'braille blank': '\u2800',
    'grapheme joiner': 'a\u034fb',
    'mongolian separators': '\u180b\u180e',
    'interlinear': '\ufff9a\ufffab\ufffb',
    'object': '\ufffe\uffff',
    'half a character': '\ud800',
    'other half': '\udfff',
    'private use': '\ue000\U000f0000',
    'not assigned': '\U000e0fff',
    'shorthand': '\U0001bca0',
    'music': '\U0001d173',
}
HARMLESS = ['47+85=132', '\\frac{1}{2}', 'größer', 'שלום עולם', 'مرحبا', 'हिन्दी', 'ไทย', '数学\u3000漢字', 'Ωπ≈½', 'a\xa0b', '👩🏽\u200d🚀', '❤\ufe0f\u200d🔥',
            '🏳\ufe0f\u200d🌈', '👨\u200d👩\u200d👧', 'e\u0301', '⏎', '…']

def safe(text, keep='\n\t'):
    "Can none of it steer a screen or hide?"
    import unicodedata
    hidden = {'\u034f', '\u115f', '\u1160', '\u3164', '\uffa0', '\u2800', '\ufe01', '\U000e0101', '\u180b'}
    return all(c in keep or c not in hidden and (c.isprintable() or unicodedata.category(c) == 'Zs') for c in text)

@pytest.mark.parametrize('name', HOSTILE)
def test_visible(name):
    "As escapes, and nothing else is lost"
    shown = visible(HOSTILE[name])
    assert safe(shown, '')
    assert shown != HOSTILE[name] and '\\' in shown
    harmless = [c for c in HOSTILE[name] if ' ' <= c <= '~']
    assert all(c in shown for c in harmless)

def test_visible_is_reversible():
    "Escapes are Python's: what was there can be read from them"
    for text in HOSTILE.values():
        back = visible(text.replace('\\', '')).encode('raw_unicode_escape', 'backslashreplace').decode('unicode_escape', 'surrogatepass')
        assert back == text.replace('\\', '')

@pytest.mark.parametrize('text', HARMLESS)
def test_readable_text_stays(text):
    assert visible(text) == text

def test_kept():
    assert visible('a\n\tb\r', '\n\t') == 'a\n\tb\\x0d' and visible('a\n') == 'a\\x0a'

evil = ' '.join(HOSTILE.values())+'<b onclick=x>"\'&'

def rollouts(text):
    ro = Rollouts.from_text(tiny_tokenizer(), ['1+1'], ['2', '3'])
    return replace(ro, prompts=[text], completions=[text, '3'], columns=dict(answer=[text]), rewards=torch.tensor([1., 0.]),
                   reward_names=[text[:9], 'b'], reward_table=torch.ones(2, 2), advantages=torch.tensor([1., -1.]))

@pytest.mark.parametrize('name', HOSTILE)
def test_tables(name):
    ro = rollouts(HOSTILE[name])
    table = ro.table()
    assert safe(table) and len(table.splitlines()) == 5

@pytest.mark.parametrize('name', HOSTILE)
def test_pages(name):
    page = rollouts(HOSTILE[name]+'<b>')._repr_html_()
    assert safe(page) and page.count('<b>') == 1 # that of the word "prompt"

def test_chats_in_tables_and_pages():
    ro = replace(rollouts('x'), prompts=[[dict(role='\x1b[1m', content=evil)]])
    assert safe(ro.table()) and safe(ro._repr_html_())

def test_a_table_keeps_its_width():
    ro = rollouts('\x00'*10_000)
    assert max(map(len, ro.table(width=30).splitlines())) < 160

def test_audits():
    found = Audit(evil, 1, 1., {evil: (.5, evil)}, {evil: .5})
    assert safe(repr(found)) and safe(found._repr_html_())
    assert '<b onclick' not in found._repr_html_()

def test_errors():
    "Of the gold check, of missing columns, of names that do not exist"
    def reward(completions, answer, **columns): return [0.]*len(completions)
    reward.__name__ = evil
    rows = [dict(prompt=evil, answer=evil)]*4
    said = [no_such('column', evil, [evil, 'x'])]
    for f in (lambda: check_gold([reward], rows), lambda: audit_reward(reward, rows),
              lambda: check_rewards([reward], {'prompt': 'x', evil: 1}, tiny_tokenizer()),
              lambda: score_completions(rollouts('x'), [reward, reward])):
        with pytest.raises(ValueError) as e: f()
        said.append(str(e.value))
    for text in said: assert safe(text), text

def test_log_lines(caplog):
    "Whatever goes through the package's log"
    with caplog.at_level(logging.INFO, 'grpo_lit'):
        logging.getLogger('grpo_lit').warning('a server says %s, %r and %d', evil, evil, 3)
        logging.getLogger('grpo_lit').info(evil)
    assert safe(caplog.text) and 'and 3' in caplog.text

def test_what_is_said():
    out = io.StringIO()
    say('reward', evil, file=out)
    assert safe(out.getvalue()) and out.getvalue().startswith('reward \\x1b[2J')

def test_curves():
    drawn = spark(Curve(evil, [(1, 1.), (2, 2.)], (2.,), '.2f'), 1, 2)
    assert safe(drawn) and '<b onclick' not in drawn

def test_pictures():
    from grpo_lit.run.pictures import bars, curves, panels
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        left, right = panels(2)
        curves({evil: [1, 2], 'b': [1, 2]}, ax=left)
        bars({evil: 1.}, ax=right)
        labels = [l.get_label() for l in left.lines]
        left.figure.canvas.draw()
    assert safe(labels[0])

@pytest.mark.parametrize('arguments', [
    ['eval', '--model', '/no/\x1b[2J\u202e', '--data', 'addition'],
    pytest.param(['\x1b[2J'], marks=pytest.mark.slow),
    pytest.param(['train', '--model', 'x', '--data', 'y', '--\x1b[2J'], marks=pytest.mark.slow),
    pytest.param(['plot', '/no/\x1b[2J'], marks=pytest.mark.slow)])
def test_command_line(arguments):
    code = 'import sys; from grpo_lit.run.cli import main; sys.exit(main(sys.argv[1:]))'
    done = subprocess.run([sys.executable, '-c', code, *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and safe(done.stderr+done.stdout), done.stderr

# --- columns of the data

P = '1+1=?'
deep = []
for _ in range(5000): deep = [deep]

COLUMNS = { # name -> rows of a data set
    'one row': [dict(prompt=P)],
    'only the second has one': [dict(prompt=P), dict(prompt=P, tests=['a'])],
    'only the first has one': [dict(prompt=P, tests=['a']), dict(prompt=P)],
    'each another': [{'prompt': P, f'c{i}': i} for i in range(5)],
    'mixed types': [dict(prompt=P, x=x) for x in (1, 'a', [1], None, 1.5, {'a': 1}, True, b'\xff', (1, 'a'))],
    'lists and numbers': [dict(prompt=P, x=[1, 2]), dict(prompt=P, x=3)],
    'large numbers': [dict(prompt=P, x=10**30), dict(prompt=P, x=2**63)],
    'not finite': [dict(prompt=P, x=float('inf')), dict(prompt=P, x=float('nan'))],
    'half characters': [{'prompt': P, 'x': '\ud800', '\udfff': 1}],
    'control characters': [{'prompt': P, 'x': evil, '\x1b[2J': evil}],
    'names of our columns': [dict(prompt=P, step='s', group='g', reward='r', completion='c', advantage='a', tokens='t', finished='f')],
    'names of a reward': [dict(prompt=P, length='x', self=1, f=2, kwargs=3)],
    'names of arguments, later': [dict(prompt=P), dict(prompt=P, completions='c', prompts='p', completion_ids='i')],
    'names that are no text': [{'prompt': P, 1: 2, None: 3, ('a',): 1}],
    'empty name': [{'prompt': P, '': 1}],
    'many': [{'prompt': P} | {f'c{i}': i for i in range(700)}],
    'long': [dict(prompt=P, x='y'*3_000_000)],
    'nested': [dict(prompt=P, x=[{'a': [{'b': [1, None, 'x']}]}])],
    'deep': [dict(prompt=P, x=deep)],
    'objects': [dict(prompt=P, x=object(), y=torch.ones(2), z={1, 2})],
    'none only': [dict(prompt=P, x=None)],
    'empty lists': [dict(prompt=P, x=[]), dict(prompt=P, x=[[]])],
}
QUICK = ('only the second has one', 'mixed types', 'half characters', 'names of our columns', 'names of arguments, later', 'deep')

def trained(out, rows, **settings):
    "Three steps on these rows"
    torch.manual_seed(0)
    model, tokenizer = load_policy('tiny', device='cpu')
    seen = []
    def length(completions, **columns):
        seen.append(sorted(columns))
        return [float(len(c)%3) for c in completions]
    args = GRPOConfig(output_dir=str(out), max_steps=3, per_device_train_batch_size=8, num_generations=4, max_completion_length=8,
                      use_cpu=True, gold_check=0, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        GRPOTrainer(model, length, args, rows, processing_class=tokenizer).train()
    return Run(out), seen

@pytest.mark.parametrize('settings', [dict(dynamic_sampling=1, overlap_rewards=True), pytest.param({}, marks=pytest.mark.slow)])
@pytest.mark.parametrize('name', [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in COLUMNS])
def test_columns_in_a_run(name, settings, tmp_path, caplog):
    "The run goes on, a reward is always called with all columns, and every rollout is in the log"
    with caplog.at_level(logging.WARNING, 'grpo_lit'):
        run, seen = trained(tmp_path/'run', COLUMNS[name], **settings)
    assert [m['step'] for m in run.metrics()] == [1, 2, 3] and not caplog.records
    assert len({tuple(s) for s in seen[1:]}) == 1
    for step in (1, 2, 3):
        rows = run.rollouts(step)
        assert len(rows) == 8 and {r['step'] for r in rows} == {step} and all(isinstance(r['reward'], float) for r in rows)

@pytest.mark.parametrize('name', COLUMNS)
def test_columns_in_a_table(name, tmp_path):
    "They are written and read back; ours keep their names and values"
    rows = COLUMNS[name]
    names = dict.fromkeys(n for r in rows for n in r if n != 'prompt')
    G, n = 2, len(rows)
    ro = Rollouts.from_text(tiny_tokenizer(), [P]*n, ['2']*n*G)
    ro = replace(ro, columns={c: [r.get(c) for r in rows] for c in names}, rewards=torch.ones(n*G))
    write_table(tmp_path/'x.parquet', rollout_rows(7, ro))
    back = read_parquet(tmp_path/'x.parquet')
    assert len(back) == n*G and {r['step'] for r in back} == {7} and {r['reward'] for r in back} == {1.}
    assert len(back[0]) == len({'step', 'group', 'prompt', *ro.group(0)[0]})+len(names)

def test_stored_text_is_as_it_was(tmp_path):
    "Escapes are for the eyes; files hold what was written"
    texts = {k: v for k, v in HOSTILE.items() if 'half' not in k}
    ro = Rollouts.from_text(tiny_tokenizer(), ['1'], ['2']*len(texts))
    ro.completions = list(texts.values())
    write_table(tmp_path/'x.parquet', rollout_rows(1, ro))
    assert [r['completion'] for r in read_parquet(tmp_path/'x.parquet')] == list(texts.values())

def test_joined_groups_have_all_columns():
    a, b = rollouts('x'), replace(rollouts('y'), columns=dict(tests=[['t']]))
    assert Rollouts.join([a, b]).columns == dict(answer=['x', None], tests=[None, ['t']])

def test_ours_come_before_theirs():
    args = reward_arguments(['p'], ['c'], [[1]], dict(prompts=['mine'], completions=['mine'], answer=['a']))
    assert args == dict(prompts=['p'], completions=['c'], completion_ids=[[1]], answer=['a'])

@pytest.mark.parametrize('columns, why', [
    (dict(completion=[None, 'x']), 'row 0: a completion is a string or a list of messages, not None'),
    (dict(completion=[1, 2]), 'row 0: a completion is a string'), (dict(completion=[[], []]), 'row 0: a completion is a string'),
    (dict(reward=['a', 'b']), "row 0: reward is a number or null, not 'a'"), (dict(reward=[[1.], [2.]]), 'row 0: reward is a number')])
def test_foreign_rollouts_are_said(columns, why):
    from datasets import Dataset
    from grpo_lit.policy import load_policy
    from grpo_lit.run.given import given_groups
    from grpo_lit.run.past import rescore
    rows = Dataset.from_dict(dict(prompt=['a', 'a'], completion=['x', 'y'], reward=[0., 1.]) | columns)
    model, tokenizer = load_policy('tiny', device='cpu')
    with pytest.raises(ValueError, match=why): rescore(rows, lambda completions, **k: [0.]*len(completions))
    with pytest.raises(ValueError, match=why): given_groups(rows, tokenizer, model)

def test_brackets_without_end_are_text(tmp_path):
    import pyarrow as pa, pyarrow.parquet as pq
    from grpo_lit.run.past import load_rollouts
    deep = '['*20_000
    pq.write_table(pa.table(dict(prompt=[deep, '[1]'], completion=['x', 'y'])), tmp_path/'deep.parquet')
    assert load_rollouts(tmp_path/'deep.parquet')['prompt'][0] == deep

def test_a_hostile_name_stays_one_heading_of_the_card():
    import yaml
    from grpo_lit.run.card import model_card
    model, tokenizer = load_policy('tiny', device='cpu')
    args = GRPOConfig(use_cpu=True, gold_check=0, max_steps=1, max_completion_length=8)
    t = GRPOTrainer(model, lambda completions, **k: [0.]*len(completions), args, [dict(prompt='1+1=')], processing_class=tokenizer)
    card = model_card(t, 'a\n---\nb: \x1b[31m', dataset='d: [x]\n', tags=['x: y'])
    head = card.split('---\n')[1]
    assert '\x1b' not in card and [o for o in card.splitlines() if o.startswith('# ')][0].startswith('# a --- b: ')
    assert yaml.safe_load(head)['tags'] == ['grpo', 'grpo_lit', 'x: y']
