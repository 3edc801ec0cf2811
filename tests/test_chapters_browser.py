"The chapters about seeing and steering, run whole in JupyterLab as a reader would, stored, and opened again without running"
import shutil
from pathlib import Path
import pytest
from browsers import chromium, kept, needs, open_notebook, picture, run_all, save, server

pytestmark = pytest.mark.browser
needs('jupyterlab', 'trl', 'peft', 'math_verify')

BOOK = Path(__file__).resolve().parent.parent/'nbs'
NAMES = 'display watch shades walk beside summands rules hits inspector sliders ask owner control desk'.split()
CHAPTERS = sorted(f for name in NAMES for f in BOOK.glob(f'[56]_*/*_{name}.ipynb'))
WIDGET = 'application/vnd.jupyter.widget-view+json'

@pytest.fixture(scope='module')
def book(tmp_path_factory):
    "A server over copies of the chapters, and one browser"
    folder = tmp_path_factory.mktemp('book')
    for chapter in CHAPTERS: shutil.copy(chapter, folder)
    with server(folder) as jupyter, chromium() as page: yield folder, jupyter, page

def close(jupyter, page):
    "Leave no kernel behind"
    page.goto('about:blank')
    for kernel in jupyter.asks('kernels'): jupyter.asks(f"kernels/{kernel['id']}", 'DELETE')
    page.errors.clear(), page.outside.clear()

@pytest.mark.parametrize('name', [c.name for c in CHAPTERS])
def test_a_chapter(name, book):
    folder, jupyter, page = book
    try:
        open_notebook(page, jupyter, name)
        run_all(page, 300)
        page.wait_for_timeout(1000)
        stored = kept(page)
        broken = [' '.join(o['traceback'])[-2000:] for cell in stored for o in cell if o['output_type'] == 'error']
        assert broken == []
        live = [sum('step ' in text_of(o) and 'ETA' in text_of(o) for o in cell) for cell in stored]
        assert max(live) <= 1 # one display for a run
        assert page.errors == page.outside == []
        picture(page, f'chapter-{name[:-6]}')
        saved = save(page, folder/name)
        assert len(saved.encode()) < 1_000_000
        without_words = [o for cell in stored for o in cell if WIDGET in o.get('data', {}) and 'text/html' not in o['data']]
        assert without_words == []
    finally: close(jupyter, page)

def text_of(output): return ''.join(output.get('data', {}).get('text/plain', ''))
