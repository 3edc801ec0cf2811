"""The doctor inside training: each mistake of the gallery is named by its cause, runs that are well hear nothing, and no number of a run changes.

`doctor_runs.json` holds what runs looked like: healthy ones, and the planted ones of `nbs/cases/mistakes.ipynb`. The rules read histories, so
that each of them can be tried on all of them here, without a model. `python tests/test_doctor_runs.py` makes the runs anew.
"""
import ast, json, logging, math, random, sys
from functools import partial
from pathlib import Path
import pytest, torch
from grpo_lit.policy import load_policy
from grpo_lit.rewards import accuracy_reward, think_format_reward
from grpo_lit.run import causes
from grpo_lit.run.alarms import troubles
from grpo_lit.run.causes import CAUSES, causes_in
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.experiment import whole_run
from grpo_lit.run.knobs import read_events
from grpo_lit.run.trainer import GRPOTrainer
from grpo_lit.run.trends import kept
from grpo_lit.run.watching import alarms_in
from grpo_lit.tasks import addition_task

here = Path(__file__).parent
FILE = here/'doctor_runs.json'
pytestmark = [pytest.mark.filterwarnings('ignore::UserWarning'), pytest.mark.filterwarnings('ignore::FutureWarning')]
task = addition_task(seed=1)

# Runs that are well ----------------------------------------------------------------------------------------------------

SMALL = dict(max_steps=30, num_generations=8, per_device_train_batch_size=64, max_completion_length=64, learning_rate=3e-4, seed=1,
             use_cpu=True, gold_check=0, disable_tqdm=True, adam_beta2=.99, reward_weights=[1, .2])
both = [accuracy_reward, think_format_reward]

def concise(completions, **columns): return [max(0., 1-abs(len(c)-12)/40) for c in completions]

def even(completions, answer, **columns):
    "Partial pay: a tag, a number, the right last digit"
    return [.3*('<answer>' in c)+.7*(a[-1:]+'<' in c) for c, a in zip(completions, answer)]

def sums(low, high, n=256):
    draw = random.Random(0)
    pairs = [(draw.randrange(low, high), draw.randrange(low, high)) for _ in range(n)]
    return [dict(prompt=f'{a}+{b}=?', answer=str(a+b), answer_style='tag') for a, b in pairs]

def adapter():
    from peft import LoraConfig
    return LoraConfig(r=8, target_modules='all-linear', task_type='CAUSAL_LM')

HEALTHY = dict( # Name -> settings, and what else is different
    seed0=dict(seed=0), seed1=dict(), seed2=dict(seed=2), seed3=dict(seed=3, learning_rate=2e-4), seed4=dict(seed=4, learning_rate=5e-4),
    no_leash=dict(beta=0.), short_leash=dict(beta=.5), grpo=dict(loss_type='grpo'), dr_grpo=dict(loss_type='dr_grpo', scale_rewards='none'),
    cispo=dict(loss_type='cispo', epsilon_high=5., num_iterations=2, max_steps=40), vespo=dict(loss_type='vespo'), sapo=dict(loss_type='sapo'),
    gspo=dict(importance_sampling_level='sequence', loss_type='grpo', epsilon=3e-3, epsilon_high=4e-3, num_iterations=2),
    twice=dict(num_iterations=2, max_steps=40), four=dict(num_iterations=4, max_steps=40, learning_rate=1e-4),
    several=dict(per_device_train_batch_size=16, steps_per_generation=4, learning_rate=1e-4, max_steps=60),
    hot=dict(temperature=1.4), cool=dict(temperature=.7), half=dict(sampling_dtype='bfloat16'), adapter=dict(peft=adapter, learning_rate=3e-3),
    short=dict(max_completion_length=24, mask_truncated_completions=True), shorter=dict(max_completion_length=20),
    pairs_of_pairs=dict(num_generations=4), sixteen=dict(num_generations=16), slow=dict(learning_rate=1e-5), crawl=dict(learning_rate=1e-6, max_steps=50),
    form=dict(rewards=[think_format_reward]), concise=dict(rewards=[concise]), accuracy=dict(rewards=[accuracy_reward]), partial=dict(rewards=[even]),
    hard=dict(rows=lambda: sums(100, 999)), easy=dict(rows=lambda: sums(1, 9)), few=dict(rows=lambda: sums(10, 99, 8)),
    target=dict(target_kl=.02), falling=dict(beta_schedule='linear'), sync=dict(sync_ref_model=True, ref_model_sync_steps=8),
    dynamic=dict(dynamic_sampling=1), bonus=dict(entropy_coef=.005), evaluated=dict(eval_steps=5), maxrl=dict(scale_rewards='mean'),
    warm=dict(warmup_steps=10, lr_scheduler_type='cosine'), uncertain=dict(top_entropy_quantile=.5),
    loo=dict(baseline='leave_one_out', scale_rewards='batch'), apart=dict(multi_objective_aggregation='normalize_then_sum'),
    long=dict(max_steps=150, per_device_train_batch_size=32, learning_rate=2e-4), small=dict(per_device_train_batch_size=16, learning_rate=1e-4, max_steps=60))

