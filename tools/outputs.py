"""What a notebook's stored outputs may not keep: where they were made, what only its maker saw."""
import re, sys, tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent

def places():
    "(pattern, what stands for it): folders of the machine, the longer ones first"
    tmp = re.escape(tempfile.gettempdir())
    return [
        (rf'{tmp}/ipykernel_\d+/\d+\.py', '<cell>'),
        (rf'{tmp}/tmp[\w-]{{6,}}', '…'),
        (rf'{re.escape(str(root))}/', ''),
        (r'/[^\s\'"<>]*/(?=site-packages/)', '…/'),
        (rf'{re.escape(sys.prefix)}/', '…/'),
        (rf'{re.escape(str(Path.home()))}/', '~/')]

def tidy_text(s):
    "A text without folders of this machine and without addresses in memory"
    for pattern, instead in places():
        s = re.sub(pattern, instead, s)
    return re.sub(r' at 0x[0-9a-f]{6,}', '', s)

def tidy_value(v):
    return tidy_text(v) if isinstance(v, str) else v

def tidy(nb):
    "Mend the outputs of a notebook where they stand: no stderr, no folders, no addresses"
    for cell in nb.cells:
        if cell.cell_type != 'code':
            continue
        cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr']
        for o in cell.outputs:
            if 'text' in o:
                o.text = tidy_text(o.text)
            if 'traceback' in o:
                o.traceback = [tidy_text(t) for t in o.traceback]
            for kind, value in o.get('data', {}).items():
                if kind.startswith('text/'):
                    o.data[kind] = tidy_value(value)
