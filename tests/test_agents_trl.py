"""Scripts with tools that were written for TRL: the shapes in which its documentation gives tools, environments, rewards and data."""
import random, signal, sqlite3
from contextlib import contextmanager
import pytest, torch
from datasets import Dataset
from scripted import one_thread, undecided # the first is a fixture
from grpo_lit import GRPOConfig, GRPOTrainer

def call(name, **arguments):
    given = ', '.join(f'"{k}": {v if isinstance(v, int) else chr(34)+v+chr(34)}' for k, v in arguments.items())
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{{given}}}}}\n</tool_call>'

@pytest.fixture
def policy(tmp_path):
    "Save a policy that writes one of the texts each turn; its directory"
    def saved(*texts, template='qwen3'):
        model, tokenizer = undecided(texts, template)
        for part in (model, tokenizer): part.save_pretrained(tmp_path/'policy')
        return str(tmp_path/'policy')
    return saved

def config(**settings):
    "Settings of a script, and smaller ones in place of those that it leaves alone"
    small = dict(max_steps=2, num_generations=4, max_completion_length=300, use_cpu=True, disable_tqdm=True, seed=0)
    return GRPOConfig(**small | settings)

def chat(text): return [{'role': 'user', 'content': text}]
quiet = {'enable_thinking': False}

# tools

def product(a: int, b: int) -> int:
    """
    Multiply two whole numbers.

    Args:
        a: One factor.
        b: Another factor.

    Returns:
        Their product.
    """
    return a*b

async def total(a: int, b: int) -> int:
    """
    Add two whole numbers without blocking.

    Args:
        a: One summand.
        b: Another summand.

    Returns:
        Their sum.
    """
    return a+b

def test_functions_sync_and_async(policy):
    def last_word(completions, answer, **kwargs): return [float(c[-1]['content'].endswith(a)) for c, a in zip(completions, answer)]
    rows = Dataset.from_dict(dict(prompt=[chat('What is 6 times 7?')]*8, answer=['42']*8))
    trainer = GRPOTrainer(model=policy(call('product', a=6, b=7), call('total', a=40, b=2), '42', '7'), train_dataset=rows,
                          reward_funcs=last_word, args=config(chat_template_kwargs=quiet), tools=[product, total])
    trainer.train()
    told = {c.name: c.text for e in trainer.last_rollouts.episodes for c in e.calls if c.failure != 'limit'}
    assert set(told) <= {'product', 'total'} and set(told.values()) == {'42'}
    assert 'tools/call_frequency' in trainer.history[-1] and trainer.state.log_history[-1]['tools/failure_frequency'] == 0

# an environment that makes its tasks itself

class Steps:
    def reset(self, **kwargs) -> str | None:
        self.count = 0
        self.goal = random.randint(1, 3)
        return f'Go {self.goal} steps.'

    def get_reward(self) -> float:
        return float(self.count == self.goal)

    def go(self, steps: int) -> int:
        """
        Go on.

        Args:
            steps: How far.

        Returns:
            Where you are.
        """
        self.count += steps
        return self.count

TEXTS = [call('go', steps=1), call('go', steps=2), 'There.']

def test_an_environment_without_data(policy):
    trainer = GRPOTrainer(model=policy(*TEXTS), args=config(chat_template_kwargs=quiet), environment_factory=Steps)
    trainer.train()
    assert 'rewards/Steps/mean' in trainer.history[-1]
    prompts = trainer.last_rollouts.prompts
    assert all(p[-1]['role'] == 'user' and p[-1]['content'].startswith('Go ') for p in prompts)

def test_an_environment_with_data_and_a_reward_beside_its_own(policy):
    class WithGoal(Steps):
        def reset(self, goal, **kwargs) -> None:
            self.count, self.goal = 0, goal
    def shape(completions, **kwargs): return [.1*(len(c) < 4) for c in completions]
    rows = Dataset.from_dict({'prompt': [chat(f'Go to {i}.') for i in range(1, 7)], 'goal': list(range(1, 7))})
    trainer = GRPOTrainer(model=policy(*TEXTS), train_dataset=rows, args=config(chat_template_kwargs=quiet),
                          reward_funcs=shape, environment_factory=WithGoal)
    trainer.train()
    ro = trainer.last_rollouts
    assert ro.reward_names == ['shape', 'WithGoal']
    assert [e.environment.goal for e in ro.episodes[::4]] == ro.columns['goal']

def test_a_reward_reads_the_state_and_a_tool_says_that_it_is_over(policy):
    class Once:
        def __init__(self):
            self.client, self.reward = object(), 0.
        def reset(self, **kwargs) -> str | None:
            self.reward, self.done = 0., False
            return 'Begin.'
        def guess(self, guess: str) -> str:
            """
            Make a guess.

            Args:
                guess: The word.

            Returns:
                What the game says.
            """
            if self.done: raise ValueError('Game over.')
            self.reward, self.done = float(guess == 'right'), True
            return 'well'
    def reward_func(environments, **kwargs) -> list[float]: return [env.reward for env in environments]
    rows = Dataset.from_dict({'prompt': [chat('Guess with the tool. ')]*16})
    texts = call('guess', guess='right'), call('guess', guess='wrong'), 'Done.'
    trainer = GRPOTrainer(model=policy(*texts), reward_funcs=reward_func, train_dataset=rows, environment_factory=Once,
                          args=config(use_vllm=True, vllm_mode='colocate', chat_template_kwargs=quiet, max_steps=3, log_completions=True))
    trainer.train()
    calls = [c for e in trainer.last_rollouts.episodes for c in e.calls[1:] if c.failure != 'limit']
    assert {c.failure for c in calls} <= {'raised'} and all('Game over.' in c.text for c in calls)
    assert trainer.last_rollouts.reward_names == ['reward_func']

