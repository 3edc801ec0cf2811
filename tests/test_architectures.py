"""Sampling and log-probs agree on the architectures people train, with tiny random weights."""
import pytest, torch
from transformers import AutoConfig, AutoModelForCausalLM
from grpo_lit.logprobs import token_logps
from grpo_lit.policy import check_tokenizer, tiny_tokenizer
from grpo_lit.fast.sharing import share_prefix
from grpo_lit.sampling import SHORT, sample_groups

small = dict(vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2)
configs = dict(llama=small, qwen2=small, qwen3=small, mistral=small | dict(sliding_window=8), gemma2=small | dict(sliding_window=8),
               gpt2=dict(vocab_size=32, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2))
prompts = ['1+1=?', '958+467=?', '12345+67890=?']
long = ['1+'*30+'1=?', '958+467+'*9+'1=?', '7+7=?']              # long enough to be shared while decoding, with a short one among them

@pytest.fixture(params=configs)
def model(request):
    torch.set_num_threads(2); torch.manual_seed(0)
    m = AutoModelForCausalLM.from_config(AutoConfig.for_model(request.param, **configs[request.param])).eval()
    with torch.no_grad():
        for p in m.parameters(): p.mul_(3.)              # untrained models are near uniform: make them opinionated
    return m

@pytest.mark.parametrize('temperature', [1., .6])
def test_sampled_equal_recomputed(model, temperature):
    ro = sample_groups(model, check_tokenizer(tiny_tokenizer()), prompts, 6, 24, temperature, seed=0)
    with torch.no_grad(): again = token_logps(model, ro, temperature)
    assert (again-ro.logps).abs().max() <= 1e-4
    assert ro.lengths.min() >= 1 and len(set(ro.completions)) > 1

def test_neighbours_change_nothing(model):
    tok = check_tokenizer(tiny_tokenizer())
    alone, together = sample_groups(model, tok, prompts[:1], 6, 24, seed=3), sample_groups(model, tok, prompts, 6, 24, seed=3)
    assert alone.completions == together.completions[:6]

def test_greedy_equals_generate(model):
    tok = check_tokenizer(tiny_tokenizer()); enc = tok(prompts, padding=True, return_tensors='pt')
    ours = sample_groups(model, tok, prompts, 1, 16, temperature=0)
    theirs = model.generate(**enc, max_new_tokens=16, do_sample=False, pad_token_id=0)[:,enc.input_ids.shape[1]:]
    assert ours.completions == tok.batch_decode(theirs, skip_special_tokens=True)

def test_long_prompts_are_shared(model):
    tok = check_tokenizer(tiny_tokenizer())
    ro = sample_groups(model, tok, long, 6, 24, seed=0)
    assert share_prefix(model) and (ro.prompt_mask.sum(1) >= SHORT).any()
    with torch.no_grad(): again = token_logps(model, ro)
    assert (again-ro.logps).abs().max() <= 1e-4
    few = sample_groups(model, tok, long, 6, 24, seed=0, max_rows=6)
    assert few.completions == ro.completions and (few.logps-ro.logps).abs().max() <= 1e-4
    greedy, enc = sample_groups(model, tok, long, 2, 16, temperature=0), tok(long, padding=True, return_tensors='pt')
    theirs = model.generate(**enc, max_new_tokens=16, do_sample=False, pad_token_id=0)[:,enc.input_ids.shape[1]:]
    assert greedy.completions[::2] == greedy.completions[1::2] == tok.batch_decode(theirs, skip_special_tokens=True)

def test_a_model_that_cannot_share(model, monkeypatch):
    tok = check_tokenizer(tiny_tokenizer()); shared = sample_groups(model, tok, long, 4, 24, seed=1); logps = token_logps(model, shared)
    for module in ('sampling', 'logprobs'): monkeypatch.setattr(f'grpo_lit.{module}.share_prefix', lambda m: False)
    plain = sample_groups(model, tok, long, 4, 24, seed=1)
    assert plain.completions == shared.completions and (plain.logps-shared.logps).abs().max() <= 1e-4
    assert (token_logps(model, shared)-logps).abs().max() <= 1e-5
