"""The first page's figures, pictures and inspector pages, made from run directories.

    python tools/front.py runs/front            # makes the runs that are not there (minutes), then everything below
    python tools/front.py --check               # does nbs/index.ipynb say what docs_assets/front.json says? (no run needed)

Writes docs_assets/front.json (what was measured), front.png and front-dark.png, card.png (shown by links to the site),
docs_assets/inspect/*.json, and in nbs/index.ipynb every part between `<!-- front: NAME -->` and `<!-- end -->`.
"""
import argparse, json, re, subprocess, sys
from pathlib import Path
from front_picture import draw_all, metrics

root = Path(__file__).resolve().parent.parent
assets, index = root/'docs_assets', root/'nbs/index.ipynb'
site = 'https://grpo-lit.github.io/grpo-lit/'

# --- the runs: name -> the command that makes it, where it leaves the run directory, and what the inspector page is called

RUNS = {
    'demo': ('demo', '', 'A tiny model learns to add'),
    'searcher': ('demo --task search', '', 'A tiny model learns to search'),
    'hacked': ('study beta --seeds 1 --arms "beta 0"', 'beta 0/seed-0', 'A weak checker and no leash')}

def make(runs):
    "Make each run that is not there"
    for name, (command, inside, _) in RUNS.items():
        if (runs/name/inside/'summary.json').exists(): continue
        words = [w.strip('"') for w in re.findall(r'"[^"]*"|\S+', command)]
        subprocess.run([sys.executable, '-c', 'from grpo_lit.run.cli import main\nmain()', *words, '--out', str(runs/name)], cwd=root, check=True)

def place(runs, name):
    return runs/name/RUNS[name][1]

# --- what was measured

def read(path):
    return json.loads(path.read_text(encoding='utf-8'))

def mean(values):
    return sum(values)/len(values)

def figures(run):
    "Of one run: held-out accuracy and length before and after, and the reward that it was paid"
    summary, ms = read(run/'summary.json'), metrics(run)
    said = {k: summary[k] for k in ('accuracy_before', 'accuracy_after', 'mean_length_before', 'mean_length_after')}
    said |= dict(steps=len(ms), seconds=summary['train_seconds'], kl=summary['kl'])
    said |= {f'interval_{k}': summary[f'interval_{k}'] for k in ('before', 'after')}
    return said | dict(paid_first=mean([m['reward'] for m in ms[:6]]), paid_last=mean([m['reward'] for m in ms[-6:]]))

def speed():
    "Of cases/speed.ipynb: our time and memory over TRL's, as its cell printed them"
    cells = read(root/'nbs/cases/speed.ipynb')['cells']
    said = ''.join(t for c in cells for o in c.get('outputs', []) for t in o.get('text', []))
    number = lambda line, name: float(re.search(rf'{name} +([\d.]+)', line)[1])
    lines = [line for line in said.splitlines() if ' ratio ' in line][:2]
    return {line.split(' ratio ')[0].strip(): {k: number(line, k) for k in ('step', 'memory')} for line in lines}

# --- the parts of the first page

def picture(f):
    d = f['demo']
    curves = (f"during {d['steps']} steps the share of right answers on new sums rises from {d['accuracy_before']:.2f} to "
              f"{d['accuracy_after']:.2f}, and completions grow from {d['mean_length_before']:.0f} to {d['mean_length_after']:.0f} tokens")
    return f"![Two curves and two groups of answers: {curves}; at step 1 the model guesses a sum, at the end it works it out](../docs_assets/front.png)"

def share(f, when):
    low, high = f[f'interval_{when}']
    return f"{f[f'accuracy_{when}']:.2f} [{low:.2f}, {high:.2f}]"

def row(f, name, what, found):
    d = f[name]
    cells = [what, f"`grpo-lit {RUNS[name][0]}`", share(d, 'before'), share(d, 'after'), f"{max(d['seconds']/60, .5):.0f} min", found,
             f'[inside]({site}assets/inspect/{name}.html)']
    return '| '+' | '.join(cells)+' |'

def table(f):
    demo, hacked, searcher = f['demo'], f['hacked'], f['searcher']
    grown = f"answers grow from {demo['mean_length_before']:.0f} to {demo['mean_length_after']:.0f} tokens: working it out is what makes them right"
    asks = 'it finds out when to search, and how often, from that one reward'
    fooled = f"the reward rises from {hacked['paid_first']:.2f} to {hacked['paid_last']:.2f} while right answers vanish; KL {hacked['kl']:.1f}"
    head = ['| | command | right before | right after | one core | what happens | look |', '|---|---|---|---|---|---|---|']
    rows = [row(f, 'demo', 'sums, a right answer pays', grown),
            row(f, 'searcher', 'questions, a library to search', asks),
            row(f, 'hacked', 'sums, a checker with two holes, no leash', fooled)]
    return '\n'.join([*head, *rows])

def beside(f):
    names = {'2 x 256': '2 prompts of 256 tokens', '1 x 1024': '1 prompt of 1024 tokens'}
    head = ['| 8 completions of 64 tokens after | time of a step, TRL = 1 | peak memory, TRL = 1 |', '|---|---|---|']
    return '\n'.join(head + [f"| {names.get(k, k)} | {v['step']:.2f} | {v['memory']:.2f} |" for k, v in f['speed'].items()])

PARTS = dict(picture=picture, runs=table, speed=beside)
marked = re.compile(r'(<!-- front: (\w+) -->\n).*?(<!-- end -->)', re.S)

def with_figures(text, f):
    "A cell's text, its marked parts made anew"
    return marked.sub(lambda m: f'{m[1]}\n{PARTS[m[2]](f)}\n\n{m[3]}', text)

def page_with(f):
    "nbs/index.ipynb as it should be"
    nb = read(index)
    for cell in nb['cells']:
        if cell['cell_type'] == 'markdown':
            cell['source'] = with_figures(''.join(cell['source']), f).splitlines(keepends=True)
    return nb

def missing(nb):
    "Parts that the first page has no place for"
    return sorted(set(PARTS) - {m[1] for c in nb['cells'] for m in marked.findall(''.join(c['source']))})

def check():
    "Exit with a sentence where the first page says something else than what was measured"
    nb = read(index)
    if page_with(read(assets/'front.json')) != nb: sys.exit('nbs/index.ipynb is stale: python tools/front.py runs/front')
    absent = [name for name in RUNS if not (assets/f'inspect/{name}.json').exists()]
    if absent: sys.exit(f'no inspector page of {", ".join(absent)}: python tools/front.py runs/front')

# --- all of it

def pages(runs):
    "What the inspector page of each run says; the site puts it into the page itself"
    from grpo_lit.seeing.page import page_parts
    for name, (_, _, title) in RUNS.items():
        write_json(assets/f'inspect/{name}.json', page_parts(place(runs, name), 490_000, title))

def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1)+'\n', encoding='utf-8')

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('runs', nargs='?', type=Path, help='where the run directories are, or go')
    p.add_argument('--check', action='store_true')
    a = p.parse_args()
    if a.check: return check()
    if not a.runs: p.error('name the folder of the runs, as runs/front')
    make(a.runs.resolve())
    f = {name: figures(place(a.runs, name)) for name in RUNS} | dict(speed=speed())
    lost = missing(read(index))
    if lost: sys.exit(f'nbs/index.ipynb has no part {", ".join(lost)}')
    write_json(assets/'front.json', f)
    write_json(index, page_with(f))
    draw_all(place(a.runs, 'demo'))
    pages(a.runs)
    check()

if __name__ == '__main__':
    main()
