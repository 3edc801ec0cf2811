"The live run in Notebook 7: the same display as in JupyterLab"
import json
import pytest
from browsers import chromium, images, midway, needs, open_notebook, outputs, picture, save, server, start_all, until, write_notebook
from test_live_browser import SETUP

pytestmark = pytest.mark.browser
needs('notebook')

def test_the_same_display(tmp_path):
    file = write_notebook(tmp_path/'live.ipynb', SETUP, "_ = make('first', 12).train()", "control = make('second', 12).control()\ncontrol")
    with server(tmp_path, 'notebook') as jupyter, chromium() as page:
        open_notebook(page, jupyter, 'live.ipynb')
        start_all(page)
        middle, pictures = until(page, lambda: midway(outputs(page, 1), 12)), images(page, 1)
        picture(page, 'notebook7-mid')
        until(page, lambda: any('done' in t for t in outputs(page, 1)))
        assert len(middle) == len(outputs(page, 1)) == 1 and 'running' in middle[0] and 'ETA' in middle[0]
        assert len(pictures) >= 8 and set(pictures) == {168}
        cell = page.locator('.jp-Notebook .jp-Cell').nth(2)
        cell.get_by_role('button', name='Run', exact=True).click()
        until(page, lambda: 'done' in cell.inner_text() and 'step 12/12' in cell.inner_text())
        picture(page, 'notebook7-end')
        stored = json.loads(save(page, file, 'step 12/12'))['cells']
        assert len(stored[1]['outputs']) == 1 and 'done' in ''.join(stored[1]['outputs'][0]['data']['text/plain'])
        assert page.errors == page.outside == []
