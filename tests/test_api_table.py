"""Pages of the site: the source of a cell is folded behind its own documentation."""
import sys
from pathlib import Path
from types import SimpleNamespace
import pytest

tools = Path(__file__).resolve().parent.parent/'tools'
sys.path.append(str(tools))
pytest.importorskip('nbdev')
SourceBehindDocs = pytest.importorskip('api_table', reason='only in a clone').SourceBehindDocs

def cell(name):
    "One that is exported, or the documentation of one"
    doc = name.startswith('doc')
    return SimpleNamespace(name=name, has_sd=doc, directives_={} if doc else {'exports': []})

@pytest.mark.parametrize('before, after', [
    ('a doc_a b doc_b', 'doc_a a doc_b b'),
    ('a doc_a1 doc_a2 b doc_b c', 'doc_a1 doc_a2 a doc_b b c'),
    ('a b doc_b c doc_c', 'a doc_b b doc_c c')])
def test_the_source_of_a_cell_stands_behind_its_own_documentation(before, after):
    moved = SimpleNamespace(nb=SimpleNamespace(cells=[cell(name) for name in before.split()]))
    SourceBehindDocs.begin(moved)
    assert [c.name for c in moved.nb.cells] == after.split()
