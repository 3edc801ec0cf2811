"""A run that is well, and the same with one thing wrong: `grpo-lit doctor` names that thing, and nothing else"""
import logging, random
import pytest, torch
from grpo_lit.doctor.diagnosing import diagnose
from grpo_lit.policy import load_policy
from grpo_lit.rewards import accuracy_reward, think_format_reward
from grpo_lit.run.config import GRPOConfig, TINY_RUN
from grpo_lit.tasks import addition_task, as_chat

pytestmark = [pytest.mark.filterwarnings('ignore::UserWarning'), pytest.mark.filterwarnings('ignore::FutureWarning')]
task = addition_task(512, 64)
BARE = '{% for m in messages %}{{ m.content }}{% endfor %}' # What this policy was raised with

class Well:
    "What a run that is well is made of; a defect changes some of it"
    def __init__(self):
        torch.set_num_threads(1)
        self.model, self.tokenizer = load_policy('tiny', device='cpu')
        self.rows, self.held = [dict(r) for r in task.train], [dict(r) for r in task.test]
        self.rewards, self.settings = [accuracy_reward], {}

    def diagnosis(self):
        args = GRPOConfig(**TINY_RUN | dict(reward_weights=None, max_completion_length=64, use_cpu=True) | self.settings)
        return diagnose(self.model, self.rows, self.rewards, args, self.held, self.tokenizer, seconds=4)

    def chat(self, template=None):
        self.rows, self.held, self.tokenizer.chat_template = as_chat(self.rows), as_chat(self.held), template

    def change(self, **columns): self.rows = [r | {n: f(r) for n, f in columns.items()} for r in self.rows]

# What is wrong with the data --------------------------------------------------------------------------------------------

def gold_of_the_next_row(w): w.rows = [r | dict(answer=o['answer']) for r, o in zip(w.rows, w.rows[1:]+w.rows[:1])]

def gold_in_words(w): w.change(answer=lambda r: 'the answer is '+r['answer'])

def column_of_another_name(w): w.rows = [dict(prompt=r['prompt'], gold=r['answer']) for r in w.rows]

def an_empty_prompt(w): w.rows.append(w.rows[0] | dict(prompt=''))

def two_golds(w): w.rows += [r | dict(answer=str(int(r['answer'])+1)) for r in w.rows[:100]]

def copies(w): w.rows = w.rows[:100]*5

def trained_on_the_held_out(w): w.held = w.held[:32]+w.rows[:32]

def one_gold_for_all(w): w.change(answer=lambda r: '7')

def gold_in_the_prompt(w): w.change(prompt=lambda r: f"{r['prompt']} {r['answer']}")

def unknown_letters(w): w.change(prompt=lambda r: 'What is '+r['prompt'])

def prompts_that_do_not_fit(w): w.rows.append(dict(prompt='1+'*120+'1=?', answer='121'))

def questions_far_too_hard(w):
    draw = random.Random(0)
    pairs = [(draw.randrange(10**6, 10**7), draw.randrange(10**6, 10**7)) for _ in range(400)]
    w.rows = [dict(prompt=f'{a}+{b}=?', answer=str(a+b), answer_style='tag') for a, b in pairs]

# With the template, the end, the model ------------------------------------------------------------------------------------

def no_template(w): w.chat()

def template_not_applied(w): w.tokenizer.chat_template = BARE

def template_applied_twice(w): w.change(prompt=lambda r: '<s><s>'+r['prompt'])

def template_thinks(w):
    "The template opens <think>, and a reward wants to see it"
    w.chat(BARE+'{% if add_generation_prompt %}<think>{% endif %}')
    w.rewards = [accuracy_reward, think_format_reward]

def template_closes_with_another_token(w): w.chat(BARE+'{% if not add_generation_prompt %}<s>{% endif %}')

def template_ends_the_prompt(w): w.chat(BARE+'</s>')

def eos_within_answers(w): w.tokenizer.eos_token = '</think>'

def eos_that_is_never_written(w): w.settings['generation_kwargs'] = dict(eos_token_id=[1])

def ends_at_once(w): w.settings['generation_kwargs'] = dict(eos_token_id=[2, 3, 5])

def weights_that_are_no_numbers(w):
    with torch.no_grad(): w.model.model.layers[0].mlp.down_proj.weight[0, 0] = float('nan')

# With the rewards ---------------------------------------------------------------------------------------------------------

def pays_nothing_too(w):
    def lenient(completions, answer, **columns): return [float(c == '' or f'<answer>{a}</answer>' in c) for c, a in zip(completions, answer)]
    w.rewards = [lenient]

def pays_everybody(w):
    def friendly(completions, answer, **columns): return [1.]*len(completions)
    w.rewards = [friendly]

def pays_for_wrong(w):
    def inverted(completions, answer, **columns): return [float(f'<answer>{a}</answer>' not in c) for c, a in zip(completions, answer)]
    w.rewards = [inverted]

def wants_another_form(w):
    def boxed(completions, answer, **columns): return [float(f'\\boxed{{{a}}}.' in c) for c, a in zip(completions, answer)]
    w.rewards = [boxed]

def breaks(w):
    def broken(completions, answer, **columns): raise KeyError('x')
    w.rewards = [broken]

def judges_nothing(w):
    def mute(completions, answer, **columns): return [None]*len(completions)
    w.rewards = [mute]

def returns_one_number(w):
    def short(completions, answer, **columns): return [1.]
    w.rewards = [short]

