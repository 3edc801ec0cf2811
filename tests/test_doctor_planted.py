"""A run that is well, and the same with one thing wrong: `grpo-lit doctor` names that thing, and nothing else"""
import logging, random
from types import SimpleNamespace
import pytest, torch
from datasets import Dataset
from grpo_lit.doctor.answering import see_cut, see_disputed, see_variety
from grpo_lit.doctor.diagnosing import CHECKS, diagnose
from grpo_lit.doctor.rows import ROW_CHECKS
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

    def diagnosis(self, checks=None):
        args = GRPOConfig(**TINY_RUN | dict(reward_weights=None, max_completion_length=64, use_cpu=True) | self.settings)
        return diagnose(self.model, self.rows, self.rewards, args, self.held, self.tokenizer, seconds=4, checks=checks)

    def chat(self, template=None):
        self.rows, self.held, self.tokenizer.chat_template = as_chat(self.rows), as_chat(self.held), template

    def change(self, **columns): self.rows = [r | {n: f(r) for n, f in columns.items()} for r in self.rows]

# What is wrong with the data --------------------------------------------------------------------------------------------

def gold_of_the_next_row(w): w.rows = [r | dict(answer=o['answer']) for r, o in zip(w.rows, w.rows[1:]+w.rows[:1])]

def gold_of_a_row_far_away(w): w.rows = [r | dict(answer=o['answer']) for r, o in zip(w.rows, w.rows[-5:]+w.rows[:-5])]

def golds_shuffled(w):
    golds = [r['answer'] for r in w.rows]
    random.Random(3).shuffle(golds)
    w.rows = [r | dict(answer=g) for r, g in zip(w.rows, golds)]

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

def cold(w): w.settings['temperature'] = .05

def narrow(w): w.settings['min_p'] = .9

def cut_short(w): w.settings['max_completion_length'] = 10

DEFECTS = { # -> the name of the check that finds it
    gold_of_the_next_row: 'disputed', gold_of_a_row_far_away: 'disputed', golds_shuffled: 'disputed',
    gold_in_words: 'gold', column_of_another_name: 'columns', an_empty_prompt: 'prompts',
    two_golds: 'contradictions', copies: 'duplicates', trained_on_the_held_out: 'overlap', one_gold_for_all: 'guessable',
    gold_in_the_prompt: 'leak', unknown_letters: 'unknown', prompts_that_do_not_fit: 'length', questions_far_too_hard: 'dead',
    no_template: 'template', template_not_applied: 'plain-prompts', template_applied_twice: 'twice',
    template_thinks: 'thinking', template_closes_with_another_token: 'turn-end', template_ends_the_prompt: 'prompt-end',
    eos_within_answers: 'eos', eos_that_is_never_written: 'endless', ends_at_once: 'eos', weights_that_are_no_numbers: 'model',
    pays_nothing_too: 'holes', pays_everybody: 'constant', pays_for_wrong: 'gold', wants_another_form: 'gold', breaks: 'reward-errors',
    judges_nothing: 'reward-none', returns_one_number: 'contract', no_rate: 'settings', greedy: 'variety', cold: 'variety', narrow: 'variety', cut_short: 'cut'}

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

# Data alone: no answers are sampled ---------------------------------------------------------------------------------------

def said_of_rows(check, rows, held=()):
    "What a check of the rows says"
    patient = SimpleNamespace(play=None, some=rows, some_held_out=[*held])
    return next(c for c in ROW_CHECKS if c.name == check).ask(patient)

@pytest.mark.parametrize('ending', [' = ?', '=', ' =?\n', ''])
def test_a_held_out_question_with_another_ending_is_the_same(ending):
    held = [dict(r, prompt=r['prompt'].removesuffix('=?')+ending) for r in task.train[:50]]
    found = said_of_rows('overlap', task.train, held)
    assert found.verdict == 'stop' and found.figures['known'] == 50, found

def test_another_sign_is_another_question():
    held = [dict(r, prompt=r['prompt'].replace('+', '-')) for r in task.train[:50]]
    assert said_of_rows('overlap', task.train, held).verdict == 'fine'

STORY = 'Tom has 3 apples and buys two more bags with {} apples in each of them. How many apples has he now?'

def test_words_that_are_shared_are_no_copy():
    other = dict(prompt='Ann says: Tom has 3 apples and buys two more bags with 5 pears. How many of all?')
    found = said_of_rows('overlap', [dict(prompt=STORY.format(5))], [*task.test[:32], other])
    assert found.verdict == 'fine' and found.figures['similar'] <= 1 and 'none of 33' in found.said, found
    held = [dict(prompt=STORY.format(5).replace('How many apples has he now', 'Count his apples'))]*2
    found = said_of_rows('overlap', [dict(prompt=STORY.format(5))], [*task.test[:8], *held])
    assert found.verdict == 'look' and 'share most of their words' in found.said, found

def test_copies_with_numbers_of_their_own_are_copies():
    assert said_of_rows('duplicates', [dict(r, id=i) for i, r in enumerate(task.train[:100]*5)]).figures['different'] == 100
    puzzles = [dict(prompt='Make 24.', nums=[i, i+1]) for i in range(100)]
    assert said_of_rows('duplicates', puzzles).verdict == 'fine' # without a gold the columns tell them apart

def test_one_gold_in_two_forms_is_no_contradiction():
    two = [dict(r, answer=r['answer']+'.0') for r in task.train[:100]]
    assert said_of_rows('contradictions', task.train+two).verdict == 'fine'
    other = [dict(r, answer=r['answer']+'.5') for r in task.train[:100]]
    assert said_of_rows('contradictions', task.train+other).verdict == 'stop'

