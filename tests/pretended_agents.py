"""Runs with tools on a pretended GPU: in every precision, with adapters merged and not, no tensors of two devices meet and nothing waits token by token"""
import pytest, torch
from grpo_lit import GRPOConfig, GRPOTrainer, sampling
from grpo_lit.run.evaluate import evaluate
from scripted import undecided
from pretended import NAME
from pretended_runs import gpu, lora, static_shapes, weights

pytestmark = pytest.mark.filterwarnings('ignore')
CALL = '<tool_call>\n{"name": "look", "arguments": {"key": "%s"}}\n</tool_call>'
TEXTS = [CALL % 'a', CALL % 'b', 'yes', 'no', CALL.replace('look', 'lok') % 'a']
SMALL = dict(max_steps=2, num_generations=4, per_device_train_batch_size=8, max_completion_length=240, max_observation_length=40, max_turns=3,
             learning_rate=1e-4, seed=0, use_cpu=True, gold_check=0, disable_tqdm=True, report_to='none')

def look(key: str) -> str:
    """Look something up.

    Args:
        key: What to look for.
    """
    return f'value of {key}'

def yes(completions, **columns): return [float(c[-1]['content'] == 'yes')+.1*(len(c) > 1) for c in completions]

ROWS = [dict(prompt=[dict(role='user', content=f'Is it so, {i}{" and so on"*(i%3)}?')]) for i in range(8)]

def new_trainer(peft=False, base=torch.float32, evaluated=False, **settings):
    model, tokenizer = undecided(TEXTS, 'qwen3')
    model.to(base).to(NAME)
    return GRPOTrainer(model, yes, GRPOConfig(**SMALL | settings), ROWS, ROWS[:2] if evaluated else None, tokenizer, tools=[look],
                       peft_config=lora() if peft else None)

KINDS = {
    'plain': {}, 'no leash': dict(beta=0.), 'bfloat16': dict(bf16=True),
    'all weights, sampled in bfloat16': dict(bf16=True, sampling_dtype='bfloat16'),
    'float16 with a scaler': dict(fp16=True),
    'LoRA': dict(peft=True), 'LoRA on a base in bfloat16': dict(peft=True, base=torch.bfloat16, bf16=True, sampling_dtype='bfloat16'),
    'LoRA on a base in float16': dict(peft=True, base=torch.float16, fp16=True, sampling_dtype='float16'),
    'LoRA merged into a copy in float16': dict(peft=True, fp16=True, sampling_dtype='float16'),
    'LoRA merged into a copy in bfloat16': dict(peft=True, bf16=True, sampling_dtype='bfloat16'),
    'checkpointed': dict(gradient_checkpointing=True, bf16=True), 'overlap': dict(overlap_rewards=True), 'few rows': dict(max_rows=4),
    'a price for reading': dict(observation_coef=.05), 'two updates': dict(num_iterations=2, bf16=True),
    'portions': dict(gradient_accumulation_steps=2, per_device_train_batch_size=4, micro_batch_tokens=300),
    'evaluation': dict(evaluated=True, eval_steps=1, num_generations_eval=2)}
COMMON = ('all weights, sampled in bfloat16', 'LoRA on a base in float16', 'LoRA merged into a copy in bfloat16', 'few rows')

def kinds(always): return [pytest.param(name, marks=[] if name in always else pytest.mark.slow) for name in KINDS]

@pytest.fixture(autouse=True)
def seldom_looks(monkeypatch): monkeypatch.setattr(sampling.Batch.__init__, '__defaults__', (None, 8, None))

def play(name, **more):
    trainer = new_trainer(**KINDS[name] | more)
    before = weights(trainer)
    for m in trainer.steps():
        assert m['skipped'] == 0 and m['loss'] == m['loss'] and m['episodes/drift'] == 0 and m['tools/calls'] > 0, m
        name_of, most = ('mismatch', .1) if '16' in name else ('mismatch_max', .01) # its logits reach thousands
        assert m.get(name_of, 0.) < most, m
    ro = trainer.last_rollouts
    assert ro.observation_mask.any() and not (ro.observation_mask*ro.completion_mask).any()
    assert trainer.model.device.type == NAME and not torch.equal(weights(trainer), before)
    return trainer

@pytest.mark.parametrize('name', kinds(COMMON))
def test_run_with_tools(name, gpu): play(name)

@pytest.mark.parametrize('name', kinds(COMMON))
def test_run_with_tools_and_static_shapes(name, gpu, monkeypatch):
    static_shapes(monkeypatch)
    play(name)
    assert gpu['token'].times

@pytest.mark.parametrize('static', [False, True])
@pytest.mark.parametrize('name', ['LoRA on a base in float16', pytest.param('bfloat16', marks=pytest.mark.slow)])
def test_evaluated_as_it_is_trained(name, static, gpu, monkeypatch):
    "The model that a run hands out, with autocast around its `forward`"
    if static: static_shapes(monkeypatch)
    trainer = new_trainer(**KINDS[name], evaluated=True)
    found = evaluate(trainer.model, trainer.tokenizer, ROWS, reward=yes, temperature=0, tools=[look], max_turns=3, max_completion_length=240)
    assert len(found.rows) == 8 and sum(n for row in found.rows for n in row['calls'])

@pytest.mark.parametrize('static', [False, True])
def test_nothing_waits_token_by_token(static, gpu, monkeypatch):
    "Python waits at looks, at turns that end, and where rows come back"
    if static: static_shapes(monkeypatch)
    def rollout():
        before = gpu['token'].times, gpu['token'].waits.total()
        next(new_trainer(max_steps=1).steps())
        return gpu['token'].times-before[0], gpu['token'].waits.total()-before[1]
    rollout() # what is asked once
    tokens, waits = rollout()
    assert tokens > 10 and waits <= (.15*tokens if static else 0), gpu['token']
    assert gpu['draw'].waits.total() == 0 and gpu['look'].each('waits') <= 1
