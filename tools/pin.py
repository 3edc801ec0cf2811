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

ini = ConfigParser(delimiters=['='])
ini.read(Path(__file__).parent.parent/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
least = cfg['min_python']
newer = [f'3.{o}' for o in range(int(least.split('.')[1]), 30)]

def applies(requirement, extras):
    "Is it needed here, if these extras are asked for?"
    marker = requirement.marker
    return not marker or any(marker.evaluate(dict(extra=o)) for o in extras)

def pinned(d):
    "Version of a distribution, with a marker if it is too new for our oldest Python"
    needs = SpecifierSet(d.metadata['Requires-Python'] or '')
    low = next(o for o in newer if f'{o}.99' in needs)
    marker = '' if low == least else f'; python_version >= "{low}"'
    return d.version.partition('+')[0] + marker

def walk(req, seen):
    "Add what `req` needs, as installed here, to `seen`: name -> version with marker"
    r = Requirement(req)
    if not applies(r, r.extras or {''}):
        return
    try:
        d = distribution(r.name)
    except PackageNotFoundError:
        print(f'{r.name} is not installed here: not pinned', file=sys.stderr)
        return
    name = canonicalize_name(r.name)
    first = name not in seen
    seen[name] = pinned(d)
    if not first:
        return
    for o in d.requires or []:
        if applies(Requirement(o), {'', *r.extras}):
            walk(o.partition(';')[0], seen)

def main():
    seen = {}
    for key in cfg:
        if key.endswith('requirements'):
            for o in cfg[key].split():
                walk(o, seen)
    print(f'# The versions that were tested, made by tools/pin.py with Python {sys.version.split()[0]}.'
          ' `make` installs these; pip install does not.')
    print('\n'.join(f'{k}=={v}' for k,v in sorted(seen.items())))

if __name__ == '__main__':
    main()
