"""The book's order: one chain of chapters, imports that follow it, and the names that other projects rely on."""
import ast, json, re
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
import pytest

root = Path(__file__).parent.parent
nbs, lib = root/'nbs', root/'grpo_lit'

# A chapter of part I that uses a fast path of part III, or another part, does so through a small door.
# These are all of them: (module, what it imports although that comes later in the book).
AGAINST_THE_ORDER = {
    ('sampling', 'fast.static'),
    ('sampling', 'fast.sharing'),
    ('scoring', 'rewards.calls'),
    ('logprobs', 'fast.prefix'),
    ('logprobs', 'fast.sharing'),
    ('logprobs', 'fast.tiles'),
    ('loss', 'fast.offpolicy'),
    ('rewards.comparing', 'rewards.workers'),
}

def chapters():
    "Notebooks in reading order"
    return sorted(nbs.glob('[1-9]_*/[0-9]*.ipynb'))

@cache
def text(path):
    "Markdown and code of a notebook"
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [(c['cell_type'], ''.join(c['source'])) for c in cells]

def module_of(path):
    "What a chapter exports to, or None"
    found = [re.match(r'#\| *default_exp +(\S+)', s) for kind, s in text(path) if kind == 'code']
    return next((m[1] for m in found if m), None)

def order():
    "Module -> its place in the book"
    return {module_of(p): i for i, p in enumerate(chapters())}

@cache
def imports(module):
    "Modules of this package that a module imports, wherever in it"
    path = lib/(module.replace('.', '/')+'.py')
    package = module.split('.')[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[:len(package)-(node.level-1)]
        name = '.'.join([*base, *(node.module or '').split('.')]).strip('.')
        found.add(name)
    return found & set(order())

def test_chapters_are_numbered_without_gaps():
    for part in sorted(nbs.glob('[1-9]_*')):
        numbers = [p.name.partition('_')[0] for p in sorted(part.glob('*.ipynb'))]
        digits = 2 if len(numbers) < 100 else 3
        assert numbers == [f'{n:0{digits}}' for n in range(1, len(numbers)+1)], part.name

def test_one_chain_visits_every_chapter_once():
    pages = chapters()
    for here, there in zip(pages, pages[1:]):
        link = re.match(r'.*^Next: \[[^]]+\]\(([^)]+)\)', text(here)[-1][1], re.M | re.S)
        assert link, f'{here.name} does not end with a line "Next: [...](...)"'
        assert (here.parent/link[1]).resolve() == there.resolve(), f'{here.name} leads to {link[1]}'

def test_the_index_leads_to_every_chapter():
    links = set(re.findall(r'\]\(([^)#]+\.ipynb)', '\n'.join(s for _, s in text(nbs/'index.ipynb'))))
    assert {p.relative_to(nbs).as_posix() for p in nbs.rglob('[0-9a-hj-z]*.ipynb')} <= links

def test_contributing_names_every_folder_of_notebooks():
    said = (root/'CONTRIBUTING.md').read_text()
    folders = {p.parent.relative_to(root).as_posix() for p in nbs.glob('*/*.ipynb')}
    assert folders and [f for f in sorted(folders) if f'`{f}`' not in said] == []

@pytest.mark.parametrize('path', sorted(nbs.rglob('*.ipynb')), ids=lambda p: p.stem)
def test_links_between_notebooks_lead_somewhere(path):
    prose = '\n'.join(s for kind, s in text(path) if kind=='markdown')
    links = re.findall(r'\]\((?!https?:)([^)#\s]+\.ipynb)', prose)
    assert [l for l in links if not (path.parent/l).exists()] == []

def test_every_chapter_begins_with_prose():
    for path in chapters():
        assert [kind for kind, _ in text(path)[:2]] == ['markdown', 'markdown'], path.name

def test_imports_follow_the_book():
    place = order()
    against = {(m, o) for m in place if m for o in imports(m) if place[o] > place[m]}
    assert against == AGAINST_THE_ORDER

def test_imports_have_no_circle():
    list(TopologicalSorter({m: imports(m) for m in order() if m}).static_order())

CONTRACTS = {
    'core': 'Rollouts',
    'sampling': 'sample_groups Queue Rows NOTHING_LEFT',
    'fast.decoding': 'Decoding Groups Seats',
    'rewards': 'math_equal extract_answer accuracy_reward think_format_reward code_reward score_completions',
    'sandbox': 'run_code run_tests Verdict',
    'advantages': 'group_advantages',
    'logprobs': 'token_logps kl_estimate',
    'loss': 'grpo_loss',
    'trainer': 'GRPOConfig GRPOTrainer',
    'evaluate': 'evaluate pass_at_k',
    'policy': 'load_policy',
    'tasks': 'addition_task',
    'watch': 'plot_run watch METRICS',
}

@pytest.mark.parametrize('module', CONTRACTS)
def test_names_that_others_use(module):
    for name in CONTRACTS[module].split():
        assert hasattr(import_module(f'grpo_lit.{module}'), name), name
