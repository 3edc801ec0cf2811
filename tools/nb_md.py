"""A notebook, processed by nbdev, as the Markdown of a site page or of README.md."""
import base64, html, re
from configparser import ConfigParser
from pathlib import Path
from fastcore.nbio import read_nb
from nbdev import processors as P

root = Path(__file__).resolve().parent.parent
ini = ConfigParser(delimiters=['=']); ini.read(root/'settings.ini', encoding='utf-8'); cfg = ini['DEFAULT']
base = cfg['doc_host'] + cfg['doc_baseurl']
nbs = root/cfg['nbs_path']

def page(p):
    "Page of a notebook, named as nbdev names it: `cases/01_sums.ipynb` is `cases/sums`"
    p = Path(p); return (p.parent/re.sub(r'^\d+[a-zA-Z0-9]*_', '', p.stem.lower())).as_posix()

class SiteProcs(P.FilterDefaults):
    "nbdev's processing for the site, without its warning cell"
    drop = {P.insert_warning}
    def base_procs(self): return [o for o in super().base_procs() if o not in self.drop]

class ReadmeProcs(SiteProcs):
    "The same, running nothing"
    drop = {P.insert_warning, P.add_show_docs, P.exec_show_docs}

def outside_code(s, f):
    "Apply `f` to the parts of Markdown `s` that are not fenced code"
    parts = re.split(r'(^ *(?P<fence>`{3,}).*?^ *(?P=fence)[ \t]*$)', s, flags=re.M|re.S)
    return ''.join(f(prose) + (code or '') for prose,code in zip(parts[::3], parts[1::3]+['']))

def quote(s, pre): return '\n'.join((pre+l).rstrip() for l in s.strip().splitlines())

