# made by tools/stubs.py: edit the source, then run it
__version__ = '0.1.0'
from .core import Rollouts as Rollouts
from .policy import load_policy as load_policy
from .policy import add_lora as add_lora
from .tasks import Task as Task
from .sampling import sample_groups as sample_groups
from .answers import extract_answer as extract_answer
from .scoring import score_completions as score_completions
from .advantages import group_advantages as group_advantages
from .logprobs import token_logps as token_logps
from .logprobs import kl_estimate as kl_estimate
from .loss import grpo_loss as grpo_loss
from .loss import token_terms as token_terms
from .rewards.comparing import accuracy_reward as accuracy_reward
from .rewards.comparing import strict_accuracy_reward as strict_accuracy_reward
from .rewards.comparing import math_equal as math_equal
from .rewards.sandbox import run_code as run_code
from .rewards.sandbox import run_tests as run_tests
from .rewards.sandbox import Verdict as Verdict
from .rewards.programs import code_reward as code_reward
from .rewards.shape import think_format_reward as think_format_reward
from .rewards.audit import audit_reward as audit_reward
from .fast.offpolicy import importance_weights as importance_weights
from .agents.turns import sample_episodes as sample_episodes
from .agents.retrieval import search_tool as search_tool
from .rewards.qa import qa_reward as qa_reward
from .run.datasets import load_task as load_task
from .run.config import GRPOConfig as GRPOConfig
from .run.trainer import GRPOTrainer as GRPOTrainer
from .run.watch import plot_run as plot_run
from .run.watch import watch as watch
from .run.evaluate import pass_at_k as pass_at_k
from .run.sft import fit_sft as fit_sft
from .run.sft import sft_loss as sft_loss
from .run.past import load_rollouts as load_rollouts
from .run.past import rescore as rescore
from .run.given import train_from_rollouts as train_from_rollouts
from .seeing.readings import readings as readings
from .seeing.page import write_page as write_page
from .seeing.inspector import inspect as inspect
from .seeing.compare import compare_runs as compare_runs
from .scale.launched import launch as launch
from .doctor.diagnosing import diagnose as diagnose

__all__ = [
    'Rollouts',
    'load_policy',
    'add_lora',
    'Task',
    'sample_groups',
    'extract_answer',
    'score_completions',
    'group_advantages',
    'token_logps',
    'kl_estimate',
    'grpo_loss',
    'token_terms',
    'accuracy_reward',
    'strict_accuracy_reward',
    'math_equal',
    'run_code',
    'run_tests',
    'Verdict',
    'code_reward',
    'think_format_reward',
    'audit_reward',
    'importance_weights',
    'sample_episodes',
    'search_tool',
    'qa_reward',
    'load_task',
    'GRPOConfig',
    'GRPOTrainer',
    'plot_run',
    'watch',
    'pass_at_k',
    'fit_sft',
    'sft_loss',
    'load_rollouts',
    'rescore',
    'train_from_rollouts',
    'readings',
    'write_page',
    'inspect',
    'compare_runs',
    'launch',
    'diagnose']
