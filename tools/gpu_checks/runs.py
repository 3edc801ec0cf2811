"Two steps of each kind of run on the tiny policy, with warnings as failures."
import logging, math, tempfile, warnings
from contextlib import contextmanager
from . import Skipped, check, need

BATCH = dict(max_steps=2, num_generations=8, per_device_train_batch_size=16, max_completion_length=48)
QUIET = dict(disable_tqdm=True, log_completions=False, report_to='none', seed=3, learning_rate=1e-3)
KINDS = { # Name -> settings; `lora` and `given` are ours
    'plain': dict(),
    'float32': dict(bf16=False),
    'bf16': dict(bf16=True),
    'fp16': dict(fp16=True),
    'no reference': dict(beta=0.),
    'LoRA': dict(lora=True),
    'LoRA in float32': dict(lora=True, bf16=False),
    'overlapping rewards': dict(overlap_rewards=True, max_rows=8),
    'dynamic sampling': dict(dynamic_sampling=2),
    'several updates': dict(num_iterations=2, max_steps=4),
    'several micro-batches': dict(per_device_train_batch_size=8, gradient_accumulation_steps=2),
    'evaluation': dict(eval_steps=1),
    'moving reference': dict(sync_ref_model=True, ref_model_sync_steps=1),
    'off-loaded': dict(offload_optimizer=True, offload_reference=True),
    'recomputed activations': dict(gradient_checkpointing=True),
    'weighted tokens': dict(importance_sampling_mode='token_truncate'),
    'float32 sampler': dict(sampling_dtype='float32'),
    'filters': dict(top_k=8, top_p=.95),
    'stop string': dict(stop=['</answer>'])}
LATER = DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning, ResourceWarning

@contextmanager
def no_warnings():
    "Fail on what Python or the package's logger warns of"
    said = []
    class Listener(logging.Handler):
        def emit(self, record): said.append(record.getMessage())
    listener, logger = Listener(logging.WARNING), logging.getLogger('grpo_lit')
    logger.addHandler(listener)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            yield
    finally:
        logger.removeHandler(listener)
    said += [str(w.message) for w in caught if not issubclass(w.category, LATER)]
    if said:
        raise AssertionError(f'warned: {"; ".join(dict.fromkeys(said))}'[:600])

def adapter():
    need('peft')
    from peft import LoraConfig
    return LoraConfig(r=4, target_modules='all-linear', task_type='CAUSAL_LM')

def tiny_trainer(place, **settings):
    "A trainer of the tiny policy on sums"
    from grpo_lit import GRPOConfig, GRPOTrainer, accuracy_reward, think_format_reward
    from grpo_lit.tasks import addition_task
    lora = settings.pop('lora', False)
    if settings.get('fp16') and not place.cuda:
        raise Skipped('needs a GPU')
    task = addition_task()
    rows, held_out = list(task.train)[:128], list(task.test)[:8]
    args = GRPOConfig(**BATCH | QUIET | dict(use_cpu=not place.cuda) | settings)
    return GRPOTrainer('tiny', [accuracy_reward, think_format_reward], args, rows,
                       held_out if args.eval_steps else None, peft_config=adapter() if lora else None)

def sound(trainer, place):
    "The metrics of the last step, once they are what they should be"
    last = trainer.history[-1]
    assert trainer.model.device.type == place.device, f'the policy is on {trainer.model.device}'
    assert all(math.isfinite(m['loss']) for m in trainer.history), 'a loss is not finite'
    figures = dict(reward=last['reward'], step_s=last['step_time'])
    if 'mismatch' in last:
        figures['mismatch'] = last['mismatch']
        assert last['mismatch'] < .2, f'sampler and trainer differ by {last["mismatch"]:.2g} nats a token'
    return figures

def one_kind(place, settings):
    "Two steps of a kind of run"
    import torch
    with no_warnings():
        trainer = tiny_trainer(place, **settings)
        before = [p.detach().clone() for p in trainer.model.parameters() if p.requires_grad]
        trainer.train()
    after = [p.detach() for p in trainer.model.parameters() if p.requires_grad]
    skipped = sum(m.get('skipped', 0) for m in trainer.history)
    moved = any(not torch.equal(a, b) for a, b in zip(before, after))
    assert moved or skipped, 'no weight has moved'
    return sound(trainer, place) | (dict(skipped=skipped) if skipped else {})

for _name, _settings in KINDS.items():
    @check(f'two steps: {_name}', order=20, seconds=1)
    def _kind(place, settings=_settings):
        return one_kind(place, dict(settings))

@check('two steps: resumed', order=21, seconds=2)
def resumed(place):
    "Cut after two of four steps, and gone on with: the same bits, with kernels that keep their order"
    import torch
    settings = dict(max_steps=4, full_determinism=True)
    try:
        with tempfile.TemporaryDirectory() as out:
            whole = tiny_trainer(place, output_dir=f'{out}/whole', save_steps=2, **settings)
            whole.train()
            again = tiny_trainer(place, **settings)
            again.load_checkpoint(whole.run.path/'checkpoint-2')
            for _ in again.steps(): pass
    finally:
        torch.use_deterministic_algorithms(False)
    pairs = zip(whole.model.parameters(), again.model.parameters())
    gap = max(float((a-b).detach().abs().max()) for a, b in pairs)
    assert gap == 0, f'weights differ by {gap:.1e}'
    return dict(largest_difference=gap)

@check('two steps: a second trainer after the first', order=21, seconds=2)
def two_trainers(place):
    "What a notebook does: another precision, then the first goes on"
    first = tiny_trainer(place, bf16=False, max_steps=4)
    steps = first.steps()
    next(steps)
    with no_warnings():
        second = tiny_trainer(place, bf16=place.cuda or None)
        second.train()
    for _ in steps: pass
    return sound(first, place) | dict(second_reward=second.history[-1]['reward'])
