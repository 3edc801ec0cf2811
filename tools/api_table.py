"""The site's `show_doc`: a one-line signature, the docstring, and a table of parameters from docments."""
import inspect
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from inspect import Parameter
from fastcore.docments import DocmentTbl, docments
from nbdev.config import get_config
from nbdev.showdoc import BasicMarkdownRenderer

class TableRenderer(BasicMarkdownRenderer):
    "Heading and source link, one-line signature, docstring, then a table from docments"
    def _repr_markdown_(self):
        head, _, rest = super()._repr_markdown_().partition('```python\n')
        doc = rest.partition('\n```')[2]
        sym = exported(self.sym) if is_dataclass(self.sym) else self.sym
        name = self.nm.rpartition('.')[2]
        sig = wrap(name+signature(sym))
        tbl = table_text(sym)
        return f'{head}```python\n{sig}\n```{doc}' + (f'\n\n{tbl}' if tbl else '')

def signature(sym):
    "The signature as text; '' if it has none"
    try:
        return str(inspect.signature(sym)).replace('__main__.', '')
    except (TypeError, ValueError):
        return ''

def table_text(sym):
    "The table of parameters as Markdown; '' for symbols without docments, such as properties"
    try:
        return table(sym)._repr_markdown_()
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

def exported(cls):
    "The dataclass `cls` as its module has it, where its comments can be read, with a signature of its fields"
    modules = import_module(f'{get_config().lib_path.name}._modidx').d['syms']
    for module,names in modules.items():
        if f'{module}.{cls.__qualname__}' in names:
            cls = getattr(import_module(module), cls.__qualname__)
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
