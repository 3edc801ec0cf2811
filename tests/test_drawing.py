"""Drawing a token: the right distribution, the same token in any company, never one of no probability, never one from NaN."""
import itertools, math
from types import SimpleNamespace
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TopPLogitsWarper, TypicalLogitsWarper
from grpo_lit import filters, sampling
from grpo_lit.drawing import BLOCK, Blocks, Plain, at_temperature, distribution, draw, uniforms
from grpo_lit.endings import Endings
from grpo_lit.fast.sharing import share_prefix
from grpo_lit.filters import HEAD, new_filters
from grpo_lit.policy import load_policy
from grpo_lit.sampling import Rows, decode, sample_groups
from grpo_lit.tensors import mask_after_eos

torch.set_num_threads(2)
nan, inf = math.nan, math.inf
f64 = torch.float64


def numbers(n, seed=0): return torch.rand(n, dtype=f64, generator=torch.Generator().manual_seed(seed))

def language(V, seed=0, rows=1):
    "Logits like those of a language model: a few tokens that fit, and a long tail"
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, V, generator=g)*2
    fit = torch.randint(V, (rows, 12), generator=g)
    return z if V < 100 else z.scatter_add_(1, fit, torch.rand(rows, 12, generator=g)*3+8)


# The right distribution

def chi_square(tokens, p):
    counts, expected = tokens.bincount(minlength=len(p)).double(), p*len(tokens)
    often = expected >= 5
    rest = (counts[~often].sum()-expected[~often].sum())**2/expected[~often].sum().clamp(min=1)
    return (((counts-expected)[often]**2/expected[often]).sum()+rest).item(), int(often.sum())

def check_distribution(V, seed, batches, rows=64):
    logits, u = language(V, seed), numbers(batches*rows, seed+1).view(batches, rows)
    tokens = torch.cat([draw(logits.expand(rows, -1), x) for x in u])
    x, k = chi_square(tokens, logits[0].double().softmax(-1))
    assert k > 4 and x < k+5*(2*k)**.5, (x, k)

