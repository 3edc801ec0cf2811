"""What readers see in the stored outputs of the notebooks: nothing of the machine on which they were made."""
import json, re
from pathlib import Path
import pytest

nbs = Path(__file__).parent.parent/'nbs'
books = sorted(f for f in nbs.rglob('*.ipynb') if '.ipynb_checkpoints' not in f.parts)

def texts(output):
    "Every text of an output"
    found = [output.get('text', ''), output.get('traceback', '')]
    found += [v for k, v in output.get('data', {}).items() if k.startswith('text/')]
    return [''.join(o) for o in found]

def outputs(book):
    cells = json.loads(book.read_text(encoding='utf-8'))['cells']
    return [o for c in cells for o in c.get('outputs', [])]

elsewhere = {
    'a temporary folder': r'/tmp/(tmp|ipykernel)|/var/folders/|\\Temp\\',
    'a home folder': r'/(home|Users)/\w+|/root/\w',
    'installed packages': r'(/[\w.-]+){2,}/site-packages',
    'an address in memory': r'\bat 0x[0-9a-fA-F]{6,}'}

@pytest.mark.parametrize('book', books, ids=lambda o: o.relative_to(nbs).as_posix())
def test_outputs_say_nothing_of_a_machine(book):
    found = [(why, m[0]) for o in outputs(book) for t in texts(o) for why, bad in elsewhere.items()
             if (m := re.search(bad, t))]
    assert not found, f'python tools/run_nbs.py --tidy {book}'

@pytest.mark.parametrize('book', books, ids=lambda o: o.relative_to(nbs).as_posix())
def test_outputs_are_what_the_cell_shows(book):
    "Warnings and progress of the run that stored them are left out"
    assert not [o for o in outputs(book) if o.get('name') == 'stderr']