def healthy(rewards=both, rows=None, peft=None, **settings):
    "A trainer of a run that is well"
    settings = SMALL | settings
    if len(rewards) != 2: settings.pop('reward_weights')
    model, tokenizer = load_policy('tiny', device='cpu')
    held = task.test[:48] if 'eval_steps' in settings else None
    return GRPOTrainer(model, rewards, GRPOConfig(**settings), rows() if rows else task.train, held, tokenizer, peft_config=peft and peft())

# The gallery -----------------------------------------------------------------------------------------------------------

def gallery(until=''):
    "What the quick cells of the notebook define; `learn` makes its runs"
    import matplotlib
    matplotlib.use('Agg')
    names, cells = {}, json.loads((here.parent/'nbs/cases/mistakes.ipynb').read_text(encoding='utf-8'))['cells']
    codes = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
    threads = torch.get_num_threads()
    for code in codes:
        if code.startswith(('#| slow', '#| hide', 'quick =', 'assert len(quick)')): continue
        exec(compile(code, 'mistakes.ipynb', 'exec'), names)
    torch.set_num_threads(threads)
    return names

def loops(book):
    "The runs of its naive loop: name -> (a function, settings)"
    learn, ended = book['learn'], dict(start=book['forget_to_stop'], reward=book['ended_reward'], longest=48)
    paid = dict(reward_weights=[0, 1])
    return dict(
        good=(learn, {}), real=(lambda: learn(beta=5.), dict(beta=5.)), k1=(lambda: learn(beta=5., kl='k1'), dict(beta=5., kl='k1')),
        eos=(lambda: learn(**ended), paid), no_eos=(lambda: learn(mask=book['without_eos'], **ended), paid),
        minimum=(lambda: learn(steps=12, updates=8), dict(num_iterations=8)),
        swapped=(lambda: learn(steps=12, updates=8, loss=book['swapped_loss']), dict(num_iterations=8)),
        no_eps=(lambda: learn(advantages=book['no_eps']), {}), warm=(lambda: learn(temperature=1.4), dict(temperature=1.4)),
        colder=(lambda: learn(temperature=1.4, update_temperature=1.), dict(temperature=1.4)),
        moves=(lambda: learn(beta=5., move_reference=True), dict(beta=5.)), pairs=(lambda: learn(P=32, G=2), dict(num_generations=2)),
        looks=(lambda: learn(reward=book['only_looks']), paid),
        dapo=(lambda: book['decide']('dapo'), dict(loss_type='dapo')), grpo=(lambda: book['decide']('grpo'), dict(loss_type='grpo')))

# The tiny policy calls no tools. These runs are of one that writes one of two texts:
OF_TOOLS = ['tools_are_given_up', 'tools_fail']

def with_tools(kind):
    "A trainer whose tool fails, or one whose judge prefers those that ask nobody"
    from scripted import tool
    from test_agents_train import called, new_run
    def fails(key): raise RuntimeError('no')
    def avoids(completions, **columns): # A judge that compares within a group of four, and dislikes calls
        groups = [[float(len(c) < 2) for c in completions[i:i+4]] for i in range(0, len(completions), 4)]
        return [.5+(r-sum(g)/4)/2 for g in groups for r in g]
    def flat(completions, **columns): return [sum(map(ord, str(c)))%2/2 for c in completions]
    look, paid = (fails, flat) if kind == 'tools_fail' else (lambda key: 'value', avoids)
    return new_run([called('a'), 'yes'], rewards=paid, tools=(tool(look),), max_steps=40, learning_rate=.05 if kind == 'tools_fail' else .0012)

# Recorded --------------------------------------------------------------------------------------------------------------

