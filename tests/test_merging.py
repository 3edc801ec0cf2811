"""Attention in two pieces against dense attention; the kernels of a GPU behind fakes that keep their rules."""
import itertools, types, warnings
from unittest import mock
import pytest, torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM
from grpo_lit.core import Rollouts
from grpo_lit.fast import kernels, prefix
from grpo_lit.fast.kernels import EFFICIENT, FLASH, FLASH_CPU, best_kernel
from grpo_lit.fast.merging import PLAIN_KERNEL, Spans, attend_merged, merge, two_pieces
from grpo_lit.fast.sharing import share_prefix
from grpo_lit.logprobs import token_logps

@pytest.fixture(autouse=True)
def two_threads():
    torch.set_num_threads(2)
    kernels._chosen.clear()
    yield
    kernels._chosen.clear()

def seen(lengths, written): # (N, N) which pairs count, from what a prompt and a completion are
    G = len(written)//len(lengths)
    part = [(i, -1) for i,n in enumerate(lengths) for _ in range(n)]
    part += [(j//G, j) for j,n in enumerate(written) for _ in range(n)]
    pair = lambda a, b: a >= b and (part[a]==part[b] or part[b]==(part[a][0], -1))
    return torch.tensor([[pair(a, b) for b in range(len(part))] for a in range(len(part))])

def dense(q, k, v, mask, scale): # (N, H, D)
    q, k, v = (x.transpose(0,1)[None] for x in (q,k,v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)[0].transpose(0,1)

def draw(N, H, Hkv, D, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(N, h, D, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for h in (H,Hkv,Hkv)]

def with_gradients(f, x):
    out = f(*x)
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return out, *torch.autograd.grad(out, x, g)

LAYOUTS = {
    'ragged': ([3,5], [2,4,1,3]),
    'alike': ([4,4,4], [3]*6),
    'one of each': ([1], [1]),
    'an empty completion': ([3,7], [0,4,5,0]),
    'a prompt without tokens after it': ([3,6,2], [2,3, 0,0, 1,4]),
    'nothing written': ([5,2], [0,0]),
    'one token after a prompt': ([9,4], [1,0, 0,1]),
    'longer than a block': ([150,33], [70,40, 1,129]),
}
HEADS = [(4,4,8), (4,2,16), (6,1,8), (9,3,24)]

@pytest.mark.parametrize('heads', HEADS, ids=str)
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('kernel', [PLAIN_KERNEL, FLASH_CPU], ids=lambda k: k.name)
def test_merged_equals_dense(kernel, layout, heads):
    lengths, written = LAYOUTS[layout]
    x = draw(sum(lengths+written), *heads)
    mask, pieces = seen(lengths, written), two_pieces(lengths, written, .37)
    wanted = with_gradients(lambda *x: dense(*x, mask, .37), x)
    ours = with_gradients(lambda *x: attend_merged(*x, kernel, *pieces), x)
    for a,b in zip(ours, wanted): torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)

def test_merge_of_a_block_that_nothing_is_seen_of():
    o, l = torch.randn(3,2,4), torch.randn(2,3)
    nothing = torch.zeros_like(o), torch.full_like(l, -torch.inf)
    for pair in ((o, l, *nothing), (*nothing, o, l)):
        out, lse = merge(*pair)
        torch.testing.assert_close(out, o)
        torch.testing.assert_close(lse, l)

def test_merge_of_scores_far_apart():
    o1, o2 = torch.ones(1,1,2), torch.full((1,1,2), 2.)
    for far in (200., 1e4):
        out, lse = merge(o1, torch.tensor([[0.]]), o2, torch.tensor([[far]]))
        assert out.tolist()==[[[2.,2.]]] and lse.item()==far

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_short_dtypes_are_as_near_as_dense_attention(dtype):
    lengths, written = LAYOUTS['longer than a block']
    x, mask, pieces = draw(sum(lengths+written), 4, 2, 16, dtype), seen(lengths, written), two_pieces(lengths, written, .25)
    exact = with_gradients(lambda *x: dense(*x, mask, .25), [t.detach().double().requires_grad_() for t in x])
    error = lambda found: [((a.double()-b).norm()/b.norm()).item() for a,b in zip(found, exact)]
    ours = error(with_gradients(lambda *x: attend_merged(*x, FLASH_CPU, *pieces), x))
    theirs = error(with_gradients(lambda *x: dense(*x, mask, .25), x))
    assert all(a <= 2*b+1e-7 for a,b in zip(ours, theirs)), (ours, theirs)

# What the kernels of a GPU demand and return, played on the CPU

def bind(op, args, kw): # Arguments by name, as the operator's schema has them
    names = [a.name for a in op.default._schema.arguments]
    kinds = {a.name: a.kwarg_only for a in op.default._schema.arguments}
    assert len(args) <= len([n for n in names if not kinds[n]]), 'too many arguments by place'
    found = dict(zip(names, args))
    assert not set(found) & set(kw) and set(kw) <= set(names)
    needed = [a.name for a in op.default._schema.arguments if not a.has_default_value()]
    assert set(needed) <= set(found)|set(kw), set(needed)-set(found)-set(kw)
    return types.SimpleNamespace(**found, **kw)

def spans_of(bounds, longest, exact):
    assert bounds.dtype==torch.int32 and bounds.is_contiguous()
    lengths = bounds.diff().tolist()
    assert max(lengths) <= longest and (not exact or longest==max(lengths))
    return Spans(lengths)

def piece_of(a, at, most, causal, exact):
    q, k = (spans_of(getattr(a, n), getattr(a, m), exact) for n,m in zip(at, most))
    assert q.total==a.query.shape[-3] and k.total==a.key.shape[-3] and len(q.lengths)==len(k.lengths)
    return kernels.Piece(q, k, bool(causal), a.scale)

def unwritten(grads, piece): # What no query contributes to is not written
    for (n,m), b in zip(zip(piece.queries.lengths, piece.keys.lengths), itertools.accumulate(piece.keys.lengths)):
        if not n:
            for x in grads[1:]: x[b-m:b] = torch.nan
    return grads

class FakeFlash:
    "Varlen flash attention: 3 dimensions, shared heads, a log-sum-exp (H, N), contiguous tensors"
    AT, MOST = ('cum_seq_q','cum_seq_k'), ('max_q','max_k')
    def _check(self, a, *x):
        assert all(t.is_contiguous() and t.ndim==3 for t in (a.query, a.key, a.value, *x))
        assert a.dropout_p==0 and a.max_q > 1
    def _flash_attention_forward(self, *args, **kw):
        a = bind(torch.ops.aten._flash_attention_forward, args, kw)
        self._check(a)
        piece = piece_of(a, self.AT, self.MOST, a.is_causal, False)
        return *PLAIN_KERNEL.forward(a.query, a.key, a.value, piece), torch.zeros(2), torch.zeros(0), torch.zeros(0)
    def _flash_attention_backward(self, *args, **kw):
        a = bind(torch.ops.aten._flash_attention_backward, args, kw)
        self._check(a, a.grad_out, a.out)
        assert a.logsumexp.is_contiguous() and a.logsumexp.shape==a.query.shape[1::-1] and a.rng_state.dtype==torch.uint64
        piece = piece_of(a, self.AT, self.MOST, a.is_causal, False)
        return unwritten(PLAIN_KERNEL.backward(a.grad_out, a.query, a.key, a.value, a.out, a.logsumexp, piece), piece)

class FakeEfficient:
    "Memory-efficient attention: a batch of 1, as many heads of keys, a padded log-sum-exp of which the end is rubbish"
    AT, MOST = ('cu_seqlens_q','cu_seqlens_k'), ('max_seqlen_q','max_seqlen_k')
    def _check(self, a, *x):
        for t in (a.query, a.key, a.value, *x): assert t.is_contiguous() and t.ndim==4 and t.shape[0]==1
        assert a.query.shape[2]==a.key.shape[2]==a.value.shape[2] and a.bias is None and a.dropout_p==0
        return piece_of(a, self.AT, self.MOST, a.custom_mask_type, True)
    def _efficient_attention_forward(self, *args, **kw):
        a = bind(torch.ops.aten._efficient_attention_forward, args, kw)
        piece = self._check(a)
        assert a.compute_log_sumexp
        out, lse = PLAIN_KERNEL.forward(a.query[0], a.key[0], a.value[0], piece)
        padded = torch.full((len(piece.queries.lengths), len(lse), -(-piece.queries.longest//32)*32), torch.nan, dtype=lse.dtype)
        for i, (n, x) in enumerate(zip(piece.queries.lengths, lse.split(piece.queries.lengths, 1))): padded[i,:,:n] = x
        return out[None], padded, torch.zeros(()), torch.zeros(()), piece.queries.longest, piece.keys.longest
    def _efficient_attention_backward(self, *args, **kw):
        a = bind(torch.ops.aten._efficient_attention_backward, args, kw)
        piece = self._check(a, a.grad_out_, a.out)
        assert a.logsumexp.is_contiguous() and a.logsumexp.shape[2]%32==0 and not a.bias_requires_grad
        lse = torch.cat([x[:,:n] for n,x in zip(piece.queries.lengths, a.logsumexp)], 1)
        assert all((x[:,n:]==torch.inf).all() for n,x in zip(piece.queries.lengths, a.logsumexp))
        found = PLAIN_KERNEL.backward(a.grad_out_[0], a.query[0], a.key[0], a.value[0], a.out[0], lse, piece)
        return *(x[None] for x in unwritten(found, piece)), torch.zeros(())

FAKES = [(FLASH, FakeFlash), (EFFICIENT, FakeEfficient)]

@pytest.mark.parametrize('heads', HEADS, ids=str)
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('kernel,fake', FAKES, ids=lambda x: getattr(x, 'name', ''))
def test_what_a_gpu_is_asked_for(kernel, fake, layout, heads, monkeypatch):
    lengths, written = LAYOUTS[layout]
    x = draw(sum(lengths+written), *heads)
    pieces = two_pieces(lengths, written, .37)
    wanted = with_gradients(lambda *x: attend_merged(*x, PLAIN_KERNEL, *pieces), x)
    monkeypatch.setattr(kernels, '_aten', fake())
    ours = with_gradients(lambda *x: attend_merged(*x, kernel, *pieces), x)
    for a,b in zip(ours, wanted): torch.testing.assert_close(a, b)

@pytest.mark.parametrize('kernel,fake', FAKES, ids=lambda x: getattr(x, 'name', ''))
def test_a_view_of_a_larger_tensor(kernel, fake, monkeypatch):
    "As a model hands them over: heads before tokens"
    pieces = two_pieces([3,5], [2,4,1,3], .3)
    x = [t.detach().transpose(0,1).contiguous().transpose(0,1).requires_grad_() for t in draw(18, 4, 2, 8)]
    wanted = with_gradients(lambda *x: attend_merged(*x, PLAIN_KERNEL, *pieces), x)
    monkeypatch.setattr(kernels, '_aten', fake())
    for a,b in zip(with_gradients(lambda *x: attend_merged(*x, kernel, *pieces), x), wanted): torch.testing.assert_close(a, b)

def test_shapes_of_flash_attention_on_meta():
    x = [t.detach().to('meta', torch.bfloat16).requires_grad_() for t in draw(18, 4, 2, 8)]
    out = attend_merged(*x, FLASH, *two_pieces([3,5], [2,4,1,3], .3, 'meta'))
    out.sum().backward()
    assert out.shape==x[0].shape and all(t.grad.shape==t.shape for t in x)

def test_shapes_of_efficient_attention_on_meta():
    x = [t.detach().to('meta', torch.float16) for t in draw(18, 4, 2, 8)]
    assert attend_merged(*x, EFFICIENT, *two_pieces([3,5], [2,4,1,3], .3, 'meta')).shape==x[0].shape

# Which kernel

def card(capability, dtype, D=64, cuda='12.8'):
    q = types.SimpleNamespace(device=torch.device('cuda', 0), is_cuda=True, dtype=dtype, shape=(1,4,D))
    with mock.patch.object(torch.cuda, 'get_device_capability', lambda d: capability), mock.patch.object(torch.version, 'cuda', cuda):
        return kernels._candidates(q)

def test_candidates_by_card():
    half, bf16, f32 = torch.float16, torch.bfloat16, torch.float32
    assert card((7,5), half)==[EFFICIENT] and card((7,5), f32)==[EFFICIENT] and card((7,5), bf16)==[]
    assert card((8,0), bf16)==card((9,0), half)==[FLASH, EFFICIENT]
    assert card((9,0), f32)==card((9,0), bf16, D=512)==card((9,0), bf16, D=12)==[EFFICIENT]
    assert card((9,0), torch.float64)==[] and card((9,0), bf16, cuda=None)==[]

def test_switches_of_pytorch_are_obeyed():
    from torch.nn.attention import SDPBackend, sdpa_kernel
    x = draw(4, 4, 2, 16)
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION): assert card((9,0), torch.bfloat16)==[EFFICIENT] and best_kernel(*x) is None
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION): assert card((9,0), torch.bfloat16)==[FLASH] and card((7,5), torch.float16)==[]
    with sdpa_kernel(SDPBackend.MATH): assert card((9,0), torch.bfloat16)==[]
    assert best_kernel(*x) is FLASH_CPU                                 # what was forbidden is not remembered

def own_results(g, q, k, v, out, lse, piece): # Each piece by itself
    return FLASH_CPU.backward(g, q, k, v, *FLASH_CPU.forward(q, k, v, piece), piece)

def scaled(by):
    return lambda *a: tuple(x*by for x in FLASH_CPU.backward(*a))

def without_heads(g, q, k, v, out, lse, piece): # A gradient of keys that forgets a head
    dq, dk, dv = FLASH_CPU.backward(g, q, k, v, out, lse, piece)
    return dq, dk.clone().index_fill_(1, torch.tensor([0]), 0.), dv

def nan_where_nobody_asks(*a):
    return unwritten(FLASH_CPU.backward(*a), a[-1])

def lse_in_base_two(q, k, v, piece):
    out, lse = FLASH_CPU.forward(q, k, v, piece)
    return out, lse*1.4427

def no_kernel(*a): raise RuntimeError('no kernel image is available\nfor this device')

BROKEN = dict(
    own_results=dict(backward=own_results),
    scale=dict(backward=scaled(1.1)),
    head=dict(backward=without_heads),
    unwritten=dict(backward=nan_where_nobody_asks),
    nan=dict(backward=scaled(float('nan'))),
    lse=dict(forward=lse_in_base_two),
    not_causal=dict(forward=lambda q, k, v, piece: FLASH_CPU.forward(q, k, v, piece._replace(causal=False))),
    refuses=dict(forward=no_kernel),
    refuses_gradients=dict(backward=no_kernel),
    shape=dict(forward=lambda *a: (FLASH_CPU.forward(*a)[0], torch.zeros(1,1,1))),
)

@pytest.mark.parametrize('dtype', kernels.TOLERANCES, ids=str)
@pytest.mark.parametrize('fault', BROKEN)
def test_a_broken_kernel_is_found_out(fault, dtype, monkeypatch):
    broken = FLASH_CPU._replace(name='broken attention', **BROKEN[fault])
    monkeypatch.setattr(kernels, '_candidates', lambda q: [broken, FLASH_CPU])
    x = draw(4, 4, 2, 16, dtype)
    with pytest.warns(UserWarning, match='^broken attention is not used') as caught: assert best_kernel(*x) is FLASH_CPU
    assert len(caught)==1 and '\n' not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert best_kernel(*x) is FLASH_CPU                             # not asked again

def test_none_is_left(monkeypatch):
    monkeypatch.setattr(kernels, '_candidates', lambda q: [])
    assert best_kernel(*draw(4, 4, 2, 16)) is None

def test_no_memory_is_no_answer(monkeypatch):
    def full(*a): raise torch.OutOfMemoryError('full')
    monkeypatch.setattr(kernels, '_candidates', lambda q: [FLASH_CPU._replace(forward=full)])
    with pytest.raises(torch.OutOfMemoryError): best_kernel(*draw(4, 4, 2, 16))
    monkeypatch.undo()
    assert best_kernel(*draw(4, 4, 2, 16)) is FLASH_CPU

def test_values_of_another_width_go_with_masks():
    q, k, v = draw(4, 4, 2, 16)
    assert best_kernel(q, k, v[...,:8]) is None

def test_nobodys_random_numbers_move():
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    best_kernel(*draw(4, 4, 2, 16))
    assert torch.equal(torch.rand(2), wanted)

def asked_in_inference_mode(x):
    with torch.inference_mode(): return best_kernel(*x)

def asked_under_autocast(x):
    with torch.autocast('cpu', torch.bfloat16): return best_kernel(*x)

def asked_without_grad(x):
    with torch.no_grad(): return best_kernel(*x)

def asked_in_a_checkpoint(x):
    found = []
    def f(t):
        found.append(best_kernel(*x))
        return t.exp().sin()
    for reentrant in (False, True):
        kernels._chosen.clear()
        checkpoint(f, torch.ones(2, requires_grad=True), use_reentrant=reentrant).sum().backward()
    assert len(set(found))==1
    return found[0]

def asked_with_another_default_device(x):
    with torch.device('meta'): return best_kernel(*x)

@pytest.mark.parametrize('ask', [asked_in_inference_mode, asked_under_autocast, asked_without_grad, asked_in_a_checkpoint,
                                 asked_with_another_default_device], ids=lambda f: f.__name__)
@pytest.mark.filterwarnings('error')
def test_wherever_it_is_asked(ask):
    assert ask(draw(4, 4, 2, 16, torch.float32)) is FLASH_CPU

# In a model

def model_of(kind='llama', **kw):
    torch.manual_seed(0)
    small = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
                 num_key_value_heads=2, head_dim=8, max_position_embeddings=256)
    if kind=='gpt2': small = dict(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=256)
    m = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **small | dict(pad_token_id=0, bos_token_id=1, eos_token_id=2) | kw))
    with torch.no_grad():
        for p in m.parameters():
            if p.ndim > 1: p.mul_(3.)
    return m

def rollout(T=40, C=9, lengths=(40,23), written=(9,4,1,0,7,9)):
    g = torch.Generator().manual_seed(0)
    L, W = torch.tensor(lengths), torch.tensor(written)
    prompt_mask = (torch.arange(T) >= T-L[:,None]).long()
    counts = (torch.arange(C) < W[:,None]).long()
    ids = lambda *n: torch.randint(3, 64, n, generator=g)
    return Rollouts(ids(len(L),T)*prompt_mask, prompt_mask, ids(len(W),C), counts, None, len(W)//len(L), torch.ones(len(W), dtype=torch.bool))

def value_and_gradient(m, ro, **autocast):
    m.zero_grad()
    with torch.autocast('cpu', torch.bfloat16, enabled=bool(autocast)): logps = token_logps(m, ro)
    (logps*torch.randn(logps.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None])
    m.zero_grad()
    return logps.detach(), gradient

@pytest.fixture
def counted(monkeypatch):
    "How often attention was computed in two pieces"
    calls, honest = [], prefix.attend_merged
    monkeypatch.setattr(prefix, 'attend_merged', lambda *a: calls.append(1) or honest(*a))
    return calls

KINDS = {
    'llama': ({}, 3),
    'qwen3': ({}, 3),
    'gpt2': (dict(scale_attn_by_inverse_layer_idx=True), 3),            # each layer has its own factor
    'mistral': (dict(sliding_window=64), 3),                            # further than anything here
    'gemma3_text': (dict(sliding_window=8, layer_types=['sliding_attention','full_attention','sliding_attention']), 1),
    'gemma2': (dict(sliding_window=64), 0),                             # squeezed scores
}

@pytest.mark.parametrize('kind', KINDS)
def test_models_in_two_pieces(kind, counted, monkeypatch):
    options, pieces = KINDS[kind]
    m, ro = model_of(kind, **options).eval(), rollout()
    assert share_prefix(m)
    value, gradient = value_and_gradient(m, ro)
    assert not counted                                                  # short prompts on a CPU
    monkeypatch.setattr(prefix, 'LONG', 8)
    ours, our_gradient = value_and_gradient(m, ro)
    assert len(counted)==pieces
    torch.testing.assert_close(ours, value, atol=1e-5, rtol=0)
    assert (gradient-our_gradient).norm() <= 1e-5*gradient.norm()

@pytest.mark.parametrize('reentrant', [False, True])
def test_with_gradient_checkpointing(reentrant, counted, monkeypatch):
    monkeypatch.setattr(prefix, 'LONG', 8)
    m, ro = model_of().train(), rollout()
    value, gradient = value_and_gradient(m, ro)
    kernels._chosen.clear()                                             # asked for the first time inside a checkpoint
    m.gradient_checkpointing_enable(dict(use_reentrant=reentrant))
    if reentrant: m.enable_input_require_grads()
    counted.clear()
    ours, our_gradient = value_and_gradient(m, ro)
    assert len(counted)==6 and torch.equal(ours, value)
    torch.testing.assert_close(our_gradient, gradient)

def test_under_autocast(counted, monkeypatch):
    m, ro = model_of(), rollout()
    exact, masked = value_and_gradient(m, ro), value_and_gradient(m, ro, autocast=True)
    monkeypatch.setattr(prefix, 'LONG', 8)
    merged = value_and_gradient(m, ro, autocast=True)
    assert counted
    for a,b,x in zip(merged, masked, exact): assert (a-x).norm() <= 1.3*(b-x).norm()

@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_without_gradients_and_then_with(mode, monkeypatch):
    monkeypatch.setattr(prefix, 'LONG', 8)
    m, ro = model_of(), rollout()
    with mode(): first = token_logps(m, ro)
    assert torch.equal(value_and_gradient(m, ro)[0], first)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_other_dtypes(dtype, counted, monkeypatch):
    m, ro = model_of().to(dtype), rollout()
    masked = token_logps(m, ro)
    monkeypatch.setattr(prefix, 'LONG', 8)
    merged = token_logps(m, ro)
    assert counted and (merged-masked).abs().max() <= {torch.float64:1e-6}.get(dtype, .3)

def test_a_broken_kernel_leaves_masks(counted, monkeypatch):
    m, ro = model_of(), rollout()
    wanted = value_and_gradient(m, ro)
    monkeypatch.setattr(prefix, 'LONG', 8)
    monkeypatch.setattr(kernels, '_candidates', lambda q: [FLASH_CPU._replace(backward=own_results)])
    with pytest.warns(UserWarning, match='is not used for torch.float32, 4 heads of 8'): found = value_and_gradient(m, ro)
    assert not counted and all(map(torch.equal, found, wanted))

# What a backward pass keeps

def kept(m, ro, **autocast): # Bytes of each storage, weights aside; and of those that hold masks
    weights, found, masks = {p.untyped_storage().data_ptr() for p in m.parameters()}, {}, {}
    def pack(x):
        s = x.untyped_storage()
        if s.data_ptr() not in weights: found[s.data_ptr()] = s.nbytes()
        if x.is_floating_point() and (x==-torch.inf).any(): masks[s.data_ptr()] = s.nbytes()
        return x
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x)
    with torch.autocast('cpu', torch.bfloat16, enabled=bool(autocast)):
        share_prefix(m)
        with hooks: out = token_logps(m, ro)
    return found, masks, out                                            # with the graph alive no storage takes another's place

LONGER_THAN_THEIR_PROMPTS = dict(T=16, C=64, lengths=(16,9), written=(64,40,64,64)) # nothing is checkpointed

@pytest.mark.parametrize('autocast', [{}, dict(autocast=True)], ids=['float32','autocast'])
@pytest.mark.parametrize('layers', [2, 6])
def test_a_mask_is_kept_once_not_per_layer(layers, autocast):
    _, masks, _ = kept(model_of(num_hidden_layers=layers), rollout(**LONGER_THAN_THEIR_PROMPTS), **autocast)
    queries, keys, size = 4*63*2, 16+63, 2 if autocast else 4           # the last token predicts nothing
    assert list(masks.values())==[queries*-(-keys//8)*8*size]

def test_windows_have_a_mask_each():
    m = model_of('gemma3_text', sliding_window=8, layer_types=['sliding_attention','full_attention']*3, num_hidden_layers=6)
    _, masks, _ = kept(m, rollout(**LONGER_THAN_THEIR_PROMPTS))
    assert len(masks)==3                                                # the window's inside prompts, and two across

def test_two_pieces_keep_no_more_than_masks(monkeypatch):
    ro, m = rollout(T=100, C=30, lengths=(100,60), written=(30,11,30,5)), model_of()
    masked = sum(kept(m, ro)[0].values())
    monkeypatch.setattr(prefix, 'LONG', 8)
    found, masks, _ = kept(m, ro)
    assert sum(found.values()) < masked and not masks

def test_rows_of_a_mask_are_aligned():
    for keys in (7, 8, 9, 33):
        seen = torch.rand(2,3,keys, generator=torch.Generator().manual_seed(keys)) > .5
        bias = prefix.as_bias(seen, torch.float16)
        assert bias.shape==seen.shape and all(n%8==0 for n in bias.stride()[:-1]) and bias.stride(-1)==1
        assert torch.equal(bias==0, seen) and torch.equal(bias==-torch.inf, ~seen)

# On a GPU

@pytest.mark.cuda
@pytest.mark.parametrize('heads', [(4,4,64), (14,2,64), (9,3,64), (8,2,128), (4,1,80), (4,2,256)], ids=str)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.filterwarnings('error')
def test_the_best_kernel_of_a_gpu_passes(dtype, heads):
    H, Hkv, D = heads
    x = [torch.empty(1, h, D, dtype=dtype, device='cuda') for h in (H,Hkv,Hkv)]
    candidates = kernels._candidates(x[0])
    if not candidates: pytest.skip('no kernel for this card')
    for kernel in candidates: assert kernels._why_not(kernel, x[0], Hkv)==''
    assert best_kernel(*x) is candidates[0]

@pytest.mark.cuda
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('kernel', [FLASH, EFFICIENT], ids=lambda k: k.name)
def test_layouts_on_a_gpu(kernel, layout):
    lengths, written = LAYOUTS[layout]
    x = draw(sum(lengths+written), 4, 2, 64, torch.float16)
    wanted = with_gradients(lambda *x: attend_merged(*x, PLAIN_KERNEL, *two_pieces(lengths, written, .125)), [t.detach().double().requires_grad_() for t in x])
    pieces = two_pieces(lengths, written, .125, 'cuda')
    if kernel not in kernels._candidates(x[0].cuda()): pytest.skip('not for this card')
    ours = with_gradients_on('cuda', lambda *x: attend_merged(*x, kernel, *pieces), x)
    for a,b in zip(ours, wanted): assert (a.cpu().double()-b).abs().max() <= .01*b.abs().max()

def with_gradients_on(device, f, x):
    x = [t.detach().to(device).requires_grad_() for t in x]
    out = f(*x)
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device, out.dtype)
    return out, *torch.autograd.grad(out, x, g)

@pytest.mark.cuda
@pytest.mark.parametrize('half', [None, torch.float16, torch.bfloat16], ids=str)
def test_a_model_on_a_gpu(half, counted, monkeypatch):
    if half==torch.bfloat16 and not torch.cuda.is_bf16_supported(False): pytest.skip('no bfloat16 on this card')
    m, ro = model_of().cuda(), rollout().to('cuda')
    def run():
        m.zero_grad()
        with torch.autocast('cuda', half, enabled=half is not None): logps = token_logps(m, ro)
        logps.sum().backward()
        return logps.detach(), torch.cat([p.grad.flatten() for p in m.parameters()])
    merged = run()
    assert len(counted)==3
    monkeypatch.setattr(prefix, 'best_kernel', lambda *a: None)
    masked = run()
    for a,b in zip(merged, masked): assert (a-b).norm() <= {None:1e-4}.get(half, .05)*b.norm()
