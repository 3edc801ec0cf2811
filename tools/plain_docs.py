"""The pages of the site as plain Markdown, one beside each (`core.html.md`), and `llms.txt`, which lists them."""
from nb_md import PlainText, base, cfg, nbs, write

def plain_page(nb, site):
    "Write a notebook as Markdown; returns its line in the list"
    p = PlainText(nb)
    title, about = p.fm['title'], p.fm.get('description') or ''
    parts = [f'# {title}', about and f'> {about}', p.line, p.text]
    file = f'{p.name}.html.md'
    write(site/file, ('\n\n'.join(o for o in parts if o)+'\n').encode())
    return f'- [{title}]({base}{file}): {about}'

def plain_part(folder, title, about, site):
    "Write the pages of a part and one that lists them; returns its section of the list"
    lines = [plain_page(nb, site) for nb in sorted((nbs/folder).glob('[!_.]*.ipynb'))]
    text = '\n'.join(lines)
    write(site/folder/'index.html.md', f'# {title}\n\n{about}\n\n{text}\n'.encode())
    return f'## {title}\n\n{about}\n\n{text}'

def plain_pages(site, parts):
    "Write all of them; `parts` is folder -> (title, what it is about)"
    first = plain_page(nbs/'index.ipynb', site)
    sections = [plain_part(folder, *about, site) for folder, about in parts.items()]
    head = f"# {cfg['lib_name']}\n\n> {cfg['description']}\n\nEach page of {base} is there as Markdown, too: add `.md` to its address."
    write(site/'llms.txt', '\n\n'.join([head, f'## Begin here\n\n{first}', *sections, '']).encode())
