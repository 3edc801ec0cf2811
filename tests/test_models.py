"""Any decoder-only model: directories of all kinds, adapters, ends, templates; precision and masters; optimizers by name."""
import json, logging, shutil
from unittest.mock import patch
import pytest, torch
from transformers import AutoConfig, AutoModelForCausalLM
from grpo_lit import GRPOConfig, GRPOTrainer
from grpo_lit.core import Rollouts
from grpo_lit.logprobs import token_logps
from grpo_lit.policy import Reference, TINY, add_lora, eos_ids, load_policy, tiny_tokenizer
from grpo_lit.rewards import accuracy_reward
from grpo_lit.sampling import sample_groups
from grpo_lit.tasks import addition_task, as_chat, encode_prompt

SMALL = dict(vocab_size=31, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=256)
ENDS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
CHAT = "{% for m in messages %}{{ '?' if m.role=='user' else '.' }}{{ m.content }}{% endfor %}{% if add_generation_prompt %}={% endif %}"
THINKS = CHAT.replace('={%', '=<think>{%')
SWITCH = CHAT.replace('={%', "={% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{%")

def small_model(kind='llama', **more):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | ENDS | more)).eval()

@pytest.fixture
def saved(tmp_path):
    "A directory with a model and a tokenizer"
    def save(model=None, tokenizer=None, **how):
        where = tmp_path/'model'
        (model or small_model()).save_pretrained(where, **how)
        (tokenizer or tiny_tokenizer()).save_pretrained(where)
        return where
    return save

def lora(**more):
    from peft import LoraConfig
    return LoraConfig(**dict(r=4, target_modules='all-linear', task_type='CAUSAL_LM') | more)

def trained(model='tiny', peft_config=None, rows=None, processing_class=None, **settings):
    known = dict(max_steps=2, num_generations=4, per_device_train_batch_size=8, max_completion_length=24, gold_check=0,
                 learning_rate=1e-3, use_cpu=True, disable_tqdm=True, save_minutes=0)
    rows = rows or addition_task().train[:8]
    reward = lambda completions, **k: [float(i%2) for i in range(len(completions))]
    trainer = GRPOTrainer(model, reward, GRPOConfig(**known | settings), rows, processing_class=processing_class,
                          peft_config=peft_config)
    trainer.train()
    return trainer

# --- directories

@pytest.mark.parametrize('kind', ['qwen2', 'qwen3', 'gemma', 'gemma2', 'mistral', 'gpt_neox', 'olmo2', 'phi3', 'granite'])
def test_kinds(saved, kind):
    model = small_model(kind)
    where = saved(model)
    loaded, tokenizer = load_policy(str(where), device='cpu')
    for name, p in model.state_dict().items(): assert torch.equal(p, loaded.state_dict()[name])
    assert len(sample_groups(loaded, tokenizer, ['1+1=?'], 2, 4, seed=0)) == 2

def test_shards(saved):
    where = saved(max_shard_size='20KB')
    assert len(list(where.glob('*.safetensors'))) > 2
    load_policy(str(where), device='cpu')
    next(where.glob('*.safetensors')).unlink()
    with pytest.raises(ValueError, match='does not load as a causal language model'): load_policy(str(where), device='cpu')

def test_no_tokenizer_but_ones_own(saved):
    where = saved()
    for f in where.glob('*token*'): f.unlink()
    with pytest.raises(ValueError): load_policy(str(where), device='cpu')
    model, tokenizer = load_policy(str(where), device='cpu', tokenizer=tiny_tokenizer())
    assert tokenizer.padding_side == 'left'
    trained(str(where), processing_class=tiny_tokenizer())

def test_quantized_weights_name_their_package(saved):
    where = saved()
    config = json.loads((where/'config.json').read_text())
    config['quantization_config'] = dict(quant_method='bitsandbytes', load_in_4bit=True)
    (where/'config.json').write_text(json.dumps(config))
    try: import bitsandbytes
    except ImportError: pass
    else: pytest.skip('bitsandbytes is here')
    with pytest.raises(ValueError, match='bitsandbytes'): load_policy(str(where), device='cpu')

# --- adapters

def test_adapter_directory(tmp_path, saved):
    base = saved()
    first = trained(str(base), lora())
    first.save_model(tmp_path/'adapter')
    assert (tmp_path/'adapter'/'adapter_config.json').exists() and not (tmp_path/'adapter'/'config.json').exists()
    again, _ = load_policy(str(tmp_path/'adapter'), device='cpu')
    x = torch.tensor([[5, 6, 7]])
    with torch.no_grad(): assert torch.equal(again(x).logits, first.model.eval()(x).logits)
    assert any(p.requires_grad for p in again.parameters())
    second = trained(str(tmp_path/'adapter'))
    assert second.state.reference.start and second.history[0]['kl'] < 1e-6 # it begins at its reference
    shutil.rmtree(base)
    with pytest.raises(ValueError, match='is an adapter of .* which does not load'): load_policy(str(tmp_path/'adapter'))

