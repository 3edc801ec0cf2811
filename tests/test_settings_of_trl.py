"A script for TRL changes its import: every field of TRL's GRPOConfig, given in every way that scripts give it"
import dataclasses, json, logging, pickle
import pytest
from transformers import HfArgumentParser
from trl import GRPOConfig as TRLConfig
from trl import ModelConfig, ScriptArguments, TrlParser
from grpo_lit.run import placing
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.placing import place_of

THEIRS = TRLConfig.__dataclass_fields__
OTHER = { # A value for each field that is neither TRL's default nor ours
    'lr_scheduler_type': 'cosine', 'lr_scheduler_kwargs': {'num_cycles': 2}, 'optim': 'sgd', 'optim_args': 'momentum=.9',
    'logging_strategy': 'epoch', 'eval_strategy': 'epoch', 'save_strategy': 'epoch', 'report_to': ['wandb', 'trackio'],
    'hub_strategy': 'end', 'num_generations': 4, 'generation_batch_size': 16, 'steps_per_generation': 2,
    'top_p': .9, 'min_p': .1, 'loss_type': 'dr_grpo', 'scale_rewards': 'none', 'importance_sampling_level': 'sequence',
    'multi_objective_aggregation': 'normalize_then_sum', 'reward_weights': [1, .5], 'delta': 4., 'epsilon': .3,
    'top_entropy_quantile': .5, 'adam_beta1': .8, 'adam_beta2': .9, 'ref_model_mixup_alpha': .5, 'beta': .01,
    'vllm_mode': 'server', 'vllm_importance_sampling_mode': 'token_mask', 'vllm_importance_sampling_clip_min': .1, 'bf16': True, 'adam_epsilon': 1e-6, 'generation_kwargs': {'typical_p': .9}, 'per_device_train_batch_size': 16}

def other(name):
    "A value that somebody would set"
    if name in OTHER: return OTHER[name]
    kind, default = str(THEIRS[name].type), THEIRS[name].default
    if isinstance(default, bool): return not default
    if isinstance(default, (int, float)): return default+2
    if 'dict' in kind: return {'a': 1}
    if 'bool' in kind: return True
    if 'int' in kind or 'float' in kind: return 3
    return ['a'] if kind.startswith('list') else 'a'


@pytest.mark.parametrize('name', THEIRS)
def test_a_field_of_trl(name):
    value, place = other(name), place_of(name)
    if place == 'not here':
        with pytest.raises(ValueError) as error: GRPOConfig(**{name: value})
        said = str(error.value)
        assert said.startswith(f'not here: {name}=') and ' - ' in said and '\n' not in said
    else:
        args = GRPOConfig(**{name: value})
        if place == 'same': assert getattr(args, name) == (value if name != 'optim_args' else {'momentum': .9})
        assert pickle.loads(pickle.dumps(args)) == args
        assert GRPOConfig(**args.to_dict()) == dataclasses.replace(args, hub_token=None)
        json.loads(args.to_json_string())

def test_defaults_of_trl_are_taken_silently(caplog):
    placing.say_once.cache_clear()
    given = {n: f.default if f.default is not dataclasses.MISSING else f.default_factory() for n, f in THEIRS.items()}
    args = GRPOConfig(**given)
    assert not caplog.records
    assert (args.beta, args.num_train_epochs, args.max_completion_length) == (0, 3, 512)
    like = GRPOConfig.like_trl()
    differ = {f.name for f in dataclasses.fields(args) if getattr(args, f.name) != getattr(like, f.name)}
    assert differ == {'output_dir', 'num_generations_eval', 'include_for_metrics', 'max_turns'} # an empty list there; turns without end there

def test_what_is_not_here_is_said_at_once():
    given = dict(deepspeed='ds.json', neftune_noise_alpha=5, fsdp='full_shard', use_vllm=True, load_best_model_at_end=True)
    with pytest.raises(ValueError) as error: GRPOConfig(**given)
    said = str(error.value)
    assert all(name in said for name in given if name != 'use_vllm') and 'use_vllm' not in said

def test_unknown_names_and_what_is_not_here_are_said_at_once():
    with pytest.raises(TypeError) as error: GRPOConfig(learning_rat=1, num_generation=4, deepspeed='x', beta=.1)
    said = str(error.value)
    assert "'learning_rate'" in said and "'num_generations'" in said and 'deepspeed' in said and 'beta' not in said
    assert len(said) < 400 and '\n' not in said

