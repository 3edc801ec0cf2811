"GRPO, one notebook at a time. Names are loaded when they are first used, so `import grpo_lit` is instant."
__version__ = "0.1.0"

import sys
from ._window import Moved, window

__getattr__, __dir__, __all__ = window(__name__, {
    # the line
    '.core': 'Rollouts',
    '.policy': 'load_policy add_lora',
    '.tasks': 'Task',
    '.sampling': 'sample_groups',
    '.answers': 'extract_answer',
    '.scoring': 'score_completions',
    '.advantages': 'group_advantages',
    '.logprobs': 'token_logps kl_estimate',
    '.loss': 'grpo_loss token_terms',
    # what can be rewarded; more in `grpo_lit.rewards`
    '.rewards.comparing': 'accuracy_reward strict_accuracy_reward math_equal',
    '.rewards.sandbox': 'run_code run_tests Verdict',
    '.rewards.programs': 'code_reward',
    '.rewards.shape': 'think_format_reward',
    '.rewards.audit': 'audit_reward',
    # far from the sampler
    '.fast.offpolicy': 'importance_weights',
    # several turns; more in `grpo_lit.agents`
    '.agents.turns': 'sample_episodes',
    '.agents.retrieval': 'search_tool',
    '.rewards.qa': 'qa_reward',
    # a run
    '.run.datasets': 'load_task',
    '.run.config': 'GRPOConfig',
    '.run.trainer': 'GRPOTrainer',
    '.run.watch': 'plot_run watch',
    '.run.evaluate': 'pass_at_k',
    '.run.sft': 'fit_sft sft_loss',
    '.run.past': 'load_rollouts rescore',
    '.run.given': 'train_from_rollouts',
    # what happened in it
    '.seeing.readings': 'readings',
    '.seeing.page': 'write_page',
    '.seeing.inspector': 'inspect',
    '.seeing.compare': 'compare_runs',
    # more than one device
    '.scale.launched': 'launch',
    # before it begins
    '.doctor.diagnosing': 'diagnose',
})

# modules that stood at the top before there were parts
sys.meta_path.append(Moved(__name__, {
    'sandbox': 'rewards.sandbox',
    'programs': 'rewards.programs',
    'mutants': 'rewards.mutants',
    'shape': 'rewards.shape',
    'judges': 'rewards.judges',
    'reward_models': 'rewards.reward_models',
    'prefix': 'fast.prefix',
    'offpolicy': 'fast.offpolicy',
    'speed': 'fast.speed',
    'retrieval': 'agents.retrieval',
    'inspector': 'seeing.inspector',
    'control': 'seeing.control',
    'benchmarks': 'run.benchmarks',
    'config': 'run.config',
    'runs': 'run.runs',
    'trainer': 'run.trainer',
    'watch': 'run.watch',
    'evaluate': 'run.evaluate',
    'sft': 'run.sft',
    'cli': 'run.cli',
}))
