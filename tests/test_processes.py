"Two processes with one micro-batch each do what one process does with two: weights and metrics, DDP and FSDP2"
import math
import pytest, torch
from grpo_lit import GRPOConfig, GRPOTrainer
from grpo_lit.policy import load_policy
from grpo_lit.rewards.comparing import accuracy_reward
from grpo_lit.rewards.shape import think_format_reward
from grpo_lit.tasks import addition_task
from two_processes import together

def run(rank:int, processes:int, steps:int=3, **settings):
    "Weights, and the metrics of each step"
    torch.set_num_threads(1)
    task = addition_task(seed=0)
    model, tokenizer = load_policy('tiny', device='cpu')
    given = dict(max_steps=steps, num_generations=4, per_device_train_batch_size=16, learning_rate=1e-4, max_completion_length=40, seed=0,
                 gradient_accumulation_steps=2//processes, use_cpu=True, disable_tqdm=True, report_to='none', gold_check=0)
    args = GRPOConfig(**given | settings)
    trainer = GRPOTrainer(model, [accuracy_reward, think_format_reward], args, task.train, processing_class=tokenizer)
    metrics = list(trainer.steps())
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}, metrics

TIMES = ('time/', 'floor/', 'step_time', 'tokens_per_second')

def same_metrics(a:dict, b:dict):
    for name in a.keys() | b.keys():
        if name.startswith(TIMES): continue
        assert name in a and name in b, name
        assert math.isclose(a[name], b[name], rel_tol=2e-4, abs_tol=1e-5) or (math.isnan(a[name]) and math.isnan(b[name])), (name, a[name], b[name])

def same(one, two):
    for name, p in one[0].items(): torch.testing.assert_close(two[0][name], p, rtol=1e-5, atol=3e-6, msg=lambda m: f'{name}: {m}')
    for a, b in zip(one[1], two[1]): same_metrics(a, b)

def test_ddp():
    one = run(0, 1)
    two = together(run, 2)
    for found in two: same(one, found)
    for name, p in two[0][0].items(): assert torch.equal(p, two[1][0][name])
    assert [m['loss'] for m in two[0][1]] == [m['loss'] for m in two[1][1]]

SHARDED = dict(ACCELERATE_USE_FSDP='true', FSDP_VERSION='2', FSDP_AUTO_WRAP_POLICY='TRANSFORMER_BASED_WRAP', FSDP_STATE_DICT_TYPE='FULL_STATE_DICT')

def run_sharded(rank:int, processes:int, steps:int=3, **settings):
    names, metrics = run(rank, processes, steps, **settings)
    return {name: p.full_tensor() for name, p in names.items()}, metrics

def test_fsdp2():
    one = run(0, 1)
    for found in together(run_sharded, 2, env=SHARDED): same(one, found)
