"""The doctor at its door: chats, base models, tools, rewards that crash or hang; the command, its files and its exit codes."""
import copy, json, logging
from dataclasses import replace
import pytest, torch
from grpo_lit import GRPOConfig, accuracy_reward, diagnose, think_format_reward
from grpo_lit.doctor import CHECKS, Check, Finding
from grpo_lit.policy import load_policy
from grpo_lit.run.cli import main
from grpo_lit.run.config import TINY_RUN
from grpo_lit.tasks import addition_task, as_chat

BARE = '{% for m in messages %}{{ m.content }}{% endfor %}' # What the tiny policy knows: the question alone
task = addition_task(256, 32)
settings = TINY_RUN | dict(reward_weights=None, use_cpu=True)

SOON = [c for c in CHECKS if c.name not in ('pace', 'gain')] # All that rehearse no step

@pytest.fixture(scope='module')
def policy(): return load_policy('tiny')

@pytest.fixture(autouse=True)
def quiet(): logging.getLogger('grpo_lit').setLevel(logging.ERROR); yield; logging.getLogger('grpo_lit').setLevel(logging.NOTSET)

def seen(policy, rows=task.train, rewards=accuracy_reward, args={}, tokenizer=None, **more):
    "A diagnosis of the tiny policy with one thing changed"
    model, known = policy
    more = dict(checks=SOON) | more
    return diagnose(model, rows, rewards, GRPOConfig(**settings | args), processing_class=tokenizer or known, seconds=4, **more)

def speaking(policy, template):
    tokenizer = copy.deepcopy(policy[1])
    tokenizer.chat_template = template
    return tokenizer

# --- what is well

def test_names_are_all_different():
    names = [c.name for c in CHECKS]
    assert len(set(names)) == len(names)
    known = {*names, 'sample'}
    assert all(set(c.unless) <= known for c in CHECKS)
    place = {n: i for i, n in enumerate(names)}
    assert all(place[o] < place[c.name] for c in CHECKS for o in c.unless), 'a cause is asked before what it explains'

def test_a_healthy_run_is_fine(policy):
    before = [p.detach().clone() for p in policy[0].parameters()]
    d = seen(policy, rewards=[accuracy_reward, think_format_reward], args=dict(reward_weights=[1, .2]), eval_dataset=task.test, checks=CHECKS)
    assert d.found == [] and d.verdict == 'fine' and d.exit_code == 0 and not d.skipped
    assert all(torch.equal(a, b) for a, b in zip(before, policy[0].parameters()))
    assert str(d).splitlines()[-1].startswith('fine:')

def test_a_healthy_chat_is_fine(policy):
    assert seen(policy, as_chat(task.train), tokenizer=speaking(policy, BARE)).found == []

# --- what is odd

def test_a_reward_that_crashes(policy):
    def crash(completions, answer, **columns): raise KeyError('gold')
    d = seen(policy, rewards=[crash, accuracy_reward])
    assert d.found == ['reward-errors'] and d['reward-errors'].figures['errors']['crash'] > 0

def test_a_reward_that_crashes_at_once_or_says_too_little(policy):
    def short(completions, **columns): return [1.]
    d = seen(policy, rewards=short)
    assert d.found == ['contract'] and d.exit_code == 3 and 'dead' in d.skipped

def test_a_reward_that_must_be_awaited(policy):
    async def later(completions, answer, **columns): return [float(f'>{a}<' in c) for c, a in zip(completions, answer)]
    assert seen(policy, rewards=later).found == []

def test_a_check_that_breaks_is_a_finding(policy):
    def broken(patient): raise RuntimeError('\x1b[2J')
    def counts(patient): return Finding('counts', 'fine', str(len(patient.rows)))
    d = seen(policy, checks=[Check('broken', broken), Check('counts', counts)])
    assert d.found == ['broken'] and d.verdict == 'look' and '\x1b' not in str(d) and d['counts'].said == '256'

def test_rows_without_gold(policy):
    def brief(completions, **columns): return [-len(c)/100 for c in completions]
    rows = [dict(prompt=r['prompt']) for r in task.train]
    assert seen(policy, rows, brief).found == []

def test_chat_without_a_template_has_one_cause(policy):
    d = seen(policy, as_chat(task.train))
    assert d.found == ['template'] and d.verdict == 'stop'

def test_mixed_and_broken_rows(policy):
    rows = [*task.train, dict(prompt=None, answer='1'), dict(prompt=['hello'], answer='1'), dict(prompt=3, answer='1')]
    d = seen(policy, rows)
    assert d.found == ["prompts"], str(d)
    assert 'row 256' in d['prompts'].said

def test_a_tokenizer_without_an_end(policy):
    tokenizer = copy.deepcopy(policy[1])
    tokenizer.eos_token = None
    d = seen(policy, tokenizer=tokenizer)
    assert d.found == ['eos'] and d.exit_code == 3

def test_one_row_and_small_groups(policy):
    d = seen(policy, task.train[:1], args=dict(num_generations=2))
    assert d.verdict in ("fine", "look") and not any(f.figures.get('failed') for f in d.findings)

