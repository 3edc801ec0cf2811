"""Write the .pyi files by which editors and type checkers see what Python only finds when it runs.

    python tools/stubs.py           # write them
    python tools/stubs.py --check   # fail when they are stale

A package with a window (names that are loaded when they are first used) gets a stub that imports them. A module whose
classes get methods by `@patch`, or whose functions pass arguments on by `@delegates`, gets one with whole classes and signatures.
Nothing is imported: everything is read from the source.
"""
import argparse, ast, builtins, copy, re, sys
from configparser import ConfigParser
from functools import cache
from pathlib import Path

root = Path(__file__).resolve().parent.parent
ini = ConfigParser(delimiters=['='])
ini.read(root/'settings.ini', encoding='utf-8')
lib = root/ini['DEFAULT']['lib_path']
made = '# made by tools/stubs.py'

@cache
def tree(path):
    return ast.parse(path.read_text(encoding='utf-8'))

def sources():
    "All modules, without what nbdev writes about them"
    return [f for f in sorted(lib.rglob('*.py')) if f.name != '_modidx.py']

def text(nodes):
    return '\n\n'.join(ast.unparse(ast.fix_missing_locations(o)) for o in nodes)

# --- a package with a window

def shown(path):
    "The table of a package's window: relative module -> names; None where it has no window"
    for node in tree(path).body:
        call = getattr(node, 'value', None)
        if isinstance(call, ast.Call) and getattr(call.func, 'id', '') == 'window':
            return {module: names.split() for module, names in ast.literal_eval(call.args[1]).items()}

def door(path):
    "The stub of a package with a window"
    table = shown(path)
    imports = [f'from {module} import {name} as {name}' for module, names in table.items() for name in names]
    lines = [ast.unparse(o) for o in tree(path).body if isinstance(o, ast.Assign) and '__version__' in ast.unparse(o)]
    offered = [name for names in table.values() for name in names]
    listed = ',\n    '.join(map(repr, offered))
    return '\n'.join([*lines, *imports, '', f'__all__ = [\n    {listed}]'])

# --- where a name comes from

def file_of(path, level, module):
    "The file that `from ..module import name` reads in the module at `path`; None for other packages"
    if not level:
        return None
    folder = path.parents[level-1]
    return folder/((module or '').replace('.', '/')+'.py')

def home(path, name):
    "(file, definition) of a class or function by the name that the module at `path` gives it"
    for node in tree(path).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return path, node
        if not isinstance(node, ast.ImportFrom):
            continue
        there = file_of(path, node.level, node.module)
        for alias in node.names:
            if there and name == (alias.asname or alias.name):
                return home(there, alias.name)
    return None, None

# --- methods that stand outside their class

functions = (ast.FunctionDef, ast.AsyncFunctionDef)

def decorator(node, name):
    "The decorator `name` of a definition, or None"
    for o in getattr(node, 'decorator_list', ()):
        if re.split(r'[.(]', ast.unparse(o))[0] == name:
            return o

def options(node):
    "Keyword arguments of a decorator that are true"
    return {k.arg for k in getattr(node, 'keywords', ()) if getattr(k.value, 'value', None)}

def method(node):
    "A patched function as it would stand in its class"
    asked = options(decorator(node, 'patch'))
    kinds = dict(cls_method='classmethod', as_prop='property', set_prop='property', static='staticmethod')
    new = copy.deepcopy(node)
    new.decorator_list = [ast.Name(kinds[o]) for o in sorted(asked) if o in kinds]
    new.args.args[0].annotation = None
    return new

@cache
def patches():
    "(file, class) -> its methods that stand outside of it, in the order of the book"
    found = {}
    for path in sources():
        for node in tree(path).body:
            if not isinstance(node, functions) or not decorator(node, 'patch'):
                continue
            there, cls = home(path, ast.unparse(node.args.args[0].annotation))
            if not cls:
                sys.exit(f'{path.relative_to(root)}: {node.name} is patched into a class that is not ours')
            found.setdefault((there, cls.name), []).append(method(node))
    return found

# --- arguments that are passed on

def known(path):
    "Names that annotations in the module at `path` may use"
    names = set(vars(builtins))
    for node in tree(path).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(o.asname or o.name).partition('.')[0] for o in node.names}
        names.add(getattr(node, 'name', None))
    return names

def parameters(node):
    "[(parameter, default)] of a function, or of a class when it is called"
    if isinstance(node, ast.ClassDef):
        node = next(o for o in node.body if isinstance(o, functions) and o.name == '__init__')
    a = node.args
    plain = a.posonlyargs+a.args
    defaults = [None]*(len(plain)-len(a.defaults))+a.defaults
    return [*zip(plain, defaults), *zip(a.kwonlyargs, a.kw_defaults)]

