"JupyterLab or Notebook with a notebook in it, and Chromium to look at it: for tests marked `browser`"
import json, os, re, secrets, shutil, subprocess, sys, time, urllib.request
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
CHROMIUM = os.environ.get('GRPO_LIT_CHROMIUM') or next(filter(None, map(shutil.which, NAMES)), None)
TALL = dict(width=1280, height=3600)

def what_is_missing(*modules) -> str: # '' where nothing is
    "Why these tests cannot run here"
    absent = [name for name in ('playwright', *modules) if find_spec(name) is None]
    if absent: return f'not installed: {", ".join(absent)}'
    return '' if CHROMIUM else 'there is no Chromium: install it, or name it in GRPO_LIT_CHROMIUM'

def needs(*modules):
    "Skip a whole file of tests where something is missing"
    if why := what_is_missing(*modules): pytest.skip(why, allow_module_level=True)

def picture(page, name):
    "A screenshot, where the environment names a folder for them"
    if where := os.environ.get('GRPO_LIT_SHOTS'): page.screenshot(path=f'{where}/{name}.png')

# Chromium ----------------------------------------------------------------------------------------------------------------

def listen(page):
    "Lists of what went wrong on a page, and of what it asked of other machines"
    page.errors, page.outside = [], []
    def asked(request):
        if not re.match(r'(https?|wss?)://(127\.0\.0\.1|localhost)[:/]|data:|blob:|about:|file:', request.url): page.outside.append(request.url)
    page.on('pageerror', lambda e: page.errors.append(str(e)))
    page.on('request', asked)
    return page

@contextmanager
def chromium(**options):
    "A page of Chromium"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        try: yield listen(browser.new_page(**dict(viewport=dict(width=1280, height=1000)) | options))
        finally: browser.close()

def until(page, what, seconds=60):
    "Wait for it; returns what it returned"
    end = time.monotonic()+seconds
    while time.monotonic() < end:
        if found := what(): return found
        page.wait_for_timeout(200)
    picture(page, 'missing')
    raise AssertionError('it did not come: '+page.inner_text('.jp-Notebook')[-2000:])

# A server ----------------------------------------------------------------------------------------------------------------

def write_notebook(path, *cells):
    "A notebook of code cells"
    code = [dict(cell_type='code', id=f'cell{i}', metadata={}, execution_count=None, outputs=[], source=c) for i, c in enumerate(cells)]
    spec = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    Path(path).write_text(json.dumps(dict(cells=code, metadata=spec, nbformat=4, nbformat_minor=5)))
    return Path(path)

class Server:
    "Where it listens"
    def __init__(self, address, token, app): self.address, self.token, self.app = address, token, app

    def page_of(self, name):
        where = dict(lab=f'lab/tree/{name}?reset&', notebook=f'notebooks/{name}?')[self.app]
        return f'{self.address}{where}token={self.token}'

    def asks(self, what, method='GET'):
        "Of its API"
        request = urllib.request.Request(f'{self.address}api/{what}', b'' if method == 'POST' else None, method=method,
                                         headers=dict(Authorization=f'token {self.token}'))
        answer = urllib.request.urlopen(request, timeout=30).read()
        return json.loads(answer) if answer else None

@contextmanager
def server(folder, app='lab'): # or 'notebook'
    "JupyterLab, or Notebook 7, over this folder"
    root, token = str(Path(__file__).resolve().parent.parent), secrets.token_hex(16)
    places = {f'JUPYTER_{name.upper()}_DIR': str(folder/f'.{name}') for name in ('config', 'data', 'runtime')}
    arrange(folder/'.config')
    env = os.environ | places | dict(PYTHONPATH=root, IPYTHONDIR=str(folder/'.ipython'), OMP_NUM_THREADS='1', JUPYTER_TOKEN=token)
    command = [sys.executable, '-m', 'jupyter', app, '--no-browser', '--allow-root', '--port=0', '--ip=127.0.0.1', '--expose-app-in-browser',
               f'--ServerApp.root_dir={folder}', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    log = open(folder/'.server.log', 'w+')
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield Server(_address(process, folder/'.server.log'), token, app)
    finally:
        process.terminate()
        try: process.wait(20)
        except subprocess.TimeoutExpired: process.kill()
        log.close()

def arrange(config):
    "Cells that are not seen are drawn too, for tests read them; and nobody asks about news"
    for name, settings in {'notebook-extension/tracker': dict(windowingMode='none'),
                           'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False)}.items():
        file = config/'lab'/'user-settings'/'@jupyterlab'/f'{name}.jupyterlab-settings'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))

