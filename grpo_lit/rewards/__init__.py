"What can be rewarded, by what it looks at. Names are loaded when they are first used."
from .._window import window

__getattr__, __dir__, __all__ = window(__name__, {
    # answers that a rule can check: numbers, formulas, letters, words
    '..answers': 'extract_answer as_numbers',
    '.comparing': 'math_equal accuracy_reward strict_accuracy_reward',
    '.reading': 'answer_parts',
    '.words': 'extract_choice choice_reward word_f1 word_match',
    '.qa': 'qa_reward qa_f1_reward qa_answer',
    # programs, by running them where they can do no harm, and tests, by the faults they find
    '.programs': 'code_reward passed_tests_reward program_reward',
    '.mutants': 'unit_tests',
    '.marginal': 'marginal_tests',
    # puzzles
    '.countdown': 'countdown_reward',
    '.knights': 'knights_reward',
    '.gym': 'gym_reward',
    # the shape of a text: tags, length, repetition, script
    '.shape': 'think_format_reward tag_format tag_count cosine_length group_length soft_overlong repetition one_script',
    # what no rule can check: the opinion of a model
    '.judges': 'judge_reward pairwise_judge',
    '.reward_models': 'model_reward',
    # several rewards in one table, and how each is called
    '..scoring': 'score_completions check_rewards',
    '.calls': 'reward_name RewardCaller RewardContractError RewardTimeout',
    # a reward before it is trusted
    '.audit': 'check_gold audit_reward Audit gold_completion degenerate_completions',
})
