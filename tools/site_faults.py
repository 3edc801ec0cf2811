"""What is wrong with a built site: links that lead nowhere, pictures without words, anything that is fetched from another host."""
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit
from nb_md import base, cfg, root

class Links(HTMLParser):
    "What a page links to, loads, and can be linked to at"
    def __init__(self, f):
        super().__init__()
        self.hrefs, self.loads, self.ids, self.mute = [], [], set(), []
        self.feed(f.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        href, src = a.get('href'), a.get('src')
        self.ids |= {a.get('id'), a.get('name')}
        if tag == 'a' and href:
            self.hrefs.append(href)
        if tag == 'link' and href and a.get('rel') not in ('canonical', 'alternate', 'next', 'prev'):
            self.loads.append(href)
        if tag == 'img' and not a.get('alt'):
            self.mute.append(src)
        if tag in ('script', 'img', 'iframe', 'source', 'video', 'embed') and src:
            self.loads.append(src)

home = urlsplit(base).path # the folder that the site has on its host

def target(f, path, site):
    "The file that a link `path` on page `f` leads to"
    if not path:
        return f
    if path.startswith(home): # 404.html is shown wherever a page is missing
        f, path = site/'404.html', './'+path.removeprefix(home)
    g = (f.parent/unquote(path.partition('?')[0])).resolve()
    return g/'index.html' if g.is_dir() else g

def fault(f, url, pages, site):
    "What is wrong with a link on page `f`, or None"
    if url.startswith('data:'):
        return None
    if re.match(r'\w+:|//', url):
        return f'loads {url}' if url in pages[f].loads else None
    path, _, anchor = url.partition('#')
    g = target(f, path, site)
    if not g.exists():
        return f'no page {url}'
    if anchor and g in pages and unquote(anchor) not in pages[g].ids:
        return f'no anchor {url}'

def lost(site):
    "Addresses of this site, in plain pages and in the docstrings of modules, where no page is"
    modules = sorted((root/cfg['lib_path']).rglob('*.py'))
    for f in [*modules, *site.rglob('*.md'), site/'llms.txt']:
        for url in re.findall(re.escape(base)+r'[\w./-]*', f.read_text(encoding='utf-8')):
            if not (site/url.removeprefix(base).rstrip('.')).exists():
                yield f'{f.name}: no page {url}'

def faults(site):
    "Broken links, and what would be fetched from another host"
    pages = {f:Links(f) for f in site.rglob('*.html')}
    for f,p in pages.items():
        for url in p.hrefs+p.loads:
            wrong = fault(f, url, pages, site)
            if wrong:
                yield f'{f.relative_to(site)}: {wrong}'
        for src in p.mute:
            yield f'{f.relative_to(site)}: no words for the picture {src}'
    yield from lost(site)
    elsewhere = re.compile(r'(?:url\(|@import )["\']?((?:https?:)?//[^"\')]+)')
    for f in site.rglob('*.css'):
        found = elsewhere.search(f.read_text(encoding='utf-8'))
        if found:
            yield f'{f.relative_to(site)}: loads {found[1]}'
