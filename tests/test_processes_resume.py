"""Runs of two processes: one writer, checkpoints that go on to the bit, and in another number of processes."""
import json
from pathlib import Path
import pytest, torch
from grpo_lit.policy import load_policy
from grpo_lit.rewards import accuracy_reward
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.runs import Run
from grpo_lit.run.trainer import GRPOTrainer
from grpo_lit.tasks import addition_task
from two_processes import together

FSDP2 = dict(ACCELERATE_USE_FSDP='true', FSDP_VERSION=2, FSDP_AUTO_WRAP_POLICY='TRANSFORMER_BASED_WRAP', FSDP_RESHARD_AFTER_FORWARD='true',
             FSDP_STATE_DICT_TYPE='FULL_STATE_DICT', FSDP_CPU_RAM_EFFICIENT_LOADING='false')

def varied(completions, **columns):
    "A reward that differs within most groups"
    return [float(sum(map(ord, c))%3) for c in completions]

def new_trainer(out, processes, **settings):
    "Four prompts of four completions in a step, whatever the number of processes"
    model, tokenizer = load_policy('tiny', device='cpu')
    given = dict(output_dir=str(out), max_steps=4, num_generations=4, per_device_train_batch_size=8, gradient_accumulation_steps=2//processes,
                 max_completion_length=12, learning_rate=1e-3, save_steps=2, use_cpu=True, gold_check=0)
    return GRPOTrainer(model, varied, GRPOConfig(**given | settings), addition_task().train, processing_class=tokenizer)

def weights_of(trainer):
    "The policy, whole"
    from grpo_lit.fast.sharded import whole
    return {name: whole(p.detach()).clone() for name, p in trainer.model.named_parameters()}

def go(rank, out, processes, resume=None, **settings):
    "Train; weights and what this process knows of the run"
    trainer = new_trainer(out, processes, **settings)
    trainer.train(resume_from_checkpoint=resume, live=False)
    return weights_of(trainer), [m['reward'] for m in trainer.history], type(trainer.run).__name__

def same_bits(a, b): return all(torch.equal(a[name], b[name]) for name in a)

def test_one_writes_and_going_on_is_exact(tmp_path):
    whole, there = together(go, tmp_path/'whole', 2)
    assert whole[2] == 'Run' and there[2] == 'Follower' and same_bits(whole[0], there[0])
    run = Run(tmp_path/'whole')
    assert [m['step'] for m in run.metrics()] == [1, 2, 3, 4] and [p.name for p in run.checkpoints()] == ['checkpoint-2', 'checkpoint-4']
    assert len(run.rollouts(1)) == 16 and not run.lock.path.exists()
    again, _ = together(go, tmp_path/'whole', 2, str(tmp_path/'whole'/'checkpoint-2'))
    assert same_bits(whole[0], again[0]) and again[1] == whole[1][2:]
