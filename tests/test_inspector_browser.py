"The inspector in JupyterLab, worked by Chromium: hover a token, walk with the keys, turn epsilon"
import json
import pytest
from browsers import chromium, needs, open_notebook, picture, run_all, server, start_cell, write_notebook

pytestmark = pytest.mark.browser
needs('jupyterlab')

SETUP = '''
import json, warnings
warnings.filterwarnings('ignore')
import torch
torch.set_num_threads(1)
from dataclasses import replace
from grpo_lit.loss import grpo_loss
from grpo_lit.policy import load_policy
from grpo_lit.seeing.inspector import inspect
from grpo_lit.seeing.readings import Readings
from grpo_lit.seeing.walk import four_figures
first = four_figures(*load_policy('tiny', device='cpu'))
tokens = [first.tokens[0], ['<script>window.hacked=1</script>', *first.tokens[1][1:]], *first.tokens[2:]]
class Two:
    steps = [1, 2]
    def at(self, step): return replace(first, step=step, tokens=tokens)
logps = first.new_logps.clone().requires_grad_()
loss, _ = grpo_loss(logps, first.advantages, first.mask, first.logps, first.ref_logps, **first.options)
loss.backward()
json.dump([f'{x:.5g}' for x in logps.grad[0].tolist()], open('gradients.json', 'w'))
'''
CELLS = [SETUP, "look = inspect(Readings(Two()))\nlook", "json.dump(dict(step=look.step, row=look.row, t=look.t, changes=look.panel().changes()), open('stands.json', 'w'))"]

def test_the_inspector_in_jupyterlab(tmp_path):
    write_notebook(tmp_path/'look.ipynb', *CELLS)
    with server(tmp_path) as jupyter, chromium(viewport=dict(width=1280, height=1400)) as page:
        open_notebook(page, jupyter, 'look.ipynb')
        run_all(page)
        cell = page.locator('.jp-Notebook .jp-Cell').nth(1)
        token = cell.locator('.text [tabindex]').nth(2)
        token.wait_for(timeout=60_000)
        gradients = json.loads((tmp_path/'gradients.json').read_text())
        token.hover()
        assert f'gradient {gradients[2]}'.replace('-', '−') in token.get_attribute('title').replace('e-0', 'e-')
        token.focus() # what a finger does: the numbers stand below
        shown = page.evaluate("() => getComputedStyle(document.activeElement, '::after').content")
        assert 'log-prob' in shown
        picture(page, 'inspector')
        handles = cell.locator('.widget-slider .noUi-handle')
        place = cell.locator('.widget-slider', has_text='completion').locator('.noUi-handle').first
        place.focus()
        page.keyboard.press('ArrowRight')
        cell.locator('text=window.hacked').first.wait_for(timeout=20_000)
        assert page.evaluate('() => window.hacked') is None
        epsilon = cell.locator('.widget-slider', has_text='epsilon').locator('.noUi-handle').first
        before = cell.locator('.widget-tab').inner_text()
        epsilon.focus()
        for _ in range(19): page.keyboard.press('ArrowLeft')
        page.wait_for_timeout(3000)
        assert cell.locator('.widget-tab').inner_text() != before
        picture(page, 'inspector_rules')
        start_cell(page, 2)
        page.wait_for_timeout(2000)
        stands = json.loads((tmp_path/'stands.json').read_text())
        assert stands['row'] == 1 and stands['changes']['epsilon'] < .1
        assert page.errors == page.outside == []
        assert handles.count() >= 5
