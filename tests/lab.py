"JupyterLab with a notebook in it, and Chromium to look at it: for tests marked `browser`"
import json, os, re, shutil, subprocess, sys, time, urllib.request
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')

def write_notebook(path, *cells):
    "A notebook of code cells"
    code = [dict(cell_type='code', id=f'cell{i}', metadata={}, execution_count=None, outputs=[], source=c) for i, c in enumerate(cells)]
    spec = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    Path(path).write_text(json.dumps(dict(cells=code, metadata=spec, nbformat=4, nbformat_minor=5)))
    return Path(path)

@contextmanager
def server(folder):
    "A JupyterLab over this folder; yields its address"
    root = str(Path(__file__).resolve().parent.parent)
    env = os.environ | dict(PYTHONPATH=root, JUPYTER_CONFIG_DIR=str(folder/'.config'), JUPYTER_DATA_DIR=str(folder/'.data'),
                            JUPYTER_RUNTIME_DIR=str(folder/'.runtime'), IPYTHONDIR=str(folder/'.ipython'), OMP_NUM_THREADS='1')
    command = [sys.executable, '-m', 'jupyter', 'lab', '--no-browser', '--allow-root', '--port=0', '--ip=127.0.0.1',
               '--IdentityProvider.token=', '--ServerApp.password=', '--expose-app-in-browser', '--LabApp.news_url=', f'--ServerApp.root_dir={folder}',
               '--ServerApp.disable_check_xsrf=True', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    log = open(folder/'.server.log', 'w+')
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield _address(process, folder/'.server.log')
    finally:
        process.terminate()
        try: process.wait(20)
        except subprocess.TimeoutExpired: process.kill()
        log.close()

def _address(process, log, seconds=120):
    "Where the server listens, once it does"
    end = time.monotonic()+seconds
    while time.monotonic() < end:
        if process.poll() is not None: raise RuntimeError(f'JupyterLab ended: {log.read_text()[-2000:]}')
        if found := re.search(r'http://127\.0\.0\.1:\d+/', log.read_text()):
            try:
                urllib.request.urlopen(found[0]+'api', timeout=5)
                return found[0]
            except OSError: pass
        time.sleep(.3)
    raise TimeoutError(log.read_text()[-2000:])

@contextmanager
def chromium(**options):
    "A page of Chromium with lists of what went wrong on it"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        page = browser.new_page(**dict(viewport=dict(width=1280, height=1000)) | options)
        page.errors = []
        page.on('pageerror', lambda e: page.errors.append(str(e)))
        try: yield page
        finally: browser.close()

def open_notebook(page, address, name):
    "The notebook in JupyterLab, with its kernel ready"
    page.goto(f'{address}lab/tree/{name}?reset')
    page.wait_for_function('window.jupyterapp !== undefined', timeout=90_000)
    page.wait_for_selector('.jp-Notebook .jp-Cell', timeout=90_000)
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status=idle]', timeout=90_000)

def run_all(page):
    "Run the notebook's cells; returns when none is waiting"
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.wait_for_function("""() => {
        const marks = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')].map(e => e.textContent)
        return marks.length && marks.every(m => /\\[\\d+\\]/.test(m)) }""", timeout=180_000)