def test_several_environments_and_rows_that_only_route(policy):
    class Rooms(Steps):
        def reset(self, **kwargs) -> str:
            assert 'environment' not in kwargs
            return super().reset() or ''
    class Coding:
        def reset(self, **kwargs) -> str: return f'Compute {random.randint(1, 9)}.'
        def run_code(self, code: str) -> str:
            """Run the code and return what it prints.

            Args:
                code: Python source.

            Returns:
                What was printed.
            """
            return code.upper()
    def reward_func(completions, environments, **kwargs): return [float(len(c))*isinstance(e, Coding) for c, e in zip(completions, environments)]
    rows = Dataset.from_dict({'environment': ['coding', 'game']*16})
    trainer = GRPOTrainer(model=policy(*TEXTS, call('run_code', code='x')), args=config(chat_template_kwargs=quiet, generation_batch_size=16),
                          train_dataset=rows, reward_funcs=reward_func, environment_factory={'coding': Coding, 'game': Rooms})
    trainer.train()
    assert trainer.last_rollouts.reward_names == ['reward_func', 'Rooms']
    words = trainer.tokenizer.batch_decode(trainer.last_rollouts.prompt_ids)
    for text, kind in zip(words, trainer.last_rollouts.columns['environment']):
        assert ('run_code' in text) == (kind == 'coding') and ('"go"' in text) == (kind == 'game')

def test_one_class_for_several_tasks_and_rewards_that_pass(policy):
    class Either(Steps):
        def reset(self, **kwargs) -> str | None:
            self.active = kwargs.get('env', 'walk')
            super().reset()
    def walking(environments, **kwargs): return [e.get_reward() if e.active == 'walk' else None for e in environments]
    def waiting(environments, **kwargs): return [float(e.count == 0) if e.active == 'wait' else None for e in environments]
    Either.get_reward = lambda self: float(self.count == 1)
    rows = Dataset.from_dict({'prompt': [chat('Walk.'), chat('Wait.')]*8, 'env': ['walk', 'wait']*8})
    trainer = GRPOTrainer(model=policy(*TEXTS), args=config(), train_dataset=rows, reward_funcs=[walking, waiting], environment_factory=Either)
    trainer.train()
    table = trainer.last_rollouts.reward_table
    assert (table[:, 0].isnan() ^ table[:, 1].isnan()).all() and not table[:, 2].isnan().any()

# a script with a database, an alarm, and rewards that read every turn

@contextmanager
def within(seconds):
    def ring(signum, frame): raise InterruptedError(f'more than {seconds} seconds')
    signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try: yield
    finally: signal.alarm(0)

def test_a_database_an_alarm_and_rewards_that_read_the_turns(policy, tmp_path):
    path = tmp_path/'pairs.db'
    with sqlite3.connect(path) as db:
        db.execute('create table pairs (a text, b text)')
        db.execute("insert into pairs values ('x', 'y')")
    def query(sql_command: str) -> list[tuple]:
        """
        Run a read-only query.

        Args:
            sql_command: The query.

        Returns:
            The rows.
        """
        with within(5):
            db = sqlite3.connect(f'file:{path}?mode=ro', uri=True)
            try: return db.execute(sql_command).fetchall()
            finally: db.close()
    seen = []
    def strategy(completions, answer, **kwargs):
        found = []
        for completion, gold in zip(completions, answer):
            queries, results = [], []
            for turn in completion:
                for c in turn.get('tool_calls') or []: queries.append(c['function']['arguments'].get('sql_command', '').lower())
                if turn.get('role') == 'tool' and turn.get('content'): results.append(turn['content'])
            seen.extend(results)
            found.append(len(queries)*.1+.5*(' where ' in ' '.join(queries))-(completion[-1]['content'].lower() != gold))
        return found
    def structure(completions, **kwargs): return [.1*any(t['role'] == 'tool' for t in c) for c in completions]
    rows = Dataset.from_dict({'prompt': [chat('Are x and y a pair?')]*16, 'answer': ['*yes*']*16})
    texts = call('query', sql_command="select * from pairs where a='x'"), call('query', sql_command='select'), '*Yes*', '*No*'
    trainer = GRPOTrainer(model=policy(*texts), train_dataset=rows, eval_dataset=None, tools=[query], reward_funcs=[strategy, structure],
                          args=config(chat_template_kwargs=quiet, output_dir=str(tmp_path/'run')))
    trainer.train()
    assert any("x" in s and "y" in s for s in seen)
    trainer.save_model(trainer.args.output_dir)