def test_an_eval_strategy_is_always_a_word():
    quiet = GRPOConfig()
    assert quiet.eval_strategy == 'no' and GRPOConfig(eval_strategy='no', eval_steps=5).eval_strategy == 'no'
    assert GRPOConfig(eval_steps=5).eval_strategy == 'steps' and GRPOConfig(eval_strategy='epoch').eval_strategy == 'epoch'
    assert dataclasses.replace(quiet, eval_steps=5).eval_strategy == 'steps'
    assert dataclasses.replace(pickle.loads(pickle.dumps(quiet)), eval_steps=5).eval_strategy == 'steps'
    assert type(json.loads(quiet.to_json_string())['eval_strategy']) is str

def test_a_line_is_said_once(caplog):
    placing.say_once.cache_clear()
    for _ in range(3): GRPOConfig(use_vllm=True, dataloader_num_workers=4, do_train=True)
    assert len(caplog.records) == 2
    assert sorted(r.getMessage().split('=')[0] for r in caplog.records) == ['dataloader_num_workers', 'use_vllm']

@pytest.mark.parametrize('given,expected', [
    (dict(use_bias_correction_kl=False), dict(kl='k3')),
    (dict(activation_checkpointing=True), dict(gradient_checkpointing=True)),
    (dict(activation_checkpointing_kwargs={'use_reentrant': False}), dict(gradient_checkpointing_kwargs={'use_reentrant': False})),
    (dict(vllm_importance_sampling_mode='token_truncate'), dict(importance_sampling_mode='token_truncate')),
    (dict(vllm_importance_sampling_correction=False), dict(importance_sampling_mode='none')),
    (dict(vllm_importance_sampling_cap=2.), dict(importance_sampling_clip_max=2.)),
    (dict(evaluation_strategy='epoch'), dict(eval_strategy='epoch')),
    (dict(no_cuda=True), dict(use_cpu=True)),
    (dict(push_to_hub_model_id='me/adds'), dict(hub_model_id='me/adds')),
    (dict(wandb_log_unique_prompts=True), dict(log_unique_prompts=True))], ids=str)
def test_renamed(given, expected):
    args = GRPOConfig(**given)
    assert {n: getattr(args, n) for n in expected} == expected
    assert dataclasses.replace(args, seed=3) == GRPOConfig(**expected, seed=3)

SERVED = dict(use_vllm=True, vllm_mode='server')

@pytest.mark.parametrize('given,mode', [
    (dict(), None), (SERVED, None), (dict(vllm_importance_sampling_mode='sequence_mask'), None),
    (SERVED | dict(vllm_importance_sampling_mode='sequence_mask'), 'sequence_mask'),
    (SERVED | dict(vllm_importance_sampling_mode='sequence_mask', vllm_importance_sampling_correction=False), 'none')], ids=str)
def test_a_default_that_is_given(given, mode):
    "Every object of TRL says sequence_mask, which is meant where a server writes"
    args = GRPOConfig(**given)
    assert args.importance_sampling_mode == mode == dataclasses.replace(args, seed=3).importance_sampling_mode

def test_a_served_run_like_trl():
    def mode(**more): return GRPOConfig.like_trl(**more).importance_sampling_mode
    assert (mode(), mode(**SERVED), mode(**SERVED, importance_sampling_mode='token_mask')) == (None, 'sequence_mask', 'token_mask')
    assert mode(**SERVED, vllm_importance_sampling_correction=False) == 'none'

def test_both_names_that_disagree():
    with pytest.raises(ValueError, match='both are given'): GRPOConfig(use_bias_correction_kl=False, kl='k1')

def test_older_fields_are_taken(caplog):
    placing.say_once.cache_clear()
    GRPOConfig(max_prompt_length=256, logging_dir='logs', vllm_device='cuda:1', use_liger_loss=True, group_by_length=True)
    assert [r.getMessage().split('=')[0] for r in caplog.records] == ['max_prompt_length', 'logging_dir']

def test_output_dir_may_stand_first():
    assert GRPOConfig('runs/x').output_dir == 'runs/x'

