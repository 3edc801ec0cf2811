"""Build the documentation site, or README.md, from the notebooks.

    python tools/build_docs.py                  # the site, in the folder doc_path of settings.ini
    python tools/build_docs.py --draft          # the same, where broken links only warn: for chapters still to be written
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

# --- README

def readme_files():
    "What --readme writes: path -> bytes"
    p = Page(nbs/'index.ipynb', readme=True)
    desc = f"> {p.fm['description']}\n\n" if p.fm.get('description') else ''
    text = f"# {p.fm['title']}\n\n<!-- made from nbs/index.ipynb by `make readme`: edit there -->\n\n{desc}{p.text}\n"
    return {'README.md': text.encode()} | p.pictures

def readme(check=False):
    "Write README.md and its pictures, or say which are stale"
    files = readme_files(); now = {'README.md'} | {f'docs_assets/readme/{o.name}' for o in (assets/'readme').glob('*')}
    stale = sorted(f for f in now | set(files) if not (root/f).exists() or (root/f).read_bytes() != files.get(f))
    if check: return sys.exit(f"README is stale: {', '.join(stale)}" if stale else 0)
    for f in now - set(files): (root/f).unlink(missing_ok=True)
    for f,b in files.items(): (root/f).parent.mkdir(parents=True, exist_ok=True); (root/f).write_bytes(b)
    print('README.md:', f"wrote {', '.join(stale)}" if stale else 'already current')

# --- KaTeX

sources = {  # either brings KaTeX's js, css and fonts; the first needs Node.js, the second only pip
    'npm': ['npm', 'pack', '--silent', 'katex@0.19.1'],
    'pip': [sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '--dest', '.', 'djangocms-katex==1.0.2']}

def members(f):
    "(path, bytes) of the files in an archive"
    if f.suffix=='.whl':
        with zipfile.ZipFile(f) as z: yield from ((o, z.read(o)) for o in z.namelist())
    else:
        with tarfile.open(f) as t: yield from ((o.name, t.extractfile(o).read()) for o in t if o.isfile())

def katex():
    "The folder with KaTeX, fetched once through npm or pip"
    out = build/'katex'; tmp = build/'tmp'
    if (out/'katex.min.js').exists(): return out
    for tool,cmd in sources.items():
        shutil.rmtree(tmp, ignore_errors=True); tmp.mkdir(parents=True)
        if not shutil.which(cmd[0]) or subprocess.run(cmd, cwd=tmp, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode: continue
        for f in tmp.iterdir():
            for name,b in members(f):
                if not (m := re.search(r'katex(?:/dist)?/(?:contrib/)?(katex\.min\.(?:js|css)|auto-render\.min\.js|fonts/[\w-]+\.woff2)$', 'katex/'+name.removeprefix('package/'))): continue
                if name.endswith('css'): b = re.sub(rb',url\([^)]*\.(?:woff|ttf)\) *format\("\w+"\)', b'', b)
                (out/m[1]).parent.mkdir(parents=True, exist_ok=True); (out/m[1]).write_bytes(b)
        shutil.rmtree(tmp)
        if (out/'katex.min.js').exists(): return out
    sys.exit('make docs: cannot get KaTeX, which sets the formulas. It comes through `npm pack katex` or `pip download djangocms-katex`: '
             f'check that one of them works, or put katex.min.js, katex.min.css, auto-render.min.js and fonts/ into {out.relative_to(root)}/')

# --- the site

parts = {  # Folder of nbs/ -> title and what the part is about
    '1_line': ('I. The line', 'The algorithm: from a prompt to a group of answers, to advantages, to a loss, and the loop that learns.'),
    '2_rewards': ('II. What can be rewarded', 'Formulas, programs, puzzles, the shape of a text, opinions; and how a reward is kept from being fooled.'),
    '3_fast': ('III. Fast, and far from the sampler', 'A prompt that is read once, log-probs without logits, portions that fit into memory, and tokens that another model sampled.'),
    '4_run': ('IV. A run', 'Data, settings, checkpoints, the trainer, what to look at, and the command line.'),
    'cases': ('Cases', 'Whole experiments with their figures, seeds and intervals: each claim of the book, measured.')}

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
        super().__init__(); self.hrefs,self.loads,self.ids = [],[],set()
        self.feed(f.read_text(encoding='utf-8'))
    def handle_starttag(self, tag, attrs):
        a = dict(attrs); self.ids |= {a.get('id'), a.get('name')}
        if tag=='a' and a.get('href'): self.hrefs.append(a['href'])
        if tag=='link' and a.get('href') and a.get('rel') not in ('canonical','alternate','next','prev'): self.loads.append(a['href'])
        if tag in ('script','img','iframe','source','video','embed') and a.get('src'): self.loads.append(a['src'])

def faults(site):
    "Broken links, and what would be fetched from another host"
    pages = {f:Links(f) for f in site.rglob('*.html')}
    for f,p in pages.items():
        for u in p.hrefs+p.loads:
            if u.startswith('data:'): continue
            if re.match(r'\w+:|//', u):
                if u in p.loads: yield f'{f.relative_to(site)}: loads {u}'
                continue
            path,_,anchor = u.partition('#'); g = (f.parent/unquote(path.partition('?')[0])).resolve() if path else f
            if g.is_dir(): g = g/'index.html'
            if not g.exists(): yield f'{f.relative_to(site)}: no page {u}'
            elif anchor and g in pages and unquote(anchor) not in pages[g].ids: yield f'{f.relative_to(site)}: no anchor {u}'
    for f in site.rglob('*.css'):
        if ext := re.findall(r'(?:url\(|@import )["\']?((?:https?:)?//[^"\')]+)', f.read_text(encoding='utf-8')): yield f'{f.relative_to(site)}: loads {ext[0]}'

def site(draft=False):
    "Build the site; a `draft` may have broken links"
    import nbdev.showdoc
    from api_table import TableRenderer
    os.environ['IN_TEST'] = '1'                          # notebooks' last cells do not export
    nbdev.showdoc.BasicMarkdownRenderer = TableRenderer
    t = time.time(); docs = build/'docs'; k = katex()
    for o in ('docs','site'): shutil.rmtree(build/o, ignore_errors=True)
    shutil.copytree(assets, docs/'assets', ignore=shutil.ignore_patterns('readme', 'zensical.toml')); shutil.copytree(k, docs/'assets/katex')
    chapter(nbs/'index.ipynb', docs)
    nav = settings([part(folder, docs) for folder in parts])
    (build/'zensical.toml').write_text(nav, encoding='utf-8')
    cmd = [sys.executable, '-m', 'zensical', 'build', '--clean', '-f', str(build/'zensical.toml')] + ([] if draft else ['--strict'])
    r = subprocess.run(cmd, capture_output=True, text=True)
    if r.returncode:
        said = re.sub(r'\x1b\[[0-9;]*m', '', r.stdout + r.stderr.partition('Traceback')[0])
        sys.exit(f"{said}\nmake docs: Zensical found the faults above in the pages made from {cfg['nbs_path']}/ (they lie in _build/docs)")
    (build/'site/404.html').unlink(missing_ok=True)
    bad = sorted(set(faults((build/'site').resolve())))
    if bad: print('\n  '.join(['make docs: the site has faults', *bad]), file=sys.stderr)
    if bad and not draft: sys.exit(1)
    out = root/cfg['doc_path']; shutil.rmtree(out, ignore_errors=True); shutil.copytree(build/'site', out)
    print(f"{len(list(out.rglob('*.html')))} pages in {cfg['doc_path']}/, {time.time()-t:.0f} s; "
          + ('' if bad else 'links checked, nothing is loaded from another host'))

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for o in ('readme', 'check-readme', 'draft'): p.add_argument('--'+o, action='store_true')
    a = p.parse_args()
    os.chdir(root)
    if a.readme or a.check_readme: readme(check=a.check_readme)
    else: site(draft=a.draft)
