# made by tools/stubs.py: edit the source, then run it
from ..answers import extract_answer as extract_answer
from ..answers import as_numbers as as_numbers
from .comparing import math_equal as math_equal
from .comparing import accuracy_reward as accuracy_reward
from .comparing import strict_accuracy_reward as strict_accuracy_reward
from .reading import answer_parts as answer_parts
from .words import extract_choice as extract_choice
from .words import choice_reward as choice_reward
from .words import word_f1 as word_f1
from .words import word_match as word_match
from .qa import qa_reward as qa_reward
from .qa import qa_f1_reward as qa_f1_reward
from .qa import qa_answer as qa_answer
from .programs import code_reward as code_reward
from .programs import passed_tests_reward as passed_tests_reward
from .programs import program_reward as program_reward
from .mutants import unit_tests as unit_tests
from .marginal import marginal_tests as marginal_tests
from .countdown import countdown_reward as countdown_reward
from .knights import knights_reward as knights_reward
from .gym import gym_reward as gym_reward
from .shape import think_format_reward as think_format_reward
from .shape import tag_format as tag_format
from .shape import tag_count as tag_count
from .shape import cosine_length as cosine_length
from .shape import group_length as group_length
from .shape import soft_overlong as soft_overlong
from .shape import repetition as repetition
from .shape import one_script as one_script
from .judges import judge_reward as judge_reward
from .judges import pairwise_judge as pairwise_judge
from .reward_models import model_reward as model_reward
from ..scoring import score_completions as score_completions
from ..scoring import check_rewards as check_rewards
from .calls import reward_name as reward_name
from .calls import RewardCaller as RewardCaller
from .calls import RewardContractError as RewardContractError
from .calls import RewardTimeout as RewardTimeout
from .audit import check_gold as check_gold
from .audit import audit_reward as audit_reward
from .audit import Audit as Audit
from .audit import gold_completion as gold_completion
from .audit import degenerate_completions as degenerate_completions

__all__ = [
    'extract_answer',
    'as_numbers',
    'math_equal',
    'accuracy_reward',
    'strict_accuracy_reward',
    'answer_parts',
    'extract_choice',
    'choice_reward',
    'word_f1',
    'word_match',
    'qa_reward',
    'qa_f1_reward',
    'qa_answer',
    'code_reward',
    'passed_tests_reward',
    'program_reward',
    'unit_tests',
    'marginal_tests',
    'countdown_reward',
    'knights_reward',
    'gym_reward',
    'think_format_reward',
    'tag_format',
    'tag_count',
    'cosine_length',
    'group_length',
    'soft_overlong',
    'repetition',
    'one_script',
    'judge_reward',
    'pairwise_judge',
    'model_reward',
    'score_completions',
    'check_rewards',
    'reward_name',
    'RewardCaller',
    'RewardContractError',
    'RewardTimeout',
    'check_gold',
    'audit_reward',
    'Audit',
    'gold_completion',
    'degenerate_completions']
