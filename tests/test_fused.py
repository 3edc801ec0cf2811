"""Copies that sample with fewer operations and packed weights: the same numbers, followed in place; and the sampler's rows halved."""
import copy, warnings
from unittest.mock import patch
import pytest, torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM
from grpo_lit import GRPOConfig, GRPOTrainer
from grpo_lit.fast import fused, products
from grpo_lit.fast.decoding import Decoding
from grpo_lit.fast.fused import fuse, norm_of, one_tensor, refresh, release, rotary, turns_halves
from grpo_lit.fast.products import Joined, Prepacked, can_pack, same_input, worth_packing
from grpo_lit.fast.recording import recorder_of
from grpo_lit.fast.sharing import share_prefix
from grpo_lit.fast.static import decoder
from grpo_lit.policy import add_lora, load_policy
from grpo_lit.run.checkpoints import RunState
from grpo_lit.run.copies import follow, follow_merged, half_copy, merged_copy, packed_copy
from grpo_lit.run.sampler import Sampler
from grpo_lit.sampling import sample_groups
from grpo_lit.tasks import addition_task

packs = pytest.mark.skipif(not can_pack('cpu', torch.float32), reason='this torch has no oneDNN')
SMALL = dict(vocab_size=31, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2)
MOE = dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
KINDS = dict(
    llama={}, llama_with_biases=dict(attention_bias=True, mlp_bias=True), llama_of_one_key_head=dict(num_key_value_heads=1),
    llama_scaled=dict(rope_parameters=dict(rope_type='linear', factor=2., rope_theta=1e4)), qwen2={}, qwen3={},
    mistral=dict(sliding_window=4), gemma={}, gemma2=dict(sliding_window=4), gemma3_text=dict(sliding_window=4), olmo={},
    olmo2={}, smollm3={}, phi={}, phi3={}, cohere={}, stablelm={}, gpt_neox={}, glm={}, granite={}, starcoder2={}, gpt2={},
    mixtral=MOE, qwen2_moe=MOE | dict(shared_expert_intermediate_size=16), ernie4_5={}, helium={}, nemotron={}, seed_oss={})
JOINED = 'llama qwen2 qwen3 mistral gemma gemma2 gemma3_text olmo olmo2 smollm3 granite ernie4_5 helium'.split()

def small(kind='llama', **more):
    "A model with random weights, so that norms and biases matter"
    torch.manual_seed(0)
    kind, _, variant = kind.partition('_of_' if '_of_' in kind else '_with_' if '_with_' in kind else '_scaled')
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | more)).eval()
    for p in model.parameters(): p.data += .1*torch.randn_like(p)
    return model

def logits(model):
    with torch.no_grad(): return model(input_ids=torch.arange(14).view(2, 7), use_cache=False).logits.float()

def learn(model): # As if it had been trained
    torch.manual_seed(1)
    for p in model.parameters(): p.data += .02*torch.randn_like(p)

def packed_weights(model): return [j.weight for j in fused._fused[model].joined]

# --- every architecture computes as before

@pytest.mark.parametrize('pack', [False, pytest.param(True, marks=packs)])
@pytest.mark.parametrize('kind', KINDS)
def test_a_fused_copy_says_the_same(kind, pack, monkeypatch):
    if pack: monkeypatch.setattr(products, 'WORTH', 0)
    model = small(kind, **KINDS[kind])
    copied = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        done = fuse(copied)
    assert done or kind not in JOINED
    learn(model)
    follow(copied, model)
    torch.testing.assert_close(logits(copied), logits(model), atol=2e-4, rtol=1e-4)
    release(copied)
    torch.testing.assert_close(logits(copied), logits(model), atol=2e-4, rtol=1e-4)

