"""An adapter is folded in on its way to the disk: no second model, the policy untouched, and what is loaded says the same."""
import copy, weakref
import pytest, torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM
from grpo_lit.policy import add_lora, load_policy, tiny_tokenizer
from grpo_lit.run.saving import merged_weights, save_policy

peft = pytest.importorskip('peft')

def lora(model, seed=0, **how):
    how = dict(r=4, target_modules='all-linear', task_type='CAUSAL_LM') | how
    made = add_lora(model, peft.LoraConfig(**how)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in made.named_parameters():
            if p.requires_grad: p.add_(.05*torch.randn(p.shape, generator=generator).to(p.dtype))
    return made

def tiny(**how): return lora(load_policy('tiny', device='cpu')[0], **how)

def new(kind='qwen2', tie=False, dtype=torch.float32, **more):
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, vocab_size=31,
                 max_position_embeddings=128, tie_word_embeddings=tie, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes | more), dtype=dtype).eval()

def switched_off(model):
    "What is switched off says nothing, and is not folded in"
    model.base_model.disable_adapter_layers()
    return model

CASES = dict(
    switched_off=lambda: switched_off(tiny()),
    switched_off_whole=lambda: switched_off(lora(new(), target_modules=['q_proj'], modules_to_save=['lm_head'])),
    switched_off_tokens=lambda: switched_off(tiny(target_modules=['q_proj'], trainable_token_indices=[3, 4])),
    all_linear=lambda: tiny(),
    head_of_a_tied_model=lambda: tiny(target_modules=['lm_head', 'q_proj']),
    table_of_a_tied_model=lambda: tiny(target_modules=['embed_tokens', 'q_proj']),
    head_of_its_own=lambda: lora(new(), target_modules=['lm_head', 'o_proj']),
    dora=lambda: tiny(use_dora=True, target_modules=['q_proj', 'down_proj']),
    rslora=lambda: tiny(use_rslora=True, lora_alpha=32),
    saved_whole=lambda: lora(new(), target_modules=['q_proj'], modules_to_save=['lm_head']),
    saved_norms=lambda: lora(new(), target_modules=['q_proj'], modules_to_save=['norm']),
    table_saved_of_a_tied_model=lambda: tiny(target_modules=['q_proj'], modules_to_save=['lm_head']),
    some_layers=lambda: tiny(target_modules=['v_proj'], layers_to_transform=[1, 3]),
    with_bias=lambda: lora(new('qwen2'), target_modules=['q_proj', 'k_proj'], bias='lora_only'),
    gemma=lambda: lora(new('gemma2', head_dim=8)),
    experts=lambda: lora(new('mixtral', num_local_experts=4), target_modules=['q_proj', 'v_proj']))

ids = torch.arange(3, 23)[None]

@torch.no_grad()
def logits(model): return model(ids).logits.float()

@pytest.mark.parametrize('name', CASES)
def test_what_is_loaded_says_the_same(tmp_path, name):
    model = CASES[name]()
    before, said = {n: x.clone() for n, x in model.state_dict().items()}, logits(model)
    config = model.config.to_dict()
    save_policy(model, tiny_tokenizer(), tmp_path, merge=True)
    again, _ = load_policy(tmp_path, device='cpu')
    assert not hasattr(again, 'peft_config') and not any('lora' in n or 'base_layer' in n for n, _ in again.named_parameters())
    assert torch.allclose(logits(again), said, atol=1e-4*said.abs().max().item())
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items()) and torch.equal(logits(model), said)
    assert {k: v for k, v in model.config.to_dict().items() if k not in ('architectures', 'dtype')} == {
        k: v for k, v in config.items() if k not in ('architectures', 'dtype')}

@pytest.mark.parametrize('name', ['all_linear', 'with_bias', 'rslora'])
def test_weights_are_those_of_peft_to_the_bit(name):
    model = CASES[name]()
    found, theirs = merged_weights(model), copy.deepcopy(model).merge_and_unload().state_dict()
    assert found.keys() == theirs.keys() and all(torch.equal(found[n], theirs[n]) for n in found)

def test_several_adapters():
    model = tiny(target_modules=['q_proj'])
    model.add_adapter('other', peft.LoraConfig(r=2, target_modules=['v_proj'], task_type='CAUSAL_LM'))
    model.set_adapter('other')
    theirs = copy.deepcopy(model).merge_and_unload().state_dict()
    assert all(torch.equal(x, theirs[n]) for n, x in merged_weights(model).items())

def test_switched_off_after_it_was_folded_in():
    "The layers take it out when they are asked next; the file has it out already"
    model = tiny()
    model.merge_adapter()
    found, plain = merged_weights(switched_off(model)), load_policy('tiny', device='cpu')[0].state_dict()
    assert found.keys() == plain.keys() and all(torch.allclose(found[n], x, atol=1e-5) for n, x in plain.items())

def test_a_base_in_16_bits(tmp_path):
    model = lora(new(dtype=torch.bfloat16))
    save_policy(model, tiny_tokenizer(), tmp_path, merge=True)
    again, _ = load_policy(tmp_path, dtype='auto', device='cpu')
    assert again.dtype == torch.bfloat16 and torch.allclose(logits(again), logits(model), atol=.1)

class Alive(TorchDispatchMode):
    "The most bytes of new tensors that are alive at once"
    def __init__(self, model):
        super().__init__()
        self.now = self.most = 0
        self.seen = weakref.WeakSet(x.untyped_storage() for x in model.state_dict().values())
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        out = f(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor): self.count(x.untyped_storage())
        return out
    def count(self, storage):
        if storage in self.seen: return
        self.seen.add(storage)
        self.add(storage.nbytes())
        weakref.finalize(storage, self.add, -storage.nbytes())
    def add(self, n):
        self.now += n
        self.most = max(self.most, self.now)

def test_one_layer_at_a_time(monkeypatch):
    "Beside the result there is never more than a layer or two"
    model = lora(new(num_hidden_layers=12, vocab_size=2000), target_modules=['up_proj'])
    copied = []
    plain = copy.deepcopy
    monkeypatch.setattr(copy, 'deepcopy', lambda x, *a: (copied.append(sum(p.numel() for p in x.parameters()) if isinstance(x, torch.nn.Module) else 0), plain(x, *a))[1])
    with Alive(model) as alive: found = merged_weights(model)
    whole = sum(p.numel() for p in model.parameters())
    result = sum(x.nbytes for n, x in found.items() if 'up_proj' in n)
    largest = max(copied)
    assert len([n for n in copied if n]) == 12 and largest < whole/20
    assert alive.most < result+8*largest*4