def test_adapter_without_base(tmp_path, saved):
    adapter = add_lora(load_policy('tiny', device='cpu')[0])
    adapter.save_pretrained(tmp_path/'a')
    file = tmp_path/'a'/'adapter_config.json'
    content = json.loads(file.read_text())
    moved = content | dict(base_model_name_or_path='/elsewhere/site-packages/'+'/'.join(TINY.parts[-3:]))
    file.write_text(json.dumps(moved))
    load_policy(str(tmp_path/'a'), device='cpu') # the tiny one is in every installation
    file.write_text(json.dumps(content | dict(base_model_name_or_path=None)))
    with pytest.raises(ValueError, match='does not name its model'): load_policy(str(tmp_path/'a'))

def test_reference_of_an_adapter_is_its_start():
    model = add_lora(load_policy('tiny', device='cpu')[0])
    x = torch.tensor([[5, 6, 7]])
    def logits(m):
        with torch.no_grad(): return m(x).logits
    def move():
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad: p.add_(.1*torch.randn_like(p))
    new, base = Reference(model), logits(model)
    move()
    old, start = Reference(model), logits(model)
    move()
    with new() as ref: assert torch.equal(logits(ref), base)
    with old() as ref: assert torch.equal(logits(ref), start)
    assert not torch.equal(logits(model), start)

# --- ends and templates

def test_several_ends_all_end(saved):
    model = small_model()
    model.generation_config.eos_token_id = [2, 7, 9]
    with torch.no_grad(): model.lm_head.weight.zero_() # all tokens alike: one of three comes soon
    loaded, tokenizer = load_policy(str(saved(model)), device='cpu')
    assert eos_ids(loaded, tokenizer) == [2, 7, 9]
    ro = sample_groups(loaded, tokenizer, ['1+1=?'], 32, 60, seed=0)
    last = ro.completion_ids[torch.arange(32), ro.lengths-1][ro.finished]
    assert set(last.tolist()) == {2, 7, 9}
    for ids, n in zip(ro.completion_ids, ro.lengths): assert not torch.isin(ids[:n-1], torch.tensor([2, 7, 9])).any()

def test_pad_is_eos(saved):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    model = small_model()
    with torch.no_grad(): model.lm_head.weight.zero_()
    loaded, tokenizer = load_policy(str(saved(model, tokenizer)), device='cpu')
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    ro = sample_groups(loaded, tokenizer, ['1+1=?', '12+34=?'], 16, 60, seed=0)
    for ids, mask in zip(ro.completion_ids, ro.completion_mask): # the first end is trained, what follows is padding
        assert (ids[mask==1] == 2).sum() <= 1 and (ids[mask==0] == 2).all()

def test_end_of_the_generation_config(saved):
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    loaded, found = load_policy(str(saved(None, tokenizer)), device='cpu')
    assert found.eos_token == '</s>' and eos_ids(loaded, found) == [2]

def test_templates():
    tokenizer = tiny_tokenizer()
    messages = [dict(role='user', content='1+1')]
    with pytest.raises(ValueError, match='has no chat template'): encode_prompt(messages, tokenizer)
    for template, end in ((CHAT, '='), (THINKS, '<think>'), (SWITCH, '=')):
        tokenizer.chat_template = template
        assert tokenizer.decode(encode_prompt(messages, tokenizer)).endswith(end)

def test_a_plain_string_to_a_chat_model_is_said_once(caplog):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    rows = addition_task().train[:8]
    model = load_policy('tiny', device='cpu')[0]
    def said(rows):
        caplog.clear()
        with caplog.at_level(logging.WARNING): trained(model, rows=rows, processing_class=tokenizer)
        return [r.getMessage() for r in caplog.records if 'plain strings' in r.getMessage()]
    assert len(said(rows)) == 1 and said(as_chat(rows)) == []

# --- precision

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_masters_are_made_and_said(caplog, dtype):
    model, tokenizer = load_policy('tiny', device='cpu', dtype=dtype)
    with caplog.at_level(logging.INFO): trainer = trained(model, processing_class=tokenizer)
    lines = [r.getMessage() for r in caplog.records if 'float32 masters' in r.getMessage()]
    assert len(lines) == 1 and str(dtype).removeprefix('torch.') in lines[0]
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}

def test_model_init_kwargs_as_trl_has_them():
    for options in (dict(dtype='bfloat16'), dict(torch_dtype='bfloat16'), dict(dtype=torch.bfloat16), dict(dtype='auto')):
        trainer = trained(max_steps=1, model_init_kwargs=options)
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    trainer = trained(max_steps=1, peft_config=lora(), model_init_kwargs=dict(dtype='bfloat16', attn_implementation='eager'))
    kinds = {(p.dtype, p.requires_grad) for p in trainer.model.parameters()}
    assert kinds == {(torch.bfloat16, False), (torch.float32, True)}

