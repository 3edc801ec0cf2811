"Environments: what a group begins with, what its members share (nothing), and what a bad row does (not much)."
import copy, functools, random, threading, time
import numpy as np, pytest, torch
from patience import patient
from scripted import scripted
from grpo_lit.agents import waiting
from grpo_lit.agents.alike import copies, seeded
from grpo_lit.agents.environments import (Answer, Environment, Environments, Frames, ToolEnvironment, environments_for,
                                          first_ids)
from grpo_lit.agents.turns import sample_episodes
from grpo_lit.policy import tiny_tokenizer
from grpo_lit.tasks import with_template

ASKED = [dict(role='user', content='Begin.')]

class Drawn:
    "Draws from every generator that there is"
    def __init__(self): self.log = []
    def reset(self, **row):
        self.log.clear()
        self.state = [random.random(), float(np.random.rand()), torch.rand(1).item()]
    def look(self) -> str:
        """Look."""
        self.log.append('looked')
        return str(self.state)

class Named(Drawn):
    def reset(self, answer, seed=None, **row): self.state, self.answer = [seed], answer

def states(rows, G, factory, seed=0, **kw):
    made = environments_for(rows, G, environment_factory=factory, seed=seed, **kw)
    return [e.live.state for e in made]

def call(name='look', **arguments):
    from grpo_lit.agents.asking import Call
    return Call(name, arguments)

@pytest.mark.parametrize('factory', [Drawn, lambda: Drawn(), functools.partial(Drawn)])
def test_members_begin_alike_and_groups_do_not(factory):
    first = states([dict(prompt=ASKED)]*3, 4, factory)
    assert [len({tuple(s) for s in first[i:i+4]}) for i in (0, 4, 8)] == [1, 1, 1]
    assert len({tuple(s) for s in first}) == 3
    assert first == states([dict(prompt=ASKED)]*3, 4, factory)
    assert first != states([dict(prompt=ASKED)]*3, 4, factory, seed=1)

def test_what_was_played_before_changes_nothing():
    made = Environments(environment_factory=Drawn)
    rows = [dict(prompt=ASKED)]
    fresh = [e.live.state for e in made.make(rows, 2, 5)]
    made.make(rows*3, 2, 6)[0].live.look()
    assert [e.live.state for e in made.make(rows, 2, 5)] == fresh

def test_the_generators_of_the_run_are_as_they_were():
    def all_states(): return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    before = all_states()
    made = Environments(environment_factory=Drawn)
    made.check(dict(prompt=ASKED))
    made.make([dict(prompt=ASKED)]*2, 3, 1)
    assert all_states() == before
    with pytest.raises(KeyError), seeded(1): raise KeyError
    assert all_states() == before

def test_a_seed_is_given_to_those_who_ask_for_it():
    one, two = (states([dict(prompt=ASKED, answer='x')], 2, Named, seed) for seed in (0, 1))
    assert one[0] == one[1] != two[0] and isinstance(one[0][0], int)
    assert states([dict(prompt=ASKED, answer='x', seed=7)], 2, Named) == [[7], [7]] # a column of the data

def test_members_share_nothing_that_changes():
    made = environments_for([dict(prompt=ASKED)], 3, environment_factory=Drawn, seed=0)
    made[1].answer([call(), call()])
    assert [len(e.live.log) for e in made] == [0, 2, 0]
    assert len({id(e.live.state) for e in made}) == 3
    assert all(e.toolbox.tools['look'].__self__ is e.live for e in made)

class Lock(Drawn):
    "Cannot be copied"
    built = 0
    def __init__(self):
        super().__init__()
        type(self).built += 1
        self.lock = threading.Lock()

class LockLater(Drawn):
    "Cannot be copied once it has been reset"
    def reset(self, **row):
        super().reset(**row)
        self.lock = threading.Lock()

class OwnCopy(Drawn):
    def __deepcopy__(self, memo): return self

class Closure(Drawn):
    def __init__(self):
        super().__init__()
        self.tell = lambda: self.log.append('told')

class Generator(Drawn):
    def reset(self, **row):
        super().reset(**row)
        self.lines = (line for line in 'ab')

