"""Runs of two processes: one writer, checkpoints that go on to the bit, and in another number of processes."""
import pytest, torch
from grpo_lit.policy import load_policy
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

def adapter():
    from peft import LoraConfig
    return LoraConfig(r=4, target_modules='all-linear', task_type='CAUSAL_LM')

def new_trainer(out, processes, lora=False, **settings):
    "Four prompts of four completions in a step, whatever the number of processes"
    model, tokenizer = load_policy('tiny', device='cpu')
    given = dict(output_dir=str(out), max_steps=4, num_generations=4, per_device_train_batch_size=8, gradient_accumulation_steps=2//processes,
                 max_completion_length=12, learning_rate=1e-3, save_steps=2, use_cpu=True, gold_check=0)
    return GRPOTrainer(model, varied, GRPOConfig(**given | settings), addition_task().train, processing_class=tokenizer,
                       peft_config=adapter() if lora else None)

def weights_of(trainer):
    "The policy, whole"
    from grpo_lit.fast.sharded import whole
    return {name: whole(p.detach()).clone() for name, p in trainer.model.named_parameters()}

def go(rank, out, processes, resume=None, settings=None):
    "Train; weights and what this process knows of the run"
    trainer = new_trainer(out, processes, **settings or {})
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

def test_another_number_of_processes(tmp_path):
    "From two to one and from one to two: what comes out is what two would have made, but for the order of sums"
    (weights, rewards, _), _ = together(go, tmp_path/'two', 2)
    alone, same, _ = go(0, tmp_path/'two', 1, str(tmp_path/'two'/'checkpoint-2'))
    close(alone, weights)
    assert same == rewards[2:]
    (there, same, _), _ = together(go, tmp_path/'two', 2, str(tmp_path/'two'/'checkpoint-2'))
    close(there, weights)

def close(a, b):
    for name in b: torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6)

def test_sharded_goes_on_as_any_other(tmp_path):
    "FSDP2 to the bit on as many processes, and to one process"
    def point(step): return str(tmp_path/'cut'/f'checkpoint-{step}')
    (weights, rewards, _), (others, *_) = together(go, tmp_path/'cut', 2, env=FSDP2)
    assert same_bits(weights, others) and [p.name for p in Run(tmp_path/'cut').checkpoints()] == ['checkpoint-2', 'checkpoint-4']
    model, _ = load_policy(point(4), device='cpu')
    for name, p in model.named_parameters(): assert torch.equal(p, weights[name]), name
    (again, same, _), _ = together(go, tmp_path/'cut', 2, point(2), env=FSDP2)
    assert same_bits(again, weights) and same == rewards[2:]
    alone, *_ = go(0, tmp_path/'cut', 1, point(2))
    close(alone, weights)

@pytest.mark.slow
def test_between_sharded_and_not(tmp_path):
    "FSDP2 to DDP, and from one process to FSDP2"
    def point(step): return str(tmp_path/'cut'/f'checkpoint-{step}')
    (weights, *_), _ = together(go, tmp_path/'cut', 2, env=FSDP2)
    (plain, *_), _ = together(go, tmp_path/'cut', 2, point(2))
    close(plain, weights)
    go(0, tmp_path/'one', 1)
    (back, *_), _ = together(go, tmp_path/'one', 2, str(tmp_path/'one'/'checkpoint-2'), env=FSDP2)
    near(back, weights)

def near(a, b):
    "As close, but for single weights whose gradient is nothing but rounding, of which Adam makes a step too"
    for name in b: assert (a[name]-b[name]).norm() <= 1e-5*b[name].norm()+1e-7, name

MOVING = dict(sync_ref_model=True, ref_model_sync_steps=1, ref_model_mixup_alpha=.5, beta=.5, learning_rate=3e-3)

def kept_apart(rank, out, resume=None, settings=MOVING):
    "Train with a reference that follows; its weights as well, and what the KL was"
    trainer = new_trainer(out, 2 if rank is not None else 1, **settings)
    trainer.train(resume_from_checkpoint=resume, live=False)
    reference = {name: p.clone() for name, p in trainer.ref_model.named_parameters()}
    return weights_of(trainer), reference, [m['kl'] for m in trainer.history], refusal_to_ask(trainer)