def _address(process, log, seconds=120):
    "Where the server listens, once it does"
    end = time.monotonic()+seconds
    while time.monotonic() < end:
        if process.poll() is not None: raise RuntimeError(f'the server ended: {log.read_text()[-2000:]}')
        if found := re.search(r'http://127\.0\.0\.1:\d+/', log.read_text()):
            try:
                urllib.request.urlopen(found[0]+'api', timeout=5)
                return found[0]
            except OSError: pass
        time.sleep(.3)
    raise TimeoutError(log.read_text()[-2000:])

# A notebook in it ----------------------------------------------------------------------------------------------------------

CELL = "[...document.querySelectorAll('.jp-Notebook .jp-Cell')]"

def open_notebook(page, server, name, kernel=True):
    "The notebook, with its kernel ready; what the application complained of until then is its own"
    page.goto(server.page_of(name))
    page.wait_for_function('window.jupyterapp !== undefined', timeout=90_000)
    page.wait_for_selector('.jp-Notebook .jp-Cell', timeout=90_000)
    if kernel: page.wait_for_function("window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", timeout=90_000)
    page.errors.clear()

def command(page, name):
    "One of the notebook's commands; returns at once"
    page.evaluate(f"() => {{ window.jupyterapp.commands.execute('{name}') }}")

def start_all(page):
    "Run all cells; returns at once"
    page.wait_for_function("![...document.querySelectorAll('.jp-InputPrompt')].some(e => e.textContent.includes('*'))") # an error takes with it what is queued
    command(page, 'notebook:run-all-cells')

def start_cell(page, n):
    page.evaluate(f'window.jupyterapp.shell.currentWidget.content.activeCellIndex = {n}')
    command(page, 'notebook:run-cell')

def run_all(page, seconds=180):
    "Run the notebook's cells; returns when none is waiting"
    start_all(page)
    page.wait_for_function("""() => {
        const marks = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')].map(e => e.textContent)
        return marks.length && marks.every(m => /\\[\\d+\\]/.test(m)) }""", timeout=1000*seconds)

def save(page, file, contains=''):
    "Save the notebook; returns its text"
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    until(page, lambda: contains in file.read_text())
    page.wait_for_timeout(500)
    return file.read_text()

def outputs(page, cell):
    "The texts of a cell's outputs"
    return page.evaluate(f"[...({CELL}[{cell}]?.querySelectorAll('.jp-OutputArea-child') ?? [])].map(e => e.innerText)")

def images(page, cell):
    "Widths of the pictures of a cell, as they were decoded"
    return page.evaluate(f"[...({CELL}[{cell}]?.querySelectorAll('img') ?? [])].map(e => e.naturalWidth)")

def midway(texts, last):
    "The texts, if one of them is a run between its second step and its last: which steps are drawn is left to the pace"
    steps = [int(n) for t in texts if 'running' in t for n in re.findall(rf'step (\d+)/{last}\b', t)]
    return texts if any(2 <= n < last for n in steps) else []

def kept(page):
    "The outputs of all code cells, as the notebook would store them"
    return page.evaluate("window.jupyterapp.shell.currentWidget.content.model.sharedModel.toJSON().cells.filter(c => c.cell_type == 'code').map(c => c.outputs)")