@pytest.mark.parametrize('factory', [Lock, LockLater, OwnCopy, Closure, Generator])
def test_where_there_are_no_copies_there_are_instances(factory):
    made = Environments(environment_factory=factory)
    for seed in (0, 1):
        found = made.make([dict(prompt=ASKED)]*2, 3, seed)
        live = [e.live for e in found]
        assert len(set(map(id, live))) == 6 and made.reused
        assert live[0].state == live[1].state == live[2].state != live[3].state
        found[0].answer([call()])
        assert [len(e.log) for e in live] == [1, 0, 0, 0, 0, 0]

def test_instances_are_built_once():
    Lock.built = 0
    made = Environments(environment_factory=Lock)
    for seed in range(4): made.make([dict(prompt=ASKED)]*2, 3, seed)
    assert Lock.built == 6
    class Counted(Drawn):
        built = 0
        def __init__(self):
            super().__init__()
            type(self).built += 1
    made = Environments(environment_factory=Counted)
    for seed in range(4): made.make([dict(prompt=ASKED)]*2, 3, seed)
    assert Counted.built == 1 and not made.reused

def test_functions_that_speak_of_their_instance():
    class Handlers:
        def __init__(self):
            self.method, self.partial, self.n = self.add, functools.partial(self.add, 1), 0
        def add(self, n=1): self.n += n
    one, two = copies(Handlers(), 2)
    one.method(), one.partial()
    assert (one.n, two.n) == (2, 0)
    thing = Handlers()
    thing.default = lambda self=thing: self
    assert copies(thing, 1) is None

def test_a_property_is_not_asked():
    class Touchy(Drawn):
        @property
        def price(self): raise RuntimeError('asked')
        @staticmethod
        def free() -> int:
            """Nothing."""
            return 0
        def _hidden(self): pass
        def get_reward(self): return 1.
    made = environments_for([dict(prompt=ASKED)], 2, environment_factory=Touchy, seed=0)
    assert made[0].toolbox.names == ['free', 'look']

@pytest.mark.parametrize('told, prompt, expected', [
    (None, 'Ask', 'Ask'), (' more', 'Ask', 'Ask more'), (None, ASKED, ASKED),
    (' more', ASKED, [dict(role='user', content='Begin. more')]),
    (' more', [dict(role='system', content='S'), *ASKED], [dict(role='system', content='S'), dict(role='user', content='Begin. more')]),
    (' more', [dict(role='user', content=[dict(type='text', text='a')])],
     [dict(role='user', content=[dict(type='text', text='a'), dict(type='text', text=' more')])]),
    ('new', None, [dict(role='user', content='new')])])
def test_what_a_reset_says_stands_behind_the_prompt(told, prompt, expected):
    class Says(Drawn):
        def reset(self, **row): return told
        def look(self, at:str='') -> str:
            """Look.

            Args:
                at: where
            """
            return at
    row = {} if prompt is None else dict(prompt=prompt)
    kept = copy.deepcopy(row)
    made = environments_for([row], 2, environment_factory=Says, seed=0)
    assert [e.prompt for e in made] == [expected]*2 and row == kept

def test_a_reset_may_change_its_row_and_nobody_feels_it():
    class Eats(Drawn):
        def reset(self, cards, **row):
            cards.pop()
            self.cards = cards
    row = dict(prompt=ASKED, cards=[1, 2, 3])
    made = environments_for([row], 3, environment_factory=Eats, seed=0)
    made[0].live.cards.append(9)
    assert row['cards'] == [1, 2, 3] and [e.live.cards for e in made[1:]] == [[1, 2]]*2

class Fragile(Drawn):
    def reset(self, answer=None, **row):
        if answer == 'bad': raise KeyError('no such level')
        if answer == 'odd': return 7
        if answer == 'exit': raise SystemExit
        super().reset()

@pytest.mark.parametrize('bad', ['bad', 'odd'])
def test_a_bad_row_costs_its_group(bad, caplog):
    rows = [dict(prompt=ASKED, answer=a) for a in ('x', bad, 'y')]
    made = Environments(environment_factory=Fragile).make(rows, 2, 0)
    assert [bool(e.failure) for e in made] == [False, False, True, True, False, False]
    assert made[2].read('<tool_call>{"name": "look", "arguments": {}}</tool_call>') is None
    assert made[2].prompt == ASKED and made[2].live is None
    assert 'row 1 of these rollouts cannot be played' in caplog.text

