"""A reference with its matrices in 16 bits says the same to the bit under autocast; what cannot be moved is not moved."""
import copy
import pytest, torch
from transformers import AutoConfig, AutoModelForCausalLM
import grpo_lit.leash
from grpo_lit import GRPOConfig, GRPOTrainer
from grpo_lit.fast.batches import all_logps
from grpo_lit.frozen import frozen_copy, half_copy_of, lent, product_weights
from grpo_lit.policy import Reference, load_policy
from grpo_lit.run.copies import half_copy
from grpo_lit.run.evaluate import evaluate
from grpo_lit.run.footprint import some_rollouts
from grpo_lit.run.memory import memory_plan
from grpo_lit.run.prepare import place
from grpo_lit.tasks import addition_task

sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=50,
             max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2)
gpt2 = dict(n_embd=32, n_layer=2, n_head=4, vocab_size=50, n_positions=128, pad_token_id=0, bos_token_id=1, eos_token_id=2)
MODELS = dict(llama=('llama', sizes), qwen2=('qwen2', sizes), tied=('qwen2', sizes | dict(tie_word_embeddings=True)), qwen3=('qwen3', sizes | dict(head_dim=8)),
              gemma2=('gemma2', sizes | dict(head_dim=8)), phi3=('phi3', sizes), gpt2=('gpt2', gpt2), olmo2=('olmo2', sizes),
              mixtral=('mixtral', sizes | dict(num_local_experts=4)))

def new(name):
    kind, shape = MODELS[name]
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape)).eval()

def nudge(model):
    with torch.no_grad():
        for p in model.parameters(): p.add_(.1*torch.randn_like(p))

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('name', MODELS)
def test_logits_and_logps_are_the_same_to_the_bit(name, dtype):
    model, ids = new(name), torch.randint(50, (3, 20), generator=torch.Generator().manual_seed(1))
    half, whole = half_copy_of(model, dtype), frozen_copy(model)
    if half is None: pytest.skip('asked, and left whole')
    assert any(p.dtype == dtype for p in half.parameters()) and all(p.dtype == torch.float32 for p in model.parameters())
    ro = some_rollouts(6, 10, 4, 46)
    with torch.no_grad(), torch.autocast('cpu', dtype):
        assert torch.equal(half(ids).logits, whole(ids).logits)
        assert torch.equal(*(all_logps(m, ro, [torch.arange(4)]) for m in (half, whole)))

def test_most_models_have_a_half():
    assert all(half_copy_of(new(name), torch.bfloat16) is not None for name in ('llama', 'qwen2', 'tied', 'qwen3', 'gemma2', 'phi3', 'gpt2'))

def test_what_is_tied_stays_tied_and_norms_stay_wide():
    half = half_copy_of(new('tied'), torch.bfloat16)
    assert half.lm_head.weight is half.model.embed_tokens.weight and half.lm_head.weight.dtype == torch.float32
    assert half.model.norm.weight.dtype == torch.float32 and half.model.layers[0].self_attn.q_proj.bias.dtype == torch.bfloat16
    assert half_copy_of(new('qwen2'), torch.bfloat16).lm_head.weight.dtype == torch.bfloat16

def test_the_policy_is_left_as_it_was():
    model = new('llama').train()
    model.model.layers[1].eval()
    modes = [m.training for m in model.modules()]
    before = [p.detach().clone() for p in model.parameters()]
    half_copy_of(model, torch.bfloat16)
    assert modes == [m.training for m in model.modules()] and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))

def new_trainer(out=None, **settings):
    usual = dict(max_steps=2, learning_rate=1e-4, gold_check=0, seed=3, disable_tqdm=True, use_cpu=True, bf16=True, output_dir=out,
                 num_generations=4, per_device_train_batch_size=8, max_completion_length=24)
    def length(completions, **columns): return [float(len(c)%3) for c in completions]
    return GRPOTrainer('tiny', length, GRPOConfig(**usual | settings), addition_task().train[:16])

def told(trainer): return [[m[k] for k in ('loss', 'kl', 'grad_norm', 'reward')] for m in trainer.history]

@pytest.mark.parametrize('how', [dict(), dict(offload_reference=True), dict(kl_in_reward=True, scale_rewards='none')])
def test_a_run_is_the_same_to_the_bit(monkeypatch, how):
    half = new_trainer(**how)
    assert half.reference.half == torch.bfloat16 and half.reference.frozen.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    half.train()
    monkeypatch.setattr('grpo_lit.run.prepare.reference_dtype', lambda args: None)
    whole = new_trainer(**how)
    whole.train()
    assert whole.reference.half is None and told(half) == told(whole)
    assert all(torch.equal(a, b) for a, b in zip(half.model.parameters(), whole.model.parameters()))

def test_a_run_that_is_resumed_has_the_same_reference(tmp_path):
    whole = new_trainer(str(tmp_path/'run'), save_steps=1)
    whole.train()
    again = new_trainer()
    again.load_checkpoint(tmp_path/'run'/'checkpoint-1')
    list(again.steps())
    assert told(again) == told(whole)[1:]

