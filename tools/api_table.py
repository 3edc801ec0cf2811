"""The site's `show_doc`: a one-line signature, the docstring, a table of parameters from docments, and a class's methods."""
import inspect, re
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from inspect import Parameter
from types import NoneType
from fastcore.docments import DocmentTbl, docments
from nbdev import processors
from nbdev.config import get_config
from nbdev.showdoc import BasicMarkdownRenderer

class TableRenderer(BasicMarkdownRenderer):
    "Heading and source link, then what there is to know; behind a class its methods"
    def __init__(self, sym, *args, **kw):
        try:
            super().__init__(sym, *args, **kw)
        except NameError: # an annotation names what stands further down the notebook
            super().__init__(in_package(sym), *args, **kw)

    def _repr_markdown_(self):
        head, _, _ = super()._repr_markdown_().partition('```python\n')
        sym = exported(self.sym) if is_dataclass(self.sym) else self.sym
        level = '#'*(self.title_level+1)
        parts = [head.strip(), described(self.nm, sym)]
        for name, method in methods(self.sym):
            parts += [f'{level} {self.nm}.{name}', described(name, method)]
        return '\n\n'.join(parts)

def described(name, sym):
    "Signature, docstring and table as Markdown"
    sig = wrap(name.rpartition('.')[2]+signature(sym))
    doc = inspect.getdoc(sym) if own_doc(sym) else None
    return '\n\n'.join(o for o in (f'```python\n{sig}\n```', doc and tagless(starless(doc)), table_text(sym)) if o)

def own_doc(sym):
    "Has it a docstring of its own, not one that was inherited or made?"
    made = is_dataclass(sym) and (sym.__doc__ or '').startswith(f'{sym.__name__}(')
    return bool(getattr(sym, '__doc__', None)) and not made

def outside_backticks(s, f):
    "Markdown with `f` applied to what is not code"
    pieces = re.split(r'(`[^`]*`)', s)
    return ''.join(o if o[:1] == '`' else f(o) for o in pieces)

def tagless(s):
    "Markdown in which what looks like a tag is text: `<think>`"
    return outside_backticks(s, lambda o: re.sub(r'<(?!br>)(?=[\w/!?])', '&lt;', o))

def starless(s):
    "Markdown in which a star is a star, but for those in backticks"
    return outside_backticks(s, lambda o: o.replace('*', '\\*'))

def methods(sym):
    "(name, function or property) of the public methods that stand in a class, in their order"
    if not inspect.isclass(sym):
        return
    for name, o in vars(sym).items():
        if name[0] != '_' and (inspect.isfunction(o) or isinstance(o, (property, classmethod, staticmethod))):
            o = getattr(o, '__func__', o)
            if isinstance(o, property) and not o.__doc__:
                continue
            yield name, o

def signature(sym):
    "The signature as text; '' if it has none"
    try:
        return plain(str(inspect.signature(sym)))
    except (TypeError, ValueError):
        return ''

def plain(s):
    "Names without the modules and addresses that Python's own notation gives them"
    s = re.sub(r'<(?:function|class) \'?(?:\w+\.)*(\w+)[^>]*>', r'\1', s)
    s = re.sub(r'<[\w.]*?(\w+) object at 0x\w+>', r'\1()', s)
    return re.sub(r'\b(?:__main__|grpo_lit|pathlib|collections|typing)\.(?:\w+\.)*(?=\w)', '', s)

def table_text(sym):
    "The table of parameters as Markdown; '' for symbols without docments, such as properties"
    if isinstance(sym, property):
        return ''
    try:
        return tagless(plain(table(sym)._repr_markdown_()))
    except Exception:
        return ''

def table(sym):
    "The table of parameters; a dataclass shows what stands beside the fields that it inherits, too"
    tbl = DocmentTbl(sym)
    if is_dataclass(sym):
        for base in filter(is_dataclass, sym.__mro__[1:]):
            for name,text in docments(base, returns=False).items():
                if text:
                    tbl.dm[name]['docment'] = text
    for o in tbl.dm.values():
        if o['anno'] is NoneType: # of a default that is None: says nothing
            o['anno'] = Parameter.empty
    return tbl

def default(f):
    "The default of a dataclass's field, as a signature has it"
    if f.default is not MISSING:
        return f.default
    return Parameter.empty if f.default_factory is MISSING else f.default_factory()

def parameter(f):
    "A dataclass's field as a parameter of its `__init__`"
    kind = Parameter.KEYWORD_ONLY if f.kw_only else Parameter.POSITIONAL_OR_KEYWORD
    return Parameter(f.name, kind, default=default(f), annotation=f.type)

def in_package(sym):
    "A function or class as its module has it: of those with its name the one that says the same of itself"
    modules = import_module(f'{get_config().lib_path.name}._modidx').d['syms']
    there = [module for module,names in modules.items() if f'{module}.{sym.__qualname__}' in names]
    found = [getattr(import_module(module), sym.__qualname__) for module in there]
    return next((o for o in found if o.__doc__ == sym.__doc__), sym)

def exported(cls):
    "The dataclass `cls` as its module has it, where its comments can be read, with a signature of its fields"
    cls = in_package(cls)
    cls.__signature__ = inspect.Signature([parameter(f) for f in fields(cls) if f.init])
    return cls

def split_args(s):
    "Split `a, b=(1, 2)) -> c` after its top-level commas"
    out, depth, last = [], 0, 0
    for i,c in enumerate(s):
        depth += (c in '([{') - (c in ')]}')
        if c == ',' and depth == 0:
            out.append(s[last:i+1])
            last = i+1
    return [*out, s[last:]]

def wrap(s, width=92):
    "Break a long signature before parameters"
    name, _, args = s.partition('(')
    if not args:
        return s
    pad, lines = ' '*(len(name)+1), ['']
    for o in split_args(args):
        if lines[-1] and len(pad+lines[-1]+o) > width:
            lines.append('')
        lines[-1] += o
    first, *others = lines
    return f'{name}({first}' + ''.join('\n'+pad+l.lstrip() for l in others)

# --- where the documentation of a cell stands: before its source, in the order of the source

def is_doc(cell):
    return getattr(cell, 'has_sd', False)

def docs_behind(cells, i):
    "How many documentation cells follow cell `i`"
    n = 0
    while i+n+1 < len(cells) and is_doc(cells[i+n+1]):
        n += 1
    return n

class DocsInOrder(processors.add_show_docs):
    "nbdev adds the definitions of a cell last one first: put right"
    def begin(self):
        super().begin()
        cells = self.nb.cells
        for i, cell in enumerate(list(cells)):
            n = docs_behind(cells, i)
            if n and not is_doc(cell):
                cells[i+1:i+1+n] = cells[i+1:i+1+n][::-1]

class SourceBehindDocs(processors.mv_exports):
    "All documentation of a cell before its source, where nbdev moves one entry"
    def begin(self):
        cells = self.nb.cells
        for i in range(len(cells)): # from the front: a source that has moved ends the documentation before it
            n = docs_behind(cells, i)
            if n and 'exports' in cells[i].directives_:
                cells[i:i+1+n] = [*cells[i+1:i+1+n], cells[i]]
