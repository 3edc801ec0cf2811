"The notebooks' cells that are marked for a GPU, with the cells before them that they build on."
import ast, json
from . import check, need, need_gpu, root

LEFT_OUT = '#| slow', '#| hub', '#| default_exp', '#| eval: false'

def code_of(path):
    "(number, source) of the cells with code"
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [(i, ''.join(c['source'])) for i, c in enumerate(cells) if c['cell_type'] == 'code']

def marked(source): return '#| cuda' in source

def names(source):
    "Names that a cell makes, and those that it looks up"
    lines = [o for o in source.splitlines() if not o.startswith(('%', '!'))]
    made, used = set(), set()
    for node in ast.walk(ast.parse('\n'.join(lines))):
        if isinstance(node, ast.Name):
            (made if isinstance(node.ctx, ast.Store) else used).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            made.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            made |= {(o.asname or o.name).partition('.')[0] for o in node.names}
    return made, used

def needed(cells):
    "The marked cells, and those before that make what they use"
    last = max(i for i, source in cells if marked(source))
    parts = [(i, s) for i, s in cells if i <= last and not any(o in s for o in LEFT_OUT)]
    wanted, kept = set(), []
    for i, source in reversed(parts):
        made, used = names(source)
        patched = '@patch' in source
        if marked(source) or made & wanted or patched:
            wanted |= used
            kept.append((i, source))
    return kept[::-1]

def run_cells(path):
    "Run them in one namespace; the first marked cell that fails is what is told"
    space, trouble, count = {'__name__': '__main__', 'display': print}, [], 0
    for i, source in needed(code_of(path)):
        try:
            exec(compile(source, f'{path.name}, cell {i}', 'exec'), space)
        except Exception as e:
            if marked(source):
                before = f'; cells that failed before it: {trouble}' if trouble else ''
                raise RuntimeError(f'cell {i}: {e!r}{before}') from e
            trouble.append(f'{i}: {e!r}'[:200])
        count += marked(source)
    return dict(cells=count) | (dict(failed_before=trouble) if trouble else {})

def with_marked():
    "Notebooks that have such cells"
    paths = sorted((root/'nbs').rglob('*.ipynb'))
    return [p for p in paths if '#| cuda' in p.read_text(encoding='utf-8') and any(marked(s) for _, s in code_of(p))]

for _path in with_marked():
    @check(f'cells: {_path.relative_to(root/"nbs").with_suffix("")}', order=60, seconds=15)
    def _cells(place, path=_path):
        need_gpu(place)
        need('fastcore')
        return run_cells(path)