@pytest.mark.parametrize('kind', [list, Dataset.from_list])
def test_several_held_out_sets_are_looked_at_together(kind):
    w = Well()
    w.held = dict(a=kind(task.test[:16]), b=kind(task.train[:16]))
    found = w.diagnosis(checks=[c for c in CHECKS if c.name == 'overlap'])['overlap']
    assert found.verdict == 'stop' and found.figures['held_out'] == 32 and found.figures['known'] == 16, found

# Prompts and tokenizer alone ------------------------------------------------------------------------------------------------

def said_of_prompts(w, *names):
    "What these checks find, without answers"
    return w.diagnosis(checks=[c for c in CHECKS if c.name in names])

def test_unknown_letters_of_a_chat():
    w = Well()
    w.chat(BARE)
    assert said_of_prompts(w, 'unknown').found == []
    w = Well()
    unknown_letters(w)
    w.chat(BARE)
    assert said_of_prompts(w, 'unknown').found == ['unknown']

def test_a_chat_that_is_closed_or_not_opened():
    opens = '{% for m in messages %}{{ m.role }}:{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}'
    for template, found in {opens: [], opens.partition('{% if')[0]: ['prompt-end'], opens.replace('</s>', '').partition('{% if')[0]: ['prompt-end']}.items():
        w = Well()
        w.chat(template)
        assert said_of_prompts(w, 'prompt-end').found == found, template

# Answers that nobody sampled ------------------------------------------------------------------------------------------------

class Answers(SimpleNamespace):
    def __len__(self): return len(self.finished)

def with_answers(finished):
    "A patient whose answers ended or did not: (questions, answers)"
    P, G = finished.shape
    ro = Answers(finished=finished.flatten(), lengths=torch.full((P*G,), 64), num_generations=G, rewards=torch.zeros(P*G))
    args = SimpleNamespace(max_completion_length=64, mask_truncated_completions=False)
    return SimpleNamespace(rollouts=ro, sampled=SimpleNamespace(limit=64), args=args, notes={})

def test_answers_to_a_question_are_cut_together():
    half = torch.arange(32)[:,None].expand(32, 8) < 16
    f = see_cut(with_answers(half)).figures
    assert f['low'] < .36 and f['high'] > .64, f
    alike = (torch.arange(8) < 4)[None].expand(32, 8) # each question half: here answers tell more
    f = see_cut(with_answers(alike)).figures
    assert f['low'] > .4 and f['high'] < .6 or f['high']-f['low'] < .34, f
    few = see_cut(with_answers(torch.arange(8)[:,None].expand(8, 8) >= 3))
    assert few.verdict == 'fine' and few.figures['share'] == 3/8, few # three questions of eight: too few to say

def varied(texts, open, **settings):
    "What is said of these answers to each question, where others are written without what sharpens"
    def answers(texts): return Answers(completions=texts*4, num_generations=len(texts), finished=texts*4)
    args = SimpleNamespace(**dict(temperature=1., top_p=1., top_k=0, min_p=0., seed=0) | settings)
    sample = SimpleNamespace(rollouts=answers(texts), waves=[dict(seconds=1.)], limit=8)
    collector = SimpleNamespace(sample=lambda *a, **how: answers(open))
    return see_variety(SimpleNamespace(rollouts=sample.rollouts, sampled=sample, args=args, sound=task.train, part=lambda share: 2.,
                                       trainer=SimpleNamespace(collector=collector))).verdict

def test_who_is_to_blame_for_few_texts():
    few, many, half = list('aaaaaaab'), list('abcdefgh'), list('aaaaabbc')
    assert varied(few, many) == 'fine' # the policy is sure, and no setting makes it so
    assert varied(few, many, temperature=.05) == varied(few, many, min_p=.9) == 'look'
    assert varied(few, half, temperature=.7) == 'fine' # it is sure without them too
    assert varied(list('aaaabcde'), many, temperature=.7) == 'fine'
    assert varied(list('aaaaaaaa'), many) == 'stop'

@pytest.mark.slow
@pytest.mark.parametrize('settings', [dict(temperature=.7), dict(), dict(top_p=.95, top_k=20)])
def test_a_policy_that_is_not_held_hears_nothing_of_its_variety(settings):
    w = Well()
    w.settings |= settings
    assert said_of_prompts(w, 'variety').found == []

def disputed(answers, golds):
    "What is said where the policy is sure of these answers"
    rows = [dict(prompt=f'question {i}', answer=g, answer_style='tag') for i, g in enumerate(golds)]
    texts = [f'<answer>{a}</answer>' for a in answers for _ in range(4)]
    asked = [r['prompt'] for r in rows[:len(answers)]]
    ro = SimpleNamespace(num_generations=4, prompts=asked, prompt_ids=asked, completions=texts, columns=dict(answer_style=['tag']*len(asked)))
    return see_disputed(SimpleNamespace(rollouts=ro, some=rows)).verdict

def test_who_is_to_blame_for_a_dispute():
    golds = [str(i*i%211+100) for i in range(200)]
    mixed = golds[:]
    random.Random(0).shuffle(mixed)
    assert disputed(golds[:16], golds) == 'fine'
    assert disputed(golds[:16], golds[37:]+golds[:37]) == 'stop' # shifted by 37
    assert disputed(golds[:16], mixed) == 'look'
    assert disputed([str(int(g)+1) for g in golds[:16]], golds) == 'fine' # it errs by one, and golds lie close
    assert disputed([golds[100]]*16, golds[:16]*4+golds[:101]) == 'fine' # one answer for all
    assert disputed(['no', 'yes']*3, ['yes', 'no']*20) == disputed(['A', 'B', 'C', 'A'], list('BCAB')+list('ABCD')*20) == 'fine'
