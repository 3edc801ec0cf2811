"""What editors and type checkers see: the stubs say what the package does, and pyright finds nothing wrong where people use it."""
import ast, importlib, inspect, json, re, shutil, subprocess, sys
from pathlib import Path
import pytest
import grpo_lit, grpo_lit.rewards

root = Path(__file__).parent.parent
lib = root/'grpo_lit'
doors = [grpo_lit, grpo_lit.rewards]

def stub(path):
    return ast.parse(path.read_text(encoding='utf-8'))

def imported(path):
    "Names that a stub imports"
    return [alias.asname for node in stub(path).body if isinstance(node, ast.ImportFrom) for alias in node.names]

@pytest.mark.parametrize('package', doors, ids=lambda o: o.__name__)
def test_a_stub_shows_what_its_package_shows(package):
    assert imported(Path(package.__file__).with_suffix('.pyi')) == package.__all__

def classes():
    "(module, class in its stub) for the modules that have one"
    for path in sorted(lib.rglob('*.pyi')):
        if path.stem != '__init__':
            module = '.'.join(path.relative_to(root).with_suffix('').parts)
            yield from ((module, node) for node in stub(path).body if isinstance(node, ast.ClassDef))

@pytest.mark.parametrize('module, node', [pytest.param(*o, id=o[1].name) for o in classes()])
def test_a_stub_has_every_method_with_its_arguments(module, node):
    cls = getattr(importlib.import_module(module), node.name)
    written = {o.name: o for o in node.body if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef))}
    methods = {k for k, v in vars(cls).items() if k[0] != '_' and (inspect.isroutine(v) or isinstance(v, classmethod))}
    assert methods <= set(written)
    for name in methods:
        arguments = [o for o in inspect.signature(getattr(cls, name)).parameters if o not in ('self', 'cls')]
        a = written[name].args
        names = [o.arg for o in a.posonlyargs+a.args+[a.vararg]+a.kwonlyargs+[a.kwarg] if o]
        assert [o for o in names if o not in ('self', 'cls')] == arguments, name

def test_arguments_that_are_passed_on_are_in_the_stub():
    from grpo_lit.rewards.judges import judge_reward
    node = next(o for o in stub(lib/'rewards/judges.pyi').body if getattr(o, 'name', '') == 'judge_reward')
    names = [o.arg for o in node.args.args+node.args.kwonlyargs]
    assert names == list(inspect.signature(judge_reward).parameters)

# --- pyright

def quick_start():
    "The code of the README, with what its reader brings along"
    text = (root/'README.md').read_text(encoding='utf-8')
    blocks = re.findall(r'^```python\n(.*?)^```$', text, re.M | re.S)
    assert blocks
    own = "where = 'runs/sums'\ndef my_reward(completions, **columns): return [0.]*len(completions)\n"
    return own + '\n'.join(blocks)

