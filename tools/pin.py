"""Write constraints.txt: the installed version of everything the package and its extras need.

    python tools/pin.py > constraints.txt

A version that asks for a newer Python than settings.ini does gets a marker, and is left open on the older ones.
"""
import sys
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ini = ConfigParser(delimiters=['=']); ini.read(Path(__file__).parent.parent/'settings.ini', encoding='utf-8'); cfg = ini['DEFAULT']
least = cfg['min_python']
newer = [f'3.{o}' for o in range(int(least.split('.')[1]), 30)]

def walk(req, seen):
    "Add what `req` needs, as installed here, to `seen`: name -> version with marker"
    r = Requirement(req)
    if r.marker and not any(r.marker.evaluate(dict(extra=o)) for o in r.extras or {''}): return
    try: d = distribution(r.name)
    except PackageNotFoundError: return print(f'{r.name} is not installed here: not pinned', file=sys.stderr)
    name = canonicalize_name(r.name); first = name not in seen
    needs = SpecifierSet(d.metadata['Requires-Python'] or '')
    low = next(o for o in newer if f'{o}.99' in needs)
    seen[name] = d.version.partition('+')[0] + (f'; python_version >= "{low}"' if low!=least else '')
    for o in (d.requires or []) if first else []:
        q = Requirement(o)
        if not q.marker or any(q.marker.evaluate(dict(extra=e)) for e in {'', *r.extras}): walk(o.partition(';')[0], seen)

if __name__=='__main__':
    seen = {}
    for k in cfg:
        if k.endswith('requirements'):
            for o in cfg[k].split(): walk(o, seen)
    print(f'# The versions that were tested, made by tools/pin.py with Python {sys.version.split()[0]}. `make` installs these; pip install does not.')
    print('\n'.join(f'{k}=={v}' for k,v in sorted(seen.items())))
