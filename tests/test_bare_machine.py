"""Training on given rows where little more than torch and transformers is installed, as on a borrowed GPU machine."""
import functools, json, subprocess, sys
import pytest

ABSENT = ['trl', 'datasets', 'fastcore', 'dill', 'multiprocess', 'matplotlib', 'ipywidgets', 'IPython', 'nbdev',
          'math_verify', 'latex2sympy2_extended', 'peft']

BARE = '''
import json, sys
absent = set(json.loads(sys.argv[1]))
class Without: # A finder that does not find them
    def __init__(self, finder): self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in absent: return None
        return self.finder.find_spec(name, path, target)
    def __getattr__(self, name): return getattr(self.finder, name)
sys.meta_path[:] = [Without(o) for o in sys.meta_path]
'''

ROWS = '''
rows = [dict(prompt=f'{a}+{a+3}=?', answer=str(2*a+3)) for a in range(10, 42)]
def small(**settings):
    return dict(max_steps=2, num_generations=4, per_device_train_batch_size=8, max_completion_length=24, use_cpu=True,
                disable_tqdm=True) | settings
'''

@functools.cache
def bare(code, everything=False):
    "The JSON that `code` prints in an interpreter without these packages, or with them"
    absent = [] if everything else ABSENT
    done = subprocess.run([sys.executable, '-c', BARE+ROWS+code, json.dumps(absent)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])

TRAIN = '''
from grpo_lit import GRPOConfig, GRPOTrainer, accuracy_reward, sample_groups
from grpo_lit.run.evaluate import evaluate
trainer = GRPOTrainer('tiny', accuracy_reward, GRPOConfig(**small(eval_steps=1)), rows, rows[:4])
trainer.train()
ro = sample_groups(trainer.model, trainer.tokenizer, [rows[0]['prompt']], 3, 8)
result = evaluate(trainer.model, trainer.tokenizer, rows[:4], 2, max_completion_length=16)
print(json.dumps(dict(losses=[m['loss'] for m in trainer.history], rows=len(ro), accuracy=result.accuracy,
                      there=sorted(absent & {m.partition('.')[0] for m in sys.modules}))))
'''

def test_train_sample_evaluate():
    found = bare(TRAIN)
    assert len(found['losses']) == 2 and found['rows'] == 3 and 0 <= found['accuracy'] <= 1
    assert found['there'] == []

@pytest.mark.slow
def test_the_same_bits_as_with_everything():
    assert bare(TRAIN)['losses'] == bare(TRAIN, everything=True)['losses']

FILES = '''
import tempfile
from pathlib import Path
from grpo_lit import GRPOConfig, GRPOTrainer, load_policy, think_format_reward, token_logps, grpo_loss, group_advantages
out = Path(tempfile.mkdtemp())
settings = small(max_steps=3, output_dir=str(out/'run'), save_steps=1, num_iterations=2, report_to='none')
trainer = GRPOTrainer('tiny', think_format_reward, GRPOConfig(**settings), rows)
trainer.train()
trainer.save_model(str(out/'model'))
again = GRPOTrainer('tiny', think_format_reward, GRPOConfig(**settings | dict(output_dir=None, save_steps=0)), rows)
again.load_checkpoint(trainer.run.path/'checkpoint-1')
for _ in again.steps(): pass
model, _ = load_policy(str(out/'model'), device='cpu')
pairs = zip(trainer.model.parameters(), again.model.parameters())
same = all(bool((a == b).all()) for a, b in pairs)
print(json.dumps(dict(same=same, numbers=sum(p.numel() for p in model.parameters()))))
'''

@pytest.mark.slow
def test_checkpoint_resume_and_saved_model():
    found = bare(FILES)
    assert found['same'] and found['numbers'] > 1e5

RENAMED = '''
from grpo_lit import GRPOConfig
from grpo_lit.run.from_trl import Renamed, OlderNames
from grpo_lit.run.settings import AllSettings, setting_comments
args = GRPOConfig(**small(per_device_eval_batch_size=4))
renamed = setting_comments(Renamed) | setting_comments(OlderNames)
print(json.dumps(dict(comments=setting_comments(AllSettings), renamed=renamed)))
'''

def test_comments_of_settings_are_read_without_fastcore():
    "TRL's names are translated by the comments that stand beside them"
    from fastcore.docments import docments
    from grpo_lit.run.settings import AllSettings
    sections = [o for o in reversed(AllSettings.__mro__) if o is not object]
    said = {k: ' '.join(v.split()) for o in sections for k, v in docments(o, returns=False).items() if v}
    assert bare(RENAMED)['comments'] == said

ASKED = '''
import pathlib
said = ''
try:
    {code}
except Exception as e:
    said = f'{{type(e).__name__}}: {{e}}'
print(json.dumps(said))
'''

@pytest.mark.parametrize('code, names', [
    ("from grpo_lit.policy import add_lora, load_policy; add_lora(load_policy('tiny', device='cpu')[0])", 'peft'),
    ("from grpo_lit import load_task; load_task('gsm8k')", 'datasets'),
    ("from grpo_lit import plot_run; plot_run('.')", 'matplotlib')])
def test_what_does_need_a_package_names_it(code, names):
    said = bare(ASKED.format(code=code))
    assert names in said, said