def test_a_cpu_computes_in_float32_unless_told():
    plain = trained()
    assert (plain.args.bf16, plain.args.fp16, plain.accelerator.mixed_precision) == (False, False, 'no')
    assert trained(bf16=True).accelerator.mixed_precision == 'bf16'

# --- optimizers

@pytest.mark.parametrize('name', ['adamw_torch', 'sgd', 'rmsprop', 'adagrad', 'adafactor'])
def test_optimizers_move_the_weights(name):
    before = load_policy('tiny', device='cpu')[0].state_dict()
    after = trained(optim=name, learning_rate=1e-2).model.state_dict()
    assert any(not torch.equal(before[n], after[n]) for n in before)

def test_optim_args():
    trainer = trained(optim='sgd', optim_args='momentum=0.9', learning_rate=1e-2)
    assert trainer.optimizer.param_groups[0]['momentum'] == .9
    with pytest.raises(ValueError, match="did you mean 'momentum'"): trained(optim='sgd', optim_args='momentun=0.9')

@pytest.mark.parametrize('name', ['adamw_8bit', 'adamw_bnb_8bit', 'paged_adamw_8bit'])
def test_a_missing_package_is_named(name):
    with patch('transformers.trainer_optimizer.is_bitsandbytes_available', lambda: False):
        with pytest.raises(ValueError, match='pip install bitsandbytes'): trained(optim=name)


# a copy with the adapter within its weights computes as the policy, or is not made

def with_lora(model, **more):
    from peft import LoraConfig, get_peft_model
    wanted = dict(target_modules=['q_proj', 'down_proj']) | more
    return moved(get_peft_model(model, LoraConfig(task_type='CAUSAL_LM', r=4, **wanted)))

def moved(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad: p.add_(torch.randn_like(p)*.05)
    return model

def merged_already(model):
    model.merge_adapter()
    return model

def one_merged(model):
    next(m for m in model.modules() if hasattr(m, 'lora_A')).merge()
    return model

def switched_off(model):
    model.base_model.disable_adapter_layers()
    return model

def hooked(model):
    layer = next(m for m in model.modules() if hasattr(m, 'lora_A'))
    layer.register_forward_hook(lambda module, inputs, output: output*1.1)
    return model

def second(model):
    from peft import LoraConfig
    model.add_adapter('other', LoraConfig(task_type='CAUSAL_LM', r=2, target_modules=['q_proj']))
    model.set_adapter('other')
    return moved(model)

def ada_lora(model):
    from peft import AdaLoraConfig, get_peft_model
    return moved(get_peft_model(model, AdaLoraConfig(task_type='CAUSAL_LM', target_modules=['q_proj'], total_step=10)))

ADAPTED = dict(
    biases=(lambda: with_lora(small_model(attention_bias=True), bias='all'), True),
    second=(lambda: second(with_lora(small_model())), True), ada_lora=(lambda: ada_lora(small_model()), True),
    head=(lambda: with_lora(small_model(), target_modules=['lm_head']), True),
    tied_head=(lambda: with_lora(small_model(tie_word_embeddings=True), target_modules=['lm_head']), False),
    merged=(lambda: merged_already(with_lora(small_model())), False), one_merged=(lambda: one_merged(with_lora(small_model())), False),
    switched_off=(lambda: switched_off(with_lora(small_model())), False), hooked=(lambda: hooked(with_lora(small_model())), False))

@pytest.mark.parametrize('case', ADAPTED)
def test_a_merged_copy_computes_as_the_policy(case):
    from grpo_lit.run.copies import can_be_merged, follow_merged, merged_copy
    make, may = ADAPTED[case]
    model, ids = make().eval(), torch.arange(12)[None]
    assert can_be_merged(model) == may
    if not may: return
    copied = merged_copy(model, torch.float32)
    follow_merged(copied, model)
    with torch.no_grad(): assert torch.allclose(model(ids).logits, copied(ids).logits, atol=1e-4)

def test_a_model_whose_output_layer_got_an_adapter_says_what_it_says():
    model = small_model()
    g = torch.Generator().manual_seed(0)
    prompt, written = torch.randint(3, 20, (1, 3), generator=g), torch.randint(3, 20, (2, 4), generator=g)
    there = torch.ones_like(written)
    ro = Rollouts(prompt, torch.ones_like(prompt), written, there, None, 2, there.any(1))
    with torch.no_grad():
        before = token_logps(model, ro)
        with_lora(model, target_modules=['lm_head'])
        after = token_logps(model, ro)
        logits = model(input_ids=torch.cat([prompt.repeat(2, 1), written], 1)).logits[:,2:-1]
    expected = logits.log_softmax(-1).gather(2, written[...,None])[...,0]
    assert (after-expected).abs().max() < 1e-5 < (after-before).abs().max()
