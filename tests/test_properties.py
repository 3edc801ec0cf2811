"""What must hold for any input, not only for the examples of the chapters."""
import torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from grpo_lit.advantages import AGGREGATIONS, BASELINES, SCALES, group_advantages
from grpo_lit.fast.tiles import head_logps
from grpo_lit.loss import KL_TERMS, LEVELS, LOSSES, grpo_loss, loss_items
from grpo_lit.fast.offpolicy import IMPORTANCE_SAMPLING_MODES, importance_weights
from grpo_lit.rewards import as_numbers, extract_answer, math_equal

torch.set_num_threads(1)
settings.register_profile('grpo_lit', deadline=None); settings.load_profile('grpo_lit')      # the first call imports and warms up
number = st.floats(allow_nan=False, allow_infinity=False)
reward = st.one_of(st.floats(-1e6, 1e6), st.just(float('nan')))
def groups_of(reward): return st.integers(1, 6).flatmap(lambda G: st.tuples(st.just(G), st.lists(st.lists(reward, min_size=G, max_size=G), min_size=1, max_size=4)))
ways = st.fixed_dictionaries(dict(scale_rewards=st.sampled_from(SCALES), baseline=st.sampled_from(BASELINES))).filter(lambda w: not (w['scale_rewards']=='group' and w['baseline'] in ('batch','none')))
def tensor(rows): return torch.tensor(rows, dtype=torch.float64).flatten()

@given(groups_of(reward), st.sampled_from(SCALES), st.sampled_from(['group','leave_one_out']))
def test_advantages_are_balanced(g, scale, baseline):
    G, rows = g; a = group_advantages(tensor(rows), G, scale_rewards=scale, baseline=baseline).view(-1, G)
    assert a.isfinite().all()
    assert (a.sum(1).abs() <= 1e-6*(1+a.abs().sum(1))).all()

@given(groups_of(st.one_of(number, st.just(float('nan')), st.just(float('inf')))), ways, st.sampled_from([torch.float32, torch.float64]))
def test_advantages_are_finite_for_any_number(g, way, dtype):
    G, rows = g; assert group_advantages(tensor(rows).to(dtype), G, **way).isfinite().all()

@given(groups_of(st.lists(st.one_of(number, st.just(float('nan'))), min_size=2, max_size=2)), st.sampled_from(AGGREGATIONS))
def test_advantages_of_several_rewards_are_finite(g, how):
    G, rows = g; assert group_advantages(tensor(rows).view(-1, 2), G, weights=[1., .2], multi_objective_aggregation=how).isfinite().all()

@given(groups_of(reward), st.floats(-1e3, 1e3), ways.filter(lambda w: w['baseline']!='none'))
def test_advantages_ignore_an_offset(g, by, way):
    G, rows = g; r = tensor(rows).clamp(-10, 10).round(decimals=3)
    assert_close(group_advantages(r+by, G, **way), group_advantages(r, G, **way), atol=1e-4, rtol=1e-4)

@given(groups_of(reward), st.floats(1e-3, 1e3), ways.filter(lambda w: w['scale_rewards']!='none'))
def test_advantages_ignore_the_unit(g, unit, way):
    G, rows = g; r = tensor(rows).clamp(-10, 10).round(decimals=3)
    assert_close(group_advantages(r*unit, G, eps=0. if (group_advantages(r, G, **way)!=0).any() else 1e-4, **way).nan_to_num(nan=0.),
                 group_advantages(r, G, eps=0. if (group_advantages(r, G, **way)!=0).any() else 1e-4, **way).nan_to_num(nan=0.), atol=1e-6, rtol=1e-6)

@given(groups_of(reward), ways, st.randoms())
def test_advantages_follow_their_row(g, way, rng):
    G, rows = g; r = tensor(rows).clamp(-10, 10); order = torch.tensor(rng.sample(range(G), G))
    swap = lambda x: x.view(-1, G)[:,order].flatten()
    assert_close(group_advantages(swap(r), G, **way), swap(group_advantages(r, G, **way)), atol=1e-9, rtol=1e-9)

