"The desk in JupyterLab, worked by Chromium: run, turn, pause, ask, step, save, rewind, stop, and a run that breaks"
import json, os
import pytest
from browsers import chromium, needs, open_notebook, picture, server, start_cell, until, write_notebook

pytestmark = pytest.mark.browser
needs('jupyterlab')

SETUP = '''
import time, warnings
warnings.filterwarnings('ignore')
import torch
torch.set_num_threads(1)
from grpo_lit import GRPOConfig, GRPOTrainer
from grpo_lit.tasks import addition_task
def uneven(completions, **kw): return [len(c)/10+c.count('1') for c in completions]
def slow(trainer, m): time.sleep(.1)
def breaks(trainer, m):
    if m['step'] == 2: raise KeyError('<i>mine</i>')
def make(name, callback):
    args = GRPOConfig(name, max_steps=2000, per_device_train_batch_size=8, num_generations=4, max_completion_length=16, use_cpu=True, gold_check=0,
                      learning_rate=1e-3, lr_scheduler_type='constant', disable_tqdm=True, report_to='none')
    return GRPOTrainer('tiny', uneven, args, addition_task(64, 8).train, callbacks=[callback])
'''
CELLS = [SETUP, "control = make('run', slow).control()\ncontrol", "broken = make('broken', breaks).control()\nbroken"]


def rows(folder, name):
    file = folder/'run'/name
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

class Hand:
    "Works the desk of a cell"
    def __init__(self, page, cell): self.page, self.cell = page, page.locator('.jp-Notebook .jp-Cell').nth(cell)
    def press(self, name): self.cell.get_by_role('button', name=name, exact=True).click()
    def text(self): return self.cell.inner_text()
    def says(self, *words, seconds=90): return until(self.page, lambda: all(w in self.text() for w in words), seconds)

    def slide(self, n, share):
        "Drag the slider of knob n to a share of its way"
        track, handle = self.cell.locator('.widget-slider .noUi-base').nth(n), self.cell.locator('.widget-slider .noUi-handle').nth(n)
        a, b = track.bounding_box(), handle.bounding_box()
        y = b['y']+b['height']/2
        self.page.mouse.move(b['x']+b['width']/2, y)
        self.page.mouse.down()
        self.page.mouse.move(a['x']+share*a['width'], y, steps=5)
        self.page.mouse.up()


def test_a_hand_at_the_desk(tmp_path):
    write_notebook(tmp_path/'control.ipynb', *CELLS)
    with server(tmp_path) as jupyter, chromium(color_scheme=os.environ.get('GRPO_LIT_SCHEME', 'light')) as page:
        open_notebook(page, jupyter, 'control.ipynb')
        start_cell(page, 0)
        start_cell(page, 1)
        desk = Hand(page, 1)
        desk.says('Run', 'Pause', 'Stop and save', 'idle')
        desk.press('Run')
        until(page, lambda: len(rows(tmp_path, 'metrics.jsonl')) > 25) # far enough from the reference
        desk.says('running', 'step')
        desk.slide(0, .95) # beta: from .04 to about 5
        event, = until(page, lambda: rows(tmp_path, 'events.jsonl'))
        assert event['event'] == 'beta' and event['value'] > 1 and event['before'] == .04
        until(page, lambda: rows(tmp_path, 'metrics.jsonl')[-1]['step'] > event['step']+16)
        picture(page, 'control-mid')
        found = {m['step']: m for m in rows(tmp_path, 'metrics.jsonl')}
        assert found[event['step']-1]['beta'] == .04 and found[event['step']]['beta'] == event['value']
        kl = lambda last: sum(found[k]['kl'] for k in range(last-4, last+1)) # one step alone is noise
        assert kl(event['step']+16) < kl(event['step'])

        desk.press('Pause')
        desk.says('paused')
        step = rows(tmp_path, 'metrics.jsonl')[-1]['step']
        page.wait_for_timeout(1000)
        assert rows(tmp_path, 'metrics.jsonl')[-1]['step'] == step
        desk.cell.get_by_placeholder('ask policy and reference').fill('47+85=?')
        desk.press('Ask')
        desk.says('reference', f'after step {step}')
        desk.press('Step')
        until(page, lambda: rows(tmp_path, 'metrics.jsonl')[-1]['step'] == step+1)
        desk.press('Save')
        desk.says(f'checkpoint-{step+1}')
        desk.press('Step')
        until(page, lambda: rows(tmp_path, 'metrics.jsonl')[-1]['step'] == step+2)
        desk.press('Rewind')
        desk.says('back to')
        assert rows(tmp_path, 'metrics.jsonl')[-1]['step'] == step+1
        number = desk.cell.locator('input[type=number]').nth(2) # temperature
        number.fill('1.3')
        number.press('Enter')
        desk.says('temperature → 1.3')
        desk.press('Step')
        until(page, lambda: rows(tmp_path, 'metrics.jsonl')[-1].get('temperature') == 1.3)
        desk.press('Stop and save')
        desk.says('stopped', f'saved run/checkpoint-{step+2}')
        assert not (tmp_path/'run'/'run.lock').exists()
        picture(page, 'control-end')

        start_cell(page, 2)
        other = Hand(page, 2)
        other.press('Run')
        other.says('failed', 'KeyError')
        assert '<i>mine</i>' in other.text()
        other.cell.locator('summary').first.click()
        other.says('Traceback')
        picture(page, 'control-broken')
        assert page.errors == page.outside == []
