"""A run as one HTML file: its figures are those of the loss, its texts are texts, it loads nothing, and it fits."""
import base64, hashlib, re
from html.parser import HTMLParser
import numpy as np
import pytest, torch
from grpo_lit.core import Rollouts
from grpo_lit.loss import LOSSES, grpo_loss
from grpo_lit.run.cli import main
from grpo_lit.run.figures import shown_group
from grpo_lit.run.runs import Run
from grpo_lit.seeing.inspector import inspect
from grpo_lit.seeing.packing import read_back
from grpo_lit.seeing.page import page_html, write_page
from grpo_lit.seeing.reading import Reading
from grpo_lit.seeing.readings import Readings
from grpo_lit.seeing.shortening import evenly
from test_inspector import Given

HOSTILE = ['<script>window.pwned=1</script>', '</script><script>window.pwned=1</script>', '<img src=x onerror="window.pwned=1">', '--><b>bold</b><!--',
           '\x1b[31mred\x1b[0m', 'left \u202eright', 'nul\0nul', 'half \ud83d of an emoji', 'a $\\href{javascript:1}{x}$ b', '&lt;b&gt; &amp;', '{"a": 1}\u2028\u2029',
           'DATA SCRIPT STYLE TITLE', '</title></style></textarea>', 'e\u0301 \U0001f600 עברית العربية', '']

def update(step=1, P=2, G=4, T=9, loss_type='dapo', beta=.04, texts=None, spread=.4, **options):
    "An update of random figures, some of its tokens beyond every clip"
    g, B = torch.Generator().manual_seed(step), P*G
    R = lambda *s: torch.randn(*s, generator=g)
    lengths = [1+(7*b+step)%T for b in range(B)] if texts is None else [len(t) for t in texts]
    T = max(lengths)
    mask = (torch.arange(T) < torch.tensor(lengths)[:,None]).long()
    logps, rewards = -R(B,T).abs(), (R(B) > 0).float()
    A = (rewards.view(P,G)-rewards.view(P,G).mean(1, keepdim=True)).flatten()
    tokens = [[f'{b}{t} ' for t in range(n)] for b, n in enumerate(lengths)] if texts is None else texts
    rows = [dict(row=b, group=b//G, prompt=f'prompt {b//G}', text=''.join(tokens[b]), rewards=dict(accuracy_reward=rewards[b].item(), format_reward=.5),
                 reward=rewards[b].item(), advantage=A[b].item(), tokens=lengths[b], finished=True, stop='ended itself', columns=dict(answer='4'), notes={}) for b in range(B)]
    options = dict(loss_type=loss_type, beta=beta, kl='k3_unbiased', epsilon=.2, epsilon_high=None, max_completion_length=T, num_items=torch.tensor(17.), **options)
    return Reading(step, rows, G, [f'prompt {i}' for i in range(P)], tokens, mask=mask, advantages=A, logps=logps, ref_logps=-R(B,T).abs() if beta else None,
                   new_logps=logps+spread*R(B,T), entropy=R(B,T).abs(), options=options, first=False, items=mask.sum(1, keepdim=True))

def several(*updates): return Readings(Given(*updates))

def contents(page): # The description, and name -> array
    return read_back(re.search(r'id="data">([^<]*)</script>', page)[1])

def of_row(about, arrays, name, s, b):
    "A figure of row b of step number s"
    groups = about['steps'][s]['groups']
    row = [r for g in groups for r in g['rows']][b]
    return torch.from_numpy(arrays[name][row['at']:row['at']+row['n']].astype(np.float64))

def loss_gradient(r, **changes): # The loss itself, not a reading of it
    options = r.options | changes
    if 'loss_type' in changes: options['num_items'] = None
    x = r.new_logps.clone().requires_grad_()
    grpo_loss(x, r.advantages, r.mask, r.logps, r.ref_logps, **options)[0].backward()
    return x.grad

def assert_figures(about, arrays, name, expected, mask, s=0, also=0.):
    for b, n in enumerate(mask.sum(1).tolist()):
        found = of_row(about, arrays, name, s, b)+also
        torch.testing.assert_close(found, expected[b,:n].double(), rtol=2e-4, atol=1e-5*max(float(expected.abs().max()), 1e-9))

