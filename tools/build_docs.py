"""Build the documentation site, or README.md, from the notebooks.

    python tools/build_docs.py                  # the site, in the folder doc_path of settings.ini
    python tools/build_docs.py --draft          # the same, where broken links only warn
    python tools/build_docs.py --release v0.2   # the same, as the pages of a release: see tools/site_versions.py
    python tools/build_docs.py --readme         # README.md and its pictures, from nbs/index.ipynb
    python tools/build_docs.py --check-readme   # fail when README.md is stale

nbdev processes the notebooks, tools/nb_md.py writes Markdown, Zensical makes the pages. Notebooks are not run: a page
shows stored outputs (only imports and exported definitions are executed, for the tables of parameters).
"""
import argparse, json, os, re, shutil, subprocess, sys, time
from pathlib import Path
from katex import build, katex
from nb_md import Page, base, cfg, nbs, page, root, write
from plain_docs import plain_pages
from site_faults import faults
from site_versions import MAIN, write_versions

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
    '4_agents': (
        'IV. Agents',
        'Several turns with tools and retrieval: what is called, what comes back, and which tokens carry a gradient.'),
    '5_run': (
        'V. A run',
        'Data, settings, checkpoints, the trainer, what to look at, and the command line.'),
    '6_seeing': (
        'VI. Seeing it',
        'Inside a run: each token with its terms of the loss, runs side by side, and a hand on the leash.'),
    '7_studies': (
        'VII. What happens when',
        'Questions with answers from several seeds, each one command: how tight a leash, how large a group, which recipe.'),
    '8_scale': (
        'VIII. Outgrowing one device',
        'Several processes, a server that writes the answers, a run that is started from a notebook, and settings and tasks for other trainers.'),
    '9_doctor': (
        'IX. The doctor',
        'Will this run learn anything? Asked in a minute, before it begins: data, template, rewards, answers, memory, time.'),
    'guides': (
        'Guides',
        'By the words that people search: own data, a T4, out of memory, a loss of 0, a flat reward, resuming. '
        'Each with what to do, and a cell that shows it.'),
    'cases': (
        'Cases',
        'Whole experiments with their figures, seeds and intervals: each claim of the book, measured.')}

def inspectors(folder):
    "Inspector pages, from what tools/front.py has written of each run"
    from grpo_lit.seeing.page import shell
    for f in folder.glob('*.json'):
        page = shell(*json.loads(f.read_text(encoding='utf-8')))
        f.with_suffix('.html').write_text(page, encoding='utf-8')
        f.unlink()

def number(p):
    "Number of a notebook in its part: '8' for `17_advantages.ipynb`, or ''"
    m = re.match(r'0*(\d+)_', p.name)
    return m[1] if m else ''

def place(rel):
    "Where a notebook stands in the book: 'Part I, chapter 8'"
    if len(rel.parts) == 1:
        return ''
    apart = dict(cases='Case study', guides='Guide')
    if rel.parts[0] in apart:
        return apart[rel.parts[0]]
    numeral = parts[rel.parts[0]][0].partition('.')[0]
    return f'Part {numeral}, chapter {number(rel)}'

def quoted(s): return json.dumps(s, ensure_ascii=False)

def elsewhere(rel):
    "Where else a notebook can be read and run: name -> address"
    src = f"{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}/{cfg['nbs_path']}/{rel.as_posix()}"
    return {
        'Open in Colab': f'https://colab.research.google.com/github/{src}',
        'Open in Kaggle': f'https://kaggle.com/kernels/welcome?src=https://github.com/{src}',
        'Notebook': f'https://github.com/{src}'}

def chapter(nb, docs):
    "Write the page of one notebook; returns its title, description and file"
    p = Page(nb)
    rel = p.rel
    for f, b in p.pictures.items():
        (docs/f).write_bytes(b)
    title, desc = p.fm['title'], p.fm.get('description') or ''
    where = place(rel)
    links = ' '.join(f'[{name}]({url}){{: .nb-button }}' for name, url in elsewhere(rel).items())
    head = [f'---\ntitle: {json.dumps(title)}\ndescription: {json.dumps(desc)}\n---',
            where and f'{where}\n{{: .nb-where }}',
            f'# {title}',
            desc and f'{desc}\n{{: .nb-lead }}',
            p.line and f'{p.line}\n{{: .nb-line }}',
            f'{links}\n{{: .nb-links }}']
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
    under = groups(folder)
    rows = []
    for i, (label, desc, file) in enumerate(pages):
        new = under.get(file) and under.get(file) != (i and under.get(pages[i-1][2]))
        rows += [f'\n## {under[file]}\n'] if new else []
        rows.append(f'- [{label}]({Path(file).name}): {desc}')
    head = f'---\ntitle: {quoted(title)}\ndescription: {quoted(about)}\n---\n\n'
    text = f'{head}# {title}\n\n{about}\n{{: .nb-lead }}\n\n' + '\n'.join(rows) + '\n'
    (docs/folder/'index.md').write_text(text, encoding='utf-8')
    entries = [quoted(f'{folder}/index.md'), *grouped(folder, pages)]
    return entry(title, f'[{", ".join(entries)}]')

def entry(label, value):
    "A line of the navigation, as TOML"
    return f'{{{quoted(label)} = {value}}}'

def groups(folder):
    "Page -> the heading that it stands under on the first page, where a part has tables with headings: `| A step | |`"
    cells = json.loads((nbs/'index.ipynb').read_text(encoding='utf-8'))['cells']
    text = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
    tables = re.findall(r'^\| ([^|]+) \| \|\n\|---\|---\|\n((?:\|.*\n?)+)', text, flags=re.M)
    links = rf'\]\(({folder}/[^)#]+)\.ipynb\)'
    return {f'{page(o)}.md': title for title, rows in tables for o in re.findall(links, rows)}

def grouped(folder, pages):
    "The pages of a part for the navigation, each under its heading"
    under, found, last = groups(folder), {}, ''
    for label, _, file in pages:
        last = under.get(file, last)
        found.setdefault(last, []).append(entry(label, quoted(file)))
    alone = found.pop('', [])
    return alone + [entry(title, f'[{", ".join(rows)}]') for title, rows in found.items()]

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

def pages(docs):
    "Write Markdown, assets and zensical.toml"
    fonts = katex()
    for o in ('docs', 'site'):
        shutil.rmtree(build/o, ignore_errors=True)
    shutil.copytree(assets, docs/'assets', ignore=shutil.ignore_patterns('readme', 'overrides', 'zensical.toml'))
    inspectors(docs/'assets/inspect')
    shutil.copytree(assets/'overrides', build/'overrides', dirs_exist_ok=True)
    shutil.copytree(fonts, docs/'assets/katex')
    (docs/'assets/versions.js').touch() # written when the pages are there
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

def site(draft=False, release=''):
    "Build the site; a `draft` may have broken links"
    import nbdev.showdoc
    from api_table import TableRenderer
    os.environ['IN_TEST'] = '1' # notebooks' last cells do not export
    nbdev.showdoc.BasicMarkdownRenderer = TableRenderer
    t = time.time()
    pages(build/'docs')
    zensical(draft)
    plain_pages(build/'site', parts)
    write_versions(build/'site', {release or MAIN: build/'site'}, release or MAIN)
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
    p.add_argument('--release', default='', metavar='VERSION')
    a = p.parse_args()
    os.chdir(root)
    if a.readme or a.check_readme:
        readme(check=a.check_readme)
    else:
        site(a.draft, a.release)

if __name__ == '__main__':
    main()
