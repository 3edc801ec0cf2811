"The inspector: every answer as a value, every slider turned from Python, hostile texts, runs with little in them"
import math, re
from dataclasses import replace
import pytest, torch
from grpo_lit.advantages import group_advantages
from grpo_lit.core import four_answers
from grpo_lit.loss import LOSSES, grpo_loss
from grpo_lit.policy import load_policy
from grpo_lit.seeing.inspector import inspect
from grpo_lit.seeing.page import page_html
from grpo_lit.seeing.reading import Reading
from grpo_lit.seeing.readings import Readings
from grpo_lit.seeing.walk import four_figures

HOSTILE = ['<script>alert(1)</script>', '<img src=x onerror=alert(1)>', '$x^2$ \\(y\\)', '\x1b[31mred', 'a\u202eb', '\0', '\ud800', '"\' onmouseover="x']

@pytest.fixture(scope='module')
def policy(): return load_policy('tiny', device='cpu')

@pytest.fixture(scope='module')
def first(policy) -> Reading: return four_figures(*policy)

class Given:
    "Readings that are there already"
    def __init__(self, *several): self.several = {r.step: r for r in several}
    @property
    def steps(self): return sorted(self.several)
    def at(self, step): return self.several[step]

def given(*several): return inspect(Readings(Given(*several)))

def equal(reading, step):
    "The same a step later, all rewarded alike"
    rows = [r | dict(reward=1., rewards=dict(accuracy_reward=1.), advantage=0.) for r in reading.rows]
    return replace(reading, step=step, rows=rows, advantages=torch.zeros(len(rows)))

@pytest.fixture
def look(first): return given(first, equal(first, 2), replace(first, step=5))

@pytest.fixture
def hostile(first):
    "A run whose policy wrote what it should not"
    tokens = [[*row[:-1], bad] for row, bad in zip(first.tokens, HOSTILE)]
    rows = [r | dict(text=''.join(t), stop=HOSTILE[1], rewards={HOSTILE[0]: 1., 'b<c': 0.}) for r, t in zip(first.rows, tokens)]
    return given(replace(first, tokens=tokens, rows=rows, prompts=[HOSTILE[0]+HOSTILE[4]+HOSTILE[2]]))

def is_safe(page):
    "Nothing in it acts, and nothing steers"
    assert '<script' not in page and '<img' not in page and not re.search(r'<[^>]*\sonmouseover=', page)
    assert not set('\x1b\u202e\0\ud800') & set(page)

def notes(page): return re.findall(r'<span tabindex="0"[^>]*title="([^"]*)"', page)

# What is asked by name -------------------------------------------------------------------------------------------------

def test_a_step_a_group_a_completion(look):
    assert 'all right' in repr(look.show(2)) and 'all right' not in repr(look.show(1))
    group = look.show(1, 0)
    assert [r['reward'] for r in group.rows()] == [1., 0., 1., 0.] and '47+85' in repr(group)
    assert len(notes(look.show(1, 0, 1)._repr_html_())) == len(look.at(1).tokens[1])

def test_the_numbers_of_a_token_are_those_of_grpo_loss(look, first):
    logps = first.new_logps.clone().requires_grad_()
    loss, _ = grpo_loss(logps, first.advantages, first.mask, first.logps, first.ref_logps, **first.options)
    loss.backward()
    said = notes(look.show(1, 0, 1, color='gradient')._repr_html_())[2]
    number = float(re.search(r'gradient (\S+)', said)[1].replace('−', '-'))
    assert math.isclose(number, logps.grad[1,2].item(), rel_tol=1e-3)
    assert math.isclose(look.token(1, 2, step=1).gradient, logps.grad[1,2].item(), rel_tol=1e-5)

@pytest.mark.parametrize('loss_type', LOSSES)
def test_shares_add_up_to_the_loss(look, first, loss_type):
    o = dict(loss_type=loss_type, max_completion_length=32)
    parts = [look.token(b, t, step=1, **o) for b in range(4) for t in range(len(first.tokens[b])) if first.mask[b,t]]
    assert math.isclose(sum(p.loss*p.share for p in parts), first.loss(**o)[0], rel_tol=1e-4, abs_tol=1e-6)

def test_a_tighter_clip_frees_tokens_and_says_how_many(look, first):
    change = look.rules(1, epsilon=.01, beta=0.)
    n = sum(first.terms(epsilon=.01, beta=0.)[name].sum().item() for name in ('clip_low', 'clip_high'))
    assert sum(r['after'] for r in change.rows()[:2]) == n > 0
    assert change.counts()['tokens'] == first.mask.sum() and 'epsilon=0.01' in repr(change)

