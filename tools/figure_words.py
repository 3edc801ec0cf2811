"""An IPython extension for tools/run_nbs.py: the text beside a stored figure says what there is to see, for those who do not see it."""
import sys

def words(*parts):
    return ', '.join(' '.join(o.split()) for o in parts if o and o.strip())

def listed(texts, most=8):
    "Up to `most` different short texts in a row, without those that are only numbers"
    texts = [o.strip() for o in texts if 'mathdefault' not in o and o.strip() != 'None']
    short = dict.fromkeys(o for o in texts if len(o) <= 40 and any(map(str.isalpha, o)))
    return ', '.join(list(short)[:most])

def about_axes(ax):
    "Title, axes and labels of one panel"
    x, y = ax.get_xlabel(), ax.get_ylabel()
    kind = 'bars' if ax.containers else 'picture' if ax.images else 'lines' if ax.lines else 'points'
    labels = [*ax.get_legend_handles_labels()[1], *(o.get_text() for o in ax.texts)]
    if not labels and ax.containers:
        labels = [o.get_text() for axis in (ax.xaxis, ax.yaxis) for o in axis.get_ticklabels()]
    named = listed(labels)
    over = f'{y} over {x}' if x and y else x or y
    return words(ax.get_title() or ax.get_title('left'), over, named and f'{kind}: {named}')

def about(figure):
    "What a figure shows, panel by panel"
    title = figure.get_suptitle() if hasattr(figure, 'get_suptitle') else ''
    panels = [about_axes(ax) for ax in figure.axes if ax.get_visible() and ax.axison]
    said = '; '.join(o for o in [title, *panels] if o)
    return f'Figure: {said}' if said else repr(figure)

def teach():
    "Let figures say it, once there are any: a printer that IPython knows would be dropped with the choice of a backend"
    figure = sys.modules.get('matplotlib.figure')
    if figure:
        figure.Figure._repr_pretty_ = lambda self, p, cycle: p.text(about(self))

def load_ipython_extension(shell):
    for moment in ('pre_execute', 'post_execute'):
        shell.events.register(moment, teach)