@pytest.mark.parametrize('loss_type', ['dapo', 'cispo', *(pytest.param(n, marks=pytest.mark.slow) for n in LOSSES if n not in ('dapo', 'cispo'))])
def test_the_figures_are_those_of_the_loss(loss_type):
    r = update(loss_type=loss_type)
    about, arrays = contents(page_html(several(r)))
    assert_figures(about, arrays, 'gradient', loss_gradient(r), r.mask)
    assert_figures(about, arrays, 'logp', r.new_logps, r.mask)
    assert_figures(about, arrays, 'ratio', (r.new_logps-r.logps).exp(), r.mask)
    pull, leash = loss_gradient(r, beta=0.), loss_gradient(r, beta=1.)-loss_gradient(r, beta=0.)
    assert_figures(about, arrays, 'pull', pull, r.mask)
    assert_figures(about, arrays, 'leash', leash, r.mask)
    torch.testing.assert_close(pull+.3*leash, loss_gradient(r, beta=.3), rtol=1e-4, atol=1e-6) # why two gradients do for every beta

@pytest.mark.parametrize('loss_type', ['dapo', *(pytest.param(n, marks=pytest.mark.slow) for n in ('grpo', 'dr_grpo'))])
def test_each_stop_is_the_loss_asked_again(loss_type):
    r = update(loss_type=loss_type)
    about, arrays = contents(page_html(several(r)))
    assert about['stops']['epsilon'] and len(about['stops']['loss_type']) == len(LOSSES)
    for epsilon in about['stops']['epsilon']:
        name = f'epsilon={epsilon}'
        if epsilon == r.options['epsilon']: continue
        assert_figures(about, arrays, f'pull:{name}', loss_gradient(r, beta=0., epsilon=epsilon), r.mask)
        ratio, A = (r.new_logps-r.logps).exp(), r.advantages[:,None]
        low, high = ((x & (r.mask>0)).sum().item() for x in ((ratio<1-epsilon)&(A<0), (ratio>1+epsilon)&(A>0)))
        assert about['steps'][0]['clipped'][str(epsilon)] == [low, high]
    assert about['steps'][0]['clipped']['0.02'] != about['steps'][0]['clipped']['0.6']
    for other in LOSSES:
        if other != loss_type: assert_figures(about, arrays, f'gradient:loss_type={other}', loss_gradient(r, loss_type=other), r.mask)

def test_without_a_reference_there_is_no_leash():
    about, arrays = contents(page_html(several(update(beta=0.))))
    assert about['stops']['beta'] == [] and not {'ref', 'kl', 'leash'} & set(arrays)

# ---- texts

class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(page)
    def handle_starttag(self, tag, attributes): self.tags.append((tag, dict(attributes)))

@pytest.mark.parametrize('text', HOSTILE, ids=range(len(HOSTILE)))
def test_a_text_is_never_a_part_of_the_page(text):
    r = update(P=1, G=2, texts=[[text, '!'], ['a', text]])
    r.prompts = [text]
    for row in r.rows:
        row |= dict(prompt=text, stop=text, columns={text: text}, rewards={text: 1.})
    plain = [t for t, _ in Tags(page_html(several(update()), title='x')).tags]
    page = page_html(several(r), title=text or 'x')
    assert [t for t, _ in Tags(page).tags] == plain
    page.encode() # what UTF-8 can hold
    about, _ = contents(page)
    shown = about['steps'][0]['groups'][0]['prompt']
    assert not re.search('[\0\x1b\u202e\ud83d]', shown+''.join(about['vocab']))
    readable = ''.join(c for c in text if c.isascii() and c.isprintable())
    assert readable in ''.join(c for c in re.sub(r'\\x1b|\\x00|\\ud83d|\\u202e|\\u202[89]', '', shown) if c.isascii())

def test_it_allows_itself_nothing_but_its_own_script_and_style():
    page = page_html(several(update()))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    digest = lambda text: 'sha256-'+base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    script, = re.findall(r'<script>(.*?)</script>', page, re.S)
    style, = re.findall(r'<style>(.*?)</style>', page, re.S)
    assert policy.startswith("default-src 'none'; ") and f"script-src '{digest(script)}'" in policy and f"style-src '{digest(style)}'" in policy
    assert not re.search(r'(https?:)?//\w', page.replace('http://www.w3.org/2000/svg', '').partition('id="data"')[0])
    assert not re.search(r'innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(|XMLHttp|import\(|localStorage', script)
    for tag, attributes in Tags(page).tags:
        assert tag not in ('img', 'iframe', 'link', 'object', 'embed') and not {'src', 'onclick', 'onload', 'style'} & set(attributes)

# ---- what fits