door_script = '''
import torch
from grpo_lit import *
from grpo_lit import rewards as R

model, tokenizer = load_policy('tiny')
model = add_lora(model, seed=1)
task: Task = load_task('addition', limit=64)
ro: Rollouts = sample_groups(model, tokenizer, ['1+1=?'], num_generations=4, columns=dict(answer=['2']))
ro = score_completions(ro, [accuracy_reward, strict_accuracy_reward, think_format_reward], weights=[1, 1, .2])
assert ro.rewards is not None and ro.logps is not None
advantages = group_advantages(ro.rewards, ro.num_generations)
logps = token_logps(model, ro)
weights = importance_weights(logps, ro.logps, ro.completion_mask)
loss, stats = grpo_loss(logps, advantages, ro.completion_mask, old_logps=ro.logps, loss_type='dapo')
loss.backward()
print(token_terms(logps.detach(), advantages, ro.completion_mask, beta=0.)['loss'].shape)
kl: torch.Tensor = kl_estimate(logps, ro.logps, 'k3')
print(ro.table(0), ro.take(slice(0, 4)), ro.group(0), ro.to('cpu'), Rollouts.join([ro, ro]).repeated('answer'))
print(extract_answer('#### 4'), math_equal('1/2', '0.5'), pass_at_k(10, 3, 5))
verdict: Verdict = run_code('print(1)')
print(verdict.status, run_tests('x = 1', ['assert x == 1']).passed)
audit_reward(code_reward, task.train)
fit_sft(model, tokenizer, task.train, steps=2)
sft_loss(logps, ro.completion_mask)
search = search_tool(lambda query: ['a text'], k=3)
episodes: Rollouts = sample_episodes(model, tokenizer, ['?'], tools=[search], max_turns=2)

def length_reward(completions, **kwargs):
    return [-float(len(o)) for o in completions]

args = GRPOConfig(output_dir='runs/x', learning_rate=1e-5, num_generations=8, reward_weights=[1., .1])
trainer = GRPOTrainer('tiny', reward_funcs=[accuracy_reward, length_reward], args=args, train_dataset=task.train)
metrics = trainer.train(resume_from_checkpoint=True)
print(metrics['reward'], trainer.evaluate(), trainer.save_checkpoint())
trainer.save_model('policy')
for m in trainer.steps():
    print(m['step'], trainer.last_rollouts.rewards)
plot_run('runs/x', save='curve.png')
kept = load_rollouts('runs/x', steps=range(3))
print(rescore(kept, length_reward, scale_rewards='none'))
train_from_rollouts('tiny', 'runs/x', args)
watch('runs/x', wait=False)
update = readings('runs/x').at(3)
print(update.gradients(epsilon=.1).shape, update.rows[0])
inspect('runs/x').show(3, 0)
write_page('runs/x', 'page.html', max_bytes=500_000)
print(diagnose('tiny', task.train, accuracy_reward, GRPOConfig(max_steps=9)).verdict)
compare_runs({'leash': ['runs/x'], 'free': ['runs/y']}, metric='reward', save='both.png')
run = launch(model='tiny', data='addition', out='runs/z', processes=2, wait=False)
print(run.state, run.stop(patience=60.).summary, run.watch(poll=1.).said(3))

names: list = [R.as_numbers, R.answer_parts, R.extract_choice, R.choice_reward, R.word_f1, R.word_match('f1')]
names += [R.passed_tests_reward, R.program_reward(partial=True), R.unit_tests(n_mutants=3), R.marginal_tests(price=.02)]
names += [R.countdown_reward, R.knights_reward, R.gym_reward, R.tag_format('think', 'answer'), R.tag_count('think')]
names += [R.cosine_length(accuracy_reward, 256), R.group_length(accuracy_reward), R.soft_overlong(256, 64)]
names += [R.repetition(), R.one_script('Latin'), R.model_reward('name'), R.pairwise_judge('name', concurrency=4)]
names += [R.judge_reward('name', base_url='http://localhost:8000/v1', max_retries=2), R.check_rewards, R.reward_name]
names += [R.RewardCaller, R.RewardContractError, R.RewardTimeout, R.check_gold, R.Audit, R.gold_completion]
names += [R.degenerate_completions, R.qa_reward, R.qa_f1_reward, R.qa_answer('Paris')]
'''

def test_the_script_uses_every_name_at_the_doors():
    used = set(re.findall(r'\w+', door_script))
    assert {name for package in doors for name in package.__all__} <= used

def complaints(code, folder):
    "The errors that pyright finds in a script, as (line of the script, message)"
    (folder/'script.py').write_text(code)
    (folder/'pyrightconfig.json').write_text(json.dumps(dict(extraPaths=[str(root)])))
    command = [shutil.which('pyright'), '--outputjson', '--pythonpath', sys.executable, '-p', str(folder)]
    said = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    assert said['summary']['filesAnalyzed'] == 1
    lines = code.splitlines()
    errors = [o for o in said['generalDiagnostics'] if o['severity'] == 'error']
    return [(lines[o['range']['start']['line']], o['message']) for o in errors]

needs_pyright = pytest.mark.skipif(not shutil.which('pyright'), reason="needs pyright: pip install 'pyright[nodejs]'")

@needs_pyright
@pytest.mark.parametrize('code', [quick_start(), door_script], ids=['readme', 'doors'])
def test_pyright_finds_nothing_wrong(code, tmp_path):
    assert complaints(code, tmp_path) == []

@needs_pyright
@pytest.mark.parametrize('line, about', [
    ('from grpo_lit import no_such_name', 'no_such_name'),
    ('from grpo_lit import GRPOTrainer\nGRPOTrainer("tiny", [], traindataset=[])', 'traindataset'),
    ('from grpo_lit import GRPOConfig\nGRPOConfig(lerning_rate=1e-5)', 'lerning_rate'),
    ('from grpo_lit import Rollouts\ndef f(ro: Rollouts): return ro.tabel(0)', 'tabel'),
    ('from grpo_lit.rewards import judge_reward\njudge_reward("x", base_ulr="y")', 'base_ulr')])
@pytest.mark.slow
def test_pyright_finds_what_is_wrong(line, about, tmp_path):
    assert any(about in message for _, message in complaints(line, tmp_path))