def test_before_a_run_a_bad_row_is_an_error_that_names_it():
    made = Environments(environment_factory=dict(fragile=Fragile, drawn=Drawn))
    made.check(dict(prompt=ASKED, environment='drawn', answer='bad'))
    with pytest.raises(ValueError, match='row 4 .*reset of Fragile raised KeyError.*no such level'):
        made.check(dict(prompt=ASKED, environment='fragile', answer='bad'), 4)
    with pytest.raises(ValueError, match="reset returns None or a string"): made.check(dict(prompt=ASKED, environment='fragile', answer='odd'))
    with pytest.raises(ValueError, match="no environment 'dawn'; did you mean 'drawn'"): made.check(dict(prompt=ASKED, environment='dawn'))
    with pytest.raises(ValueError, match='column "environment"'): made.check(dict(prompt=ASKED))

def test_all_rows_bad_is_an_error_outside_of_a_run():
    with pytest.raises(ValueError, match='no row can be played'):
        environments_for([dict(prompt=ASKED, answer='bad')], 2, environment_factory=Fragile, seed=0)

async def _late(self, **row): pass

@pytest.mark.parametrize('build, words', [
    (lambda: Environments(), 'a policy needs something to call'),
    (lambda: Environments(environment_factory=type('Bare', (), dict(reset=lambda self, **row: None))), 'Bare has no public method'),
    (lambda: Environments(environment_factory=type('NoReset', (), {})), 'NoReset has no reset'),
    (lambda: Environments(environment_factory=type('Late', (), dict(reset=_late))), 'is a coroutine'),
    (lambda: Environments(tools=Drawn().look), 'tools is a list of functions'),
    (lambda: Environments(environment_factory=Drawn()), 'environment_factory is a class'),
    (lambda: Environments(tools=[Drawn().look], environment_factory=Drawn), 'two tools are called look')])
def test_errors_before_anything_runs(build, words):
    with pytest.raises(ValueError, match=words): build()

def test_the_column_of_a_dictionary_is_not_for_the_reset():
    class Strict(Drawn):
        def reset(self, **row):
            assert set(row) == {'prompt', 'level'}
            self.state = [row['level']]
    found = states([dict(prompt=ASKED, level=3, environment='s')], 2, dict(s=Strict, d=Drawn))
    assert found == [[3], [3]]

def test_kinds_are_those_of_the_instances():
    assert Environments(environment_factory=dict(a=Drawn, b=lambda: Drawn(), c=Lock)).kinds == [Drawn, Lock]
    assert Environments(tools=[Drawn().look]).kinds == []

# ---- of your own

class Game(Environment):
    def reset(self, most=3, **row):
        self.number = random.randint(1, most)
        self.prompt = f'1-{most}?'
    def read(self, turn): return int(turn) if turn.isdigit() else None
    def answer(self, guess): return Answer(['=' if guess == self.number else '-'], done=guess == self.number)

def test_an_environment_of_your_own():
    made = environments_for([dict(most=10**6), {}], 3, environment_factory=Game, seed=0)
    assert [e.prompt for e in made] == ['1-1000000?']*3 + ['1-3?']*3
    assert len({e.number for e in made[:3]}) == 1 and made[0].live is made[0]
    assert made[0].read('x') is None and made[0].answer(made[0].number).done
    tiny = tiny_tokenizer()
    assert tiny.decode(first_ids(made[0], tiny)) == '1-1000000?'

class Moody(Game):
    def reset(self, most=3, **row):
        if most < 0: raise KeyError('no such level')
        super().reset(most, **row)

def test_a_bad_row_without_a_prompt_has_one_that_the_tokenizer_can_read():
    tiny = tiny_tokenizer()
    assert not tiny.chat_template
    made = environments_for([dict(most=-1), {}], 2, environment_factory=Moody, tokenizer=tiny, seed=0)
    assert [bool(e.failure) for e in made] == [True, True, False, False]
    assert all(first_ids(e, tiny) for e in made)