@pytest.mark.parametrize('seed', [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
@pytest.mark.parametrize('V', [31, 49_152, 151_936])
def test_chi_square(V, seed): check_distribution(V, seed, batches=2000 if V < 100 else 24)

@pytest.mark.slow
@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('V', [31, 49_152, 151_936])
def test_chi_square_of_many(V, seed): check_distribution(V, seed+10, batches=1000)

SIZES = 1, 2, 31, 127, 128, 129, 255, 1000, 1024, 1153, 5000, 50_257

@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize('V', SIZES)
def test_the_token_of_the_plain_way(V, dtype):
    for seed, spread in enumerate((0., 1., 8.)):
        g = torch.Generator().manual_seed(V+seed)
        z = (torch.randn(32, V, generator=g)*spread).to(dtype)
        z[:,1::3] = -inf
        u = numbers(32, seed)
        found, known = Blocks(z), Plain(z)
        tokens = found.draw(u)
        assert torch.equal(tokens, known.draw(u))
        torch.testing.assert_close(found.logps(tokens), known.logps(tokens), atol=1e-5, rtol=1e-6)
        assert found.logps(tokens).dtype == known.logps(tokens).dtype == torch.float32

def test_the_slice_of_a_token_is_as_wide_as_its_probability():
    "Also that of a rare token at the end of its block, which must not get what rounding leaves"
    z = torch.randn(1, 1500, generator=torch.Generator().manual_seed(0))
    z[0,[255, 639, 1499]] = torch.tensor([-9., -12., -10.])
    p = z[0].double().softmax(-1)
    for token in (0, 1, 200, 255, 639, 640, 1100, 1499):
        def begins(beyond): # The smallest u that draws this token, or one beyond
            low, high = 0., 1.
            for _ in range(60):
                mid = (low+high)/2
                t = Blocks(z).draw(torch.tensor([mid], dtype=f64)).item()
                low, high = (low, mid) if t >= token+beyond else (mid, high)
            return high
        width = begins(1)-begins(0)
        assert abs(width/p[token]-1) < 1e-5, (token, width, p[token])

U_EDGES = [0., 5e-324, 1e-16, .25, .5, .75-1e-16, .75, .75+1e-16, 1-1e-9, 1-2**-52, 1-2**-53]

@pytest.mark.parametrize('kind', [Blocks, Plain])
def test_never_a_token_without_probability(kind):
    g, u = torch.Generator().manual_seed(0), torch.tensor(U_EDGES, dtype=f64)
    for V, kept in itertools.product((31, 128, 300, 1025, 4096), (1, 2, 4, 20)):
        for edge in ((0,), (V-1,), (V//BLOCK*BLOCK-1,), (), tuple(range(min(V, BLOCK)))):
            z = torch.full((len(u), V), -inf)
            places = [*torch.randint(V, (kept,), generator=g).tolist(), *edge]
            z[:,places] = torch.randn(len(places), generator=g)*4
            tokens = kind(z).draw(u)
            assert ((0 <= tokens) & (tokens < V)).all()
            assert z.gather(1, tokens[:,None]).isfinite().all()

def test_masses_too_small_to_count():
    "Tokens whose mass is lost beside the others, or is below the smallest float32"
    z = torch.full((11, 3000), -200.)
    z[:,1500] = 0
    assert Blocks(z).draw(torch.tensor(U_EDGES, dtype=f64)).eq(1500).all()
    assert Blocks(z).logps(torch.full((11,), 3)).allclose(torch.tensor(-200.))

@pytest.mark.parametrize('value', [nan, inf, -inf])
@pytest.mark.parametrize('V', [31, 128, 3001])
def test_broken_logits_give_a_token_of_the_vocabulary_and_no_finite_sum(V, value):
    for place in (0, V//2, V-1, slice(None)):
        if value == -inf and place != slice(None): continue
        z = torch.randn(3, V)
        z[1,place] = value
        for kind in (Blocks, Plain):
            found = kind(z)
            for u in (0., .5, 1-2**-53):
                tokens = found.draw(torch.full((3,), u, dtype=f64))
                assert ((0 <= tokens) & (tokens < V)).all()
            assert found.logsumexp.isfinite().tolist() == [True, False, True]


# The same in any company

@pytest.mark.parametrize('V', [31, 1001, 3001, 49_152])
def test_a_row_alone_and_among_others(V):
    z, u = language(V, rows=65), numbers(65)
    tokens, logps = draw(z, u), distribution(z).logps(draw(z, u))
    for b in range(0, 65, 7):
        for few in (slice(b, b+1), slice(b, 65), slice(max(0, b-3), b+2)):
            alone = distribution(z[few].clone())
            assert torch.equal(alone.draw(u[few]), tokens[few])
            torch.testing.assert_close(alone.logps(tokens[few]), logps[few], atol=0, rtol=1e-6)

def wordy(V=3000, seed=0, dtype=torch.float32):
    "A small model with a vocabulary that is drawn from by blocks, and a tokenizer"
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=V, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                         num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0, eos_token_id=1, initializer_range=.3)
    from tokenizers import Tokenizer, models, pre_tokenizers
    made = Tokenizer(models.WordLevel({f't{i}': i for i in range(V)}, unk_token='t2'))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token='t0', eos_token='t1', padding_side='left')
    return LlamaForCausalLM(config).to(dtype).eval(), tokenizer

def test_places_in_the_batch_change_no_token():
    model, tokenizer = wordy()
    prompts = [' '.join(f't{10*i+j}' for j in range(3+i)) for i in range(6)]
    settings = dict(num_generations=4, max_completion_length=12, temperature=.9, seed=3)
    whole = sample_groups(model, tokenizer, prompts, **settings)
    for changed in (dict(max_rows=4), dict(max_rows=9), dict(max_rows=16)):
        again = sample_groups(model, tokenizer, prompts, **settings, **changed)
        assert torch.equal(again.completion_ids, whole.completion_ids)
    ids, attention = whole.sequences()
    with torch.no_grad():
        at = (attention.cumsum(1)-1).clamp(min=0)
        logits = model(input_ids=ids, attention_mask=attention, position_ids=at).logits.float()/.9
    T = whole.completion_ids.shape[1]
    again = logits[:,-T-1:-1].log_softmax(-1).gather(2, whole.completion_ids[...,None])[...,0]
    assert ((again-whole.logps)*whole.completion_mask).abs().max() < 1e-4

def test_temperature_divides_in_float32():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        z = language(2000).to(dtype)
        assert torch.equal(at_temperature(z, .7), z.float()/.7)
        assert at_temperature(z, 1.) is z and at_temperature(z, 0) is z

def test_other_chapters_find_it_in_sampling():
    assert sampling.draw is draw and sampling.uniforms is uniforms and sampling.Endings is Endings


# What it costs

class Traffic(TorchDispatchMode):
    "Bytes that operations read and write; of what is only looked up, what is found"
    bytes = 0
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if function.is_view: return found
        looked_up = function in (torch.ops.aten.gather.default, torch.ops.aten.searchsorted.Tensor)
        tensors = [x for x in ((found,) if looked_up else (*args, found)) if isinstance(x, torch.Tensor)]
        self.bytes += sum(x.numel()*x.element_size() for x in tensors)
        return found

def on_meta(B, V, dtype=torch.float32):
    return torch.empty(B, V, dtype=dtype, device='meta'), torch.empty(B, dtype=f64, device='meta')

@pytest.mark.parametrize('dtype, most', [(torch.bfloat16, 21), (torch.float16, 21), (torch.float32, 25)])
def test_bytes_of_a_logit(dtype, most):
    z, u = on_meta(64, 151_936, dtype)
    with Traffic() as t:
        found = distribution(z)
        found.logps(found.draw(u))
    assert t.bytes/z.numel() < most

def rows_on(device, V, filters=(), dtype=torch.float32, steps=3):
    "Rows that have written some tokens"
    rows = Rows(4, 8, device, prompts=[[1,2,3], [4]])
    rows.enter(torch.arange(4, device=device), torch.zeros(4, V, dtype=dtype, device=device))
    u = torch.zeros(4, 8, dtype=f64, device=device)
    for temperature in (1., .7, 0)[:steps]:
        rows.write(temperature, filters, u)
        rows.over = rows.over | (rows.tokens==1)
        rows.go_on(torch.zeros(4, V, dtype=dtype, device=device))
    return rows

BENT = dict(repetition_penalty=1.3, no_repeat_ngram_size=2, min_new_tokens=2, suppress_tokens=[3], begin_suppress_tokens=[5],
            top_k=50, min_p=.01, epsilon_cutoff=.001, eta_cutoff=.01)

@pytest.mark.parametrize('V', [31, 3000])
@pytest.mark.parametrize('bent', [{}, *({k: v} for k, v in BENT.items())], ids=str)
def test_no_step_waits_for_a_device(V, bent):
    "Tensors without values: whoever asks for one raises, and who mixes them with tensors of the CPU"
    for dtype in (torch.float32, torch.bfloat16):
        rows_on('meta', V, new_filters(bent, [1]), dtype)

def test_a_wait_would_be_seen():
    with pytest.raises((RuntimeError, NotImplementedError)): rows_on('meta', 31).look(None)

def test_a_look_is_one_transfer(monkeypatch):
    asked = []
    def counted(name, kind=torch.Tensor):
        known = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda self, *a: asked.append(name) or known(self, *a))
    rows = rows_on('cpu', 31)
    tokenizer = load_policy('tiny', device='cpu')[1]
    ends = Endings(tokenizer, torch.tensor([2]), ['12', '=3'], B=64, limit=20)
    out = torch.randint(5, 20, (64, 20))
    for name in ('tolist', 'item', '__int__', '__bool__', '__float__', 'nonzero'): counted(name)
    rows.look(None)
    assert asked == ['tolist']
    ends.stopped(torch.arange(64), out, torch.full((64,), 15), n=8)
    assert asked == ['tolist']*2


# Logits that are no distribution

def broken_model(change, model=None):
    "A model whose logits are changed, in place, as change(logits (B, V), number of the step)"
    model = model or load_policy('tiny', device='cpu')[0]
    share_prefix(model) # asks the model, once
    step = itertools.count()
    def hook(module, args, logits):
        logits = logits.clone()
        change(logits.view(-1, logits.shape[-1]), next(step)) # first a row for each prompt, then one for each completion
        return logits
    model.lm_head.register_forward_hook(hook)
    return model

TINY = load_policy('tiny', device='cpu')[1]
EOS = TINY.eos_token_id

def at_eos(tokens, rows, out, t): return tokens==EOS

def written(model, look, temperature=1., bent={}, G=8, limit=20, ended=at_eos, prompts=('1+1=?', '12+30=?')):
    ids = [TINY(p).input_ids for p in prompts]
    return decode(model, ids, G, limit, temperature, new_filters(bent, [EOS]), uniforms(0, len(ids)*G, limit), ended, look=look)

def put(value, step=0, row=0, place=7):
    "A change of one logit, or of all"
    def change(logits, n):
        if n == step: logits[row,place] = value
    return change

def mixed(logits, n):
    if n == 3: logits[1,4], logits[1,5] = inf, -inf

FAULTS = {'nan': put(nan), 'inf': put(inf), 'all -inf': put(-inf, place=slice(None)), 'nan late': put(nan, 5, 3), 'inf late': put(inf, 7, 2),
          'all nan': put(nan, 2, 1, slice(None)), 'inf and -inf': mixed, 'all -inf late': put(-inf, 6, 5, slice(None))}

@pytest.mark.parametrize('look', [1, 8])
@pytest.mark.parametrize('name', FAULTS)
def test_broken_logits_are_an_error(name, look):
    for temperature in (1., 0, 1e-8):
        forever = {'suppress_tokens': [EOS]} # so that every row is still writing
        with pytest.raises(FloatingPointError, match='no token can be drawn.*not finite'):
            written(broken_model(FAULTS[name]), look, temperature, forever)

FILTERED = {**BENT, 'top_p': .5, 'typical_p': .5, 'bad_words_ids': [[7], [3,4]], 'suppress_tokens': [7], 'begin_suppress_tokens': [7]}

@pytest.mark.parametrize('name', FILTERED)
def test_filters_hide_nothing(name):
    "Not even of a logit that they take away"
    for fault, temperature in (('inf', 0), ('inf', 1.), ('nan late', 1.)):
        with pytest.raises(FloatingPointError, match='not finite'):
            written(broken_model(FAULTS[fault]), 8, temperature, {name: FILTERED[name]} | {'min_new_tokens': 19})

@pytest.mark.parametrize('look', [1, 8])
@pytest.mark.parametrize('step', [0, 4])
def test_a_row_that_ends_by_a_broken_token(look, step):
    last = 30 # what is drawn from NaN in a vocabulary of 31
    ends = lambda tokens, rows, out, t: tokens==last
    seen = []
    for change in (put(nan, step, 1), put(nan, step, slice(None)), put(-inf, step, 1, slice(None))):
        ids = [TINY('1+1=?').input_ids]*2
        with pytest.raises(FloatingPointError):
            decode(broken_model(change), ids, 4, 16, 1., new_filters(dict(suppress_tokens=[last])) if step else [], uniforms(0, 8, 16), ends,
                   done=lambda i, out, logps: seen.append(i), look=look)
    assert not seen # no group was handed on

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_broken_logits_of_other_dtypes(dtype):
    for fault in ('nan', 'inf late', 'all -inf'):
        model = broken_model(FAULTS[fault], load_policy('tiny', device='cpu', dtype=dtype)[0])
        with pytest.raises(FloatingPointError, match=f'computed in {str(dtype)[6:]}'):
            written(model, 8, bent=dict(min_new_tokens=19))

@pytest.mark.parametrize('V', [31, 3000])
def test_large_vocabularies_too(V):
    model, tokenizer = wordy(V)
    for value, place in ((nan, V-1), (inf, 0), (-inf, slice(None))):
        with pytest.raises(FloatingPointError, match='not finite'):
            sample_groups(broken_model(put(value, 2, 1, place), wordy(V)[0]), tokenizer, ['t5 t6'], 4, 8, generation_kwargs=dict(min_new_tokens=8))

@pytest.mark.parametrize('look', [1, 8])
def test_what_stands_after_an_end_is_no_error(look):
    "One row of sixteen ends at its second token, stays in the batch, and its logits become NaN"
    def change(logits, n):
        logits[:,EOS] = -inf
        if n == 1 and len(logits) == 16: logits[5] = torch.full_like(logits[5], -inf).index_fill(0, torch.tensor([EOS]), 0.)
        if n == 3 and len(logits) == 16: logits[5] = nan
    out, logps = written(broken_model(change), look)
    assert out[5,1] == EOS and logps[5,:2].isfinite().all() and logps[6].isfinite().all()

def test_masks_of_a_model_are_honest():
    "A model that gives some tokens no probability at all"
    def change(logits, n): logits[:,5:15] = -inf
    for look, temperature in itertools.product((1, 8), (1., 0, .3)):
        out, logps = written(broken_model(change), look, temperature)
        mask = mask_after_eos(out, torch.tensor([EOS]))[0]==1
        assert not ((out >= 5) & (out < 15))[mask].any() and logps[mask].isfinite().all()

@pytest.mark.parametrize('look', [1, 8])
@pytest.mark.parametrize('temperature', [0, 1.])
@pytest.mark.parametrize('bent', [dict(suppress_tokens=range(31)), dict(begin_suppress_tokens=range(31)), dict(bad_words_ids=[[i] for i in range(31)]),
                                  dict(no_repeat_ngram_size=1, suppress_tokens=[EOS]), dict(min_new_tokens=40, no_repeat_ngram_size=1)], ids=str)
def test_filters_that_leave_nothing(bent, temperature, look):
    bent = {k: list(v) if isinstance(v, range) else v for k, v in bent.items()}
    with pytest.raises(ValueError, match='filters have forbidden every token'):
        written(load_policy('tiny', device='cpu')[0], look, temperature, bent, G=2, limit=40)

def test_nothing_left_after_an_end_is_no_error():
    "Rows that have ended write on until the next look, and use their tokens up"
    model = load_policy('tiny', device='cpu')[0]
    for look in (1, 8, 40):
        out, _ = written(model, look, 1., dict(no_repeat_ngram_size=1), limit=40)
        assert (out==EOS).any(1).all()

@pytest.mark.parametrize('temperature', [1e-26, 1e-38, 1e-300])
def test_temperatures_that_nothing_can_be_divided_by(temperature):
    model, tokenizer = load_policy('tiny', device='cpu')
    with pytest.raises(ValueError, match='too small to divide by; 0 takes the most probable token'):
        sample_groups(model, tokenizer, ['1+1=?'], 2, 4, temperature)

def test_cold_is_greedy():
    model, tokenizer = load_policy('tiny', device='cpu')
    greedy = sample_groups(model, tokenizer, ['1+1=?', '34+57=?'], 2, 24, 0)
    for temperature in (1e-8, 1e-20):
        cold = sample_groups(model, tokenizer, ['1+1=?', '34+57=?'], 2, 24, temperature)
        assert cold.completions == greedy.completions and cold.logps.isfinite().all()


# Filters

KINDS = {'flat': lambda g: torch.randn(6, 4000, generator=g)*.2, 'head': lambda g: torch.randn(6, 4000, generator=g)*6,
         'language': lambda g: language(4000, 1, 6), 'masked': lambda g: (torch.randn(6, 4000, generator=g)*3).index_fill(1, torch.arange(0, 4000, 2), -inf),
         'two': lambda g: torch.full((6, 4000), -inf).index_fill(1, torch.tensor([3, 3999]), 1.), 'small': lambda g: torch.randn(6, 31, generator=g),
         'edge': lambda g: torch.randn(6, HEAD+1, generator=g), 'all kinds': lambda g: torch.randn(6, 4000, generator=g)*torch.tensor([[.01], [.3], [1.], [3.], [9.], [40.]])}

@pytest.mark.parametrize('name', KINDS)
def test_the_head_keeps_what_the_whole_sort_keeps(name):
    z = KINDS[name](torch.Generator().manual_seed(1))
    for p in (1e-6, .1, .5, .9, .999):
        for cut, theirs in ((filters.top_p_of_head, TopPLogitsWarper), (filters.typical_of_head, TypicalLogitsWarper)):
            before = z.clone()
            found = filters.by_head(cut, p)(z, None)
            assert torch.equal(found, cut(z, p, z.shape[-1])[0]) # to the last token
            assert torch.equal(z, before)
            kept, known = found.isfinite(), theirs(p)(None, z).isfinite()
            assert (kept != known).sum() <= 2 # their sums are in float32
            mass = z.double().softmax(-1).masked_fill(~kept, 0.).sum(-1)
            assert (mass >= p-1e-6).all()

def test_equal_logits_are_kept_as_a_sort_keeps_them():
    g = torch.Generator().manual_seed(0)
    z = (torch.randn(8, 4000, generator=g)*3).bfloat16().float() # many are equal
    for p in (.05, .3, .6, .9):
        found = filters.by_head(filters.top_p_of_head, p)(z, None)
        assert torch.equal(found, filters.top_p_of_head(z, p, 4000)[0])
        kept, known = found.isfinite(), TopPLogitsWarper(p)(None, z).isfinite()
        assert (kept.sum(1)-known.sum(1)).abs().max() <= 1
        for row, a, b in zip(z, kept, known):
            if a.sum() == b.sum(): assert torch.equal(row[a].sort().values, row[b].sort().values)

def test_filters_do_not_depend_on_the_company():
    z = torch.cat([torch.randn(3, 3000, generator=torch.Generator().manual_seed(i))*s for i, s in enumerate((.1, 2., 9.))])
    for options in (dict(top_p=.8), dict(typical_p=.8), dict(eta_cutoff=.01), dict(top_k=20, top_p=.7)):
        together = z
        for f in new_filters(options): together = f(together, None)
        for b in range(9):
            alone = z[b:b+1]
            for f in new_filters(options): alone = f(alone, None)
            assert torch.equal(alone[0], together[b])

def test_a_filter_of_nan_raises_nothing_by_itself():
    z = torch.randn(3, 2000)
    z[1,5] = nan
    for name in ('top_p', 'typical_p', 'eta_cutoff', 'min_p', 'top_k', 'epsilon_cutoff'):
        for f in new_filters({name: 5 if name=='top_k' else .5}): assert f(z, None).shape == z.shape

def test_an_n_gram_that_only_the_left_side_would_repeat():
    "A short row beside a longer one: what fills it up on the left is no text"
    model, tokenizer = load_policy('tiny', device='cpu')
    settings = dict(num_generations=2, max_completion_length=12, seed=0, generation_kwargs=dict(no_repeat_ngram_size=2))
    alone = sample_groups(model, tokenizer, ['1'], **settings)
    beside = sample_groups(model, tokenizer, ['1', '12+34+56=?'], **settings).take(slice(2))
    assert alone.completions == beside.completions
    rows = SimpleNamespace(begin=filters.side_by_side([[7], [7,8,9]], 'cpu'), steps=0, live=torch.arange(2), t=torch.zeros(2).long(),
                           out=torch.zeros(2, 4).long())
    assert filters.no_repeat(2)(torch.zeros(2, 12), rows).isfinite().all()
    assert filters.no_repeat(1)(torch.zeros(2, 12), rows).isfinite().sum(1).tolist() == [11, 9]

@pytest.mark.parametrize('name, value', [('repetition_penalty', inf), ('repetition_penalty', nan), ('top_k', inf), ('top_p', nan), ('min_new_tokens', inf)])
def test_values_that_are_no_numbers_are_refused(name, value):
    with pytest.raises(ValueError, match=f'{name} is'): new_filters({name: value})


# Stop strings

def stops_token_by_token(tokenizer, stop, out, lengths, span):
    "Where each row completes a stop string, looked for at every token in the text of the last `span`"
    found = [out.shape[1]]*len(out)
    for r, n in enumerate(lengths):
        for at in range(n):
            if any(s in tokenizer.decode(out[r,max(0,at+1-span):at+1]) for s in stop):
                found[r] = at
                break
    return found

@pytest.fixture(scope='module')
def bytewise():
    "A tokenizer that cuts characters into bytes"
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=['<pad>', '</s>'], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(['the end of the answer é 終 is here']*3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token='<pad>', eos_token='</s>')

STOPS = [['the'], ['end', 'é'], ['終'], ['answer is', ' e'], ['e', 'r']]

def test_a_stop_string_of_many_bytes(bytewise):
    stop = 'そこで終わりです'
    ids = bytewise('q'+stop).input_ids
    assert len(ids) > len(stop)+8
    ends = Endings(bytewise, torch.tensor([1]), stop, B=1, limit=len(ids)+1)
    out = torch.tensor([ids+[0]])
    for t in range(len(ids)): ends.stopped(torch.tensor([0]), out, torch.tensor([t]), 1)
    assert ends.stop_at.tolist() == [len(ids)-1]

@pytest.mark.parametrize('stop', STOPS, ids=str)
@pytest.mark.parametrize('every', [1, 3, 8])
def test_a_stop_string_is_found_where_it_was_completed(bytewise, stop, every):
    g = torch.Generator().manual_seed(0)
    words = [bytewise(w).input_ids for w in ('the end', ' of', ' the answer', ' é', ' 終', ' is here', 'xyz', 'q')]
    rows = [sum((words[i] for i in torch.randint(8, (12,), generator=g)), [])[:24] for _ in range(12)]
    out = torch.tensor([r+[0]*(24-len(r)) for r in rows])
    ends = Endings(bytewise, torch.tensor([1]), stop, B=12, limit=24)
    late = torch.arange(12)%5 # rows that entered later
    for now in range(every-1, 24+5, every):
        t = now-late
        there = ((t >= 0) & (t < 24)) | ((t >= 24) & (t-every < 24))
        here = there.nonzero()[:,0]
        if len(here): ends.stopped(here, out, t[here].clamp(max=23), every)
    known = stops_token_by_token(bytewise, stop, out, [24]*12, ends.span)
    assert ends.stop_at.tolist() == known and min(known) < 24

@pytest.mark.parametrize('stop', [('=1',), ('</think>', '5'), ('12', '<answer>')], ids=str)
def test_texts_and_masks_do_not_depend_on_how_often_it_is_looked(stop, monkeypatch):
    model, tokenizer = load_policy('tiny', device='cpu')
    prompts = ['47+85=?', '1+1=?', '123+9=?', '60+7=?']
    def sampled(look, **settings):
        known = decode
        monkeypatch.setattr(sampling, 'decode', lambda *a, **k: known(*a, look=look, **k))
        try: return sample_groups(model, tokenizer, prompts, 4, 30, seed=0, stop=stop, **settings)
        finally: monkeypatch.setattr(sampling, 'decode', known)
    often = sampled(1)
    assert any(any(s in c for s in stop) for c in often.completions)
    for look, settings in ((8, {}), (8, dict(max_rows=8)), (5, dict(max_rows=4)), (40, {}), (1, dict(max_rows=8))):
        seldom = sampled(look, **settings)
        assert seldom.completions == often.completions and torch.equal(seldom.completion_mask, often.completion_mask)
        assert torch.equal(seldom.finished, often.finished)
        torch.testing.assert_close(seldom.logps, often.logps, atol=1e-5, rtol=1e-5)

def test_no_token_is_read_twice():
    model, tokenizer = load_policy('tiny', device='cpu')
    asked = []
    stopped = lambda rows, out, t, n: asked.append(n) or torch.zeros(len(rows), dtype=torch.bool)
    never = lambda tokens, rows, out, t: torch.zeros(len(rows), dtype=torch.bool)
    decode(model, [tokenizer('1+1=?').input_ids], 2, 20, 1., [], uniforms(0, 2, 20), never, look=8, stopped=stopped)
    assert asked == [8, 8, 4]

@pytest.mark.parametrize('end', [0, 9])
def test_an_end_that_is_asked_for_may_be_the_first_token(end):
    model, tokenizer = load_policy('tiny', device='cpu')
    one, listed = (sample_groups(model, tokenizer, ['1+1=?'], 8, 20, temperature=5., seed=0, generation_kwargs=dict(eos_token_id=e))
                   for e in (end, [end]))
    assert torch.equal(one.completion_ids, listed.completion_ids) and one.finished.any()
    assert all(o[m==1][-1] == end for o, m, f in zip(one.completion_ids, one.completion_mask, one.finished) if f)
