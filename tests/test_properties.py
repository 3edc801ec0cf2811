"""What must hold for any input, not only for the examples of the chapters."""
import torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from grpo_lit.advantages import SCALES, group_advantages
from grpo_lit.loss import LOSS_ITEMS, grpo_loss, loss_items
from grpo_lit.rewards import as_numbers, extract_answer, math_equal

torch.set_num_threads(1)
settings.register_profile('grpo_lit', deadline=None); settings.load_profile('grpo_lit')      # the first call imports and warms up
reward = st.one_of(st.floats(-1e6, 1e6), st.just(float('nan')))
groups = st.integers(1, 6).flatmap(lambda G: st.tuples(st.just(G), st.lists(st.lists(reward, min_size=G, max_size=G), min_size=1, max_size=4)))

@given(groups, st.sampled_from(SCALES))
def test_advantages_are_finite_and_balanced(g, scale):
    G, rows = g; a = group_advantages(torch.tensor(rows, dtype=torch.float64).flatten(), G, scale_rewards=scale).view(-1, G)
    assert a.isfinite().all()
    assert (a.sum(1).abs() <= 1e-6*(1+a.abs().sum(1))).all()

@given(groups, st.floats(-1e3, 1e3))
def test_advantages_ignore_an_offset(g, by):
    G, rows = g; r = torch.tensor(rows, dtype=torch.float64).flatten().clamp(-10, 10).round(decimals=3)
    assert_close(group_advantages(r+by, G), group_advantages(r, G), atol=1e-4, rtol=1e-4)

@given(st.integers(0, 2**31), st.sampled_from(list(LOSS_ITEMS)), st.sampled_from(['token', 'sequence']), st.lists(st.integers(1, 5), min_size=0, max_size=3, unique=True))

def test_loss_is_the_same_in_parts(seed, loss_type, level, cuts):
    g = torch.Generator().manual_seed(seed); R = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)
    old, ref, A, new = -R(6,5).abs(), -R(6,5).abs(), R(6), None
    m = (torch.arange(5) < torch.randint(0, 6, (6,1), generator=g)).long()
    new = (old+.5*R(6,5)).requires_grad_()
    kw = dict(loss_type=loss_type, importance_sampling_level=level, beta=.1, max_completion_length=5)
    whole, = torch.autograd.grad(grpo_loss(new, A, m, old, ref, **kw)[0], new)
    ends = [0, *sorted(cuts), 6]; parts = [slice(a, b) for a,b in zip(ends, ends[1:])]
    items = sum(loss_items(loss_type, m[p], 5) for p in parts).clamp(min=1)
    split, = torch.autograd.grad(sum(grpo_loss(new[p], A[p], m[p], old[p], ref[p], num_items=items, **kw)[0] for p in parts), new)
    assert_close(split, whole); assert (whole[m==0]==0).all()

@given(st.text(max_size=200), st.text(max_size=200))
def test_answers_never_raise(a, b):
    "Hostile text is wrong, never an exception"
    for style in ('auto', 'boxed', 'hash', 'tag', 'number'): extract_answer(a, style)
    as_numbers(a); math_equal(a, b); math_equal(b, f'\\boxed{{{a}}}')
