"""A notebook, processed by nbdev, as the Markdown of a site page, of README.md, or to be read as it is."""
import atexit, base64, html, posixpath, re, struct, zlib
from configparser import ConfigParser
from pathlib import Path
from fastcore.nbio import read_nb
from nbdev import processors as P
from nbdev.doclinks import NbdevLookup
from api_table import DocsInOrder, SourceBehindDocs

root = Path(__file__).resolve().parent.parent
ini = ConfigParser(delimiters=['='])
ini.read(root/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
base = cfg['doc_host'] + cfg['doc_baseurl']
nbs = root/cfg['nbs_path']

def page(p):
    "Page of a notebook, named as nbdev names it: `cases/01_sums.ipynb` is `cases/sums`"
    p = Path(p)
    name = re.sub(r'^\d+[a-zA-Z0-9]*_', '', p.stem.lower())
    return (p.parent/name).as_posix()

def write(path, content):
    "Write bytes, making the folders on the way"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

class Executed(P.exec_show_docs):
    "What is documented is run in a shell, which ends with its page: hundreds of them would take minutes to end together"
    def end(self):
        super().end()
        atexit.unregister(self.k.atexit_operations)
        self.k.close()

class Meant(NbdevLookup):
    "Links for names in backticks; an ordinary word is one only where the page imports or defines it"
    def __init__(self, code): # All that a notebook runs
        super().__init__()
        named = re.findall(r'^(?:from \S+ import (.+)|(?:def|class) (\w+))', code, flags=re.M)
        self.here = set(re.findall(r'\w+', ' '.join(a or b for a,b in named)))

    def __getitem__(self, name):
        word = re.fullmatch('[a-z]+', name) and name not in self.here
        return None if word else super().__getitem__(name)

class Links(P.Processor):
    "Links in prose, and in what documentation says"
    def begin(self):
        self.lookup = Meant(self.nb.code_) if self.nb.code_ else NbdevLookup() # the first page lists names

    def cell(self, cell):
        if cell.cell_type == 'markdown':
            cell.source = self.lookup.linkify(cell.source)
        for o in cell.get('outputs', []):
            if 'text/markdown' in o.get('data', {}):
                o['data']['text/markdown'] = self.lookup.linkify(''.join(o['data']['text/markdown']))

class SiteProcs(P.FilterDefaults):
    "nbdev's processing for the site, without its warning cell and with documentation in the order of the source"
    drop = {P.insert_warning}
    instead = {P.add_show_docs: DocsInOrder, P.exec_show_docs: Executed, P.add_links: Links, P.mv_exports: SourceBehindDocs}
    def base_procs(self): return [self.instead.get(o, o) for o in super().base_procs() if o not in self.drop]

class ReadmeProcs(SiteProcs):
    "The same, running nothing"
    drop = {P.insert_warning, P.add_show_docs, P.exec_show_docs}

def outside_code(s, f):
    "Apply `f` to the parts of Markdown `s` that are not fenced code"
    parts = re.split(r'(^ *(?P<fence>`{3,}).*?^ *(?P=fence)[ \t]*$)', s, flags=re.M|re.S)
    return ''.join(f(prose) + (code or '') for prose,code in zip(parts[::3], parts[1::3]+['']))

def quote(s, pre):
    "Put `pre` before each line"
    return '\n'.join((pre+l).rstrip() for l in s.strip().splitlines())

equation = re.compile(r'^\$\$(.+?)\$\$(?: *\{#[\w-]+\})?[ \t]*$', re.M|re.S)
glued_list = re.compile( # A list needs a blank line before it
    r'^(?![ \t]*(?:[-*+]|\d+\.) |[ \t]*$|[ >|])(.+)\n(?=(?:[-*+]|1\.) )', re.M)
callout = re.compile(r'^:::\s*\{\.callout-(\w+)[^}]*\}\n(.*?)^:::\s*$', re.M|re.S)
source_link = re.compile(r'\]\(([^)]*)\)\{target="_blank" style="[^"]*"\}')
here_link = re.compile(r'\]\(#([^)\s]+)\)') # Jupyter keeps capitals in anchors
asset = re.compile(r'(?:\.\./)+docs_assets/') # pictures that a notebook shows from there
comment = re.compile(r'^<!-- [^>]* -->\n+', re.M)
twin = re.compile(r'!\[([^]]*)\]\(([^)\s]*/)(\w+)\.png\)')
embedded = re.compile(rf'^\[([^]]+)\]\({re.escape(base)}assets/([\w/-]+\.html)\)$', re.M)
notebook_link = re.compile(r'\]\((?!\w+:)([^)\s#]*)\.ipynb(#[^)\s]*)?\)')

def under_title(s):
    "What stands in the title cell below title and description, without the links that open the notebook elsewhere"
    lines = [o for o in s.splitlines() if not re.match(r'# |>|\[Open in ', o)]
    return '\n'.join(lines).strip()

def has_paper(b):
    "Is PNG `b` opaque: drawn on white, and too bright for a dark page?"
    kind = b[25] if b.startswith(b'\x89PNG') else None
    return kind in (0, 2, 3) or kind in (4, 6) and not corner_alpha(b) == 0

def corner_alpha(b):
    "Alpha of the first pixel of an 8-bit PNG that has one, or None"
    chunks, at = b'', 8
    while at < len(b):
        size, kind = struct.unpack('>I4s', b[at:at+8])
        chunks += b[at+8:at+8+size] if kind == b'IDAT' else b''
        at += 12+size
    channels = 2 if b[25] == 4 else 4
    line = zlib.decompressobj().decompress(chunks, 1+channels)
    return line[channels] if b[24] == 8 else None # no filter changes the first pixel of the first line

class Page:
    "Markdown `text`, front matter `fm` and `pictures` (path -> bytes) of the notebook at `path`"
    def __init__(self, path, readme=False):
        self.rel = Path(path).relative_to(nbs)
        self.name, self.readme, self.pictures = page(self.rel), readme, {}
        self.up = '../'*(len(self.rel.parts)-1)
        self.heading, self.documented = '', False
        self.assets = 'docs_assets/' if readme else self.up+'assets/'
        nb = read_nb(path)
        self.line = self.md(under_title(nb.cells[0].source))
        nb.code_ = '' if self.name == 'index' else '\n'.join(c.source for c in nb.cells if c.cell_type == 'code')
        for c in nb.cells:
            prepare(c)
        process = ReadmeProcs() if readme else SiteProcs()
        process(nb)
        self.fm = dict(title=self.name) | dict(getattr(nb, 'frontmatter_', {}))
        pieces = [o for c in nb.cells[1:] for o in self.cell(c)]
        self.text = '\n\n'.join(o.strip('\n') for o in pieces if o.strip())

    def md(self, s):
        "Markdown as nbdev and Jupyter take it -> as Python-Markdown and GitHub take it"
        return outside_code(s, self.prose)

    def prose(self, s):
        "The same for a part that is not code"
        s = comment.sub('', s)
        s = equation.sub(lambda m: f'\n$$\n{m[1].strip()}\n$$\n', s)
        s = glued_list.sub(r'\1\n\n', s)
        s = callout.sub(self.callout, s)
        s = source_link.sub(r'](\1){: .source }', s)
        s = notebook_link.sub(self.nb_link, s)
        s = here_link.sub(lambda m: f'](#{m[1].lower()})', s)
        s = twin.sub(self.twins, asset.sub(self.assets, s))
        if self.readme:
            return s
        s = embedded.sub(self.frame, s)
        s = s.replace(f'{base}assets/', f'{self.up}assets/')
        return re.sub(re.escape(base)+r'([\w/-]+)\.html', self.up+r'\1.md', s)

    def twins(self, m):
        "A picture that has a twin for dark pages, NAME-dark.png, as both"
        alt, path, name = m[1], m[2], m[3]
        if not (root/'docs_assets'/f'{name}-dark.png').exists():
            return m[0]
        if not self.readme:
            return f'![{alt}]({path}{name}.png#only-light) ![{alt}]({path}{name}-dark.png#only-dark)'
        dark = f'<source media="(prefers-color-scheme: dark)" srcset="{path}{name}-dark.png">'
        return f'<picture>{dark}<img alt="{html.escape(alt)}" src="{path}{name}.png"></picture>'

    def frame(self, m):
        "A link to a page among the assets that stands alone: the page itself, with the link below"
        address = self.up+'assets/'+m[2]
        title = html.escape(m[1])
        frame = f'<iframe class="nb-frame" src="{address}" title="{title}" loading="lazy"></iframe>'
        return f'{frame}\n\n[{m[1]}]({address}){{: .nb-button target="_blank" }}'

    def nb_link(self, m):
        "A link to a notebook as one to its page"
        to, anchor = page(f'{m[1]}.ipynb'), (m[2] or '').lower()
        whole = posixpath.normpath((self.rel.parent/to).as_posix())
        return f']({base}{whole}.html{anchor})' if self.readme else f']({to}.md{anchor})'

    def callout(self, m):
        "Quarto's callout as GitHub's or as an admonition"
        if self.readme:
            return f'> [!{m[1].upper()}]\n' + quote(m[2], '> ') + '\n'
        return f'\n!!! {m[1]}\n\n' + quote(m[2], '    ') + '\n'

    def place(self, number, ext):
        "(file, address) of a picture"
        if self.readme:
            f = f'docs_assets/readme/{self.name}_{number}.{ext}'
            return f, f
        f = f'assets/{self.name.replace("/", "-")}_nb_{number}.{ext}'
        return f, self.up+f

    def picture(self, b, ext, width=None, alt=''):
        "Keep picture `b`; returns its HTML"
        f, address = self.place(len(self.pictures), ext)
        self.pictures[f] = b
        size = f' width="{width}"' if width else ''
        paper = ' class="nb-paper"' if has_paper(b) and not self.readme else ''
        words = html.escape(without_signs(alt or self.about()))
        return f'<img alt="{words}" src="{address}"{size}{paper}>'

    def about(self):
        "What a picture that says nothing about itself shows: the section that it stands in"
        return f'Figure: {self.heading or self.fm["title"]}'

    def output(self, o, alt=''):
        "One stored output as Markdown; `alt` says what its picture shows"
        data = o.get('data', {})
        d = {k:''.join(v) for k,v in data.items() if isinstance(v, (str, list))}
        if 'text/html' in d:
            return self.html(d['text/html'])
        alt = alt or spoken(d.get('text/plain', ''))
        if 'image/svg+xml' in d:
            return self.picture(d['image/svg+xml'].encode(), 'svg', alt=alt)
        if 'image/png' in d:
            width = o.get('metadata', {}).get('image/png', {}).get('width')
            return self.picture(base64.b64decode(d['image/png']), 'png', width, alt)
        if 'text/markdown' in d:
            return self.md(d['text/markdown'])
        if 'application/vnd.jupyter.widget-view+json' in data:
            return self.widget()
        if o.get('name') == 'stderr':
            return ''
        return self.plain(d.get('text/plain') or ''.join(o.get('text', '')) or '\n'.join(o.get('traceback', [])))

    def plain(self, t):
        "Text in a box, without its colours"
        t = re.sub(r'\x1b\[[0-?]*[ -/]*[@-~]', '', t).strip('\n')
        if not t.strip():
            return ''
        if self.readme:
            return f'```text\n{t}\n```'
        long = ' long' if max(map(len, t.splitlines())) > 130 else ''
        return f'<pre class="nb-out{long}">{html.escape(t)}</pre>'

    def html(self, s):
        "HTML in a box; README loses its styles, which GitHub would print"
        if '<pre' not in s: # blank or indented lines would be Markdown again
            s = re.sub(r'\n\s*', '\n', s.strip())
        if self.readme:
            return re.sub(r'<(style|script)\b.*?</\1>', '', s, flags=re.S).strip()
        return f'<div class="nb-html">\n{s}\n</div>'

    def widget(self):
        if self.readme:
            return '*(a widget: open the notebook to use it)*'
        return '!!! tip "Interactive"\n\n    This cell shows a widget. Open the notebook in Jupyter or Colab to use it.'

    def show_doc(self, s):
        "Give the heading the id that nbdev's links use, `core.html#buffer.add`"
        def head(m):
            name = m[2].replace('\\', '')
            id, shown = name.lower(), name.replace('_', '\\_')
            label = f' data-toc-label="{name[name.rindex("."):]}"' if '.' in name else ''
            if '__' in id: # would be bold in an id
                return f'<span id="{id}"></span>\n\n{m[1]} {shown} {{: .api{label} }}'
            return f'{m[1]} {shown} {{: #{id} .api{label} }}'
        return re.sub(r'^(#{2,5}) (\S+)$', head, self.md(s.removeprefix('---\n')), flags=re.M)

    def cell(self, c):
        "The pieces of Markdown for a cell"
        s = c.get('source') or ''
        if c['cell_type'] != 'code':
            headings = re.findall(r'^#{2,} +(.+)', s, flags=re.M)
            self.heading = headings[-1].strip('# ') if headings else self.heading
            return [self.md(s)]
        head = re.match(r'(?:\s*#\|.*(?:\n|$))*', s)[0]
        outs = joined(c.get('outputs') or [])
        if 'include: false' in head:
            return []
        if 'output: asis' in head:
            self.documented = True
            docs = [o['data']['text/markdown'] for o in outs if 'text/markdown' in o.get('data', {})]
            return [self.show_doc(''.join(o)) for o in docs]
        documented, self.documented = self.documented, False
        alt = re.search(r'fig-alt: *(.+)', head)
        shown = [] if 'output: false' in head else [self.output(o, alt[1] if alt else '') for o in outs]
        return [block(head, s[len(head):].strip(), documented), *shown]

def without_signs(s):
    "Words without the signs of TeX and Markdown"
    s = re.sub(r'\\(?:mathrm|mathdefault|operatorname|left|right|[,;!])', '', s)
    return ' '.join(re.sub(r'[$`{}]', '', s.replace('\\', ' ')).split())

def spoken(text):
    "The text beside a picture, where it says what there is to see"
    return '' if text.startswith('<') else ' '.join(text.split())

def block(head, code, documented):
    "The code of a cell; what is exported is folded where its documentation stands above"
    if not code or 'echo: false' in head:
        return ''
    text = f'```python\n{code}\n```'
    if 'code-fold' not in head or not documented:
        return text
    return '??? source "Source"\n\n' + quote(text, '    ')

def same_stream(a, b):
    "Did one stream write both outputs?"
    return a.get('output_type') == 'stream' == b.get('output_type') and a['name'] == b['name']

class PlainText(Page):
    "A page as Markdown that is read as it is, by people or by models"
    def __init__(self, path):
        super().__init__(path, readme=True)
        self.text = self.text.replace('docs_assets/', f'{base}assets/')

    def place(self, number, ext):
        f = f'assets/{self.name.replace("/", "-")}_nb_{number}.{ext}'
        return f, base+f

def joined(outs):
    "Outputs with what one stream wrote in a row as one piece"
    res = []
    for o in outs:
        if res and same_stream(res[-1], o):
            res[-1] = {**res[-1], 'text':''.join(res[-1]['text'])+''.join(o['text'])}
        else:
            res.append(o)
    return res

def prepare(c):
    """Show what is exported: `export` becomes `exports`, but for cells of imports only.
    Run nothing else but imports: nbdev's processing would run a lesson that imports something, or that a test flag marks."""
    if c.cell_type != 'code':
        return
    code = re.search(r'^(?!import |from |#|\s|$)', c.source, flags=re.M)
    exports = re.search(r'^\s*#\|\s*exports?\b', c.source, flags=re.M)
    imports = re.search(r'^\s*(import|from)\s', c.source, flags=re.M)
    if any(c.has_directive(o) for o in cfg['tst_flags'].split()) or code and imports and not exports:
        c.source = '#| eval: false\n'+c.source
    elif code:
        c.source = re.sub(r'^(\s*#\|\s*export)[ \t]*$', r'\1s', c.source, flags=re.M)
