"""Damaged checkpoints and logs: what is whole is used, what is not is named, and no run goes on as another one."""
import builtins, json, os, shutil
from pathlib import Path
import pytest
import torch
from safetensors.torch import load_file, save_file
from grpo_lit.policy import load_policy
from grpo_lit.rewards import accuracy_reward
from grpo_lit.run import cli, files
from grpo_lit.run.checkpoints import load_checkpoint
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.logs import read_metrics
from grpo_lit.run.manifest import damage, is_whole, write_manifest
from grpo_lit.run.resume import drop_old_checkpoints, newest_whole
from grpo_lit.run.runs import Record, Run
from grpo_lit.run.trainer import GRPOTrainer
from grpo_lit.tasks import addition_task

def some(cases, *cheap):
    "All cases, those that are not named only in the slow run"
    return [c if c in cheap else pytest.param(c, marks=pytest.mark.slow) for c in cases]

def trainer(out, lora=False, **settings):
    model, tokenizer = load_policy('tiny', device='cpu')
    adapter = None
    if lora:
        from peft import LoraConfig
        adapter = LoraConfig(r=4, target_modules='all-linear', task_type='CAUSAL_LM')
    args = GRPOConfig(output_dir=str(out), num_generations=4, per_device_train_batch_size=8, max_completion_length=12,
                      use_cpu=True, **dict(max_steps=4, save_steps=2, fallback_dir=f'{out}-second') | settings)
    return GRPOTrainer(model, accuracy_reward, args, addition_task().train, addition_task().test[:4], tokenizer, peft_config=adapter)

VARIANTS = dict(whole={}, moving=dict(sync_ref_model=True, ref_model_sync_steps=1), adapter=dict(lora=True))

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "A run of each kind with two checkpoints, made once"
    torch.set_num_threads(1)
    cli.quiet()
    folder, known = tmp_path_factory.mktemp('runs'), {}
    def of(kind):
        if kind not in known:
            trainer(folder/kind, **VARIANTS[kind]).train()
            known[kind] = folder/kind
        return known[kind]
    return of

def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data)//2] ^= 1
    path.write_bytes(data)