def passed_on(path, node):
    "A function that passes `**kwargs` on, with those arguments by name"
    there, target = home(path, ast.unparse(decorator(node, 'delegates').args[0]))
    new = copy.deepcopy(node)
    new.decorator_list = [o for o in new.decorator_list if o is not decorator(new, 'delegates')]
    own = {o.arg for o, _ in parameters(node)}
    names = known(path)
    for o, default in parameters(target):
        if default is None or o.arg in own:
            continue
        used = {n.id for n in ast.walk(o.annotation or ast.Tuple([])) if isinstance(n, ast.Name)}
        new.args.kwonlyargs.append(ast.arg(o.arg, o.annotation if used <= names else None))
        simple = isinstance(default, ast.Constant)
        new.args.kw_defaults.append(default if simple else ast.Constant(...))
    new.args.kwarg = None
    return new

# --- the stub of a module

def bare(node):
    "A function without what it does"
    doc = ast.get_docstring(node, clean=False)
    new = copy.copy(node)
    new.body = [ast.Expr(ast.Constant(doc))] if doc else []
    new.body.append(ast.Expr(ast.Constant(...)))
    return new

def attributes(cls):
    "What `__init__` hangs on self, as declarations with types where they can be read from its parameters"
    init = next((o for o in cls.body if isinstance(o, functions) and o.name == '__init__'), None)
    if init is None:
        return []
    types = {o.arg: o.annotation for o, _ in parameters(init)}
    found = {}
    for node in ast.walk(init):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == 'self':
            found.setdefault(node.attr, types.get(node.attr))
    unknown = ast.Name('Any')
    return [ast.AnnAssign(ast.Name(k), v or unknown, None, 1) for k, v in found.items() if k[0] != '_']

def whole(path, node):
    "A class without what its methods do, with those that stand outside of it"
    new = copy.copy(node)
    def part(o): return bare(o) if isinstance(o, functions) else o
    more = patches().get((path, node.name), [])
    new.body = [*map(part, node.body[:1]), *attributes(node), *map(part, node.body[1:]), *map(bare, more)]
    return new

def stub_node(path, node):
    "A statement of a module as its stub has it, or None"
    if isinstance(node, functions):
        if decorator(node, 'patch') or node.name[0] == '_':
            return None
        return bare(passed_on(path, node) if decorator(node, 'delegates') else node)
    if isinstance(node, ast.ClassDef):
        return whole(path, node)
    if isinstance(node, (ast.AnnAssign, ast.Assign)):
        name = ast.unparse(getattr(node, 'target', None) or node.targets[0])
        return node if name[0] != '_' or name == '__all__' else None
    return node if isinstance(node, (ast.Import, ast.ImportFrom)) else None

def module(path):
    "The stub of a module"
    nodes = [stub_node(path, o) for o in tree(path).body]
    body = text(o for o in nodes if o)
    return 'from typing import Any\n\n'+body if re.search(r'\bAny\b', body) else body

def needs_stub(path):
    classes = {file for file, _ in patches()}
    return path in classes or any(decorator(o, 'delegates') for o in tree(path).body)

# --- all of them

def stubs():
    "Path -> text of every stub"
    doors = {p.with_suffix('.pyi'): door(p) for p in sources() if p.name == '__init__.py' and shown(p)}
    modules = {p.with_suffix('.pyi'): module(p) for p in sources() if needs_stub(p)}
    return {p: f'{made}: edit the source, then run it\n{body}\n' for p, body in (doors | modules).items()}

def says_the_same(a, b):
    "Do two texts say the same? How they are laid out depends on the version of Python"
    return ast.dump(ast.parse(a)) == ast.dump(ast.parse(b))

def stale(wanted):
    "Stubs that are missing, out of date or of a module that needs none any more"
    here = {p: p.read_text(encoding='utf-8') for p in lib.rglob('*.pyi')}
    def old(p): return not (p in here and p in wanted and says_the_same(here[p], wanted[p]))
    return sorted(filter(old, set(here) | set(wanted)))

def write(wanted, changed):
    for p in changed:
        if p in wanted:
            p.write_text(wanted[p], encoding='utf-8')
        else:
            p.unlink()

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--check', action='store_true', help='write nothing')
    check = p.parse_args().check
    wanted = stubs()
    changed = stale(wanted)
    names = ', '.join(o.relative_to(root).as_posix() for o in changed)
    if check:
        return sys.exit(f'stubs are stale: {names}' if changed else 0)
    write(wanted, changed)
    print('stubs:', f'wrote {names}' if changed else 'already current')

if __name__ == '__main__':
    main()