def some_batch(seed, spread=.5, rows=6, T=5):
    g = torch.Generator().manual_seed(seed); R = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)
    m = (torch.arange(T) < torch.randint(0, T+1, (rows,1), generator=g)).long()
    old = -R(rows,T).abs(); return (old+spread*R(rows,T)).requires_grad_(), old, -R(rows,T).abs(), R(rows), m, R(rows,T).abs()

losses = dict(seed=st.integers(0, 2**31), loss_type=st.sampled_from(list(LOSSES)), level=st.sampled_from(LEVELS))
@given(**losses, cuts=st.lists(st.integers(1, 5), max_size=3, unique=True), processes=st.integers(1, 4))
def test_loss_is_the_same_in_parts(seed, loss_type, level, cuts, processes):
    new, old, ref, A, m, w = some_batch(seed)
    kw = dict(loss_type=loss_type, importance_sampling_level=level, beta=.1, max_completion_length=5, off_policy_mask_threshold=.3)
    whole, = torch.autograd.grad(grpo_loss(new, A, m, old, ref, token_weights=w, **kw)[0], new)
    ends = [0, *sorted(cuts), 6]; parts = [slice(a, b) for a,b in zip(ends, ends[1:])]
    items = sum(loss_items(loss_type, m[p], 5) for p in parts).clamp(min=1)/processes                       # gradients of processes are averaged
    split, = torch.autograd.grad(sum(grpo_loss(new[p], A[p], m[p], old[p], ref[p], num_items=items, token_weights=w[p], **kw)[0] for p in parts)/processes, new)
    assert_close(split, whole); assert (whole[m==0]==0).all()

@given(**losses, size=st.floats(0, 1e6), kl=st.sampled_from(list(KL_TERMS)), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_loss_is_finite_for_any_number(seed, loss_type, level, size, kl, dtype):
    new, old, ref, A, m, _ = (x.to(dtype) if x.is_floating_point() else x for x in some_batch(seed, spread=size))
    wild = torch.where(m>0, new.detach(), float('-inf')).requires_grad_()                                   # under the mask even that does no harm
    x, stats = grpo_loss(wild, size*A, m, old*size, ref, loss_type=loss_type, importance_sampling_level=level, kl=kl, max_completion_length=5)
    assert x.isfinite() and torch.autograd.grad(x, wild)[0].isfinite().all() and all(v.isfinite() for v in stats.values())

@given(seed=st.integers(0, 2**31), V=st.integers(2, 300), N=st.integers(0, 40), size=st.floats(1e-3, 100), temperature=st.floats(.1, 5))
def test_head_logps_are_log_softmax(seed, V, N, size, temperature):
    g = torch.Generator().manual_seed(seed); h, W = torch.randn(N, 4, generator=g, dtype=torch.float64)*size, torch.randn(V, 4, generator=g, dtype=torch.float64)
    ids = torch.randint(V, (N,), generator=g); lp, H = head_logps(h, W, None, ids, temperature, return_entropy=True)
    want = (h@W.T/temperature).log_softmax(1)
    assert_close(lp, want.gather(1, ids[:,None])[:,0], atol=1e-8, rtol=1e-8); assert_close(H, -(want.exp()*want).nan_to_num().sum(1), atol=1e-7, rtol=1e-7)

@given(seed=st.integers(0, 2**31), mode=st.sampled_from(IMPORTANCE_SAMPLING_MODES), cap=st.floats(1, 10), size=st.floats(0, 1e30), dtype=st.sampled_from([torch.float32, torch.float64]), lost=st.sampled_from([None, float('-inf'), float('nan')]))
def test_importance_weights_keep_their_bounds(seed, mode, cap, size, dtype, lost):
    new, old, _, _, m, _ = some_batch(seed, spread=size)
    if lost is not None: old[::2,::2] = lost                                                                # what a server may say of a token
    w = importance_weights(new.to(dtype), old.to(dtype), m, mode, cap)
    assert (w >= 0).all() and (w <= cap).all() and not w.requires_grad

@given(st.text(max_size=200), st.text(max_size=200))
def test_answers_never_raise(a, b):
    "Hostile text is wrong, never an exception"
    for style in ('auto', 'boxed', 'hash', 'tag', 'number'): extract_answer(a, style)
    as_numbers(a); math_equal(a, b); math_equal(b, f'\\boxed{{{a}}}')