@pytest.mark.parametrize('room', [80_000, *(pytest.param(n, marks=pytest.mark.slow) for n in (120_000, 300_000))])
def test_a_long_run_is_thinned_evenly_and_says_so(room):
    updates = [update(step, P=3, G=4, T=60) for step in range(1, 41)]
    page = page_html(several(*updates), max_bytes=room)
    about, arrays = contents(page)
    assert len(page.encode()) <= room
    steps = [s['step'] for s in about['steps']]
    assert steps[0] == 1 and steps[-1] == 40 and np.diff(steps).max() <= 2*np.diff(steps).mean()+1
    with_figures = [s['step'] for s in about['steps'] if any(r['at'] >= 0 for g in s['groups'] for r in g['rows'])]
    assert with_figures and (len(with_figures) < 40) == bool(about['left_out'])
    for s in about['steps']:
        for g in s['groups']:
            assert len({r['at'] >= 0 for r in g['rows']}) == 1 and len(g['rows']) == 4 # whole groups

def test_figures_of_a_thinned_run_belong_to_their_tokens():
    updates = [update(step, P=3, T=60) for step in range(1, 11)]
    about, arrays = contents(page_html(several(*updates), max_bytes=90_000))
    seen = 0
    for s in about['steps']:
        r = updates[s['step']-1]
        for g in s['groups']:
            for j, row in enumerate(g['rows']):
                if row['at'] < 0: continue
                b, at = (g['number']-1)*4+j, slice(row['at'], row['at']+row['n'])
                assert [about['vocab'][i] for i in arrays['piece'][at]] == r.tokens[b][:row['n']]
                torch.testing.assert_close(torch.from_numpy(arrays['logp'][at]), r.new_logps[b,:row['n']], rtol=2e-4, atol=1e-5)
                seen += row['n']
    assert 0 < seen < sum(int(r.mask.sum()) for r in updates)

@pytest.mark.slow
def test_a_megabyte_is_cut_and_ten_thousand_tokens_are_not():
    texts = [['word ']*10_000, ['x'*1_000_000], ['a'], ['b']]
    page = page_html(several(update(P=1, G=4, texts=texts)))
    about, arrays = contents(page)
    long, huge, *_ = about['steps'][0]['groups'][0]['rows']
    assert long['n'] == 10_000 and not long['cut']
    assert len(huge['text']) == 20_000 and '980,000 more' in huge['cut'] and len(page.encode()) < 1_000_000

def test_even_choices():
    for n in range(1, 40):
        for most in range(1, 45):
            chosen = evenly(n, most)
            assert len(chosen) == min(n, most) and chosen[0] == 0 and (most < 2 or chosen[-1] == n-1)

# ---- what is missing

def of_texts(path):
    "A run directory of a version that kept no figures"
    ro = Rollouts(torch.ones(1, 1).long(), torch.ones(1, 1).long(), torch.ones(2, 3).long(), torch.ones(2, 3).long(), None, 2,
                  torch.tensor([True, False]), ['2+2=?'], ['4', '<b>5</b>'], dict(answer=['4']), ['accuracy_reward'],
                  torch.tensor([[1.], [float('nan')]]), torch.tensor([1., float('nan')]), advantages=torch.tensor([0., 0.]))
    run = Run(path).start(dict(args=dict(beta=.1, output_dir=str(path)), rewards=['accuracy_reward']))
    for step in (1, 2):
        run.log({'step': step, 'reward': .5*step, 'kl': .1, 'completions/mean_length': 3.})
        run.save_rollouts(step, ro)
    return path

def test_a_run_without_figures_has_its_texts(tmp_path):
    about, arrays = contents(page_html(of_texts(tmp_path/'run')))
    assert [s['step'] for s in about['steps']] == [1, 2] and not about['figures'] and 'texts and rewards only' in about['steps'][0]['missing']
    rows = about['steps'][0]['groups'][0]['rows']
    assert [r['text'] for r in rows] == ['4', '<b>5</b>'] and rows[1]['reward'] is None and rows[1]['rewards'] == [None]
    assert about['steps'][0]['groups'][0]['dead'] == 'only one could be judged'
    assert [c['title'] for c in about['curves']][:1] == ['reward'] and about['curves'][0]['y'] == [.5, 1.]

def test_a_page_says_nothing_of_the_disk(tmp_path):
    assert str(tmp_path) not in str(contents(page_html(of_texts(tmp_path/'run')))[0])

def test_the_command_writes_it(tmp_path, capsys):
    run = of_texts(tmp_path/'run')
    assert main(['inspect', str(run), '-o', str(tmp_path/'new'/'page.html')]) == 0
    assert (tmp_path/'new'/'page.html').read_text(encoding='utf-8').startswith('<!doctype html>')
    assert main(['inspect', str(run)]) == 0 and (run/'page.html').exists()
    capsys.readouterr()
    assert main(['inspect', str(tmp_path/'none')]) == 2 and 'none' in capsys.readouterr().err

def test_a_run_that_has_just_begun(tmp_path):
    Run(tmp_path/'run').start({})
    assert contents(write_page(tmp_path/'run', tmp_path/'page.html').read_text())[0]['steps'] == []

