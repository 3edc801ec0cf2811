"The notebooks' cells that are marked for a GPU, with the cells before them that they build on."
import json, symtable
from . import check, need, need_gpu, root

LEFT_OUT = '#| slow', '#| hub', '#| default_exp', '#| eval: false'

def code_of(path):
    "(number, source) of the cells with code"
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [(i, ''.join(c['source'])) for i, c in enumerate(cells) if c['cell_type'] == 'code']

def marked(source): return '#| cuda' in source

def inside(table):
    "A table of symbols and those of the functions and classes in it"
    yield table
    for child in table.get_children():
        yield from inside(child)

def names(source):
    "Names that a cell makes, and those of other cells that it looks up"
    lines = [o for o in source.splitlines() if not o.startswith(('%', '!'))]
    whole = symtable.symtable('\n'.join(lines), 'cell', 'exec')
    made = {s.get_name() for s in whole.get_symbols() if s.is_assigned() or s.is_imported()}
    used = {s.get_name() for t in inside(whole) for s in t.get_symbols()
            if s.is_referenced() and (t is whole or s.is_global())}
    return made, used

def all_wanted(parts):
    "Names that the marked cells look up, and those that the cells which make them look up in turn"
    known = [(marked(source), *names(source)) for _, source in parts]
    wanted, before = set(), None
    while wanted != before:
        before = set(wanted)
        for is_marked, made, used in known:
            if is_marked or made & wanted:
                wanted |= used
    return wanted

def needed(cells):
    "The marked cells, and those before that make what they use"
    last = max(i for i, source in cells if marked(source))
    parts = [(i, s) for i, s in cells if i <= last and not any(o in s for o in LEFT_OUT)]
    wanted, kept = all_wanted(parts), []
    for i, source in reversed(parts):
        made, used = names(source)
        if marked(source) or made & wanted or '@patch' in source:
            wanted = wanted-made | used # what was made last is what counts
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
