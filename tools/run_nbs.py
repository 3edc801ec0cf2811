"""Run notebooks in real kernels, skipping what nbdev-test skips, and save their outputs, cleaned.

    python tools/run_nbs.py [--flags "slow cuda"] [--check] [-j 2] [notebook or folder ...]
    python tools/run_nbs.py --tidy [notebook or folder ...]     # runs nothing, cleans the outputs that are there

nbdev-test is the quick check: it runs cells in-process, where `display(..., display_id=True)` updates,
`clear_output` and widgets leave one output per update. This runner stores the outputs that readers see, without folders and
addresses of this machine, and lets figures say what they show (tools/figure_words.py).
"""
import argparse, copy, os, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import nbformat
from fastcore.basics import str2bool
from fastcore.nbio import does_cell_eval, fm_default_eval, nb_frontmatter, read_nb
from nbclient import NotebookClient
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from outputs import tidy

class Client(NotebookClient):
    "A client that leaves out the cells named in `skip`"
    def __init__(self, *args, skip=(), **kw):
        super().__init__(*args, **kw)
        self.left_out = set(skip)

    async def async_execute_cell(self, cell, cell_index, **kw):
        if cell.id in self.left_out:
            return cell
        return await super().async_execute_cell(cell, cell_index, **kw)

def skipped(path, flags):
    "Ids of cells that do not run: `eval: false`, or marked by a test flag that was not asked for"
    nb = read_nb(path)
    fm = nb_frontmatter(nb)
    if str2bool(fm.get('skip_exec', False)):
        return [c.id for c in nb.cells]
    off = set(get_config().tst_flags.split()) - set(flags.split())
    default = fm_default_eval(fm)
    def skip(c): return not does_cell_eval(c, default) or any(c.has_directive(o) for o in off)
    return [c.id for c in nb.cells if c.cell_type == 'code' and skip(c)]

def execute(nb, path, flags, timeout):
    "Run the cells of `nb` in a kernel whose folder is that of `path`"
    where = dict(metadata=dict(path=str(path.parent)))
    arguments = ['--log-level=ERROR', '--IPKernelApp.extra_extensions=figure_words']
    Client(nb, kernel_name='python3', extra_arguments=arguments, skip=skipped(path, flags),
           timeout=timeout, resources=where).execute()

def run(path, flags='', check=False, timeout=None):
    "Run one notebook; returns an error text or None"
    t = time.time()
    nb = nbformat.read(path, as_version=4)
    try:
        execute(nb, path, flags, timeout)
    except Exception as e:
        return f'{path}: {type(e).__name__}: {e}'
    nb.metadata.pop('widgets', None) # random ids; the site shows a static picture instead
    tidy(nb)
    if not check:
        nbformat.write(nb, path)
        nbdev_clean(str(path))
    print(f'{path}: {time.time()-t:.1f} s', flush=True)

def tidied(path):
    "Clean the outputs that a notebook has, and say whether that changed something"
    nb = nbformat.read(path, as_version=4)
    before = copy.deepcopy(nb)
    tidy(nb)
    if nb != before:
        nbformat.write(nb, path)
        nbdev_clean(str(path))
        print(path)

def notebooks(path):
    "The notebooks of a folder, or `path` itself"
    found = sorted(path.rglob('[!_.]*.ipynb')) if path.is_dir() else [path]
    return [f for f in found if '.ipynb_checkpoints' not in f.parts]

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('nbs', nargs='*', help='notebooks or folders (default: all)')
    p.add_argument('--flags', default='', help='test flags whose cells run too, such as "slow cuda"')
    p.add_argument('--check', action='store_true', help='save nothing')
    p.add_argument('--tidy', action='store_true', help='run nothing; clean the outputs that are there')
    p.add_argument('-j', type=int, default=1, help='notebooks at a time')
    a = p.parse_args()
    os.environ['PYTHONPATH'] = os.pathsep.join([str(Path(__file__).parent), os.environ.get('PYTHONPATH', '')])
    os.environ['PYDEVD_DISABLE_FILE_VALIDATION'] = '1'
    paths = [Path(o) for o in a.nbs or [get_config().nbs_path]]
    nbs = [f for o in paths for f in notebooks(o)]
    if a.tidy:
        return [tidied(o) for o in nbs]
    with ThreadPoolExecutor(a.j) as ex:
        said = list(ex.map(lambda o: run(o, a.flags, a.check), nbs))
    errors = [o for o in said if o]
    if errors:
        sys.exit('\n'.join(errors))

if __name__ == '__main__':
    main()
