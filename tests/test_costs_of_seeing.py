"What it costs to look: time in a step, memory and the size of files over 2,000 steps with display, recording and control"
import json
import pytest

pytestmark = pytest.mark.slow
nbformat, nbclient = pytest.importorskip('nbformat'), pytest.importorskip('nbclient')
pytest.importorskip('psutil')

SETUP = '''
import functools, gc, json, os, random, time, warnings
warnings.filterwarnings('ignore')
import psutil, torch
torch.set_num_threads(1)
from transformers import LlamaConfig, LlamaForCausalLM
from grpo_lit import GRPOConfig, GRPOTrainer
from grpo_lit.policy import tiny_tokenizer
from grpo_lit.run.display import View
from grpo_lit.seeing.desk import Desk
from grpo_lit.tasks import addition_task

def small_model(tokenizer):
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2)
    ids = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **sizes, **ids))

def uneven(completions, **kw): return [c.count('1')+random.random() for c in completions] # no group is ever dead: the run would end
memory, drawn = {}, [0.]
def measure(trainer, m):
    if m['step']%100 == 0:
        gc.collect()
        memory[m['step']] = psutil.Process().memory_info().rss/2**20

def timed(f):
    "The same, its time of the CPU counted"
    @functools.wraps(f)
    def counted(*args):
        began = time.thread_time()
        try: return f(*args)
        finally: drawn[0] += time.thread_time()-began
    return counted
View.draw, Desk.draw = timed(View.draw), timed(Desk.draw)

def make(name, steps):
    tokenizer = tiny_tokenizer()
    args = GRPOConfig(name, max_steps=steps, per_device_train_batch_size=4, num_generations=2, max_completion_length=4, use_cpu=True,
                      gold_check=0, learning_rate=1e-3, save_strategy='no')
    return GRPOTrainer(small_model(tokenizer), uneven, args, addition_task(64, 8).train, processing_class=tokenizer, callbacks=[measure])

def told(began): print(json.dumps(dict(drawn=drawn[0], cpu=time.process_time()-began[0], wall=time.monotonic()-began[1], memory=memory)))
'''
SHOWN = '''
began = time.process_time(), time.monotonic()
_ = make('shown', {steps}).train()'''
STEERED = '''
began = time.process_time(), time.monotonic()
control = make('steered', {steps}).control()
display(control)
control.start()
for k in range(10):
    while control.trainer.state.step < 100*k+1: control.wait(.05)
    control.set(beta=.01*(k+1))
_ = control.wait(550)'''

def run(folder, cell, steps):
    "A notebook with this cell, run in a kernel; returns what it told, and the notebook"
    cells = [SETUP, cell.format(steps=steps), 'told(began)']
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbclient.NotebookClient(nb, timeout=590, kernel_name='python3', resources=dict(metadata=dict(path=str(folder)))).execute()
    return json.loads(nb.cells[2].outputs[0].text), nb

@pytest.mark.parametrize('name, cell', [('shown', SHOWN), ('steered', STEERED)], ids=['shown', 'steered'])
def test_two_thousand_steps(name, cell, tmp_path):
    found, nb = run(tmp_path, cell, 2000)
    memory = {int(k): v for k, v in found['memory'].items()}
    size = len(nbformat.writes(nb).encode())
    share = found['drawn']/found['cpu']
    recorded = sum(f.stat().st_size for f in (tmp_path/name).rglob('*') if f.is_file())
    print(f'\n{name}: {found["wall"]/2000*1000:.0f} ms a step, {share:.2%} of its CPU time in drawing; memory {memory[200]:.0f} MB after 200 steps, '
          f'{memory[2000]:.0f} MB after 2000; notebook {size/1e3:.0f} kB; run directory {recorded/1e6:.1f} MB')
    assert share < .03 # it is paced by its own time: 2 % by design
    assert max(memory[k] for k in memory if k > 200)-memory[200] < 50
    assert size < 1_000_000
    rows = (tmp_path/name/'metrics.jsonl').read_text().splitlines()
    assert len(rows) == 2000
    if name == 'steered': assert len((tmp_path/name/'events.jsonl').read_text().splitlines()) == 10

def test_a_page_of_a_long_run(tmp_path):
    from grpo_lit.seeing.page import write_page
    run(tmp_path, SHOWN, 50)
    page = write_page(tmp_path/'shown', tmp_path/'page.html')
    assert page.stat().st_size < 1_000_000
    assert len(list((tmp_path/'shown'/'tokens').glob('*.parquet'))) == 50
    print(f'\npage of 50 steps: {page.stat().st_size/1e3:.0f} kB')
