"An environment package for others: what is written is what is meant, by a stand-in for `verifiers` and, where it is installed, by the real one"
import asyncio, functools, importlib, json, sys, types
import pytest
from grpo_lit.rewards.comparing import accuracy_reward
from grpo_lit.scale.finding import as_class, as_name, check_imports, found_reward
from grpo_lit.scale.for_verifiers import to_verifiers
from grpo_lit.tasks import Task

ROWS = [dict(prompt=f'{i}+{i}=?', answer=str(2*i), tags=['a', i]) for i in range(1, 4)]
CHAT = [dict(prompt=[dict(role='system', content='s'), dict(role='user', content='1+1=?')], answer='2')]

class TaskData:
    def __init__(self, **fields): self.__dict__ |= fields

class TaskStandIn:
    def __class_getitem__(cls, _): return cls
    def __init__(self, data, config): self.data, self.config = data, config

class TasksetStandIn:
    def __class_getitem__(cls, _): return cls
    def __init__(self, config): self.config = config

def reward(weight=1.):
    def mark(f):
        f.weight = weight
        return f
    return mark

@pytest.fixture
def theirs(monkeypatch):
    "A stand-in for verifiers: what a package uses of it"
    v1 = types.SimpleNamespace(TaskData=TaskData, Task=TaskStandIn, Taskset=TasksetStandIn, Trace=object,
                               TasksetConfig=type('TasksetConfig', (), dict(split='train', task=None)), reward=reward)
    v0 = types.ModuleType('verifiers')
    v0.v1 = v1
    v0.Rubric = lambda funcs, weights: types.SimpleNamespace(funcs=funcs, weights=weights)
    v0.SingleTurnEnv = lambda **how: types.SimpleNamespace(**how)
    monkeypatch.setitem(sys.modules, 'verifiers', v0)
    monkeypatch.setitem(sys.modules, 'verifiers.v1', v1)
    return v0

@pytest.fixture
def package(tmp_path, monkeypatch):
    "Write a package and import it"
    made = []
    def make(task, rewards, name='sums', **how):
        monkeypatch.syspath_prepend(str(to_verifiers(task, rewards, tmp_path/'out', name=name, **how)))
        made.append(name)
        return importlib.import_module(name)
    yield make
    for name in [m for m in sys.modules if m.split('.')[0] in made]: del sys.modules[name]

def scored(task, reply):
    "What each reward of a task says of a reply, and its weight"
    funcs = {n: f for n, f in vars(type(task)).items() if hasattr(f, 'weight')}
    return {n: (asyncio.run(f(task, types.SimpleNamespace(last_reply=reply))), f.weight) for n, f in funcs.items()}

def test_a_taskset(theirs, package):
    module = package(Task('sums', ROWS, ROWS[:1]), ['accuracy_reward', 'think_format_reward'], weights=[1, .2])
    assert module.__all__ == ['SumsTaskset']
    config = theirs.v1.TasksetConfig()
    tasks = list(module.SumsTaskset(config).load())
    assert [t.data.row for t in tasks] == ROWS and tasks[0].data.prompt == '1+1=?'
    config.split = 'test'
    assert len(list(module.SumsTaskset(config).load())) == 1
    right = '<think>\nsum\n</think>\n\\boxed{2}'
    assert scored(tasks[0], right) == dict(accuracy_reward=(1., 1.), think_format_reward=(1., .2))
    assert scored(tasks[0], 'no') == dict(accuracy_reward=(0., 1.), think_format_reward=(0., .2))
    assert all(asyncio.run(t.validate(None)) for t in tasks)

def test_an_environment_of_the_first_kind(theirs, package):
    theirs.v1 = None
    sys.modules['verifiers.v1'] = None
    module = package(Task('sums', ROWS, ROWS[:1]), accuracy_reward)
    assert module.__all__ == ['load_environment']
    env = module.load_environment(max_turns=1)
    assert len(env.dataset) == 3 and len(env.eval_dataset) == 1 and env.max_turns == 1 and env.rubric.weights == [1.]
    row, = env.eval_dataset
    assert row['prompt'] == [dict(role='user', content='1+1=?')] and row['answer'] == '2'
    f, = env.rubric.funcs
    assert f.__name__ == 'accuracy_reward'
    for info in (row['info'], json.loads(row['info'])):
        assert asyncio.run(f(completion=[dict(role='assistant', content='\\boxed{2}')], info=info, state={}, answer='')) == 1.
        assert asyncio.run(f(completion=[dict(role='assistant', content=None)], info=info)) == 0.

def test_nothing_held_out(theirs, package):
    sys.modules['verifiers.v1'] = None
    assert package(ROWS, accuracy_reward).load_environment().eval_dataset is None

OWN = '''
import asyncio
seen = []
def looks(prompts, completions, completion_ids, tags, **columns):
    seen.append((prompts, completions, completion_ids, tags))
    return [.25]
async def waits(completions, **columns): return await asyncio.sleep(.01, [.5])
def unsure(completions, **columns): return [None]
def broken(completions, **columns): raise KeyError('no')
made = lambda completions, **columns: [.75]
'''

def own(tmp_path, name):
    (tmp_path/'my own.py').write_text(OWN)
    return f'{tmp_path}/my own.py:{name}'