def grow(path): path.write_bytes(path.read_bytes()+b'more')
def cut(path): path.write_bytes(path.read_bytes()[:-1])
def halve(path): path.write_bytes(path.read_bytes()[:path.stat().st_size//2])
def zero(path): path.write_bytes(bytes(path.stat().st_size))
def dangle(path):
    path.unlink()
    path.symlink_to('nowhere')
def a_directory(path):
    path.unlink()
    path.mkdir()

HARMS = dict(flipped=flip, grown=grow, cut=cut, halved=halve, zeroed=zero, dangling=dangle, directory=a_directory,
             empty=lambda p: p.write_bytes(b''), missing=lambda p: p.unlink())
FILES = dict(
    whole=['model.safetensors', 'training_state.pt', 'config.json', 'tokenizer.json', 'tokenizer_config.json', 'manifest.json'],
    moving=['reference/model.safetensors', 'reference/config.json'],
    adapter=['adapter_model.safetensors', 'adapter_config.json'])
DAMAGED = {f'{harm} {name}': (kind, name, harm) for kind, names in FILES.items() for name in names for harm in HARMS}
UNLISTED = {'missing manifest.json'} # Nothing says then that it ever was: it reads as a checkpoint of an older version

CHEAP = [f'{harm} {name}' for _, name, harm in DAMAGED.values() if harm in ('flipped', 'halved', 'missing')]

@pytest.mark.parametrize('case', some([c for c in DAMAGED if c not in UNLISTED], *CHEAP))
def test_damage_is_named_and_passed_over(case, runs, tmp_path, caplog):
    kind, name, harm = DAMAGED[case]
    run = Run(tmp_path/'run')
    for n in (2, 4): shutil.copytree(runs(kind)/f'checkpoint-{n}', run.path/f'checkpoint-{n}', copy_function=os.link)
    bad = run.path/'checkpoint-4'/name
    data = bad.read_bytes()
    bad.unlink() # the others are links
    bad.write_bytes(data)
    HARMS[harm](bad)
    assert name.split('/')[-1] in damage(run.path/'checkpoint-4')
    assert newest_whole(run).name == 'checkpoint-2'
    assert caplog.text.count('checkpoint-4 (') == 1 and name in caplog.text
    with pytest.raises(ValueError, match='is damaged') as e: load_checkpoint(None, run.path/'checkpoint-4', {})
    assert name in str(e.value) and '\n' not in str(e.value)

def test_a_damaged_one_does_not_change_the_run(runs, tmp_path, caplog):
    "Resumed from the one before it, the run ends as it did"
    shutil.copytree(runs('whole'), tmp_path/'run')
    flip(tmp_path/'run/checkpoint-4/model.safetensors')
    t = trainer(tmp_path/'run')
    t.train(resume_from_checkpoint=True)
    before = load_file(runs('whole')/'checkpoint-4/model.safetensors')
    after = load_file(tmp_path/'run/checkpoint-4/model.safetensors')
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert (tmp_path/'run/abandoned-checkpoint-4').exists() and [m['step'] for m in t.run.metrics()] == [1, 2, 3, 4]
    t = trainer(tmp_path/'run')
    flip(tmp_path/'run/checkpoint-4/training_state.pt')
    t.train(resume_from_checkpoint=True) # put aside for the second time

def test_nothing_is_changed_by_a_refused_one(runs, tmp_path):
    shutil.copytree(runs('moving'), tmp_path/'run')
    t = trainer(tmp_path/'run', **VARIANTS['moving'])
    before = {n: v.clone() for n, v in t.model.state_dict().items()}
    for name in ('reference/model.safetensors', 'model.safetensors', 'training_state.pt'):
        bad = tmp_path/name.replace('/', '-')
        shutil.copytree(tmp_path/'run/checkpoint-4', bad)
        halve(bad/name)
        (bad/'manifest.json').unlink()
        with pytest.raises(ValueError): t.load_checkpoint(bad)
    assert t.state.step == 0 and all(torch.equal(v, before[n]) for n, v in t.model.state_dict().items())

def test_all_damaged(runs, tmp_path, capsys):
    "Then a person must look; nothing is begun anew over it"
    shutil.copytree(runs('whole'), tmp_path/'run')
    for n in (2, 4): halve(tmp_path/f'run/checkpoint-{n}/model.safetensors')
    with pytest.raises(ValueError, match='no checkpoint is whole.*checkpoint-4.*checkpoint-2'):
        trainer(tmp_path/'run').train(resume_from_checkpoint=True)
    options = '--model tiny --data addition --eval-questions 0 --device cpu --max-completion-length 12 --resume'.split()
    capsys.readouterr()
    assert cli.main(['train', *options, '--out', str(tmp_path/'run')]) == 2
    err = capsys.readouterr().err
    assert 'no checkpoint is whole' in err and len(err.splitlines()) == 1
    assert len(Run(tmp_path/'run').metrics()) == 4

def without(*names):
    def harm(path):
        for n in ('manifest.json', *names): (path/n).unlink()
    return harm

def pickled(path):
    without()(path)
    torch.save(load_file(path/'model.safetensors'), path/'pytorch_model.bin')
    (path/'model.safetensors').unlink()

def another_models_weights(path):
    without()(path)
    saved = load_file(path/'model.safetensors')
    name = min(saved)
    saved[name+'x'] = saved.pop(name)
    save_file(saved, path/'model.safetensors', metadata=dict(format='pt'))

def other_shapes(path):
    without()(path)
    saved = load_file(path/'model.safetensors')
    name = next(n for n in saved if saved[n].ndim == 2)
    saved[name] = saved[name][:-1].clone()
    save_file(saved, path/'model.safetensors', metadata=dict(format='pt'))

class Evil:
    def __reduce__(self): return os.mkdir, ('/tmp/evil-was-here',)

def code_in_the_state(path):
    without()(path)
    torch.save(Evil(), path/'training_state.pt')

def a_list_as_state(path):
    without()(path)
    torch.save([1, 2], path/'training_state.pt')

def plain_file(path):
    shutil.rmtree(path)
    path.write_text('a file')

UNVERIFIED = { # Without a manifest: what the reader finds by itself
    'halved state': lambda p: (without()(p), halve(p/'training_state.pt')),
    'empty state': lambda p: (without()(p), (p/'training_state.pt').write_bytes(b'')),
    'halved weights': lambda p: (without()(p), halve(p/'model.safetensors')),
    'empty weights': lambda p: (without()(p), (p/'model.safetensors').write_bytes(b'')),
    'no weights': without('model.safetensors'),
    'no state': without('training_state.pt'),
    'pickled weights': pickled,
    'weights of another model': another_models_weights,
    'weights of other shapes': other_shapes,
    'code in the state': code_in_the_state,
    'a list as state': a_list_as_state,
    'a file': plain_file}

@pytest.mark.parametrize('case', some(UNVERIFIED, 'halved state', 'halved weights', 'pickled weights', 'code in the state'))
def test_without_a_manifest(case, runs, tmp_path):
    "One clear line, and nothing is executed"
    shutil.copytree(runs('whole'), tmp_path/'run')
    bad = tmp_path/'run/checkpoint-4'
    UNVERIFIED[case](bad)
    with pytest.raises(ValueError) as e: trainer(tmp_path/'run').train(resume_from_checkpoint=str(bad))
    assert 'checkpoint-4' in str(e.value) and len(str(e.value)) < 600
    assert not Path('/tmp/evil-was-here').exists()

def another_config(path):
    "From which a model of 7 billion parameters would be built"
    without()(path)
    (path/'config.json').write_text('{"model_type": "llama"}')

TOLERATED = { # What changes no weight and no state
    'no config, in an older version': without('config.json'),
    'another config, in an older version': another_config,
    'a note': lambda p: (p/'note.txt').write_text('mine'),
    'an editor': lambda p: (p/'.config.json.swp').write_bytes(b'\0'*10),
    'a folder': lambda p: (p/'old').mkdir(),
    'no manifest, in an older version': lambda p: (p/'manifest.json').unlink(),
    'links to the same content': lambda p: (shutil.move(p/'model.safetensors', p.parent/'w'), (p/'model.safetensors').symlink_to(p.parent/'w'))}

@pytest.mark.parametrize('case', some(TOLERATED, 'a note', 'another config, in an older version'))
def test_strangers_are_tolerated(case, runs, tmp_path, caplog):
    shutil.copytree(runs('whole'), tmp_path/'run')
    TOLERATED[case](tmp_path/'run/checkpoint-4')
    t = trainer(tmp_path/'run', max_steps=5)
    assert t.train(resume_from_checkpoint=True)['step'] == 5
    assert ('has no manifest' in caplog.text) == ('older version' in case)

def test_names_that_only_look_like_checkpoints(tmp_path):
    for name in ('checkpoint-x', 'checkpoint-5.part', 'checkpoint-', 'checkpoint-3-old', 'abandoned-checkpoint-9', 'checkpoint-٣'):
        (tmp_path/name).mkdir()
    (tmp_path/'checkpoint-7').write_text('a file')
    assert Record(tmp_path).checkpoints() == []

def test_the_policy_is_checked_too(tmp_path, capsys, caplog):
    "`eval --model RUN/policy` on a file with a turned bit"
    options = ('--model tiny --data addition --eval-questions 0 --max-steps 1 --num-generations 4 --per-device-train-batch-size 4 '
               '--max-completion-length 8 --device cpu').split()
    assert cli.main(['train', *options, '--out', str(tmp_path/'run')]) == 0
    assert is_whole(tmp_path/'run/policy')
    flip(tmp_path/'run/policy/model.safetensors')
    capsys.readouterr()
    assert cli.main(['eval', '--model', str(tmp_path/'run/policy'), '--data', 'addition', '--out', str(tmp_path/'eval')]) == 2
    err = capsys.readouterr().err
    assert 'model.safetensors has other content' in err and len(err.splitlines()) == 1

def test_rotation_waits_for_a_whole_one(runs, tmp_path):
    shutil.copytree(runs('whole'), tmp_path/'run')
    run = Run(tmp_path/'run')
    flip(run.path/'checkpoint-4/model.safetensors')
    drop_old_checkpoints(run, 1)
    assert [p.name for p in run.checkpoints()] == ['checkpoint-2', 'checkpoint-4']

# ## Between two renames, and before the first checkpoint

def whole(path, mark):
    path.mkdir()
    (path/'training_state.pt').write_text(mark)
    write_manifest(path)

LEFT = { # What a killed process left -> what is recovered
    'old and a whole part': (dict(old='a', part='b'), 'b'),
    'old and half of a part': (dict(old='a', torn='b'), 'a'),
    'old alone': (dict(old='a'), 'a'),
    'a whole part alone': (dict(part='b'), 'b'),
    'half of a part alone': (dict(torn='b'), None),
    'all three': (dict(old='a', part='b', there='c'), 'c')}

@pytest.mark.parametrize('case', LEFT)
def test_recovered(case, tmp_path):
    left, expected = LEFT[case]
    ends = dict(old='.old', part='.part', torn='.part', there='')
    for kind, mark in left.items():
        path = tmp_path/f'checkpoint-3{ends[kind]}'
        whole(path, mark)
        if kind == 'torn': (path/'manifest.json').unlink()
    found = newest_whole(Run(tmp_path))
    assert (found and (found/'training_state.pt').read_text()) == expected

def test_killed_before_the_first_checkpoint(tmp_path, caplog):
    "It can be resumed, which begins it anew, and says so"
    t = trainer(tmp_path/'run', save_steps=0)
    for m in t.steps():
        if m['step'] == 2: break
    assert not t.run.checkpoints() and len(t.run.metrics()) == 2
    with pytest.raises(ValueError, match='already holds a run.*without one, resuming begins it anew'): trainer(tmp_path/'run').train()
    again = trainer(tmp_path/'run')
    assert again.train(resume_from_checkpoint=True)['step'] == 4
    assert [m['step'] for m in again.run.metrics()] == [1, 2, 3, 4]
    assert 'begins anew' in caplog.text and (tmp_path/'run/abandoned-metrics.jsonl').exists()

def test_stopped_in_the_first_step_and_killed_later(tmp_path):
    "Its only checkpoint is of step 0, and there are metrics behind it"
    t = trainer(tmp_path/'run', save_steps=0)
    steps = t.steps()
    next(steps)
    t.state.step = 0
    steps.close()
    first = trainer(tmp_path/'other', save_steps=0)
    first.started = True
    shutil.copytree(first.save_checkpoint(), tmp_path/'run/checkpoint-0')
    assert trainer(tmp_path/'run').train(resume_from_checkpoint=True)['step'] == 4

def test_a_finished_run_is_not_begun_anew(tmp_path):
    trainer(tmp_path/'run', save_strategy='no', max_steps=2).train()
    with pytest.raises(ValueError, match='is finished'): trainer(tmp_path/'run').train(resume_from_checkpoint=True)
    assert len(Run(tmp_path/'run').metrics()) == 2

def test_no_directory_at_all(tmp_path, caplog):
    model, tokenizer = load_policy('tiny', device='cpu')
    t = GRPOTrainer(model, accuracy_reward, GRPOConfig(use_cpu=True, max_completion_length=12), addition_task().train, processing_class=tokenizer)
    with pytest.raises(ValueError, match='there is no output_dir'): t.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match='is no checkpoint'): trainer(tmp_path/'run').train(resume_from_checkpoint=str(tmp_path/'none'))

# ## Logs

GOOD = b'{"step": 1, "reward": 0.5}\n{"step": 2, "reward": 0.5}\n%s\n{"step": 3, "reward": 0.5}\n'
LINES = {
    'torn': b'{"step": 9, "rew',
    'not UTF-8': b'{"step": 9, "name": "\xff\xfe"}',
    'zeros': bytes(100),
    'zeros before a line': b'\0\0\0{"step": 2, "kl": 1}',
    'empty': b'',
    'spaces': b'   \t ',
    'a list': b'[{"step": 9}]',
    'a number': b'17',
    'a string': b'"step"',
    'null': b'null',
    'a word for a step': b'{"step": "nine"}',
    'a step that is no whole number': b'{"step": 1.5}',
    'a step that is true': b'{"step": true}',
    'a step below zero': b'{"step": -1}',
    'a step that is no number': b'{"step": NaN}',
    'an endless step': b'{"step": Infinity}',
    'a list of a step': b'{"step": [9]}',
    'very deep': b'{"step": 9, "a": '+b'['*50000,
    'a huge number': b'{"step": '+b'9'*5000+b'}',
    'carriage return': b'{"step": 2, "kl": 1}\r',
    'mark of an editor': b'\xef\xbb\xbf{"step": 2, "kl": 1}',
    'twice': b'{"step": 1, "reward": 0.5}',
    'two in a line': b'{"step": 2, "reward": 0.5}{"step": 2, "kl": 1}',
    'a comment': b'# step 9',
    'merge marks': b'<<<<<<< HEAD'}

@pytest.mark.parametrize('case', LINES)
def test_a_line_among_the_metrics(case, tmp_path, caplog):
    (tmp_path/'metrics.jsonl').write_bytes(GOOD % LINES[case])
    for _ in range(3): rows = read_metrics(tmp_path/'metrics.jsonl')
    assert [m['step'] for m in rows] == [1, 2, 3] and all(m['reward'] == .5 for m in rows)
    assert caplog.text.count('are damaged') <= 1
    run = Run(tmp_path)
    run.start({}, step=2)
    assert [m['step'] for m in read_metrics(tmp_path/'metrics.jsonl')] == [1, 2]

def test_objects_without_a_step_are_kept(tmp_path):
    "An evaluation logs its questions so"
    (tmp_path/'metrics.jsonl').write_text('{"question": 1}\n{"question": 1}\n')
    assert len(read_metrics(tmp_path/'metrics.jsonl')) == 2

def test_a_stray_line_in_a_run_that_goes_on(runs, tmp_path, caplog):
    shutil.copytree(runs('whole'), tmp_path/'run')
    file = tmp_path/'run/metrics.jsonl'
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0]+b'[1]\n'+lines[1][:20]+b'\n'+b''.join(lines[1:])+b'{"step": 5, "rew')
    t = trainer(tmp_path/'run', max_steps=6)
    t.train(resume_from_checkpoint=True)
    assert [m['step'] for m in t.run.metrics()] == [1, 2, 3, 4, 5, 6]

