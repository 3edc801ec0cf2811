"""Pages of the site: the source of a cell is folded behind its own documentation."""
import sys
from pathlib import Path
from types import SimpleNamespace
import pytest
pytest.importorskip('nbdev')
sys.path.append(str(Path(__file__).parent.parent/'tools'))
from api_table import SourceBehindDocs

def cell(name): return SimpleNamespace(name=name, has_sd=name.startswith('doc'), directives_={} if name.startswith('doc') else {'exports': []})

@pytest.mark.parametrize('before, after', [
    ('a doc_a b doc_b', 'doc_a a doc_b b'),
    ('a doc_a1 doc_a2 b doc_b c', 'doc_a1 doc_a2 a doc_b b c'),
    ('a b doc_b c doc_c', 'a doc_b b doc_c c')])
def test_the_source_of_a_cell_stands_behind_its_own_documentation(before, after):
    moved = SimpleNamespace(nb=SimpleNamespace(cells=[cell(name) for name in before.split()]))
    SourceBehindDocs.begin(moved)
    assert [c.name for c in moved.nb.cells] == after.split()
