"""A run that is well, and the same with one thing wrong: `grpo-lit doctor` names that thing, and nothing else"""
import copy, random
import pytest, torch
from grpo_lit.doctor.diagnosing import diagnose
from grpo_lit.policy import load_policy
from grpo_lit.rewards import accuracy_reward, think_format_reward
from grpo_lit.run.config import GRPOConfig
from grpo_lit.tasks import addition_task

pytestmark = [pytest.mark.filterwarnings('ignore::UserWarning')]
TASK = addition_task(n_train=160, seed=3)
OFTEN = 'dead', 'gain', 'steps' # What else is a matter of the policy and its questions, not of a defect

class Well:
    "What a run that is well is made of; a defect changes some of it"
    def __init__(self):
        torch.set_num_threads(1)
        self.model, self.tokenizer = load_policy('tiny', device='cpu')
        self.rows, self.held = [dict(r) for r in TASK.train], [dict(r) for r in TASK.test[:40]]
        self.rewards, self.settings = [accuracy_reward, think_format_reward], dict(reward_weights=[1, .2])

    def diagnosis(self):
        settings = dict(num_generations=8, per_device_train_batch_size=64, max_completion_length=48, learning_rate=3e-4, max_steps=100,
                        seed=0, use_cpu=True, disable_tqdm=True)
        if len(self.rewards) != 2: self.settings.pop('reward_weights', None)
        args = GRPOConfig(**settings | self.settings)
        return diagnose(self.model, self.rows, self.rewards, args, self.held, self.tokenizer, seconds=3.)

    def as_chat(self):
        def chat(rows): return [r | dict(prompt=[dict(role='user', content=r['prompt'])]) for r in rows]
        self.rows, self.held = chat(self.rows), chat(self.held)

BARE = "{% for m in messages %}{{ m['content'] }}{% endfor %}" # What this policy was raised with

# Defects ---------------------------------------------------------------------------------------------------------------

def shifted_golds(w):
    "Each question has the gold of the next one"
    golds = [r['answer'] for r in w.rows]
    for r, gold in zip(w.rows, golds[1:]+golds[:1]): r['answer'] = gold

def gold_with_words(w):
    "The gold is a sentence, the reward wants a number"
    def exact(completions, answer, **columns): return [float(c == f'{a}!') for c, a in zip(completions, answer)]
    w.rewards = [exact]

def pays_for_nothing(w):
    "An empty answer earns as well"
    def lenient(completions, answer, **columns): return [float(c.strip() == '' or f'>{a}<' in c) for c, a in zip(completions, answer)]
    w.rewards = [lenient]

def pays_everybody(w):
    def friendly(completions, answer, **columns): return [1. for _ in completions]
    w.rewards = [friendly]

def breaks_on_answers(w):
    def fragile(completions, answer, **columns):
        if any(len(c) < 21 for c in completions): raise KeyError('short')
        return [float(f'>{a}<' in c) for c, a in zip(completions, answer)]
    w.rewards = [fragile]

def judges_nothing(w):
    def silent(completions, answer, **columns): return [None for _ in completions]
    w.rewards = [silent]

def returns_too_few(w):
    def short(completions, answer, **columns): return [0.]
    w.rewards = [short]

def column_missing(w):
    "The reward reads `solution`, the data call it `answer`"
    def graded(completions, solution, **columns): return [float(s in c) for c, s in zip(completions, solution)]
    w.rewards = [graded]

@torch.no_grad()
def never_ends(w):
    "A policy whose EOS has been trained away: another token stands in its place"
    head, eos = w.model.lm_head.weight, w.tokenizer.eos_token_id
    head[w.tokenizer.convert_tokens_to_ids(';')] += head[eos]*1.
    head[eos] = 0.
    head[eos] -= head.sum(0)

def no_template(w): w.as_chat()

def bare_question_to_a_chat_model(w): w.tokenizer.chat_template = BARE

def template_ends_the_prompt(w):
    w.as_chat()
    w.tokenizer.chat_template = BARE+'</s>'

def template_thinks(w):
    "The template opens <think>, and the format reward wants to see it"
    w.as_chat()
    w.tokenizer.chat_template = BARE+'<think>'
    def opened(completions, answer, **columns):
        last = [c if isinstance(c, str) else c[-1]['content'] for c in completions]
        return [float(c.startswith('<think>')) for c in last]
    w.rewards = [accuracy_reward, opened]

def asked_twice(w):
    "The content of a message holds the template already"
    w.as_chat()
    w.tokenizer.chat_template = "{% for m in messages %}<s>{{ m['content'] }}{% endfor %}"
    for r in [*w.rows, *w.held]: r['prompt'][0]['content'] = '<s>'+r['prompt'][0]['content']

def end_within_answers(w):
    "The token that ends an answer stands in the middle of each"
    w.tokenizer.eos_token = '<answer>'
    w.model.config.eos_token_id = w.model.generation_config.eos_token_id = w.tokenizer.eos_token_id

def prompts_too_long(w):
    for r in w.rows[:20]: r['prompt'] = '1+'*150+r['prompt']

def unknown_letters(w):
    for r in [*w.rows, *w.held]: r['prompt'] = f'What is {r["prompt"]}'

def copies(w): w.rows += w.rows[:60]

def tested_on_training(w): w.held = [dict(r) for r in w.rows[:30]]+w.held[:10]

def two_golds(w):
    w.rows += [r | dict(answer=str(int(r['answer'])+1)) for r in w.rows[:40]]

def one_gold(w):
    for r in w.rows: r['prompt'], r['answer'] = f"{r['prompt'][:-2]}=?", '77'

def gold_in_the_prompt(w):
    for r in [*w.rows, *w.held]: r['prompt'] = r['prompt'].replace('?', r['answer'])

def prompts_missing(w):
    for r in w.rows[::9]: r['prompt'] = None

def greedy(w): w.settings['top_k'] = 1

def cut_short(w): w.settings['max_completion_length'] = 10

def no_rate(w): w.settings['learning_rate'] = 0.

def broken_weights(w):
    with torch.no_grad(): w.model.lm_head.weight[3] = float('nan')

# Defect -> names that may be said for it
DEFECTS = {
    shifted_golds: 'disputed', gold_with_words: 'gold', pays_for_nothing: 'holes', pays_everybody: 'constant',
    breaks_on_answers: 'reward-errors', judges_nothing: 'reward-none', returns_too_few: 'contract', column_missing: 'columns',
    never_ends: 'endless', no_template: 'template', bare_question_to_a_chat_model: 'plain-prompts',
    template_ends_the_prompt: 'prompt-end', template_thinks: 'thinking', asked_twice: 'twice', end_within_answers: 'eos',
    prompts_too_long: 'length', unknown_letters: 'unknown', copies: 'duplicates', tested_on_training: 'overlap',
    two_golds: 'contradictions', one_gold: 'guessable', gold_in_the_prompt: 'leak', prompts_missing: 'prompts',
    greedy: 'variety', cut_short: 'cut', no_rate: 'settings', broken_weights: 'model'}

def test_nothing_is_said_of_a_run_that_is_well():
    found = Well().diagnosis()
    assert found.found == [] and found.verdict == 'fine', found

@pytest.mark.parametrize('defect', DEFECTS, ids=lambda f: f.__name__)
def test_each_defect_is_named_and_nothing_else(defect):
    w = Well()
    defect(w)
    found = w.diagnosis()
    assert found.found == [DEFECTS[defect]], found
    assert found[DEFECTS[defect]].cure and found.verdict != 'fine'