def in_columns(rows):
    names = list(dict.fromkeys(n for r in rows for n in r))
    def short(v): return None if v is None else float(f'{v:.4g}')
    return {n: [short(r.get(n)) for r in rows] for n in names}

def in_rows(columns):
    n = max(map(len, columns.values()), default=0)
    return [{name: values[i] for name, values in columns.items() if values[i] is not None} for i in range(n)]

@pytest.fixture(scope='module')
def recorded(): return json.loads(FILE.read_text())

def plain(settings): return {k: v for k, v in settings.items() if k not in ('rewards', 'rows', 'peft', 'start', 'then')}

NAMES = json.loads(FILE.read_text()) if FILE.exists() else dict(healthy={}, planted={}, loop={})

@pytest.mark.parametrize('name', NAMES['healthy'])
def test_a_run_that_is_well_hears_nothing(name, recorded):
    run = recorded['healthy'][name]
    assert alarms_in(in_rows(run['rows']), GRPOConfig(**run['args'])) == {}

def test_there_are_twenty_of_them_and_more(recorded):
    assert len(recorded['healthy']) >= 20
    learned = [r for r in recorded['healthy'].values() if r['rows']['reward'][-1] > r['rows']['reward'][0]+.1]
    assert len(learned) >= 20 # they are no runs in which nothing happens

@pytest.mark.parametrize('name', [n for n in NAMES['planted'] if n in {row.name for row in CAUSES}])
def test_a_mistake_is_named_first(name, recorded):
    run = recorded['planted'][name]
    found = alarms_in(in_rows(run['rows']), GRPOConfig(**run['args']))
    assert next(iter(found), None) == name, found

@pytest.mark.parametrize('name', NAMES['loop'])
def test_a_mistake_of_the_naive_loop_is_the_only_one_named(name, recorded):
    run = recorded['loop'][name]
    found = alarms_in(in_rows(run['rows']), GRPOConfig(**run['args']))
    assert list(found) == run['said'], found

def in_the_gallery():
    "Names of the mistakes in the notebook"
    cells = json.loads((here.parent/'nbs/cases/mistakes.ipynb').read_text(encoding='utf-8'))['cells']
    [cell] = [s for s in (''.join(c['source']) for c in cells) if '\nPLANTED = ' in s]
    [planted] = [n.value for n in ast.parse(cell).body if isinstance(n, ast.Assign) and n.targets[0].id == 'PLANTED']
    return [k.arg for k in planted.keywords]

def test_all_runs_are_recorded(recorded):
    assert set(recorded['healthy']) == set(HEALTHY)
    assert set(recorded['planted']) == {*in_the_gallery(), *OF_TOOLS}

@pytest.mark.parametrize('name', [n for n in NAMES['planted'] if n in causes.ELSEWHERE])
def test_what_others_find_was_said(name, recorded):
    assert name in recorded['planted'][name]['said'][:2]

def test_each_row_of_the_table_has_a_run(recorded):
    said = {*recorded['planted'], *(n for run in recorded['loop'].values() for n in run['said'])}
    assert {row.name for row in CAUSES} <= said
    assert set(causes.ELSEWHERE)-said <= {"evaluation", "diverged"} # in other tests

# Histories that nobody measured ----------------------------------------------------------------------------------------

def invented(seed, steps):
    "A run of a language model, as such runs look: it learns slowly, half of its groups are dead, its figures are noisy"
    d = random.Random(seed)
    top, dead, length, drift = d.uniform(.3, .9), d.uniform(.1, .6), d.uniform(50, 900), d.uniform(1e-5, 2e-4)
    begin, noise = d.uniform(.05, .3), d.uniform(.01, .12)
    rows = []
    for i in range(steps):
        done = 1-math.exp(-3*i/steps)
        right = min(max(begin+(top-begin)*done+d.gauss(0, noise), 0), 1)
        form = min(max(.5+.45*done+d.gauss(0, noise), 0), 1)
        texts = {'completions/mean_length': length*(1+.3*done+d.gauss(0, .08)), 'completions/clipped_ratio': min(max(d.gauss(.08, .05), 0), 1)}
        rewards = {'rewards/accuracy_reward/mean': right, 'rewards/accuracy_reward/std': .4, 'rewards/accuracy_reward/group_std': .3,
                   'rewards/format/mean': form, 'rewards/format/std': .3, 'rewards/format/group_std': .2}
        policy = dict(kl=drift*i*d.lognormvariate(0, .4), entropy=.6-.3*done+d.gauss(0, .03), grad_norm=d.lognormvariate(-1, .7),
                      learning_rate=1e-6, skipped=0., ratio=1., clip_low=abs(d.gauss(0, .003)), clip_high=abs(d.gauss(0, .002)),
                      mismatch=1e-6, mismatch_kl=1e-9)
        facts = dict(best=1.2, repeated=abs(d.gauss(.1, .04)), distinct=1., pushed_up=.5, length_good=length, length_bad=length*1.2,
                     length_paid=d.gauss(0, .3), reward_cut=.02, reward_ended=right, end_trained=1., lost_advantages=0., failed=0., overflow=0.)
        rows.append(dict(step=i+1, reward=right+.2*form, reward_std=.4, frac_reward_zero_std=min(max(d.gauss(dead, .12), 0), 1)) | texts | rewards | policy | facts)
    return rows

