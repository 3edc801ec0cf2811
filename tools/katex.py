"""KaTeX, which sets the formulas of the site: fetched once, through npm or pip."""
import re, shutil, subprocess, sys, tarfile, zipfile
from nb_md import root, write

build = root/'_build'

sources = [ # Either brings KaTeX's js, css and fonts; the first needs Node.js, the second only pip
    ['npm', 'pack', '--silent', 'katex@0.19.1'],
    [sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '--dest', '.', 'djangocms-katex==1.0.2']]
wanted = re.compile( # What the site needs of them
    r'katex(?:/dist)?/(?:contrib/)?'
    r'(katex\.min\.(?:js|css)|auto-render\.min\.js|fonts/[\w-]+\.woff2)$')

def members(f):
    "(path, bytes) of the files in an archive"
    if f.suffix == '.whl':
        with zipfile.ZipFile(f) as z:
            yield from ((o, z.read(o)) for o in z.namelist())
    else:
        with tarfile.open(f) as t:
            yield from ((o.name, t.extractfile(o).read()) for o in t if o.isfile())

def fetched(command, tmp):
    "Whether `command` put its archive into the folder `tmp`"
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    if not shutil.which(command[0]):
        return False
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return subprocess.run(command, cwd=tmp, **quiet).returncode == 0

def unpack(archive, out):
    "Write what the site needs of an archive; of the fonts only woff2"
    for name,b in members(archive):
        m = wanted.search('katex/'+name.removeprefix('package/'))
        if not m:
            continue
        if name.endswith('css'):
            b = re.sub(rb',url\([^)]*\.(?:woff|ttf)\) *format\("\w+"\)', b'', b)
        write(out/m[1], b)

def katex():
    "The folder with KaTeX, fetched once through npm or pip"
    out, tmp = build/'katex', build/'tmp'
    if (out/'katex.min.js').exists():
        return out
    for command in sources:
        if not fetched(command, tmp):
            continue
        for f in tmp.iterdir():
            unpack(f, out)
        shutil.rmtree(tmp)
        if (out/'katex.min.js').exists():
            return out
    sys.exit('make docs: cannot get KaTeX, which sets the formulas. It comes through `npm pack katex` or '
             '`pip download djangocms-katex`: check that one of them works, or put katex.min.js, katex.min.css, '
             f'auto-render.min.js and fonts/ into {out.relative_to(root)}/')
