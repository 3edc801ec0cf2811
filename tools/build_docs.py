"""Build the documentation site, or README.md, from the notebooks.

    python tools/build_docs.py                  # the site, in the folder doc_path of settings.ini
    python tools/build_docs.py --draft          # the same, where broken links only warn
    python tools/build_docs.py --readme         # README.md and its pictures, from nbs/index.ipynb
    python tools/build_docs.py --check-readme   # fail when README.md is stale

nbdev processes the notebooks, tools/nb_md.py writes Markdown, Zensical makes the pages. Notebooks are not run: a page
shows stored outputs (only imports and exported definitions are executed, for the tables of parameters).
"""
import argparse, json, os, re, shutil, subprocess, sys, tarfile, time, zipfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from nb_md import Page, base, cfg, nbs, root

build = root/'_build'
assets = root/'docs_assets'

def write(path, content):
    "Write bytes, making the folders on the way"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

# --- README

def readme_files():
    "What --readme writes: path -> bytes"
    p = Page(nbs/'index.ipynb', readme=True)
    desc = f"> {p.fm['description']}\n\n" if p.fm.get('description') else ''
    text = f"# {p.fm['title']}\n\n<!-- made from nbs/index.ipynb by `make readme`: edit there -->\n\n{desc}{p.text}\n"
    return {'README.md': text.encode()} | p.pictures

def readme(check=False):
    "Write README.md and its pictures, or say which are stale"
    files = readme_files()
    pictures = {f'docs_assets/readme/{o.name}' for o in (assets/'readme').glob('*')}
    now = {'README.md'} | pictures
    stale = sorted(f for f in now | set(files) if not (root/f).exists() or (root/f).read_bytes() != files.get(f))
    if check:
        return sys.exit(f"README is stale: {', '.join(stale)}" if stale else 0)
    for f in now - set(files):
        (root/f).unlink(missing_ok=True)
    for f,b in files.items():
        write(root/f, b)
    print('README.md:', f"wrote {', '.join(stale)}" if stale else 'already current')

# --- KaTeX

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

# --- the site

parts = {  # Folder of nbs/ -> title and what the part is about
    '1_line': (
        'I. The line',
        'The algorithm: from a prompt to a group of answers, to advantages, to a loss, and the loop that learns.'),
    '2_rewards': (
        'II. What can be rewarded',
        'Formulas, programs, puzzles, the shape of a text, opinions; and how a reward is kept from being fooled.'),
    '3_fast': (
        'III. Fast, and far from the sampler',
        'A prompt that is read once, log-probs without logits, portions that fit into memory, '
        'and tokens that another model sampled.'),
    '4_run': (
        'IV. A run',
        'Data, settings, checkpoints, the trainer, what to look at, and the command line.'),
    'cases': (
        'Cases',
        'Whole experiments with their figures, seeds and intervals: each claim of the book, measured.')}

def number(p):
    "Number of a notebook in its part: '8' for `08_advantages.ipynb`, or ''"
    m = re.match(r'0*(\d+)_', p.name)
    return m[1] if m else ''

def place(rel):
    "Where a notebook stands in the book: 'Part I, chapter 8'"
    if len(rel.parts) == 1:
        return ''
    if rel.parts[0] == 'cases':
        return 'Case study'
    numeral = parts[rel.parts[0]][0].partition('.')[0]
    return f'Part {numeral}, chapter {number(rel)}'

def quoted(s): return json.dumps(s, ensure_ascii=False)

def chapter(nb, docs):
    "Write the page of one notebook; returns its title, description and file"
    p = Page(nb)
    rel = p.rel
    for f, b in p.pictures.items():
        (docs/f).write_bytes(b)
    title, desc = p.fm['title'], p.fm.get('description') or ''
    where = place(rel)
    src = f"{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}/{cfg['nbs_path']}/{rel.as_posix()}"
    links = (f'[Open in Colab](https://colab.research.google.com/github/{src}){{: .nb-button }} '
             f'[Notebook](https://github.com/{src}){{: .nb-button }}\n{{: .nb-links }}')
    head = [f'---\ntitle: {json.dumps(title)}\ndescription: {json.dumps(desc)}\n---',
            where and f'{where}\n{{: .nb-where }}',
            f'# {title}',
            desc and f'{desc}\n{{: .nb-lead }}',
            links]
    f = docs/f'{p.name}.md'
    f.parent.mkdir(parents=True, exist_ok=True)
    text = '\n\n'.join(o for o in head if o)+f'\n\n{p.text}\n'
    f.write_text(text, encoding='utf-8')
    label = f'{number(rel)}. {title}' if number(rel) else title
    return label, desc, f'{p.name}.md'

def part(folder, docs):
    "Write the pages of a part and one that lists them; returns its entry in the navigation"
    title, about = parts[folder]
    pages = [chapter(nb, docs) for nb in sorted((nbs/folder).glob('[!_.]*.ipynb'))]
    rows = [f'- [{label}]({Path(file).name}): {desc}' for label, desc, file in pages]
    text = f'# {title}\n\n{about}\n{{: .nb-lead }}\n\n' + '\n'.join(rows) + '\n'
    (docs/folder/'index.md').write_text(text, encoding='utf-8')
    entries = [quoted(f'{folder}/index.md')] + [f'{{{quoted(label)} = {quoted(file)}}}' for label, _, file in pages]
    return f'{{{quoted(title)} = [{", ".join(entries)}]}}'