@pytest.mark.parametrize('seed', range(8))
def test_invented_runs_hear_nothing(seed):
    assert alarms_in(invented(seed, 250), GRPOConfig(use_cpu=True)) == {}

def beside(name, mean, std=0., weight=1.):
    "An invented run with one function more"
    rows = [r | {f'rewards/{name}/mean': mean(i), f'rewards/{name}/std': std, f'rewards/{name}/group_std': std} for i, r in enumerate(invented(3, 60))]
    return alarms_in(rows, GRPOConfig(use_cpu=True, reward_weights=[1., 1., weight]))

def test_a_penalty_that_never_applies_is_not_one_that_never_pays():
    assert beside('soft_overlong_punishment', lambda i: 0.) == {}
    assert beside('too_long', lambda i: 0., weight=-1.) == {}
    assert list(beside('exact_match', lambda i: 0.)) == ['never_paid']

@pytest.mark.parametrize('name,weight', [('length_monitor', 0.), ('repetition', 0.), ('incorrect_penalty', -1.), ('incorrect_penalty', 0.)])
def test_what_is_only_watched_may_fall(name, weight):
    assert beside(name, lambda i: .6-.009*i, .2, weight) == {}

def test_what_is_wanted_may_not_fall():
    assert 'paid_for_else' in beside('is_correct', lambda i: .6-.009*i, .2, 0.)

@pytest.mark.parametrize('seed', range(6))
def test_rules_bear_any_history(seed):
    "Missing names, numbers without end, texts where numbers should be: a rule says nothing or something, and does not break"
    d = random.Random(seed)
    odd = [0., -1., 1e300, -1e300, 1e-300, math.nan, math.inf, 'x', None, True, 3]
    names = [*invented(0, 1)[0], 'eval_reward', 'eval_reward_interval', 'tools/call_frequency', 'beta', 'token_weight', 'rewards//mean']
    for length in (0, 1, 2, 7, 8, 9, 16, 30, 60):
        rows = [{n: d.choice(odd) for n in names if d.random() < .8} for _ in range(length)]
        rows = [kept(r) for r in rows]
        for row in CAUSES: assert isinstance(row.rule(rows, GRPOConfig(use_cpu=True)), str)
        for row in CAUSES: assert isinstance(row.rule(rows, object()), str)
        alarms_in(rows, GRPOConfig(use_cpu=True))

def test_a_rule_that_breaks_ends_no_run(monkeypatch):
    def broken(rows, args): raise ZeroDivisionError
    monkeypatch.setattr(causes, 'CAUSES', [CAUSES[0]._replace(rule=broken), *CAUSES[1:]])
    assert causes_in(invented(0, 30), GRPOConfig(use_cpu=True)) == {}

# In a run --------------------------------------------------------------------------------------------------------------

LOST = dict(max_steps=9, per_device_train_batch_size=32, max_completion_length=32, learning_rate=5e-3)

def run_of(out=None, **settings):
    model, tokenizer = load_policy('tiny', device='cpu')
    settings = {k: v for k, v in SMALL.items() if k != 'reward_weights'} | LOST | settings
    return GRPOTrainer(model, both, GRPOConfig(output_dir=out and str(out), **settings), task.train, None, tokenizer)

