"The live run in JupyterLab, seen by Chromium: while it trains, at the end, in a notebook that is not trusted, from a thread, from another process"
import json
import pytest
from browsers import TALL, chromium, images, midway, needs, open_notebook, outputs, picture, save, server, start_all, until, write_notebook

pytestmark = pytest.mark.browser
needs('jupyterlab')

from grpo_lit.run.figures import Curve
from grpo_lit.run.sparks import spark

SETUP = '''
import threading, time, warnings
warnings.filterwarnings('ignore')
import torch
torch.set_num_threads(1)
from grpo_lit import GRPOConfig, GRPOTrainer, load_policy
from grpo_lit.run.watch import watch
from grpo_lit.tasks import addition_task
def short(completions, **kw): return [-float(len(c)) for c in completions]
def formula(completions, **kw): return [float(i%2) for i, c in enumerate(completions)]
def slow(trainer, m): time.sleep(.3)
def make(name, steps, callbacks=(slow,)):
    model, tokenizer = load_policy('tiny', device='cpu')
    args = GRPOConfig(name, max_steps=steps, per_device_train_batch_size=8, num_generations=4, max_completion_length=16,
                      use_cpu=True, gold_check=0, learning_rate=1e-3, overwrite_output_dir=True)
    return GRPOTrainer(model, [short, formula], args, addition_task(64, 8).train, processing_class=tokenizer, callbacks=list(callbacks))
'''
CELLS = [SETUP, "_ = make('first', 12).train()", # 1
         '''threaded = make('second', 12)
thread = threading.Thread(target=threaded.train)
thread.start()''', # 2
         "print('another cell')\nthread.join()", # 3
         "watch('first')", # 4
         '''def breaks(trainer, m):
    if m['step'] == 3: raise KeyError('<i>mine</i>')
_ = make('third', 5, [breaks]).train()'''] # 5

def all_in(folder, dark=False):
    "Run the notebook cell by cell, looking while it trains"
    write_notebook(folder/'live.ipynb', *CELLS)
    with server(folder) as jupyter, chromium(viewport=TALL, color_scheme='dark' if dark else 'light') as page:
        open_notebook(page, jupyter, 'live.ipynb')
        start_all(page)
        middle = until(page, lambda: midway(outputs(page, 1), 12))
        picture(page, 'mid')
        until(page, lambda: any('done' in t for t in outputs(page, 1)))
        assert len(middle) == len(outputs(page, 1)) == 1 and 'running' in middle[0] and 'ETA' in middle[0]
        assert len(images(page, 1)) >= 8 and set(images(page, 1)) == {168}
        picture(page, 'end')
        of_both = lambda: outputs(page, 2)+outputs(page, 3) # the kernel gives what a thread shows to the cell that runs at that moment
        until(page, lambda: any('done' in t for t in of_both()) and any('another cell' in t for t in of_both()))
        assert sum('step' in t for t in of_both()) == 1
        until(page, lambda: any('failed: KeyError' in t for t in outputs(page, 5)))
        assert 'step 12/12' in outputs(page, 4)[0]
        start_all(page)                                     # once more: displays of their own
        until(page, lambda: any('running' in t for t in outputs(page, 1)))
        until(page, lambda: any('done' in t for t in outputs(page, 1)))
        assert len(outputs(page, 1)) == 1
        save(page, folder/'live.ipynb', 'step 12/12')
        return page.errors+page.outside

def test_live(tmp_path):
    errors = all_in(tmp_path)
    saved = (tmp_path/'live.ipynb').read_text()
    assert errors == [] and len(saved) < 300_000 and '<script' not in saved and 'application/vnd.jupyter.widget' not in saved
    kept = json.loads(saved)['cells'][1]['outputs']
    assert len(kept) == 1 and 'done' in ''.join(kept[0]['data']['text/plain'])
    there = tmp_path/'elsewhere'
    there.mkdir()
    cells = json.loads(saved)
    for c in cells['cells']: c['metadata'].pop('trusted', None)
    (there/'untrusted.ipynb').write_text(json.dumps(cells))
    with server(there) as jupyter, chromium(viewport=TALL, color_scheme='dark') as page: # who has not run it does not trust it
        open_notebook(page, jupyter, 'untrusted.ipynb')
        until(page, lambda: len(images(page, 1)) >= 8)
        assert set(images(page, 1)) == {168} and 'step 12/12' in outputs(page, 1)[0] and 'a step:' in outputs(page, 1)[0]
        wide = page.evaluate("document.querySelectorAll('.jp-Notebook .jp-Cell')[1].querySelector('div[style*=\"height:10px\"], div[style*=\"height: 10px\"]')?.offsetWidth || 0")
        assert wide > 10 # the strip of phases has kept its sizes
        picture(page, 'untrusted')

@pytest.mark.parametrize('title', ['reward', 'reward (a_long_name_of_a_function)', '報酬'*20])
@pytest.mark.parametrize('now', [(.5,), (-12.345, 10.5)])
def test_a_long_name_leaves_room_for_its_value(title, now):
    curve = Curve(title, [(1, *now), (2, *now)], now, '.3f')
    with chromium() as page:
        page.set_content(spark(curve, 1, 2))
        value, whole = [page.evaluate(f"document.querySelector('{x}').getBoundingClientRect().right") for x in ('b', 'div')]
        assert page.inner_text('b') == curve.text() and value <= whole