def test_a_reference_that_moves_keeps_its_digits(tmp_path):
    how = dict(sync_ref_model=True, ref_model_sync_steps=1, ref_model_mixup_alpha=.5, learning_rate=1e-2)
    made = new_trainer(str(tmp_path/'run'), save_steps=1, **how)
    assert made.reference.half is None
    made.train()
    again = new_trainer(**how)
    again.load_checkpoint(tmp_path/'run'/'checkpoint-1')
    list(again.steps())
    assert told(again) == told(made)[1:]

def test_a_half_reference_can_be_moved_all_the_same():
    model = new('llama')
    half = Reference(model, half=torch.bfloat16)
    nudge(model)
    half.move(1.)
    with half() as ref, torch.no_grad():
        ids = torch.arange(10)[None]
        with torch.autocast('cpu', torch.bfloat16): assert torch.equal(ref(ids).logits, model(ids).logits)

def test_it_brings_its_own_autocast():
    model, tokenizer = load_policy('tiny', device='cpu')
    half = Reference(model, half=torch.bfloat16)
    found = evaluate(model, tokenizer, addition_task(), limit=4, reference=half, max_completion_length=10)
    assert 0 <= found.kl < .1

def test_the_plan_knows_it():
    model, _ = load_policy('tiny', device='cpu')
    def reference(**how): return memory_plan(model, GRPOConfig(use_cpu=True, **how), 20).always['reference']
    def held(m): return sum(p.numel()*p.element_size() for p in m.parameters())
    assert reference() == held(model) and reference(bf16=True) == held(half_copy_of(model, torch.bfloat16))
    assert reference(bf16=True, sync_ref_model=True) == held(model) and reference(bf16=True, beta=0.) == 0
    assert reference(bf16=True, offload_reference=True) == 0

# --- what cannot be moved

class Fixed(Exception): pass

def fixed(model, **marks):
    def to(*args, **kwargs): raise Fixed('it cannot be moved')
    model.to = model.cuda = model.cpu = to
    for name, value in marks.items(): setattr(model, name, value)
    return model

@pytest.fixture
def no_moves(monkeypatch):
    "Nobody calls `.to` of a model"
    def to(self, *args, **kwargs): raise Fixed('it cannot be moved')
    monkeypatch.setattr('transformers.PreTrainedModel.to', to)

MARKS = [dict(is_quantized=True), dict(hf_device_map={'': 'cpu'}), dict(hf_device_map={'model.layers.0': 0, 'model.layers.1': 1})]

@pytest.mark.parametrize('marks', MARKS)
@pytest.mark.parametrize('offload', [False, True])
def test_a_trainer_a_reference_a_copy_and_an_evaluation(marks, offload, no_moves):
    model, tokenizer = load_policy('tiny', device='cpu')
    for name, value in marks.items(): setattr(model, name, value)
    place(model, torch.device('cpu'))
    task = addition_task()
    reference = Reference(model, offload)
    evaluate(model, tokenizer, task, limit=2, reference=reference, max_completion_length=5)
    half_copy(model, torch.bfloat16)
    args = GRPOConfig(max_steps=1, gold_check=0, use_cpu=True, num_generations=2, per_device_train_batch_size=4, max_completion_length=8,
                      disable_tqdm=True, offload_reference=offload)
    def length(completions, **columns): return [float(len(c)) for c in completions]
    GRPOTrainer(model, length, args, task.train[:8], processing_class=tokenizer).train()

@pytest.mark.parametrize('marks', MARKS)
def test_with_an_adapter(marks, no_moves):
    peft = pytest.importorskip('peft')
    model, tokenizer = load_policy('tiny', device='cpu')
    for name, value in marks.items(): setattr(model, name, value)
    args = GRPOConfig(max_steps=1, gold_check=0, use_cpu=True, num_generations=2, per_device_train_batch_size=4, max_completion_length=8, disable_tqdm=True)
    def length(completions, **columns): return [float(len(c)) for c in completions]
    lora = peft.LoraConfig(r=2, target_modules=['q_proj'], task_type='CAUSAL_LM')
    made = GRPOTrainer(model, length, args, addition_task().train[:8], processing_class=tokenizer, peft_config=lora)
    made.train()

def test_each_tensor_goes_to_where_its_twin_is(monkeypatch):
    "A policy on several devices: its reference is not gathered on one of them"
    model = new('llama')
    copied, spread, gone = frozen_copy(model), copy.deepcopy(model), []
    spread.model.layers[1].to('meta') # stands for a second GPU
    monkeypatch.setattr(torch.Tensor, 'to', lambda x, device: (gone.append(device.type), x)[1])
    with lent(copied, spread): pass
    assert gone.count('meta') == len(list(spread.model.layers[1].parameters())) < len(gone)

def test_product_weights_are_read_by_products_alone():
    model = new('tied')
    names = {id(p): n for n, p in model.named_parameters()}
    found = {names[id(p)] for p in product_weights(model)}
    assert 'model.embed_tokens.weight' not in found and not any('norm' in n for n in found)
    assert sum('proj' in n for n in found) == len(found)