def settings(sections):
    "zensical.toml: names and navigation from here, the look from docs_assets/zensical.toml"
    nav = ['{"Home" = "index.md"}', *sections]
    return f'''[project]
site_name = {json.dumps(cfg["lib_name"])}
site_description = {json.dumps(cfg["description"])}
site_url = "{base}"
docs_dir = "docs"
site_dir = "site"
use_directory_urls = false
nav = [{", ".join(nav)}]
''' + (assets/'zensical.toml').read_text(encoding='utf-8') + f'''
[[project.extra.social]]
icon = "fontawesome/brands/github"
link = "{cfg["git_url"]}"
'''

class Links(HTMLParser):
    "What a page links to, loads, and can be linked to at"
    def __init__(self, f):
        super().__init__()
        self.hrefs, self.loads, self.ids = [], [], set()
        self.feed(f.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        href, src = a.get('href'), a.get('src')
        self.ids |= {a.get('id'), a.get('name')}
        if tag == 'a' and href:
            self.hrefs.append(href)
        if tag == 'link' and href and a.get('rel') not in ('canonical', 'alternate', 'next', 'prev'):
            self.loads.append(href)
        if tag in ('script', 'img', 'iframe', 'source', 'video', 'embed') and src:
            self.loads.append(src)

def target(f, path):
    "The file that a link `path` on page `f` leads to"
    if not path:
        return f
    g = (f.parent/unquote(path.partition('?')[0])).resolve()
    return g/'index.html' if g.is_dir() else g

def fault(f, url, pages):
    "What is wrong with a link on page `f`, or None"
    if url.startswith('data:'):
        return None
    if re.match(r'\w+:|//', url):
        return f'loads {url}' if url in pages[f].loads else None
    path, _, anchor = url.partition('#')
    g = target(f, path)
    if not g.exists():
        return f'no page {url}'
    if anchor and g in pages and unquote(anchor) not in pages[g].ids:
        return f'no anchor {url}'

def faults(site):
    "Broken links, and what would be fetched from another host"
    pages = {f:Links(f) for f in site.rglob('*.html')}
    for f,p in pages.items():
        for url in p.hrefs+p.loads:
            wrong = fault(f, url, pages)
            if wrong:
                yield f'{f.relative_to(site)}: {wrong}'
    elsewhere = re.compile(r'(?:url\(|@import )["\']?((?:https?:)?//[^"\')]+)')
    for f in site.rglob('*.css'):
        found = elsewhere.search(f.read_text(encoding='utf-8'))
        if found:
            yield f'{f.relative_to(site)}: loads {found[1]}'

def pages(docs):
    "Write Markdown, assets and zensical.toml"
    fonts = katex()
    for o in ('docs', 'site'):
        shutil.rmtree(build/o, ignore_errors=True)
    shutil.copytree(assets, docs/'assets', ignore=shutil.ignore_patterns('readme', 'zensical.toml'))
    shutil.copytree(fonts, docs/'assets/katex')
    chapter(nbs/'index.ipynb', docs)
    nav = settings([part(folder, docs) for folder in parts])
    (build/'zensical.toml').write_text(nav, encoding='utf-8')

def zensical(draft):
    "Make _build/site of the Markdown; exits with what Zensical says if it finds faults"
    command = [sys.executable, '-m', 'zensical', 'build', '--clean', '-f', str(build/'zensical.toml')]
    r = subprocess.run(command if draft else [*command, '--strict'], capture_output=True, text=True)
    if r.returncode:
        said = re.sub(r'\x1b\[[0-9;]*m', '', r.stdout + r.stderr.partition('Traceback')[0])
        sys.exit(f'{said}\nmake docs: Zensical found the faults above in the pages made '
                 f"from {cfg['nbs_path']}/ (they lie in _build/docs)")
    (build/'site/404.html').unlink(missing_ok=True)

def site(draft=False):
    "Build the site; a `draft` may have broken links"
    import nbdev.showdoc
    from api_table import TableRenderer
    os.environ['IN_TEST'] = '1' # notebooks' last cells do not export
    nbdev.showdoc.BasicMarkdownRenderer = TableRenderer
    t = time.time()
    pages(build/'docs')
    zensical(draft)
    bad = sorted(set(faults((build/'site').resolve())))
    if bad:
        print('\n  '.join(['make docs: the site has faults', *bad]), file=sys.stderr)
    if bad and not draft:
        sys.exit(1)
    out = root/cfg['doc_path']
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(build/'site', out)
    number = len(list(out.rglob('*.html')))
    checked = '' if bad else 'links checked, nothing is loaded from another host'
    print(f"{number} pages in {cfg['doc_path']}/, {time.time()-t:.0f} s; {checked}")

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for o in ('readme', 'check-readme', 'draft'):
        p.add_argument('--'+o, action='store_true')
    a = p.parse_args()
    os.chdir(root)
    if a.readme or a.check_readme:
        readme(check=a.check_readme)
    else:
        site(draft=a.draft)

if __name__ == '__main__':
    main()
