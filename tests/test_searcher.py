"""The tiny searcher: its world, its task, the policy that ships with the package, and what training makes of it."""
import random
import pytest
import torch
from grpo_lit.agents.habits import SEARCH_HABITS, search_habit, searcher_tokenizer
from grpo_lit.agents.searcher import NOTHING, World, best_searches, blind_searches, is_held_out, questions, search_task
from grpo_lit.agents.turns import sample_episodes
from grpo_lit.policy import EMBEDDED, load_policy
from grpo_lit.rewards.comparing import accuracy_reward
from grpo_lit.run.searching import by_hops, episode_lines, search_episodes, search_trainer

@pytest.fixture(scope='module')
def task(): return search_task()

@pytest.fixture(scope='module')
def policy(): return load_policy('tiny-searcher', device='cpu')

def followed(row, queries):
    "The last thing that is found"
    world = World()
    world.reset(**row)
    return [world.search(q) for q in queries][-1] if queries else None

def test_the_right_number_of_searches_finds_the_answer(task):
    for row in [*task.train, *task.test]:
        queries = best_searches(row)
        assert len(queries) == row['hops']
        if queries: assert followed(row, queries) == row['answer']
        else: assert f': {row["answer"]}.' in row['prompt']

def test_one_search_too_few_or_too_many_is_wrong(task):
    for row in task.test:
        blind = blind_searches(row)
        if row['hops'] == 0: assert followed(row, blind) != row['answer']
        if row['hops'] == 2: assert followed(row, blind[:1]) not in (row['answer'], NOTHING)
        assert World(row['facts']).search(row['prompt'].splitlines()[-1].rstrip('?')) != row['answer'] or row['hops'] == 1

def test_an_answer_is_right_for_one_reason_only(task):
    for row in task.test:
        names = [fact.split(': ')[1] for fact in row['facts']]
        assert len(set(names)) == len(names)
        if row['hops']: assert row['answer'] not in row['prompt']
        else: assert row['answer'] not in names

def test_train_and_test_share_neither_prompts_nor_facts(task):
    assert not {r['prompt'] for r in task.train} & {r['prompt'] for r in task.test}
    facts = [{f for row in rows for f in row['facts']} for rows in (task.train, task.test)]
    assert not facts[0] & facts[1]
    for rows, held_out in ((task.train, False), (task.test, True)):
        for fact in (f for row in rows[:300] for f in row['facts']):
            place, name = fact.split(' of ')[1].split(': ')
            assert is_held_out(place, name) == held_out

def test_held_out_questions_do_not_change_with_the_seed(task):
    other = search_task(seed=1)
    assert other.test == task.test and other.train != task.train
    assert [sum(r['hops'] == hops for r in task.test) for hops in (0, 1, 2)] == [100]*3

def test_memory_is_worth_nothing(task):
    "One who remembers every fact of all training questions is wrong in the held-out ones"
    known = dict(f.split(': ') for row in task.train for f in row['facts'])
    right = sum(followed_by(known, row) == row['answer'] for row in task.test)
    assert right == 0

def followed_by(known, row):
    blind = blind_searches(row)
    return known.get(blind[-1])

@pytest.mark.parametrize('query', ['', ' ', 'capital', 'capital of', 'mayor of the capital of Calland', 'x'*10_000, '</search>'])
def test_odd_queries_find_nothing(task, query):
    assert World(task.test[0]['facts']).search(query) == NOTHING

def test_spaces_do_not_matter(task):
    fact, name = task.test[1]['facts'][0].split(': ')
    assert World(task.test[1]['facts']).search(f'  {fact.replace(" of ", "  of ")} ') == name

def test_habits_do_not_depend_on_the_question():
    rng, rows = random.Random(0), questions(6000)
    searched = {0: [], 1: [], 2: []}
    for row in rows: searched[row['hops']].append(len(search_habit(row, rng))//2)
    means = [sum(n)/len(n) for n in searched.values()]
    assert max(means)-min(means) < .08
    assert abs(sum(SEARCH_HABITS.values())-1) < 1e-9

def test_the_tokenizer_loses_nothing(task):
    tokenizer, rng = searcher_tokenizer(), random.Random(1)
    for row in task.test:
        text = row['prompt']+'\n'.join(search_habit(row, rng))
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids) == text and tokenizer.unk_token_id not in ids

def test_the_model_is_small_and_comes_with_the_package(policy):
    folder = EMBEDDED['tiny-searcher']
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 4*2**20
    model, tokenizer = policy
    assert tokenizer.get_vocab() == searcher_tokenizer().get_vocab()
    assert model.config.vocab_size == len(tokenizer)

def test_the_base_is_bad_at_it(policy, task):
    ro = search_episodes(*policy, task.test[:150])
    assert ro.rewards.mean() <= .35
    searches = [made for _, made in by_hops(ro).values()]
    assert max(searches)-min(searches) < .5
    assert any('library' in line for i in range(8) for line in episode_lines(ro, i))

def test_base_and_sampler_use_the_same_tokens_between_turns(policy, task):
    model, tokenizer = policy
    ro = search_episodes(*policy, task.test[:30])
    told = [tokenizer.decode(ids[mask == 1]) for ids, mask in zip(ro.completion_ids, ro.observation_mask)]
    told = [text for text in told if text]
    assert told and all(text.startswith('\n<result>') and text.endswith('</result>\n') for text in told)

class Scripted:
    "An environment's point of view: what a perfect searcher writes, as a completion"
    @staticmethod
    def text(row):
        world = World(row['facts'])
        searches = ''.join(f'<search>{q}</search>' for q in best_searches(row))
        found = followed(row, best_searches(row)) or row['answer']
        return f'{searches}<answer>{found}</answer>'

def test_a_chain_written_by_hand_earns_one(task):
    rows = task.test[:60]
    texts = [Scripted.text(row) for row in rows]
    answers, styles = [r['answer'] for r in rows], [r['answer_style'] for r in rows]
    assert accuracy_reward([], texts, [], answer=answers, answer_style=styles) == [1.]*60
    others = accuracy_reward([], texts, [], answer=answers[1:]+answers[:1], answer_style=styles)
    assert sum(others) == 0

def test_a_group_has_one_world(policy, task):
    ro = sample_episodes(*policy, [r['prompt'] for r in task.test[:4]], None, World, 8, 4, 64, seed=3,
                         columns=dict(facts=[r['facts'] for r in task.test[:4]]))
    for group in range(4):
        said = {}
        for episode in ro.episodes[8*group:8*group+8]:
            for call in episode.calls:
                query = ' '.join(call.arguments.get('query', '').split())
                assert said.setdefault(query, call.text) == call.text
        assert said

@pytest.mark.slow
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_it_learns_when_to_search(task, seed):
    torch.set_num_threads(2)
    trainer, _ = search_trainer(dict(seed=seed, disable_tqdm=True))
    trainer.train()
    ro = search_episodes(trainer.model, trainer.tokenizer, task.test)
    found = by_hops(ro)
    assert ro.rewards.mean() >= .85
    assert found[0][1] < .3 and abs(found[1][1]-1) < .3 and abs(found[2][1]-2) < .3