def test_another_advantage_and_another_reward(look, first):
    turned = look.rules(1, row=1, advantage=-first.rows[1]['advantage'], base=dict(beta=0.))
    assert turned.moved[1].any() and not turned.moved[[0, 2, 3]].any()
    raised = look.rules(1, row=1, reward=1., beta=0.) # three of four are right now
    assert raised.moved[3].any() and look.token(1, 2, step=1, reward=1.).values['A'] > 0
    assert look.rules(2, row=1, reward=1., beta=0.).after.abs().sum() == 0 # all alike

def test_rules_at_every_step(look):
    lines = look.rule_counts(epsilon=.01)
    assert [line['step'] for line in lines] == [1, 2, 5] and lines[0]['clipped after'] > lines[0]['clipped before']

def test_another_reward_and_who_changes_sides(policy):
    ro = four_answers(policy[1])
    from grpo_lit.rewards import accuracy_reward
    from grpo_lit.scoring import score_completions
    ro = score_completions(ro, accuracy_reward)
    look = inspect(replace(ro, advantages=group_advantages(ro.rewards, 4)), tokenizer=policy[1])
    def shortest(completions, **_): return [-float(len(c)) for c in completions]
    found = look.rescore(shortest)
    assert len(found) == sum(r['crossed'] for r in found.by_step()) == 3 # all but the one that was short and right
    assert {(m['old_side'], m['new_side']) for m in found.moved} == {('up','down'), ('down','up')} and 'shortest' in repr(found)
    def broken(completions, **_): raise KeyError('nothing')
    lost = look.rescore(broken)
    assert len(lost) == 4 and all(m['new_side'] == 'level' for m in lost.moved)

def test_search_for_a_number_and_a_word(look):
    assert {h['row'] for h in look.search('132')} == {0, 2, 3} and [r['completions'] for r in look.search('132').by_step()] == [3, 3, 3]
    assert len(look.search('13')) == 3 and len(look.search('THINK')) == 3 and len(look.search('nowhere')) == 0

def test_beside(look):
    both = look.beside(2, step=1)
    assert both.rows()[1]['dead'] == 'all right'
    lines = look.beside('reference', step=1, row=1).rows()
    gaps = [abs(r['difference']) for r in lines]
    assert gaps == sorted(gaps, reverse=True) and gaps[0] > 0

# What cannot be answered -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('ask, sentence', [
    (lambda i: i.show(7), 'no step 7'),
    (lambda i: i.show(1, 3), 'and no 3'),
    (lambda i: i.show(1, 0, 4), 'and no 4'),
    (lambda i: i.show(1, 0, -1), 'and no -1'),
    (lambda i: i.show(1, 0, 0, color='probability'), 'no token colour'),
    (lambda i: i.token(0, 999), 'and no 999'),
    (lambda i: i.token(9, 0), 'and no 9'),
    (lambda i: i.rules(1, loss_type='drgrpo'), "did you mean 'dr_grpo'"),
    (lambda i: i.rules(1, kl='k4'), 'no KL term'),
    (lambda i: i.search(' '), 'nothing to search for'),
    (lambda i: i.beside('refrence'), "did you mean 'reference'"),
    (lambda i: i.beside(7), 'no step 7')])