def test_loading_options_are_an_object(caplog):
    placing.say_once.cache_clear()
    args = GRPOConfig()
    args.accelerator_config.dispatch_batches = False
    assert dataclasses.replace(args, seed=1).accelerator_config.dispatch_batches is False
    assert GRPOConfig(accelerator_config={'split_batches': True, 'gradient_accumulation_kwargs': None}).accelerator_config.split_batches
    assert not GRPOConfig(accelerator_config='{"split_batches": false}').accelerator_config.split_batches

def test_a_subclass_may_add_fields():
    @dataclasses.dataclass
    class Mine(GRPOConfig):
        benchmark:str='gsm8k'
    assert Mine(benchmark='math', beta=.1).benchmark == 'math'
    with pytest.raises(TypeError, match="did you mean 'benchmark'"): Mine(benchmrk='math')


LINE = ['--output_dir', 'x', '--learning_rate', '1e-6', '--reward_weights', '1', '.5', '--report_to', 'tensorboard', '--bf16', 'true', '--use_vllm',
        '--stop', 'a', 'b', '--chat_template_kwargs', '{"enable_thinking": false}', '--dataloader_num_workers', '4', '--max_prompt_length', '512',
        '--no_log_completions', '--optim', 'sgd', '--save_steps', '0.5', '--eval_strategy', 'steps', '--warmup_ratio', '0.1']

def check_parsed(args):
    assert (args.learning_rate, args.reward_weights, args.report_to, args.bf16, args.stop) == (1e-6, [1, .5], ['tensorboard'], True, ('a', 'b'))
    assert (args.chat_template_kwargs, args.log_completions, args.save_steps) == ({'enable_thinking': False}, False, .5)
    assert args == GRPOConfig('x', learning_rate=1e-6, reward_weights=[1, .5], report_to='tensorboard', bf16=True, use_vllm=True, stop=['a', 'b'],
                              chat_template_kwargs=dict(enable_thinking=False), dataloader_num_workers=4, max_prompt_length=512,
                              log_completions=False, optim='sgd', save_steps=.5, eval_strategy='steps', warmup_ratio=.1,
                              include_num_input_tokens_seen=args.include_num_input_tokens_seen)

def test_a_command_line():
    check_parsed(HfArgumentParser(GRPOConfig).parse_args_into_dataclasses(LINE)[0])
    check_parsed(GRPOConfig('y') and HfArgumentParser(GRPOConfig).parse_args_into_dataclasses(LINE)[0]) # parsing leaves the class as it was

def test_trl_parser(tmp_path):
    parser = TrlParser((ScriptArguments, GRPOConfig, ModelConfig))
    _, args, model = parser.parse_args_and_config([*LINE, '--dataset_name', 'd', '--model_name_or_path', 'm', '--dtype', 'bfloat16'])
    check_parsed(args)
    assert model.dtype == 'bfloat16'
    file = tmp_path/'recipe.yaml'
    file.write_text('learning_rate: 1e-6\noutput_dir: x\nreport_to:\n- wandb\nlr_scheduler_kwargs:\n  min_lr_rate: 0.1\nuse_vllm: true\n'
                    'lr_scheduler_type: cosine_with_min_lr\nreward_weights: [1.0, 0.5]\nmodel_name_or_path: m\ndataset_name: d\n'
                    'gradient_checkpointing_kwargs:\n  use_reentrant: false\nbf16: true\nmax_prompt_length: 512\nwarmup_ratio: 0.1\n')
    _, args, _ = parser.parse_args_and_config(['--config', str(file)])
    assert (args.learning_rate, args.report_to, args.lr_scheduler_kwargs) == (1e-6, ['wandb'], {'min_lr_rate': .1})
    assert args.gradient_checkpointing_kwargs == {'use_reentrant': False}
    assert dataclasses.replace(args, beta=.1).beta == .1

def test_as_transformers_uses_them():
    args = GRPOConfig('runs/x', hub_token='hf_secret', use_cpu=True, log_level='error')
    assert 'hf_secret' not in args.to_json_string()+repr(args)+str(args.to_sanitized_dict())
    assert args.hub_token == 'hf_secret' and args.device.type == 'cpu' and args.n_gpu == 0
    assert args.distributed_state.num_processes == 1
    assert args.get_process_log_level() == logging.ERROR
    assert args.to_dict()['learning_rate'] == 1e-6