class Page:
    "Markdown `text`, front matter `fm` and `pictures` (path -> bytes) of the notebook at `path`"
    def __init__(self, path, readme=False):
        self.rel = Path(path).relative_to(nbs); self.name,self.readme,self.pictures = page(self.rel),readme,{}
        self.up = '../'*(len(self.rel.parts)-1)
        nb = read_nb(path)
        for c in nb.cells: prepare(c)
        (ReadmeProcs if readme else SiteProcs)()(nb)
        self.fm = dict(title=self.name) | dict(getattr(nb, 'frontmatter_', {}))
        self.text = '\n\n'.join(o.strip('\n') for c in nb.cells[1:] for o in self.cell(c) if o.strip())

    def md(self, s):
        "Markdown as nbdev and Jupyter take it -> as Python-Markdown and GitHub take it"
        return outside_code(s, self.prose)

    def prose(self, s):
        s = re.sub(r'^\$\$(.+?)\$\$(?: *\{#[\w-]+\})?[ \t]*$', lambda m: f'\n$$\n{m[1].strip()}\n$$\n', s, flags=re.M|re.S)
        s = re.sub(r'^(?![ \t]*(?:[-*+]|\d+\.) |[ \t]*$|[ >|])(.+)\n(?=(?:[-*+]|1\.) )', r'\1\n\n', s, flags=re.M)   # a list needs a blank line before it
        s = re.sub(r'^:::\s*\{\.callout-(\w+)[^}]*\}\n(.*?)^:::\s*$', self.callout, s, flags=re.M|re.S)
        s = re.sub(r'\]\(([^)]*)\)\{target="_blank" style="[^"]*"\}', r'](\1){: .source }', s)
        s = re.sub(r'\]\((?!\w+:)([^)\s#]*)\.ipynb(#[^)\s]*)?\)', self.nb_link, s)
        return s if self.readme else re.sub(re.escape(base)+r'([\w/-]+)\.html', self.up+r'\1.md', s)

    def nb_link(self, m):
        d,_,stem = m[1].rpartition('/'); to = page((d+'/' if d else '')+stem+'.ipynb'); anchor = (m[2] or '').lower()
        return f']({base}{to}.html{anchor})' if self.readme else f']({to}.md{anchor})'

    def callout(self, m):
        if self.readme: return f'> [!{m[1].upper()}]\n' + quote(m[2], '> ') + '\n'
        return f'\n!!! {m[1]}\n\n' + quote(m[2], '    ') + '\n'

    def picture(self, b, ext, width=None):
        "Keep picture `b`; returns its HTML"
        f = f'docs_assets/readme/{self.name}_{len(self.pictures)}.{ext}' if self.readme else \
            f'assets/{self.name.replace("/","-")}_nb_{len(self.pictures)}.{ext}'
        self.pictures[f] = b
        return f'<img alt="figure" src="{"" if self.readme else self.up}{f}"' + (f' width="{width}"' if width else '') + '>'

    def output(self, o):
        "One stored output as Markdown"
        d = {k:''.join(v) for k,v in o.get('data',{}).items() if isinstance(v,(str,list))}
        if 'text/html' in d: return self.html(d['text/html'])
        if 'image/svg+xml' in d: return self.picture(d['image/svg+xml'].encode(), 'svg')
        if 'image/png' in d: return self.picture(base64.b64decode(d['image/png']), 'png', o.get('metadata',{}).get('image/png',{}).get('width'))
        if 'text/markdown' in d: return self.md(d['text/markdown'])
        if 'application/vnd.jupyter.widget-view+json' in o.get('data',{}): return self.widget()
        if o.get('name')=='stderr': return ''
        t = d.get('text/plain') or ''.join(o.get('text','')) or '\n'.join(o.get('traceback',[]))
        t = re.sub(r'\x1b\[[0-?]*[ -/]*[@-~]', '', t).strip('\n')
        if not t.strip(): return ''
        return f'```text\n{t}\n```' if self.readme else f'<pre class="nb-out">{html.escape(t)}</pre>'

    def html(self, s):
        "HTML in a box; README loses its styles, which GitHub would print"
        if '<pre' not in s: s = re.sub(r'\n\s*', '\n', s.strip())           # blank or indented lines would be Markdown again
        if self.readme: return re.sub(r'<(style|script)\b.*?</\1>', '', s, flags=re.S).strip()
        return f'<div class="nb-html">\n{s}\n</div>'

    def widget(self):
        if self.readme: return '*(a widget: open the notebook to use it)*'
        return '!!! tip "Interactive"\n\n    This cell shows a widget. Open the notebook in Jupyter or Colab to use it.'

    def show_doc(self, s):
        "Give the heading the id that nbdev's links use, `core.html#buffer.add`"
        def head(m):
            nm = m[2].replace('\\', ''); id = nm.lower(); h = f"{m[1]} {nm.replace('_', chr(92)+'_')}"
            return f'<span id="{id}"></span>\n\n{h} {{: .api }}' if '__' in id else f'{h} {{: #{id} .api }}'   # `__` would be bold in an id
        return re.sub(r'^(#{2,5}) (\S+)$', head, self.md(s.removeprefix('---\n')), flags=re.M)

    def cell(self, c):
        "The pieces of Markdown for a cell"
        s = c.get('source') or ''
        if c['cell_type']!='code': return [self.md(s)]
        head = re.match(r'(?:\s*#\|.*(?:\n|$))*', s)[0]; code = s[len(head):].strip()
        outs = joined(c.get('outputs') or [])
        if 'include: false' in head: return []
        if 'output: asis' in head:
            return [self.show_doc(''.join(o['data']['text/markdown'])) for o in outs if 'text/markdown' in o.get('data',{})]
        block = f'```python\n{code}\n```' if code and 'echo: false' not in head else ''
        if block and 'code-fold' in head:
            block = f'???{"+" if code.count(chr(10))<30 else ""} source "Exported source"\n\n' + quote(block, '    ')
        return [block] + ([] if 'output: false' in head else [self.output(o) for o in outs])

def joined(outs):
    "Outputs with what one stream wrote in a row as one piece"
    res = []
    for o in outs:
        if res and o.get('output_type')=='stream'==res[-1].get('output_type') and o['name']==res[-1]['name']:
            res[-1] = {**res[-1], 'text':''.join(res[-1]['text'])+''.join(o['text'])}
        else: res.append(o)
    return res

def prepare(c):
    """Show what is exported: `export` becomes `exports`, but for cells of imports only.
    Run nothing that a test flag marks: nbdev's processing would, if it imports."""
    if c.cell_type!='code': return
    if any(c.has_directive(o) for o in cfg['tst_flags'].split()): c.source = '#| eval: false\n'+c.source
    elif re.search(r'^(?!import |from |#|\s|$)', c.source, flags=re.M):
        c.source = re.sub(r'^(\s*#\|\s*export)[ \t]*$', r'\1s', c.source, flags=re.M)