def test_said_in_a_warning_in_the_summary_and_as_an_event(tmp_path, caplog):
    t = run_of(tmp_path/'run')
    summary = whole_run(t, task, 4)
    begins = [r.getMessage() for r in caplog.records if 'far from home' in r.getMessage() and r.getMessage().startswith('step')]
    assert len(begins) == 1, caplog.text
    assert 'learning_rate=0.005' in begins[0]
    assert any('far from home' in line for line in summary['troubles'])
    [event] = [e for e in read_events(tmp_path/'run') if e.get('alarm') == 'kl_runs_away']
    assert event['event'].startswith('the policy is far from home') and 'learning_rate' in event['said']
    assert begins[0].startswith(f"step {event['step']}:")

def test_a_resumed_run_remembers(tmp_path, caplog):
    run_of(tmp_path/'run', max_steps=8).train()
    again = run_of(tmp_path/'run', max_steps=10)
    again.train(resume_from_checkpoint=True)
    assert len(again.state.alarms['history']) == 10
    assert len([e for e in read_events(tmp_path/'run') if e.get('alarm') == 'kl_runs_away']) == 1
    assert sum('far from home' in line for line in troubles(again.state)) == 1

def test_no_number_of_a_run_changes(monkeypatch):
    def numbers(t):
        rows = [{k: v for k, v in m.items() if 'time' not in k and 'second' not in k and not k.startswith('floor')} for m in t.steps()]
        return rows, torch.cat([p.detach().flatten() for p in t.model.parameters()])
    def run(): return numbers(run_of(max_steps=5, num_iterations=2, learning_rate=1e-3))
    rows, weights = run()
    from grpo_lit.run import trainer
    monkeypatch.setattr(trainer, 'watch_causes', lambda *args: None)
    others, same = run()
    assert torch.equal(weights, same) and str(rows) == str(others)

# Made anew -------------------------------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize('name', HEALTHY)
def test_a_healthy_run_made_anew_hears_nothing(name, caplog):
    t = healthy(**HEALTHY[name])
    t.train(live=False)
    assert troubles(t.state) == []

@pytest.mark.slow
@pytest.mark.parametrize('kind', OF_TOOLS)
def test_a_run_with_tools_made_anew_is_named(kind):
    t = with_tools(kind)
    t.train(live=False)
    assert kind in list(t.state.alarms['said'])[:2]

def all_runs(book):
    "Part, name, and a function that makes the run and tells what it looked like"
    def seen(t, **args): return dict(args=args, said=list(t.state.alarms.get('said', {})), rows=in_columns(t.state.alarms.get('history', [])))
    def well(kind):
        t = healthy(**kind)
        t.train(live=False)
        settings = SMALL | plain(kind)
        if 'rewards' in kind: settings.pop('reward_weights')
        return seen(t, **settings)
    def wrong(kind):
        t = book['planted'](**kind)
        said = list(book['said_of'](t))
        return seen(t, **book['SMALL'] | plain(kind)) | dict(said=said)
    def of_tools(name):
        t = with_tools(name)
        t.train(live=False)
        return seen(t, use_cpu=True, beta=0., num_generations=4)
    def loop(run, settings):
        updates = settings.get('num_iterations', 1)
        rows = [book['as_metrics'](s, updates) if 'seen' in s else s for s in run() if s['right'] == s['right']]
        said = list(alarms_in(rows, GRPOConfig(use_cpu=True, **settings)))
        return dict(args=dict(use_cpu=True) | settings, said=said, rows=in_columns([kept(r) for r in rows]))
    for name, kind in HEALTHY.items(): yield 'healthy', name, partial(well, kind)
    for name, kind in book['PLANTED'].items(): yield 'planted', name, partial(wrong, kind)
    for name in OF_TOOLS: yield 'planted', name, partial(of_tools, name)
    for name, pair in loops(book).items(): yield 'loop', name, partial(loop, *pair)

def keep(part, name, run):
    "Write a run beside the others, without those that are no more"
    found = json.loads(FILE.read_text()) if FILE.exists() else dict(healthy={}, planted={}, loop={})
    found['healthy'] = {n: r for n, r in found['healthy'].items() if n in HEALTHY}
    found[part][name] = run
    FILE.write_text(json.dumps(found, separators=(',', ':')).replace('{"args"', '\n{"args"'))
    print(part, name, run['said'], flush=True)

def record():
    "Make all runs, or those that are named, and write what they looked like"
    torch.set_num_threads(1)
    logging.getLogger('grpo_lit').setLevel(logging.CRITICAL)
    for part, name, make in all_runs(gallery()):
        if name in sys.argv[1:] or not sys.argv[1:]: keep(part, name, make())

if __name__ == '__main__': record()
