"""The ways into each notebook: links that open it on Colab and on Kaggle, and a first cell that installs what is missing there.

    python tools/doors.py             # put both into every notebook, or bring them up to date
    python tools/doors.py --check     # fail when a notebook lacks them or has old ones

Both follow from settings.ini: where the repository is, and what pip installs (`install`).
"""
import argparse, json, sys
from configparser import ConfigParser
from pathlib import Path
from urllib.parse import quote

root = Path(__file__).resolve().parent.parent
ini = ConfigParser(delimiters=['='])
ini.read(root/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']

# `hide`: not on the site. `eval: false`: nbdev-test, the site and tools/run_nbs.py leave it out; Jupyter, Colab and Kaggle run it.
# pip gets the torch that is there as one more requirement, so it cannot take another. A clone around the notebook goes first.
first_cell = f'''\
#| hide
#| eval: false
import importlib.metadata, importlib.util, os, subprocess, sys
if not all(map(importlib.util.find_spec, ['grpo_lit', 'trl', 'math_verify', 'peft'])):
    clone = [o for o in ('.', '..', '../..') if os.path.exists(o+'/grpo_lit/__init__.py')]
    source = os.getenv('GRPO_LIT_SOURCE', [*clone, '{cfg['install']}'][0])
    torch = [f'torch=={{o.version}}' for o in importlib.metadata.distributions(name='torch')][:1]
    subprocess.check_call([sys.executable, '-m', 'pip', 'install', '-q', source, 'peft', *torch])'''

def notebooks():
    found = (root/cfg['nbs_path']).rglob('*.ipynb')
    return sorted(f for f in found if '.ipynb_checkpoints' not in f.parts)

def links(path):
    "The line of a notebook's title cell that leads to Colab and Kaggle"
    place = quote(path.relative_to(root).as_posix())
    file = f"{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}/{place}"
    return (f'[Open in Colab](https://colab.research.google.com/github/{file}) · '
            f'[Open in Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/{file})')

def lines(text):
    "As a notebook keeps its text"
    return text.splitlines(keepends=True)

def with_links(cell, path):
    "The title cell, ending with this notebook's links"
    kept = [o for o in ''.join(cell['source']).splitlines() if not o.startswith('[Open in Colab](')]
    text = '\n'.join(kept).rstrip()
    return {**cell, 'source': lines(f'{text}\n\n{links(path)}')}

def installs(cell):
    "Is it our first cell, of today or of another day?"
    return cell['cell_type']=='code' and 'GRPO_LIT_SOURCE' in ''.join(cell['source'])

def install_cell():
    return dict(cell_type='code', execution_count=None, id='install', metadata={}, outputs=[], source=lines(first_cell))

def with_doors(nb, path):
    "The notebook with both: the title, what it is about, the installing cell, and then its own"
    title, *rest = [c for c in nb['cells'] if not installs(c)]
    about = [c for c in rest[:1] if c['cell_type']=='markdown']
    return {**nb, 'cells': [with_links(title, path), *about, install_cell(), *rest[len(about):]]}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--check', action='store_true', help='change nothing; fail where something would change')
    p.add_argument('nbs', nargs='*', type=Path, help='notebooks (default: all)')
    a = p.parse_args()
    stale = []
    for f in [o.resolve() for o in a.nbs] or notebooks():
        nb = json.loads(f.read_text(encoding='utf-8'))
        new = with_doors(nb, f)
        if new == nb:
            continue
        stale.append(f)
        if not a.check:
            text = json.dumps(new, indent=1, sort_keys=True, ensure_ascii=False)
            f.write_text(text+'\n', encoding='utf-8')
    for f in stale:
        print(f.relative_to(root))
    if a.check and stale:
        sys.exit(1)

if __name__=='__main__':
    main()