def test_an_answer_that_is_missing_says_so():
    with pytest.raises(NotImplementedError, match='has no answer'): Environment().answer('x')

class Slow:
    limit = .5
    def reset(self, **row): pass
    def look(self, key: str) -> str:
        """
        Look.

        Args:
            key: For what
        """
        time.sleep(.3*Slow.limit)
        return key

def look_alone(key: str) -> str:
    """
    Look.

    Args:
        key: For what
    """
    time.sleep(1.2*Slow.limit)
    return key
look_alone.timeout = 60.

@pytest.mark.parametrize('how', [dict(environment_factory=Slow), dict(tools=[look_alone])], ids=['methods wait', 'a limit of its own'])
@patient(.5, 3., 9.)
def test_an_environment_has_as_long_as_its_tools(how, limit, monkeypatch):
    monkeypatch.setattr(Slow, 'limit', limit)
    monkeypatch.setattr(waiting, 'TOOL_GRACE', 0.)
    name = 'look' if 'tools' not in how else 'look_alone'
    calls = ''.join(f'<tool_call>{{"name": "{name}", "arguments": {{"key": "{i}"}}}}</tool_call>' for i in range(4))
    ro = sample_episodes(*scripted([calls, 'It is so.']), [ASKED], num_generations=2, max_completion_length=700, seed=0, tool_timeout=limit, **how)
    assert [[(c.text, c.failure) for c in e.calls] for e in ro.episodes] == [[(str(i), '') for i in range(4)]]*2

@pytest.mark.parametrize('call, failure', [('<tool_call>{"name": "look_alone", "argu</tool_call>', 'unparsable'),
                                           ('<tool_call>{"name": "nothing", "arguments": {}}</tool_call>', 'unknown'),
                                           ('<tool_call>{"name": "look_alone", "arguments": {"k": 1}}</tool_call>', 'arguments')])
def test_a_call_that_cannot_be_carried_out_has_time_to_be_told_so(call, failure):
    ro = sample_episodes(*scripted([call, 'It is so.']), [ASKED], tools=[look_alone], num_generations=2, max_completion_length=700, seed=0)
    assert [c.failure for e in ro.episodes for c in e.calls] == [failure]*2
    assert not any('no answer' in c.text for e in ro.episodes for c in e.calls)

# ---- prompts and frames

TEMPLATE = """{% for t in tools or [] %}{{ t.function.name|length }}{% endfor %}{% for m in messages %}{{ '(' ~ m.content ~ ')' }}{% endfor %}
{%- if add_generation_prompt %}{{ '=' }}{% endif %}"""

def test_each_row_is_shown_its_own_tools():
    class Other(Drawn):
        look = None
        def touch(self) -> str:
            """Touch."""
            return ''
    t = tiny_tokenizer()
    t.chat_template = TEMPLATE
    shown = lambda e: t.decode(first_ids(e, with_template(t, dict(date='x'))))
    rows = [dict(prompt=[dict(role='user', content='1')], environment=n) for n in 'ab']
    made = environments_for(rows, 1, environment_factory=dict(a=Drawn, b=Other), tokenizer=t, seed=0)
    assert [shown(e) for e in made] == ['4(1)=', '5(1)=']

def test_tags_hold_one_argument():
    def add(a:int, b:int) -> int:
        """Add.

        Args:
            a: one
            b: other
        """
        return a+b
    with pytest.raises(ValueError, match='the tool add takes 2'): environments_for([dict(prompt='2+3')], 2, [add], seed=0)
    made = environments_for([dict(prompt=ASKED)], 2, [add], seed=0)
    assert made[0].stop == ()

def test_frames_are_made_once_for_each_kind():
    t = tiny_tokenizer()
    frames = Frames(t)
    def search(query:str) -> str:
        """Search.

        Args:
            query: what for
        """
        return query
    made = environments_for([dict(prompt='a'), dict(prompt='b')], 2, [search], seed=0)
    assert len({id(frames(e)) for e in made}) == 1
    assert made[0].stop == ('</search>',)
    game = Game()
    game.reset()
    assert frames(game) is not frames(made[0])
