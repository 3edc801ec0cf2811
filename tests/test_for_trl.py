"The way out: each setting that TRL knows arrives there, and comes back; each that it does not know is said"
import dataclasses
import pytest
from trl import GRPOConfig as TRLConfig
from test_settings_of_trl import OTHER
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.settings import AllSettings
from grpo_lit.scale.for_trl import NEVER_MISSED, ONLY_HERE, RENAMED_THERE, lost_settings, to_trl, trl_fields

OURS, THEIRS = AllSettings.__dataclass_fields__, TRLConfig.__dataclass_fields__
VALUES = OTHER | {
    'kl': 'k3', 'importance_sampling_mode': 'token_mask', 'importance_sampling_clip_min': .1, 'beta_schedule': 'cosine',
    'model_dtype': 'bfloat16', 'baseline': 'batch', 'reward_clip': [-1, 1], 'call_format': 'tags', 'sampling_dtype': 'bfloat16',
    'stop': ['.'], 'max_rows': 64, 'dppo_delta': None, 'kl_in_reward': False, 'vllm_mode': None, 'warmup_ratio': .1}
KEPT = {'dppo_delta', 'kl_in_reward', 'fp16', 'tf32', 'bf16', 'use_cpu', 'push_to_hub', 'sync_ref_model', 'full_determinism'}

def other(name):
    if name in VALUES: return VALUES[name]
    kind, default = str(OURS[name].type), OURS[name].default
    if isinstance(default, bool): return not default
    if isinstance(default, (int, float)): return default+2
    if 'dict' in kind: return {'a': 1}
    return 3 if 'int' in kind or 'float' in kind else 'a'

def given(theirs):
    "As a script for TRL gives it"
    return {n: getattr(theirs, n) for n in THEIRS if n not in ('generation_batch_size', 'accelerator_config')}

@pytest.mark.parametrize('name', sorted(set(OURS)-KEPT))
def test_a_setting(name):
    value = other(name)
    try: args = GRPOConfig(output_dir='out', use_cpu=True, **{name: value} if name != 'output_dir' else {})
    except ValueError: pytest.skip('it does not go alone')
    fields, lost = trl_fields(args, set(THEIRS))
    assert set(fields) <= set(THEIRS)
    if name in ONLY_HERE: assert [said for said in lost if said.startswith(f'{name}=')], lost
    elif name in NEVER_MISSED: assert lost == []
    elif name in THEIRS and name not in ('steps_per_generation', 'generation_batch_size'): assert lost == [] and name in (*fields, 'gradient_checkpointing', 'gradient_checkpointing_kwargs')

@pytest.mark.parametrize('settings', [
    dict(), dict(loss_type='grpo', epsilon_high=.3, delta=2., beta=0.), dict(loss_type='cispo', epsilon_high=5.), dict(kl='k3'),
    dict(num_generations=4, per_device_train_batch_size=4, steps_per_generation=6, gradient_accumulation_steps=3),
    dict(generation_batch_size=32), dict(eval_strategy='epoch', num_generations_eval=2), dict(eval_steps=5), dict(save_steps=7, save_total_limit=2),
    dict(lr_scheduler_type='cosine_with_restarts', lr_scheduler_kwargs=dict(num_cycles=2), warmup_steps=3, optim='adafactor', weight_decay=.1),
    dict(importance_sampling_mode='token_mask', importance_sampling_clip_min=.2), dict(importance_sampling_mode='none'), dict(max_turns=1), dict(max_turns=7, chat_template_kwargs=dict(a=1)),
    *(dict(use_vllm=True, vllm_mode='server', importance_sampling_mode=mode) for mode in ('none', 'sequence_mask', 'token_mask')),
    dict(reward_weights=[1., .5], scale_rewards='batch', multi_objective_aggregation='normalize_then_sum', mask_truncated_completions=True),
    dict(sync_ref_model=True, ref_model_sync_steps=9), dict(gradient_checkpointing=True, report_to=['tensorboard'], run_name='r', top_k=9, min_p=.1)])
def test_there_and_back(settings):
    "What TRL's object says, said to us again, is what it was made from"
    args = GRPOConfig(output_dir='out', use_cpu=True, **settings)
    back = GRPOConfig(**given(to_trl(args)))
    mine = {n for n in OURS if n in THEIRS or n in RENAMED_THERE} - {'generation_batch_size', 'bf16', 'num_generations_eval', 'disable_tqdm', 'model_init_kwargs', 'save_steps'}
    if not args.save_steps: mine -= {'save_strategy'} # saved by minutes, which TRL does not
    assert {n: getattr(back, n) for n in mine} == {n: getattr(args, n) for n in mine}
    assert (back.num_generations_eval or 1) == (args.num_generations_eval or 1)

def test_an_older_trl_says_what_it_lacks():
    found, lost = trl_fields(GRPOConfig(use_cpu=True, delta=2.), set(THEIRS)-{'delta', 'top_k'})
    assert 'delta' not in found and len(lost) == 1 and lost[0].startswith('delta=2.0: TRL has no such setting')

def test_what_is_lost_is_logged(caplog):
    with caplog.at_level('WARNING', 'grpo_lit'): theirs = to_trl(GRPOConfig(use_cpu=True, scale_rewards='mean', loss_type='dppo_kl', reward_timeout=5.))
    assert [r.getMessage().partition('=')[0] for r in caplog.records] == ['loss_type', 'scale_rewards', 'reward_timeout']
    assert (theirs.loss_type, theirs.scale_rewards) == ('dapo', 'none')

def test_what_an_adapter_of_the_sampler_needs():
    "A sampler that is not the trainer is corrected by itself, here; there it has to be said"
    args = GRPOConfig(use_cpu=True)
    args.use_vllm = True
    assert trl_fields(args)[0]['vllm_importance_sampling_mode'] == 'token_truncate'
    assert lost_settings(args) == []

def test_the_object_of_trl_trains(tmp_path):
    "Not only its fields: TRL takes it"
    args = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, max_steps=1)
    assert dataclasses.asdict(to_trl(args))['max_steps'] == 1
