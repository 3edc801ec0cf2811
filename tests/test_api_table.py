"""Pages of the site: what stands where, what is a link, what is text, and what a page leaves behind."""
import subprocess, sys
from pathlib import Path
from types import SimpleNamespace
import pytest

tools = Path(__file__).resolve().parent.parent/'tools'
sys.path.append(str(tools))
pytest.importorskip('nbdev')
api_table = pytest.importorskip('api_table', reason='only in a clone')
import nb_md # noqa: E402

SourceBehindDocs = api_table.SourceBehindDocs

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

# --- what a page makes of names and tags

def test_what_looks_like_a_tag_is_text():
    "Where a browser would take it for one, it is not seen at all"
    assert api_table.tagless('between <think> and </think>, not `<b>`,<br>if a < b') == 'between &lt;think> and &lt;/think>, not `<b>`,<br>if a < b'

def test_a_word_is_no_name_unless_the_page_has_it():
    "`look` is what a finding says, and a function of another chapter"
    assert nb_md.Meant('')['look'] is None and nb_md.Meant('')['group_advantages']
    for code in ('from grpo_lit.rewards.process import look', 'def look(): pass'): assert nb_md.Meant(code)['look']

ONE_PAGE = """
import atexit, sys, threading
sys.path.append(sys.argv[1])
import nb_md
page = nb_md.Executed(nb_md.read_nb(nb_md.nbs/'1_line/05_finite.ipynb'))
page.begin()
page.end()
left = atexit._ncallbacks()
atexit.unregister(page.k.atexit_operations)
assert left == atexit._ncallbacks()
assert 'CaptureShell-loop' not in [t.name for t in threading.enumerate()]
"""

def test_a_shell_ends_with_its_page():
    "Hundreds of them took minutes to end when all pages were there; in a process of its own, which is a notebook from then on"
    subprocess.run([sys.executable, '-c', ONE_PAGE, str(tools)], check=True)
