"GRPO, one notebook at a time. Names are loaded when they are first used, so `import grpo_lit` is instant."
__version__ = "0.1.0"

_names = dict(core='Rollouts', policy='load_policy add_lora', tasks='Task load_task', sandbox='run_code run_tests Verdict',
    answers='accuracy_reward strict_accuracy_reward extract_answer math_equal', programs='code_reward', shape='think_format_reward', rewards='score_completions audit_reward',
    sampling='sample_groups', advantages='group_advantages', logprobs='token_logps kl_estimate', offpolicy='importance_weights', loss='grpo_loss',
    config='GRPOConfig', trainer='GRPOTrainer', sft='fit_sft sft_loss', watch='plot_run', evaluate='pass_at_k')
_home = {name:module for module,names in _names.items() for name in names.split()}
__all__ = list(_home)

def __getattr__(name):
    if name not in _home: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module
    return getattr(import_module(f'{__name__}.{_home[name]}'), name)

def __dir__(): return sorted([*globals(), *__all__])
