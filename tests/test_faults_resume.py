"A run that is taken up from any of its checkpoints, by a trainer with another past, ends bit for bit where the whole run ends"
import math, warnings
import pytest, torch
from grpo_lit.fast.sharing import share_prefix
from grpo_lit.policy import load_policy
from grpo_lit.rewards import accuracy_reward, think_format_reward
from grpo_lit.run import trainer as trainer_module
from grpo_lit.run.checkpoints import counters
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.evaluate import evaluate
from grpo_lit.run.accelerator import new_accelerator
from grpo_lit.run.trainer import GRPOTrainer
from grpo_lit.sampling import sample_groups
from grpo_lit.tasks import addition_task

pytestmark = [pytest.mark.filterwarnings('ignore::UserWarning'), pytest.mark.filterwarnings('ignore::FutureWarning')]
task = addition_task()
SMALL = dict(max_steps=4, num_generations=4, per_device_train_batch_size=8, num_iterations=2, save_steps=1,
             max_completion_length=20, learning_rate=1e-3, seed=3, use_cpu=True, reward_weights=[1, .2])

KINDS = { # name -> settings of the run
    'float32': {},
    'bfloat16': dict(bf16=True),
    'float16': dict(fp16=True),
    'float16 that overflows': dict(fp16=True),
    'LoRA': dict(lora=True, learning_rate=1e-2),
    'LoRA in bfloat16': dict(lora=True, learning_rate=1e-2, bf16=True),
    'parts of a rollout': dict(num_iterations=1, steps_per_generation=2),
    'gradient accumulation': dict(gradient_accumulation_steps=2),
    'accumulation in bfloat16': dict(gradient_accumulation_steps=2, micro_batch_tokens=64, bf16=True),
    'dynamic sampling': dict(dynamic_sampling=2),
    'dynamic sampling in bfloat16': dict(dynamic_sampling=2, bf16=True),
    'overlap': dict(overlap_rewards=True, max_rows=4),
    'overlap in bfloat16': dict(overlap_rewards=True, max_rows=4, bf16=True),
    'adaptive beta': dict(target_kl=1e-3),
    'falling beta': dict(beta_schedule='cosine', lr_scheduler_type='cosine', warmup_steps=1),
    'moving reference': dict(sync_ref_model=True, ref_model_sync_steps=1),
    'moving reference in bfloat16': dict(sync_ref_model=True, ref_model_sync_steps=1, bf16=True),
    'no reference': dict(beta=0.),
    'no reference in bfloat16': dict(beta=0., bf16=True),
    'weighted tokens': dict(top_entropy_quantile=.5, importance_sampling_mode='token_truncate'),
    'weighted tokens in bfloat16': dict(importance_sampling_mode='token_truncate', bf16=True),
    'sampler in bfloat16': dict(sampling_dtype='bfloat16'),
    'sampler in float16, policy in bfloat16': dict(sampling_dtype='float16', bf16=True),
    'sampler that disagrees': dict(sampling_dtype='bfloat16', num_iterations=1),
    'evaluation': dict(eval_steps=1, per_device_eval_batch_size=3),
    'evaluation in bfloat16': dict(eval_steps=1, per_device_eval_batch_size=3, bf16=True),
    'KL in the reward': dict(kl_in_reward=True, scale_rewards='none'),
    'entropy bonus': dict(entropy_coef=.01, loss_type='dr_grpo'),
    'recomputed activations': dict(gradient_checkpointing=True, bf16=True),
    'one ahead': dict(max_staleness=1),
    'one ahead in bfloat16': dict(max_staleness=2, bf16=True, sampling_dtype='bfloat16'),
    'one ahead, LoRA': dict(max_staleness=1, lora=True, learning_rate=1e-2),
    'memory ran out': {},
    'one epoch': dict(max_steps=-1, num_train_epochs=.03),
}
BY_DEFAULT = ['float32', 'bfloat16', 'float16', 'LoRA in bfloat16', 'accumulation in bfloat16', 'overlap in bfloat16',
              'adaptive beta', 'moving reference in bfloat16', 'sampler that disagrees', 'evaluation']


def half_on_cpu(scale):
    "`new_accelerator`, with float16 and its scaler on a CPU, which `accelerate` has for GPUs only"
    def made(args):
        accelerator = new_accelerator(args)
        if args.fp16:
            accelerator.native_amp = True
            accelerator.scaler = torch.amp.GradScaler('cpu', init_scale=scale, growth_interval=3)
        return accelerator
    return made


