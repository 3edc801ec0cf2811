"GRPO, one notebook at a time. Names are loaded when they are first used, so `import grpo_lit` is instant."
__version__ = "0.1.0"

import sys
from ._window import Moved, window

__getattr__, __dir__, __all__ = window(__name__, {
    '.core': 'Rollouts',
    '.policy': 'load_policy add_lora',
    '.tasks': 'Task load_task',
    '.sampling': 'sample_groups',
    '.answers': 'extract_answer accuracy_reward strict_accuracy_reward math_equal',
    '.scoring': 'score_completions audit_reward',
    '.advantages': 'group_advantages',
    '.logprobs': 'token_logps kl_estimate',
    '.loss': 'grpo_loss',
    '.rewards.sandbox': 'run_code run_tests Verdict',
    '.rewards.programs': 'code_reward',
    '.rewards.shape': 'think_format_reward',
    '.fast.offpolicy': 'importance_weights',
    '.run.config': 'GRPOConfig',
    '.run.trainer': 'GRPOTrainer',
    '.run.watch': 'plot_run',
    '.run.evaluate': 'pass_at_k',
    '.run.sft': 'fit_sft sft_loss',
})

sys.meta_path.append(Moved(__name__, {
    'sandbox': 'rewards.sandbox',
    'evaluate': 'run.evaluate',
    'config': 'run.config',
    'trainer': 'run.trainer',
    'watch': 'run.watch',
    'cli': 'run.cli',
}))
