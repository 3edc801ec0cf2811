"""Whole runs whose sampling is recorded (rehearsed, on the CPU): the numbers of a run without, and recordings that last from step to step."""
from functools import partial
import pytest, torch
from grpo_lit import GRPOConfig, GRPOTrainer, sampling
from grpo_lit.fast import recording
from grpo_lit.fast.static import decoder
from grpo_lit.policy import load_policy
from grpo_lit.tasks import addition_task

task = addition_task()
SMALL = dict(max_steps=3, num_generations=4, per_device_train_batch_size=8, max_completion_length=8, learning_rate=1e-3,
             seed=0, use_cpu=True, gold_check=0, disable_tqdm=True, report_to='none', shuffle_dataset=False)
rows = [{'prompt': f'{n}+'*(6+n)+f'{n}=?', 'answer': '7', 'answer_style': 'tag'} for n in range(10,18)] # long: shared among completions

def lengths(completions, **columns): return [len(text)%5/5 for text in completions]

def trained(monkeypatch, still, data, peft=False, **settings):
    monkeypatch.setattr(sampling, 'decoder', partial(decoder, static=still))
    torch.set_num_threads(1)
    policy, tokenizer = load_policy('tiny', device='cpu')
    adapter = None
    if peft:
        from peft import LoraConfig
        adapter = LoraConfig(r=2, target_modules='all-linear', task_type='CAUSAL_LM')
    trainer = GRPOTrainer(policy, lengths, GRPOConfig(**SMALL | settings), data, None, tokenizer, peft_config=adapter)
    found, made = [], []
    for metrics in trainer.steps():
        found.append([metrics['reward'], metrics['completions/mean_length']])
        made.append(sum(r.recordings for r in recording._recorders.values()))
    whys = [r.why for r in recording._recorders.values()]
    return torch.tensor(found), made, whys, trainer

kinds = dict(plain={}, overlap=dict(overlap_rewards=True), several=dict(num_iterations=2, max_steps=4),
             half=dict(sampling_dtype='bfloat16'), adapter=dict(peft=True), adapter_half=dict(peft=True, sampling_dtype='bfloat16'),
             places=dict(max_rows=4), filters=dict(top_k=5, temperature=.8), offload=dict(offload_reference=True))
FEW = 'plain', 'adapter_half'

@pytest.mark.parametrize('data', ['short', 'long'])
@pytest.mark.parametrize('kind', [pytest.param(k, marks=[] if k in FEW else pytest.mark.slow) for k in kinds])
def test_a_run(kind, data, monkeypatch):
    recording._recorders.clear()
    data = task.train[:16] if data == 'short' else rows
    plain, none, _, _ = trained(monkeypatch, False, data, **kinds[kind])
    recorded, made, whys, _ = trained(monkeypatch, True, data, **kinds[kind])
    assert not any(none) and made[-1] and not any(whys)
    exact = 'half' not in kind          # 16 bits round their way to other tokens at once, 32 bits in later steps
    if exact: assert (plain[:1]-recorded[:1]).abs().max() < 1e-6
    assert made[-1]-made[0] <= 2                      # what is new in later steps is a shape that the first did not have