@pytest.mark.parametrize('kind', JOINED)
def test_what_is_joined(kind):
    model = small(kind, **KINDS[kind])
    assert fuse(model)
    names = {m:name.rpartition('.')[2] for name, m in model.named_modules()}
    found = [tuple(names[m] for m in j.layers) for j in fused._fused[model].joined]
    assert found.count(('q_proj', 'k_proj', 'v_proj')) == 2 and found.count(('gate_proj', 'up_proj')) == 2
    assert all(type(m).__name__.endswith('Attention') for m in model.modules() if fused.with_rotary(m))

@pytest.mark.parametrize('kind', ['llama', 'qwen3', 'gemma2', 'mistral'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_a_copy_follows_in_place(kind, dtype):
    model = small(kind, **KINDS[kind])
    copied = half_copy(model, dtype)
    made = fused._fused[copied]
    where = [j.weight.data_ptr() for j in made.joined] + [n.weight.data_ptr() for n in made.norms]
    where += [p.data_ptr() for p in copied.parameters()]
    learn(model)
    follow(copied, model)
    assert where == ([j.weight.data_ptr() for j in made.joined] + [n.weight.data_ptr() for n in made.norms]
                     + [p.data_ptr() for p in copied.parameters()])
    exact = logits(model)
    off, plain = (logits(copied)-exact).abs().mean(), (logits(copy.deepcopy(model).to(dtype))-exact).abs().mean()
    assert off < 2*plain + 1e-5 # no farther from the truth than without

@pytest.mark.parametrize('kind', ['llama', 'qwen3', 'gemma2', 'phi3'])
def test_a_fused_copy_samples_the_same(kind):
    model = small(kind, **KINDS[kind])
    copied = half_copy(model, torch.float32)
    _, tokenizer = load_policy('tiny', device='cpu')
    prompts = ['1+1=?', '12+34=?'*8]
    mine, its = (sample_groups(m, tokenizer, prompts, 4, 20, seed=0) for m in (copied, model))
    assert torch.equal(mine.completion_ids, its.completion_ids)
    torch.testing.assert_close(mine.logps, its.logps, atol=1e-4, rtol=0)

# --- fewer operations

class Counted(TorchDispatchMode):
    "Operations that are not views; a norm counts where it is called, since only a GPU has it in one kernel"
    n = inside = 0
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        views = any(r.alias_info and not r.alias_info.is_write for r in f._schema.returns)
        self.n += not (views or self.inside or f.overloadpacket._qualified_op_name == 'aten::_unsafe_view')
        return f(*args, **(kwargs or {}))

def step_operations(model):
    assert share_prefix(model)
    counted, plain = Counted(), F.rms_norm
    def norm(*args):
        counted.n, counted.inside = counted.n+1, True
        try: return plain(*args)
        finally: counted.inside = False
    state = Decoding(model, 40)
    state.enter([[5]*50, [6]*50], 3)
    state.step(torch.ones(6, dtype=torch.long))
    with patch.object(F, 'rms_norm', norm), counted: state.step(torch.ones(6, dtype=torch.long))
    return counted.n

def layer_operations(kind, change):
    found = []
    for layers in (2, 4):
        model = small(kind, num_hidden_layers=layers, **KINDS[kind])
        share_prefix(model)
        change(model)
        found.append(step_operations(model))
    return (found[1]-found[0])//2

ATTENTION = 14 # Operations of the attention function itself, of a shared prompt
@pytest.mark.parametrize('kind, most', [('llama', 13), ('qwen2', 13), ('granite', 15), ('qwen3', 18), ('olmo2', 18), ('gemma2', 20)])
def test_operations_of_a_layer(kind, most):
    before, after = layer_operations(kind, lambda m: None), layer_operations(kind, fuse)
    assert after <= most+ATTENTION and after < before-16

# --- parts

def test_a_product_is_handed_out_once_and_only_to_its_input():
    one, two = torch.nn.Linear(4, 2), torch.nn.Linear(4, 3)
    plain = copy.deepcopy(one), copy.deepcopy(two)
    joined = Joined([one, two])
    for i, m in enumerate(joined.layers): m.forward = joined.part(i)
    x, y = torch.randn(2, 5, 4)
    with torch.no_grad():
        for calls in ([0, 1], [1, 0], [0, 0, 1], [1], [0], [1, 1, 0]):
            for i in calls:
                for z in (x, y): assert torch.allclose((one, two)[i](z), plain[i](z), atol=1e-6)
        for i in (1, 0): assert torch.allclose((one, two)[i](x), plain[i](x), atol=1e-6)
        one(x) # the other is not called
        x.add_(1)
        for i in (0, 1): assert torch.allclose((one, two)[i](x), plain[i](x), atol=1e-6)

@pytest.mark.parametrize('pack', [False, pytest.param(True, marks=packs)])
def test_a_copy_of_a_fused_copy_reads_its_own_weights(pack, monkeypatch):
    if pack: monkeypatch.setattr(products, 'WORTH', 0)
    model = small()
    fused_copy, plain = copy.deepcopy(model), copy.deepcopy(model)
    assert fuse(fused_copy)
    refresh(fused_copy)
    twice = copy.deepcopy(fused_copy)
    learn(twice), learn(plain)
    assert (logits(twice)-logits(plain)).abs().max() < 1e-4
    assert (logits(fused_copy)-logits(model)).abs().max() < 1e-4

class Odd(torch.nn.Module):
    "Layers that may be joined, and layers that may not"
    def __init__(self):
        super().__init__()
        self.a, self.b, self.hooked, self.twice, self.biased, self.wide = (torch.nn.Linear(4, 4, bias=False) for _ in range(6))
        self.biased, self.wide = torch.nn.Linear(4, 4), torch.nn.Linear(8, 4, bias=False)
        self.hooked.register_forward_hook(lambda m, args, out: 2*out)
        self.never = torch.nn.Linear(4, 4)
    def forward(self, x):
        x = x+1
        return self.a(x)+self.b(x)+self.hooked(x)+self.twice(x)+self.twice(x)+self.biased(x)+self.wide(torch.cat([x, x], -1))

def test_which_layers_are_joined():
    odd = Odd()
    names = {m:name for name, m in odd.named_modules()}
    with torch.no_grad(): groups = same_input(odd, lambda: odd(torch.randn(2, 4)))
    assert [[names[m] for m in g] for g in groups] == [['a', 'b'], ['wide']]

def test_layers_that_share_a_weight_stay_apart():
    model = small()
    q, k = model.model.layers[0].self_attn.k_proj, model.model.layers[0].self_attn.v_proj
    k.weight = q.weight
    before = logits(model)
    fuse(model)
    assert q.weight is k.weight and torch.allclose(logits(model), before, atol=1e-4)

@pytest.mark.parametrize('norm, expected', [
    (torch.nn.LayerNorm(8), False), (torch.nn.LayerNorm(8, bias=False), False), (torch.nn.RMSNorm(8), False), # eps is None
    (torch.nn.RMSNorm(8, eps=1e-5), True), (torch.nn.Linear(8, 8), False), (torch.nn.Embedding(8, 8), False)])
def test_what_is_a_norm(norm, expected): assert bool(norm_of(norm)) == expected

def test_tensors_that_only_seem_side_by_side():
    x = torch.randn(2, 6, 3, 4)
    q, k, v = x.split([3, 1, 2], 1)
    assert torch.equal(one_tensor(q, k), x[:, :4])
    for a, b in ((q, v), (k, q), (q, k.clone()), (q[:, :2], k), (q.transpose(2, 3), k)): assert one_tensor(a, b) is None

def test_a_rotation_of_other_shapes_is_theirs():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as theirs
    from transformers.models.glm.modeling_glm import apply_rotary_pos_emb as pairs
    q, k, cos, sin = (torch.randn(*s) for s in [(2,3,4,8), (2,1,4,8), (2,4,8), (2,4,8)])
    assert turns_halves(theirs) and not turns_halves(pairs) and not turns_halves(lambda q, k: (q, k))
    along_two = rotary(theirs)(q.transpose(1, 2), k.transpose(1, 2), cos, sin, unsqueeze_dim=2)
    for a, b in zip(along_two, theirs(q, k, cos, sin)): assert torch.allclose(a.transpose(1, 2), b, atol=1e-6)

def test_other_models_keep_their_rotation():
    copied, plain = small(), small()
    theirs = type(plain.model.layers[0].self_attn).forward
    fuse(copied)
    assert type(plain.model.layers[0].self_attn).forward is theirs and 'forward' not in vars(plain.model.layers[0].self_attn)
    assert torch.equal(logits(plain), logits(small()))

@pytest.mark.parametrize('broken', ['other numbers', 'an error'])
def test_what_says_something_else_is_put_back(monkeypatch, broken):
    def wrong(self, x):
        if broken == 'an error': raise RuntimeError('no kernel')
        return 1.2*x
    monkeypatch.setattr(fused.Norm, 'forward', wrong)
    model = small()
    before = logits(model)
    with pytest.warns(UserWarning, match='samples as it is'): assert not fuse(model)
    assert torch.equal(logits(model), before) and not any('forward' in vars(m) for m in model.modules())

def test_logits_that_are_no_numbers_are_left_to_the_sampler():
    model = small()
    model.model.norm.weight.data.fill_(float('nan'))
    assert not fuse(model) and not any('forward' in vars(m) for m in model.modules())

# --- packed

@packs
def test_rows_have_the_same_bits_alone_and_in_company():
    w = torch.randn(96, 64)
    layer = torch.nn.Linear(64, 96)
    packed, x = Prepacked([layer]), torch.randn(40, 64)
    packed.refresh()
    with torch.no_grad():
        whole = packed.product(x)
        for n in (1, 2, 7, 33): assert torch.equal(packed.product(x[:n]), whole[:n])
        torch.testing.assert_close(whole, layer(x))

@packs
def test_a_packed_copy_holds_nothing_of_its_own(monkeypatch):
    monkeypatch.setattr(products, 'WORTH', 0)
    model = small()
    storages = {p.data_ptr() for p in model.parameters()}
    copied = packed_copy(model)
    assert {p.data_ptr() for p in copied.parameters()} == storages and all(p.requires_grad for p in model.parameters())
    assert all(w is None for w in packed_weights(copied))
    learn(model)
    refresh(copied)
    assert all(w is not None for w in packed_weights(copied))
    torch.testing.assert_close(logits(copied), logits(model), atol=1e-4, rtol=1e-4)
    model.zero_grad()
    model(input_ids=torch.arange(5)[None]).logits.sum().backward() # it still learns
    assert all(p.grad is not None for p in model.parameters())

@pytest.mark.parametrize('device, dtype', [('cuda', torch.float32), ('cpu', torch.float16), ('cpu', torch.float64), ('meta', torch.float32)])
def test_who_cannot_pack(device, dtype): assert not can_pack(device, dtype)

def test_without_onednn(monkeypatch):
    can_pack.cache_clear()
    monkeypatch.setattr(products, '_pack', lambda w: 1/0)
    monkeypatch.setattr(products, 'WORTH', 0)
    try:
        model = small()
        copied = packed_copy(model)
        assert not worth_packing(model) and torch.allclose(logits(copied), logits(model), atol=1e-4)
    finally: can_pack.cache_clear()

# --- in a run

def reward(completions, **columns): return [float(len(c)%3) for c in completions]

def trainer(out=None, **settings):
    known = dict(max_steps=3, num_generations=4, per_device_train_batch_size=8, max_completion_length=24, gold_check=0,
                 learning_rate=1e-3, use_cpu=True, disable_tqdm=True, save_minutes=0, seed=3, output_dir=out)
    model = settings.pop('model', 'tiny')
    return GRPOTrainer(model, reward, GRPOConfig(**known | settings), addition_task().train[:16],
                       peft_config=settings.pop('peft_config', None))

def trained(*args, **settings):
    made = trainer(*args, **settings)
    made.train()
    return made

@packs
def test_a_run_with_packed_weights_learns_the_same(monkeypatch):
    plain = trained()
    assert plain.collector.sample.half is None
    monkeypatch.setattr(products, 'WORTH', 0)
    packed = trained()
    assert all(w is None for w in packed_weights(packed.collector.sample.half)) # given back
    for a, b in zip(plain.model.parameters(), packed.model.parameters()): torch.testing.assert_close(a, b, atol=2e-3, rtol=0)
    assert [m['completions/mean_length'] for m in plain.history] == [m['completions/mean_length'] for m in packed.history]

@packs
def test_a_resumed_run_with_packed_weights_has_the_same_bits(monkeypatch, tmp_path):
    monkeypatch.setattr(products, 'WORTH', 0)
    whole = trained(str(tmp_path/'run'), save_steps=1)
    again = trainer()
    again.load_checkpoint(whole.run.path/'checkpoint-1')
    list(again.steps())
    for a, b in zip(whole.model.parameters(), again.model.parameters()): assert torch.equal(a, b)

def sampler(model, **settings):
    args = GRPOConfig(**dict(max_completion_length=16, use_cpu=True) | settings)
    return Sampler(RunState(model, None, None), load_policy('tiny', device='cpu')[1], args, Accelerator(cpu=True))

def lora(base=torch.float32, **more):
    from peft import LoraConfig
    model = load_policy('tiny', device='cpu')[0].to(base)
    return add_lora(model, LoraConfig(**dict(r=2, target_modules=['q_proj', 'v_proj'], task_type='CAUSAL_LM') | more))

ADAPTED = dict(plain=({}, True), dora=(dict(use_dora=True), False), saved=(dict(modules_to_save=['lm_head']), False),
               bf16=(dict(base=torch.bfloat16), False))
@pytest.mark.parametrize('case', ADAPTED)
def test_adapters_are_merged_or_sampled_as_they_are(case, monkeypatch):
    monkeypatch.setattr(products, 'WORTH', 0)
    options, merges = ADAPTED[case]
    sample = sampler(lora(**options), sampling_dtype='bfloat16')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        sample(addition_task().train[:2], 4, seed=0)
    assert (sample.half is not None) == merges
    in_float32 = sampler(lora(**options)) # the gradients of an adapter are small: packed weights would be the peak
    in_float32(addition_task().train[:2], 4, seed=0)
    assert in_float32.half is None

def test_a_merged_copy_of_several_adapters_follows_the_active_one():
    model = lora()
    model.add_adapter('other', copy.deepcopy(model.peft_config['default']))
    copied = merged_copy(model, torch.float32)
    for active in ('other', 'default'):
        model.set_adapter(active)
        learn(model)
        follow_merged(copied, model)
        torch.testing.assert_close(logits(copied), logits(model.eval()), atol=1e-4, rtol=1e-4)

# --- when memory runs out

def bounded(model, n, error=None):
    "As if there were memory for n rows"
    def check(module, args, kwargs):
        rows = kwargs['input_ids'].shape[0]
        if rows > n: raise error or torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')
    model.register_forward_pre_hook(check, with_kwargs=True)
    return model

SHORTAGES = [torch.OutOfMemoryError('CUDA out of memory'), MemoryError(), RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED'),
             RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")]
@pytest.mark.parametrize('room, error', list(zip([4, 9, 31, 8], SHORTAGES)), ids=str)
def test_rows_are_halved_and_the_answers_stay(room, error):
    rows = addition_task().train[:8]
    expected = sampler(load_policy('tiny', device='cpu')[0])(rows, 4, seed=5)
    sample, told = sampler(bounded(load_policy('tiny', device='cpu')[0], room, error)), []
    with pytest.warns(UserWarning, match='out of memory: [0-9]* completions') as said:
        found = sample(rows, 4, seed=5, on_group=lambda i, group: told.append(i))
    assert found.completions == expected.completions and sorted(told) == list(range(8))
    assert 4 <= sample.state.max_rows <= room and len(said) <= 3
    with warnings.catch_warnings():
        warnings.simplefilter('error') # said once
        sample(rows, 4, seed=6)

def test_a_group_that_does_not_fit_is_an_error():
    sample = sampler(bounded(load_policy('tiny', device='cpu')[0], 3))
    with pytest.warns(UserWarning), pytest.raises(torch.OutOfMemoryError): sample(addition_task().train[:4], 4, seed=5)

def test_other_errors_are_not_tried_again():
    calls, sample = [], sampler(load_policy('tiny', device='cpu')[0])
    def wrong(*args, **how):
        calls.append(args)
        raise RuntimeError('mat1 and mat2 shapes cannot be multiplied')
    with patch('grpo_lit.run.sampler.sample_groups', wrong), pytest.raises(RuntimeError, match='mat1'):
        sample(addition_task().train[:4], 4, seed=5)
    assert len(calls) == 1

def test_what_was_set_stays_the_most():
    sample = sampler(load_policy('tiny', device='cpu')[0], max_rows=16)
    assert sample.most(4) == 16 and sample.most(20) == 20
    sample.state.max_rows = 6
    assert sample.most(4) == 6 and sample.most(8) == 8
    assert sampler(load_policy('tiny', device='cpu')[0]).most(4) is None

@pytest.mark.parametrize('overlap', [False, True])
def test_a_run_goes_on_with_fewer_rows_and_remembers(tmp_path, overlap):
    seen = []
    def once(completions, **columns):
        seen.append(len(completions))
        return reward(completions)
    def made(out=None):
        new = trainer(out, max_steps=2, per_device_train_batch_size=16, overlap_rewards=overlap, save_steps=int(out is not None))
        new.collector.reward_funcs = [once] if isinstance(new.collector.reward_funcs, list) else once
        return new
    first = made(str(tmp_path/'run'))
    bounded_sampling = patch('grpo_lit.run.sampler.sample_groups', few_rows(8))
    with bounded_sampling, pytest.warns(UserWarning, match='out of memory: [0-9]* completions'): first.train()
    assert first.state.max_rows == 8 and sum(seen) == 32 # no answer is scored twice
    again = made()
    again.load_checkpoint(first.run.path/'checkpoint-1')
    assert again.state.max_rows == 8

def few_rows(n):
    def sample(model, tokenizer, prompts, G, *, max_rows, **how):
        if (max_rows or len(prompts)*G) > n: raise torch.OutOfMemoryError('CUDA out of memory')
        return sample_groups(model, tokenizer, prompts, G, max_rows=max_rows, **how)
    return sample

# --- recorded steps

@pytest.mark.parametrize('kind', ['llama', 'qwen3', 'gemma2', 'mistral'])
def test_recorded_steps_of_a_fused_copy_outlive_its_update(kind):
    model = small(kind, **KINDS[kind])
    copied = half_copy(model, torch.float32)
    counts = []
    for _ in range(2):
        states = decoder(copied, 40, static=True), decoder(model, 40, static=False)
        for state in states: state.enter([[5]*50, [6]*50], 3)
        for token in (3, 9, 4):
            mine, its = (state.step(torch.full((6,), token)) for state in states)
            torch.testing.assert_close(mine, its, atol=2e-4, rtol=1e-4)
        for state in states: state.leave(torch.zeros(0, dtype=torch.long))
        counts.append(recorder_of(copied).recordings)
        learn(model)
        follow(copied, model)
    assert counts[0] > 0 and counts[1] == counts[0] # the second time nothing was recorded anew
    assert not recorder_of(copied).why