def test_a_mistake_is_a_sentence(look, ask, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as e: ask(look)
    assert '\n' not in str(e.value)

def test_a_run_that_kept_no_tokens(first):
    bare = dict(tokens=None, mask=None, ids=None, logps=None, new_logps=None, ref_logps=None, entropy=None, note='no figures of tokens were kept')
    look = given(replace(first, **bare))
    assert '132' in repr(look.show(1, 0)) and 'no figures' in repr(look.show(1, 0, 1)) and 'no figures' in look._repr_html_()
    for ask in (lambda: look.token(0, 0), lambda: look.rules(1, epsilon=.1)):
        with pytest.raises(ValueError, match='no figures'): ask()
    sliders = look.panel()
    assert 'no figures' in sliders.html['formula and rules'].value and len(look.search('132')) == 3

def test_a_run_with_nothing_in_it(tmp_path):
    with pytest.raises(ValueError): inspect(tmp_path)
    with pytest.raises(ValueError): inspect(tmp_path/'nowhere')

# Hostile texts ---------------------------------------------------------------------------------------------------------

def test_what_was_written_is_only_shown(hostile):
    views = [hostile.show(), hostile.show(1, 0), *(hostile.show(1, 0, j) for j in range(4)), hostile.token(0, 1), hostile.rules(epsilon=.01),
             hostile.search('<'), hostile.search('$'), hostile.search('script'), hostile.beside('reference')]
    for view in views:
        is_safe(view._repr_html_())
        assert not set('\x1b\u202e\0') & set(repr(view))
        assert 'mathjax_ignore' in view._repr_html_() and 'tex2jax_ignore' in view._repr_html_()

def test_nor_does_it_act_under_the_sliders(hostile):
    sliders = hostile.panel()
    for page in range(5):
        sliders.tabs.selected_index = page
        sliders.search.value = HOSTILE[page]
        for j in range(4):
            sliders.completion.value = j
            for shown in sliders.html.values(): is_safe(shown.value)
    assert not any(set('\x1b\u202e\0') & set(label) for label, _ in sliders.prompt.options)

def test_long_texts_stay_small(first):
    T = 10_000
    def wide(x): return x[:,:1].expand(4, T).clone()
    many = {n: wide(getattr(first, n)) for n in ('mask', 'logps', 'new_logps', 'ref_logps')}
    rows = [r | dict(text='x'*1_000_000, tokens=T) for r in first.rows]
    long = replace(first, ids=None, tokens=[['x'*100]*T]*4, rows=rows, items=None, entropy=None, **many)
    look = given(long)
    look.row, look.t = 1, 5_000
    assert len(look._repr_html_()) < 1_000_000 and '4700 tokens before' in look._repr_html_()
    assert len(repr(look.show(1, 0, 1))) < 100_000 and len(repr(look.show(1, 0))) < 10_000

# Sliders, turned from Python --------------------------------------------------------------------------------------------

def test_a_slider_moves_what_is_shown(look):
    s = look.panel()
    s.step.value = 1
    s.completion.value = 0
    before = s.html['group'].value
    s.completion.value = 1
    assert s.html['group'].value != before and look.row == 1 and s.token.max == len(look.at(1).tokens[1])-1
    s.color.value = 'gradient'
    assert 'pushed up' in s.html['group'].value
    page = s.html['formula and rules'].value
    s.walk(1)
    assert look.t == 1 and s.html['formula and rules'].value != page

def test_rules_under_sliders_are_the_same_rules(look):
    s = look.panel()
    s.step.value, s.completion.value = 1, 1
    s.epsilon.value = .01
    assert s.changes() == dict(epsilon=.01)
    assert look.rules(1, epsilon=.01).fate_words() in s.html['formula and rules'].value
    s.alike.value, s.epsilon_high.value, s.beta.value, s.loss_type.value = False, .3, 0., 'grpo'
    assert s.changes() == dict(epsilon=.01, epsilon_high=.3, beta=0., loss_type='grpo')
    s.advantage.value = 2.
    assert s.changes()['advantage'] == 2.
    s.as_it_was()
    assert s.changes() == {} and '0 of' in s.html['formula and rules'].value

def test_what_no_loss_has_is_said_on_the_page(look):
    s = look.panel()
    s.alike.value, s.loss_type.value = False, 'cispo'
    assert 'cap of the ratio' in s.html['formula and rules'].value

def test_the_other_pages(look):
    s = look.panel()
    s.step.value = 1
    s.tabs.selected_index = 1
    assert '3 groups' in s.html['step'].value or '1 groups' in s.html['step'].value
    s.tabs.selected_index = 2
    s.beside.value = 2
    assert 'all right' in s.html['beside'].value
    s.beside.value = 'reference'
    assert 'difference' in s.html['beside'].value
    s.tabs.selected_index = 3
    s.search.value = '132'
    assert '9 completions' in s.html['search'].value
    s.tabs.selected_index = 4
    s.scorer.value = 'no_such_reward'
    assert 'no reward' in s.html['another reward'].value

def test_shown_with_widgets_and_without(look):
    found = look._repr_mimebundle_()
    assert '47+85' in found['text/html'] and 'steps' in found['text/plain']
    view = look.panel().widget()._repr_mimebundle_()
    assert 'application/vnd.jupyter.widget-view+json' in view

def test_one_advantage_where_tokens_have_their_own(first):
    "The other completions keep theirs"
    own = torch.linspace(-1, 1, first.mask.numel()).view(first.mask.shape)
    look, turned = given(replace(first, advantages=own)), own.clone()
    turned[1] = 2.
    expected = replace(first, advantages=turned).gradients(beta=0.)
    assert torch.equal(look.rules(1, row=1, advantage=2., beta=0.).after, expected)
    assert look.token(1, 2, step=1, advantage=2.).values['A'] == 2. and look.token(2, 2, step=1, advantage=2.).step == 1

def test_the_page_of_an_inspector_knows_what_the_inspector_was_told(policy, tmp_path):
    ro = four_answers(policy[1])
    ro = replace(ro, logps=torch.zeros(ro.completion_mask.shape), rewards=torch.tensor([1., 0., 0., 1.]))
    ro = replace(ro, advantages=group_advantages(ro.rewards, 4))
    told = inspect(ro, tokenizer=policy[1]).page(tmp_path/'told.html').read_text(encoding='utf-8')
    assert told == page_html(ro, tokenizer=policy[1]) != page_html(ro)
