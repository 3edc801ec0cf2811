"""The first page's picture, on white and on a dark page, and the card that links to the site show: drawn from a run of the demo.

tools/front.py calls it.
"""
import json
from pathlib import Path
import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt
import pyarrow.parquet as pq

assets = Path(__file__).resolve().parent.parent/'docs_assets'
LIGHT = dict(ink='#24292f', grey='#6e7781', line='#d0d7de', right='#0072B2', wrong='#B34700', curve='#0072B2', length='#00795a', paper='white')
DARK = dict(ink='#e6e8ee', grey='#9aa3b2', line='#454b5a', right='#56B4E9', wrong='#ff9d5c', curve='#56B4E9', length='#3ecfa5', paper='none')

def metrics(run):
    lines = (run/'metrics.jsonl').read_text(encoding='utf-8').splitlines()
    return [m for m in map(json.loads, lines) if 'reward' in m]

def group(run, step, wanted):
    "(prompt, [(completion, was it right?)]) of the first group with a long sum that suits `wanted`, a function of its verdicts"
    rows = pq.read_table(run/f'rollouts/step-{step:06d}.parquet').to_pylist()
    groups = {}
    for o in rows:
        groups.setdefault(o['prompt'], []).append((o['completion'], o['accuracy_reward'] == 1))
    return next((p, g) for p, g in groups.items() if len(p) >= len('123+456=?') and wanted([right for _, right in g]))

def smooth(values, n=5):
    "Mean of the last `n` values at each place"
    return [sum(values[max(0, i-n+1):i+1])/min(n, i+1) for i in range(len(values))]

def curve(ax, values, color, title, scale, look):
    "One metric over the steps, each step pale and their mean strong"
    steps = range(1, len(values)+1)
    ax.plot(steps, values, color=color, alpha=.3, lw=1)
    ax.plot(steps, smooth(values), color=color, lw=2.2)
    ax.set_title(title, loc='left', fontsize=10*scale, color=look['ink'])
    ax.set_facecolor('none')
    ax.tick_params(labelsize=8*scale, colors=look['grey'], length=2)
    ax.margins(x=.01)
    for side in ax.spines:
        ax.spines[side].set_visible(side in ('left', 'bottom'))
        ax.spines[side].set_color(look['line'])

def answers(ax, title, prompt, rows, scale, look):
    "A question and what the policy wrote, each with a sign: right or wrong"
    ax.axis('off')
    ax.text(0, 1, title, fontsize=10*scale, color=look['ink'], va='top')
    ax.text(0, .84, prompt, fontsize=9*scale, color=look['grey'], family='monospace', va='top')
    for i, (text, right) in enumerate(rows):
        sign, color = ('✓', look['right']) if right else ('✗', look['wrong'])
        ax.text(0, .68-.17*i, sign, fontsize=9*scale, color=color, va='top', family='DejaVu Sans')
        ax.text(.05, .68-.17*i, text, fontsize=8.2*scale, color=color, va='top', family='monospace')

def draw(run, file, size, look, title='', scale=1., top=.9):
    "Curves on the left, the policy's own words on the right"
    ms = metrics(run)
    fig = plt.figure(figsize=size, facecolor=look['paper'])
    grid = fig.add_gridspec(2, 2, width_ratios=(1, 1.25), left=.06, right=.985, top=top, bottom=.1, wspace=.12, hspace=.55)
    right = fig.add_subplot(grid[0, 0])
    curve(right, [m['rewards/accuracy_reward/mean'] for m in ms], look['curve'], 'right answers, share', scale, look)
    lengths = fig.add_subplot(grid[1, 0])
    curve(lengths, [m['completions/mean_length'] for m in ms], look['length'], 'tokens in a completion', scale, look)
    lengths.set_xlabel('step', fontsize=8*scale, color=look['grey'], labelpad=1)
    first = group(run, 1, lambda r: sum(r[:4]) == 1)
    last = group(run, len(ms), all)
    answers(fig.add_subplot(grid[0, 1]), 'step 1: it guesses', first[0], first[1][:4], scale, look)
    answers(fig.add_subplot(grid[1, 1]), f'step {len(ms)}: it works the sum out', last[0], last[1][:4], scale, look)
    if title:
        fig.text(.06, .93, title, fontsize=17*scale, color=look['ink'], va='center', weight='bold')
    fig.savefig(file, dpi=150, metadata=dict(Software=None))
    plt.close(fig)

def draw_all(run):
    draw(run, assets/'front.png', (9.6, 3.6), LIGHT)
    draw(run, assets/'front-dark.png', (9.6, 3.6), DARK)
    draw(run, assets/'card.png', (8, 4.2), LIGHT, title='GRPO, one notebook at a time', scale=.85, top=.8)