@pytest.mark.parametrize('at', some([2, 4], 2))
def test_evaluations_are_kept(at, tmp_path):
    "Rows of steps up to the checkpoint keep what their evaluation said"
    t = trainer(tmp_path/'run', eval_steps=1)
    t.train()
    again = trainer(tmp_path/'run', eval_steps=1, max_steps=5)
    again.train(resume_from_checkpoint=str(tmp_path/f'run/checkpoint-{at}'))
    assert ['eval_reward' in m for m in again.run.metrics()] == [True]*5

def test_an_evaluation_that_was_cut_off_is_made_up_for(tmp_path, monkeypatch):
    t = trainer(tmp_path/'run', eval_steps=2, save_steps=0)
    def interrupted(): raise KeyboardInterrupt
    monkeypatch.setattr(t, 'evaluate', interrupted)
    assert t.train()['interrupted'] and t.run.checkpoints()[-1].name == 'checkpoint-2'
    again = trainer(tmp_path/'run', eval_steps=2)
    again.train(resume_from_checkpoint=True)
    assert ['eval_reward' in m for m in again.run.metrics()] == [False, True, False, True]

TABLES = {
    'half': lambda p: halve(p/'step-000002.parquet'),
    'empty': lambda p: (p/'step-000002.parquet').write_bytes(b''),
    'zeros': lambda p: zero(p/'step-000002.parquet'),
    'a text': lambda p: (p/'step-000002.parquet').write_text('step,reward'),
    'a directory': lambda p: a_directory(p/'step-000002.parquet')}
STRANGERS = ('step-x.parquet', 'step-.parquet', 'other.parquet', 'step-000009.parquet.part', 'step-1e3.parquet')

@pytest.mark.parametrize('case', some(TABLES, 'half'))
def test_tables_of_rollouts(case, runs, tmp_path, caplog):
    shutil.copytree(runs('whole'), tmp_path/'run')
    run = Run(tmp_path/'run')
    TABLES[case](run.path/'rollouts')
    for name in STRANGERS: (run.path/'rollouts'/name).write_bytes(b'PAR1')
    assert sorted({r['step'] for r in run.rollouts()}) == [1, 3, 4]
    assert 'step-000002.parquet' in caplog.text
    with pytest.raises(ValueError, match='is damaged or no Parquet table'): run.rollouts(2)
    assert trainer(run.path, max_steps=5).train(resume_from_checkpoint=True)['step'] == 5

@pytest.mark.parametrize('text', ['', '{', '[', '\0\0', '\xff', 'null'])
def test_json_files(text, tmp_path):
    "summary.json and its like"
    (tmp_path/'summary.json').write_bytes(text.encode('latin1'))
    with pytest.raises(ValueError, match='summary.json.* is damaged'): Record(tmp_path).read('summary.json')