def test_no_rows_and_no_reward_are_wrong_input(policy):
    with pytest.raises(ValueError, match='no rows'): seen(policy, [])
    with pytest.raises(ValueError, match='required'): seen(policy, None)
    with pytest.raises(ValueError, match='no reward'): seen(policy, rewards=[])

def test_tools(policy):
    "Checks of prompts and rewards know that there are tools"
    def double(number:int) -> int:
        """Twice a number.

        Args:
            number: the number
        """
        return 2*number
    d = seen(policy, args=dict(max_turns=2), tools=[double], checks=[c for c in CHECKS if c.name in ('columns', 'prompts', 'gold', 'length')])
    assert d.found == []

def test_time_is_bounded(policy, monkeypatch):
    from grpo_lit.doctor import diagnosing
    monkeypatch.setattr(diagnosing, 'LEAST', 0.)
    model, tokenizer = policy
    d = diagnose(model, task.train, accuracy_reward, GRPOConfig(**settings), processing_class=tokenizer, seconds=1e-9)
    late = {name for name, why in d.skipped.items() if why == 'not asked, no time was left'}
    assert late == {c.name for c in CHECKS if c.dear} >= {'mismatch', 'pace', 'gain'}
    assert d['dead'].figures['questions'] >= 4 # what costs nothing is said in any case

# --- the command

def test_command(tmp_path, capsys):
    out = tmp_path/'report.json'
    assert main(['doctor', '--model', 'tiny', '--data', 'addition', '--device', 'cpu', '--seconds', '4', '--learning-rate', '3e-4',
                 '--max-steps', '72', '--json', '--out', str(out)]) == 0
    said, kept = json.loads(capsys.readouterr().out), json.loads(out.read_text())
    assert said == kept and said['verdict'] in ('fine', 'look') and said['exit_code'] == 0
    assert {f['check'] for f in said['findings']} <= {c.name for c in CHECKS}

def test_command_reads_the_file_of_a_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'run.toml').write_text('model = "tiny"\ndata = "addition"\nout = "runs/a"\noverwrite = true\ndevice = "cpu"\n'
                                     '[settings]\nlearning_rate = 0.0\nmax_steps = 9\n')
    assert main(['doctor', '--config', 'run.toml', '--seconds', '2', '-o', 'report.html']) == 3
    assert 'stop' in capsys.readouterr().out and '<table>' in (tmp_path/'report.html').read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['report.html', 'run.toml'], 'nothing else is written'

@pytest.mark.parametrize('more, said', [
    (['--out', 'report.pdf'], '.json, .html, .txt'),
    (['--out', 'nowhere/report.json'], 'no directory'),
    (['--seconds', '0'], 'more than 0'),
    (['--reward', 'acuracy_reward'], 'accuracy_reward'),
    (['--lerning-rate', '1'], 'learning-rate')])
def test_wrong_input(more, said, capsys):
    try: code = main(['doctor', '--model', 'tiny', '--data', 'addition', *more])
    except SystemExit as e: code = e.code
    assert code == 2 and said in capsys.readouterr().err

# --- the caller's model

def test_an_adapter_is_taken_out_again():
    from peft import LoraConfig
    model, tokenizer = load_policy('tiny')
    next(model.parameters()).requires_grad_(False)
    def looks(): return [(n, type(m)) for n, m in model.named_modules()], [(n, p.requires_grad) for n, p in model.named_parameters()]
    before = looks()
    adapter = LoraConfig(r=2, target_modules='all-linear', task_type='CAUSAL_LM')
    seen = []
    def adapted(patient):
        seen.append('PeftModel' in type(patient.trainer.model).__name__)
        return Finding('adapted', 'fine', '')
    diagnose(model, task.train, accuracy_reward, GRPOConfig(**settings), processing_class=tokenizer, peft_config=adapter, checks=[Check('adapted', adapted)])
    assert seen == [True] and looks() == before and not hasattr(model, 'peft_config')

# --- rewards that do not look, and those that only seem so

def about(*names): return [c for c in CHECKS if c.name in names]

def in_ascii(completions, **columns): return [float(c.isascii()) for c in completions]

def within(completions, limit, **columns): return [float(len(c) <= n) for c, n in zip(completions, limit)]

def one(completions, **columns): return [1.]*len(completions)

@pytest.mark.parametrize('beside, found', [(within, []), pytest.param(one, ['idle'], marks=pytest.mark.slow), pytest.param(in_ascii, [], marks=pytest.mark.slow)])
def test_a_reward_beside_another(policy, beside, found):
    rows = [r | dict(limit=40) for r in task.train[:8]]
    d = seen(policy, rows, [accuracy_reward, beside], checks=about('reward-errors', 'constant', 'idle', 'gold', 'holes'))
    assert d.found == found and d.exit_code == 0 and not d.skipped, d

def test_the_wrong_form_is_named_and_not_what_follows_from_it(policy):
    rows = [r | dict(answer_style='boxed') for r in task.train]
    d = seen(policy, rows, checks=about('accuracy', 'dead'))
    assert d.found == ['accuracy'] and 'the form of the answers' in d['accuracy'].cure and 'explained by accuracy' in d.skipped['dead'], d