# With the settings ----------------------------------------------------------------------------------------------------------

def no_rate(w): w.settings['learning_rate'] = 0.

def greedy(w): w.settings['top_k'] = 1

def cut_short(w): w.settings['max_completion_length'] = 10

DEFECTS = { # -> the name of the check that finds it
    gold_of_the_next_row: 'disputed', gold_in_words: 'gold', column_of_another_name: 'columns', an_empty_prompt: 'prompts',
    two_golds: 'contradictions', copies: 'duplicates', trained_on_the_held_out: 'overlap', one_gold_for_all: 'guessable',
    gold_in_the_prompt: 'leak', unknown_letters: 'unknown', prompts_that_do_not_fit: 'length', questions_far_too_hard: 'dead',
    no_template: 'template', template_not_applied: 'plain-prompts', template_applied_twice: 'twice',
    template_thinks: 'thinking', template_closes_with_another_token: 'turn-end', template_ends_the_prompt: 'prompt-end',
    eos_within_answers: 'eos', eos_that_is_never_written: 'endless', ends_at_once: 'eos', weights_that_are_no_numbers: 'model',
    pays_nothing_too: 'holes', pays_everybody: 'constant', pays_for_wrong: 'gold', wants_another_form: 'gold', breaks: 'reward-errors',
    judges_nothing: 'reward-none', returns_one_number: 'contract', no_rate: 'settings', greedy: 'variety', cut_short: 'cut'}

# Of a second round ----------------------------------------------------------------------------------------------------------

def another_style(w): w.change(answer_style=lambda r: 'boxed')

def one_for_all_beside(w):
    def friendly(completions, **columns): return [1.]*len(completions)
    w.rewards = [accuracy_reward, friendly]

def right_is_punished(w): w.settings['reward_weights'] = [-1.]

def breaks_on_nothing(w):
    def first(completions, answer, **columns): return [float(c[0]=='<' and f'<answer>{a}</answer>' in c) for c, a in zip(completions, answer)]
    w.rewards = [first]

def breaks_on_other_scripts(w):
    def western(completions, answer, **columns): return [float(f'<answer>{a}</answer>' in c.encode('ascii').decode()) for c, a in zip(completions, answer)]
    w.rewards = [western]

def answered_already(w):
    w.chat(BARE)
    w.change(prompt=lambda r: [*r['prompt'], dict(role='assistant', content=f"<think>\n</think>\n<answer>{r['answer']}</answer>")])

def leash_of_iron(w): w.settings['beta'] = 100.

def by_heart(w): w.settings['num_iterations'] = 64

def eaten(w): w.settings['weight_decay'] = 100.

def narrow(w): w.settings['epsilon'] = 1e-6

def next_to_no_token(w): w.settings['top_entropy_quantile'] = .001

def gradients_cut_to_nothing(w): w.settings['max_grad_norm'] = 1e-9

def warm_too_late(w): w.settings['warmup_steps'] = 10_000

def clipped_beside(w): w.settings['reward_clip'] = [5., 6.]

def noise(w): w.settings['temperature'] = 5.

DEFECTS |= {
    another_style: 'accuracy', one_for_all_beside: 'idle', right_is_punished: 'gold', breaks_on_nothing: 'brittle', breaks_on_other_scripts: 'brittle',
    answered_already: 'template', leash_of_iron: 'unusual', by_heart: 'unusual', eaten: 'unusual', narrow: 'unusual', next_to_no_token: 'unusual',
    gradients_cut_to_nothing: 'settings', warm_too_late: 'unusual', clipped_beside: 'clipped', noise: 'settings'}

# The ten of every run of the tests; the others are slow
QUICK = {gold_of_the_next_row, pays_nothing_too, eos_that_is_never_written, no_template, prompts_that_do_not_fit, trained_on_the_held_out,
         template_thinks, questions_far_too_hard, column_of_another_name, cut_short}

@pytest.fixture(autouse=True)
def few_words():
    log = logging.getLogger('grpo_lit')
    log.setLevel(logging.ERROR)
    yield
    log.setLevel(logging.NOTSET)

@pytest.mark.parametrize('kind', ['plain', pytest.param('two rewards', marks=pytest.mark.slow), pytest.param('chat', marks=pytest.mark.slow),
                                  pytest.param('eos is pad', marks=pytest.mark.slow)])
def test_nothing_is_said_of_a_run_that_is_well(kind):
    w = Well()
    if kind == 'two rewards': w.rewards, w.settings = [accuracy_reward, think_format_reward], dict(reward_weights=[1, .2])
    if kind == 'chat': w.chat(BARE)
    if kind == 'eos is pad': w.tokenizer.pad_token = w.tokenizer.eos_token # here it does no harm
    found = w.diagnosis()
    assert found.found == [] and found.verdict == 'fine' and found.exit_code == 0, found

def test_there_are_ten_defects_and_more():
    assert len(DEFECTS) >= 30 and len(QUICK) >= 10 and QUICK <= {*DEFECTS} and len({*DEFECTS.values()}) >= 25

@pytest.mark.parametrize('defect', [pytest.param(d, id=d.__name__, marks=[] if d in QUICK else pytest.mark.slow) for d in DEFECTS])
def test_a_defect_is_named_and_nothing_else(defect):
    w = Well()
    defect(w)
    found = w.diagnosis()
    assert found.found == [DEFECTS[defect]], found
    assert found[DEFECTS[defect]].cure and found.verdict != 'fine', found