def refusal_to_ask(trainer):
    "What `ask_both` says against it"
    from grpo_lit.seeing.ask import ask_both
    try: ask_both(trainer, '1+2=?')
    except ValueError as e: return str(e)

@pytest.mark.slow
def test_a_reference_follows_sharded_weights(tmp_path):
    "In each process the same, as beside one process; a checkpoint holds it, and FSDP2 goes on to the bit"
    (weights, reference, kl, said), (_, other, *_) = together(kept_apart, tmp_path/'cut', env=FSDP2)
    assert same_bits(reference, other) and kl[-1] > 0 and 'FSDP2' in said
    start = {name: p for name, p in load_policy('tiny', device='cpu')[0].named_parameters()}
    assert not any(torch.equal(reference[name], start[name]) for name in weights if weights[name].ndim > 1)
    alone_weights, alone, alone_kl, said = kept_apart(None, tmp_path/'one')
    assert said is None
    near(alone, reference)
    near(alone_weights, weights)
    torch.testing.assert_close(alone_kl, kl, rtol=1e-3, atol=1e-6)
    point = str(tmp_path/'cut'/'checkpoint-2')
    (again, moved, same, _), _ = together(kept_apart, tmp_path/'cut', point, env=FSDP2)
    assert same_bits(again, weights) and same_bits(moved, reference) and same == kl[2:]

LORA = dict(lora=True, learning_rate=1e-2)

def go_and_save(rank, out, settings=LORA):
    "Train an adapter, and write it as it is and folded in"
    trainer = new_trainer(out, 2, **settings)
    trainer.train(live=False)
    trainer.save_model(out/'adapter')
    trainer.save_policy(out/'folded')
    return weights_of(trainer)

@pytest.mark.slow
def test_an_adapter_of_sharded_weights(tmp_path):
    "It goes on to the bit, and is written as it is and folded in, as any other"
    from peft import PeftModel
    out, ids = tmp_path/'cut', torch.tensor([[5, 6, 7, 8]])
    weights, others = together(go_and_save, out, env=FSDP2)
    assert same_bits(weights, others) and any(x.any() for name, x in weights.items() if 'lora_B' in name)
    names = {p.name for p in (out/'adapter').iterdir()}
    assert 'adapter_model.safetensors' in names and 'model.safetensors' not in names
    read = PeftModel.from_pretrained(load_policy('tiny', device='cpu')[0], out/'adapter').eval()
    found = {name: x for name, x in read.named_parameters() if 'lora_' in name}
    assert found and all(torch.equal(x, weights[name]) for name, x in found.items())
    folded, _ = load_policy(str(out/'folded'), device='cpu')
    with torch.no_grad(): torch.testing.assert_close(folded.eval()(ids).logits, read(ids).logits, rtol=1e-4, atol=1e-4)
    (again, *_), _ = together(go, out, 2, str(out/'checkpoint-2'), LORA, env=FSDP2)
    assert same_bits(again, weights)
    (plain, *_), _ = together(go, out, 2, str(out/'checkpoint-2'), LORA)
    near(plain, weights)
    alone, *_ = go(0, out, 1, str(out/'checkpoint-2'), LORA)
    near(alone, weights)

def refuse(rank, what, folder):
    "What several processes do not do says so, in each of them"
    if what == 'settings': trainer = lambda: new_trainer(folder/'run', 2, seed=rank)
    if what == 'taken': trainer = lambda: new_trainer(folder/'run', 2).train(live=False)
    if what == 'control': trainer = lambda: new_trainer(folder/'run', 2).control()
    try: trainer()
    except ValueError as e: return str(e)

@pytest.mark.parametrize('what,said', [('settings', 'different settings: seed is'), ('taken', 'already holds a run'), ('control', 'several')])
def test_refused_by_all(tmp_path, what, said):
    Run(tmp_path/'run').start({}).log(dict(step=1))
    for found in together(refuse, what, tmp_path): assert said in found