def new_trainer(name, monkeypatch, out=None):
    settings = SMALL | KINDS[name]
    lora = settings.pop('lora', False)
    if out is None: settings['save_steps'] = 0
    monkeypatch.setattr(trainer_module, 'new_accelerator', half_on_cpu(2.**40 if 'overflows' in name else 2.**10))
    model, tokenizer = load_policy('tiny', device='cpu')
    adapter = None
    if lora:
        from peft import LoraConfig
        adapter = LoraConfig(r=4, target_modules='all-linear', task_type='CAUSAL_LM')
    args = GRPOConfig(output_dir=out and str(out), **settings)
    made = GRPOTrainer(model, [accuracy_reward, think_format_reward], args, task.train[:128], task.test[:5],
                       tokenizer, peft_config=adapter)
    if 'memory' in name and out: made.state.memory_divisor = 2
    if 'disagrees' in name: made.state.correct_mismatch = bool(out)
    return made


def measured(metrics): # Without what a clock says
    clocks = 'time/', 'floor/', 'step_time', 'tokens_per_second'
    return {k: v for k, v in metrics.items() if not k.startswith(clocks)}


def equal(a, b): # Bit for bit, at any depth
    if isinstance(a, torch.Tensor): return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(equal, a, b))
    return a == b or (a != a and b != b)


def everything(trainer): # What must be equal in the end
    s = trainer.state
    frozen = s.reference and s.reference.frozen
    return dict(weights=s.model.state_dict(), optimizer=s.optimizer.state_dict(), schedule=s.schedule.state_dict(),
                scaler=s.scaler and s.scaler.state_dict(), counters=counters(s),
                reference=frozen and frozen.state_dict())


def another_past(trainer):
    "Things that happened to this process and to this model, and must not matter"
    torch.rand(17)
    with torch.autocast('cpu', torch.bfloat16):
        share_prefix(trainer.model)
        sample_groups(trainer.model, trainer.tokenizer, ['1+1=?'], 2, 4)
    evaluate(trainer.model, trainer.tokenizer, task.test[:2], max_completion_length=4)


def taken_up(name, points, tmp_path, monkeypatch): # The whole run, and one more from each of these checkpoints
    whole = new_trainer(name, monkeypatch, tmp_path/'whole')
    history = [measured(m) for m in whole.steps()]
    end = everything(whole)
    assert len(history) == len(whole.run.checkpoints()) == 4
    if 'overflows' in name: assert any(h['skipped'] for h in history) and whole.state.scaler.get_scale() < 2.**40
    for at in points:
        resumed = new_trainer(name, monkeypatch)
        if at == 2: another_past(resumed)
        resumed.load_checkpoint(whole.run.path/f'checkpoint-{at}')
        later = [measured(m) for m in resumed.steps()]
        assert equal(later, history[at:]), at
        found = everything(resumed)
        for part in end: assert equal(found[part], end[part]), (at, part)


@pytest.mark.parametrize('name', BY_DEFAULT)
def test_resumed(name, tmp_path, monkeypatch):
    "Inside a rollout, and between two"
    taken_up(name, (1, 2), tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize('name', KINDS)
def test_resumed_from_every_checkpoint(name, tmp_path, monkeypatch):
    taken_up(name, (1, 2, 3), tmp_path, monkeypatch)

def test_a_learning_rate_that_was_lowered_is_taken_up(tmp_path):
    def made(**changed):
        model, tokenizer = load_policy('tiny', device='cpu')
        args = GRPOConfig(**SMALL | dict(output_dir=str(tmp_path/'run'), lr_scheduler_type='constant') | changed)
        return GRPOTrainer(model, [accuracy_reward, think_format_reward], args, task.train[:64], processing_class=tokenizer)
    first = made().steps()
    next(first), next(first)
    first.close()
    again = made(learning_rate=1e-6, weight_decay=.1)
    again.train(resume_from_checkpoint=True)
    assert [m['learning_rate'] for m in again.run.metrics()] == [1e-3, 1e-3, 1e-6, 1e-6]
    assert {g['weight_decay'] for g in again.optimizer.param_groups} == {0., .1}
