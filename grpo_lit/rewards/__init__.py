"What can be rewarded, by what it looks at. Names are loaded when they are first used."
from .._window import window
__getattr__, __dir__, __all__ = window(__name__, {
    '..answers': 'extract_answer math_equal as_numbers accuracy_reward strict_accuracy_reward choice_reward word_match',
    '..scoring': 'score_completions check_rewards check_gold audit_reward reward_name',
    '.programs': 'code_reward passed_tests_reward program_reward',
    '.mutants': 'unit_tests',
    '.countdown': 'countdown_reward knights_reward gym_reward',
    '.shape': 'cosine_length group_length one_script repetition soft_overlong tag_count tag_format think_format_reward',
    '.judges': 'judge_reward pairwise_judge',
    '.reward_models': 'model_reward',
})