def test_a_reward_in_a_file_goes_along(theirs, package, tmp_path):
    names = [own(tmp_path, n) for n in ('looks', 'waits', 'unsure', 'broken', 'made')]
    module = package(ROWS, names)
    (tmp_path/'my own.py').unlink()
    task = next(iter(module.SumsTaskset(theirs.v1.TasksetConfig()).load()))
    async def worth(name): return await importlib.import_module('sums.scoring').worth(name, task.data.row, 'x')
    assert [asyncio.run(worth(n)) for n in ('looks', 'waits', 'made')] == [.25, .5, .75]
    with pytest.raises(ValueError, match='unsure cannot judge'): asyncio.run(worth('unsure'))
    with pytest.raises(KeyError): asyncio.run(worth('broken'))
    assert importlib.import_module('sums.rewards_my_own').seen == [(['1+1=?'], ['x'], [[]], [['a', 1]])]

def test_a_conversation(theirs, package):
    module = package(CHAT, accuracy_reward)
    task, = module.SumsTaskset(theirs.v1.TasksetConfig()).load()
    assert task.data.prompt == CHAT[0]['prompt'] and scored(task, '\\boxed{2}')['accuracy_reward'][0] == 1.

def a_reward_of_this_file(completions, **columns): return [1.]*len(completions)

def test_rewards_that_nobody_finds(tmp_path):
    def inner(completions, **columns): return [0.]*len(completions)
    class Callable:
        def __call__(self, completions, **columns): return [0.]
    for f in (inner, lambda completions, **c: [0.], functools.partial(accuracy_reward), Callable(), Callable().__call__):
        with pytest.raises(ValueError, match='found by nobody else'): to_verifiers(ROWS, f, tmp_path/'x')
    assert not (tmp_path/'x').exists()
    found = found_reward(a_reward_of_this_file)
    assert found.file == __file__ and found.module == 'rewards_test_for_verifiers'
    assert found_reward(accuracy_reward).module == 'grpo_lit.rewards.comparing'
    for name in ('no_such_reward', 'no_file.py:f'):
        with pytest.raises(ValueError): found_reward(name)

@pytest.mark.parametrize('how, said', [
    (dict(weights=[1, 2]), '2 weights for 1 rewards'), (dict(reward_funcs=[]), 'needs a reward'),
    (dict(reward_funcs=[accuracy_reward, accuracy_reward]), 'two rewards have one name'), (dict(task=[]), 'there are no rows'),
    (dict(task=[dict(question='?')]), 'row 0 has no prompt'), (dict(task=[dict(prompt='?', x={1})]), "column 'x'"),
    (dict(task=[dict(prompt='?', x=float('nan'))]), "column 'x'")])
def test_what_cannot_be_written_is_said_before(how, said, tmp_path):
    given = dict(task=ROWS, reward_funcs=accuracy_reward) | how
    with pytest.raises(ValueError, match=said): to_verifiers(folder=tmp_path/'out', **given)
    assert not (tmp_path/'out').exists()

def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path/'a').touch()
    for place in (tmp_path, tmp_path/'a'):
        with pytest.raises(ValueError, match='is not new'): to_verifiers(ROWS, accuracy_reward, place)

NASTY = ['"""\nimport os', "'); import os; ('", '{first}', '\\', '\u2028\x00\x1b', '‮', '</script>']

@pytest.mark.parametrize('text', NASTY)
def test_texts_stay_texts(text, theirs, package):
    "Of rows, and in the name: nothing that is written runs"
    module = package([dict(prompt=text+'?', answer=text, **{text: text})], accuracy_reward, name='nasty')
    task, = module.NastyTaskset(theirs.v1.TasksetConfig()).load()
    assert task.data.row == dict(prompt=text+'?', answer=text, **{text: text})
    assert as_name(text).isidentifier() and as_class(as_name(text)).isidentifier()

@pytest.mark.slow
def test_with_verifiers_itself(package):
    vf = pytest.importorskip('verifiers.v1')
    package(Task('sums', ROWS, ROWS[:1]), ['accuracy_reward'])
    from verifiers.v1.utils import loaders
    config = loaders.taskset_config_type('sums')(id='sums', split='test')
    task, = loaders.load_taskset(config)
    assert isinstance(task, vf.Task) and task.data.prompt == '1+1=?'

def test_a_file_goes_along_alone(tmp_path):
    lines = ['import json, re, grpo_lit, torch', 'try: import faster', 'except ImportError: faster = None', 'import helper_a', 'from helper_b.parts import score',
             'from .near import score', 'def f(): import helper_c as c', 'try: import helper_d', 'except KeyError: pass']
    file = tmp_path/'mine.py'
    file.write_text('\n'.join(lines[:3]))
    check_imports(str(file))
    file.write_text('\n'.join(lines))
    said = 'mine.py imports .near, helper_a, helper_b, helper_c, helper_d, which others have not'
    with pytest.raises(ValueError, match=said): check_imports(str(file))

def test_a_neighbour_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path/'helper_of_mine.py').write_text('score = 1.')
    (tmp_path/'mine.py').write_text('from helper_of_mine import score\ndef worth(completions, **columns): return [score]*len(completions)\n')
    with pytest.raises(ValueError, match='imports helper_of_mine'): to_verifiers(ROWS, f'{tmp_path}/mine.py:worth', tmp_path/'out')
    assert not (tmp_path/'out').exists()