def test_the_same_run_makes_the_same_page():
    assert page_html(several(update(1), update(2))) == page_html(several(update(1), update(2)))

@pytest.mark.parametrize('names', [['completion', 'tokens'], ['reward', 'finished'], ['group', 'prompt'], ['step', 'advantage'], ['reward', 'episode_turns']])
def test_a_reward_may_be_called_like_something_else_in_a_row(names, tmp_path):
    "Its number stands beside the text, and not in its place"
    ro = Rollouts(torch.ones(1, 1).long(), torch.ones(1, 1).long(), torch.ones(2, 3).long(), torch.ones(2, 3).long(), None, 2,
                  torch.ones(2).bool(), ['2+2=?'], ['4', '5'], dict(answer=['4']), names, torch.tensor([[1., 0.], [0., .5]]), torch.tensor([1., .5]),
                  advantages=torch.tensor([.5, -.5]), notes=dict(completion=['noted', 'too']))
    run = Run(tmp_path/'run').start({})
    run.save_rollouts(1, ro)
    for source in (run.path, ro):
        row = inspect(source).at(1).rows[0]
        assert (row['text'], row['prompt'], row['tokens'], row['reward'], row['advantage']) == ('4', '2+2=?', 3, 1., .5)
        assert list(row['rewards'].values()) == [1., 0.] and row['notes'] == dict(noted_completion='noted')
        assert all(name in repr(inspect(source).show(1, 0)) for name in row['rewards'])
    group = shown_group(1, [ro.group(0)], 0, '2+2=?', None, names)
    assert group.rows[0]['completion'] == '4' and set(group.rows[0]) == {'completion', 'tokens', 'finished', 'reward', 'advantage', *row['rewards']}

def test_a_step_that_is_damaged_hides_no_other(tmp_path):
    run = Run(of_texts(tmp_path/'run'))
    run.save_rollouts(3, Rollouts(torch.ones(1, 1).long(), torch.ones(1, 1).long(), torch.ones(2, 3).long(), torch.ones(2, 3).long(), None, 2, torch.ones(2).bool(), ['2+2=?'], ['4', '5']))
    run.rollout_file(2).write_bytes(b'PAR1 half')
    look = inspect(run.path)
    found, judged = look.search('4'), look.rescore(lambda completions, **_: [float(len(c)) for c in completions])
    assert [h['step'] for h in found] == [1, 3] and list(found.lost) == list(judged.lost) == [2] and '1 steps could not be read' in found.title()
    assert [line['step'] for line in judged.by_step()] == [1, 3] and 'could not be read' in repr(judged)
    with pytest.raises(ValueError, match='cannot be read'): look.rescore(len, steps=2)

def test_a_page_that_cannot_be_as_small_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match='max_bytes is 1,000'): write_page(of_texts(tmp_path/'run'), tmp_path/'page.html', max_bytes=1000)
    assert not (tmp_path/'page.html').exists()

def test_many_events_and_long_names_leave_room(tmp_path):
    run = Run(of_texts(tmp_path/'run'))
    run.save_rollouts(3, Rollouts(torch.ones(1, 1).long(), torch.ones(1, 1).long(), torch.ones(2, 3).long(), torch.ones(2, 3).long(), None, 2, torch.ones(2).bool(), ['2+2=?'], ['4', '5'],
                                  reward_names=['n'*100_000], reward_table=torch.ones(2, 1), rewards=torch.ones(2)))
    lines = [f'{{"step": 1, "event": "beta", "value": {n/7}, "before": "{hash((n, 1))}"}}\n' for n in range(2000)]
    (run.path/'events.jsonl').write_text(''.join(lines))
    about, _ = contents(page_html(run.path, max_bytes=80_000))
    assert len(about['events']) == 300 and any('300 of 2,000 events' in said for said in about['left_out']) and about['events'][-1]['text'].endswith(f'{1999/7:.4g}')

def test_what_is_no_number_is_no_point_of_a_curve(tmp_path):
    run = Run(tmp_path/'run').start({})
    for step, value in enumerate((1, 'x', [1], True, 10**400, None, .5), 1): run.log(dict(step=step, reward=value, kl='</script>'))
    curve, = contents(page_html(run.path))[0]['curves']
    assert curve['y'] == [1, None, None, None, None, None, .5]

def test_a_file_in_the_place_of_its_directory_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr('grpo_lit.seeing.page.page_html', lambda *args, **kw: 'page')
    (tmp_path/'taken').write_text('')
    with pytest.raises(OSError, match='could not be written: there is a file where its directory should be'):
        write_page(None, tmp_path/'taken'/'page.html')
    assert write_page(None, tmp_path/'new'/'deep'/'page.html').read_text() == 'page'
