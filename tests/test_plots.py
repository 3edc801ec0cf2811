"""Pictures of runs: what they hold is what the runs say; one look on white and on dark; any text as a name."""
import io, json, math, random
from itertools import combinations
import pytest
import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt
from grpo_lit.run.cli import main
from grpo_lit.run.pictures import GREY, PALETTE, bars, curves, literal, panels
from grpo_lit.run.plotting import PLOTTED, mark_events, plot_run
from grpo_lit.run.runs import Run, write_table
from grpo_lit.seeing.compare import arms_of, compare_runs
from grpo_lit.seeing.ridges import group_kinds, group_spread, ridges
from grpo_lit.seeing.seeds import band_of, seed_difference, student_p

def made_up(path, seed=0, steps=30, gain=.4, settings=True, **more):
    "A run directory that holds metrics"
    path.mkdir(parents=True)
    luck, rng = random.Random(seed).gauss(0, .05), random.Random(f'{seed} {gain}')
    rows = [dict(step=s, total=steps, reward=.2+luck+gain*s/steps+rng.gauss(0, .03), kl=.001*s, reward_std=.4,
                 frac_reward_zero_std=.3) | more for s in range(1, steps+1)]
    (path/'metrics.jsonl').write_text(''.join(json.dumps(r)+'\n' for r in rows))
    if settings: (path/'config.json').write_text(json.dumps(dict(args=dict(seed=seed))))
    return path

def rollouts(path, table):
    "What a run has kept: {step: rows}"
    for step, rows in table.items(): write_table(path/'rollouts'/f'step-{step:06d}.parquet', rows)
    return path

def few(cases, n):
    "The first n of them; the rest with the slow tests"
    return [pytest.param(*(c if isinstance(c, tuple) else (c,)), marks=[pytest.mark.slow]*(i >= n), id=str(i)) for i, c in enumerate(cases)]

def caption(figure): return ' '.join(figure.get_supxlabel().split())

def thick(ax): return [l for l in ax.lines if l.get_linewidth() == 2]

@pytest.fixture
def two(tmp_path):
    "Two settings, three seeds each, as a study lays them out"
    for arm, gain in (('leash', .4), ('free', .7)):
        for seed in range(3): made_up(tmp_path/arm/f'seed-{seed}', seed, gain=gain)
    return tmp_path

# --- the look

def luminance(color):
    parts = [int(color[i:i+2], 16)/255 for i in (1, 3, 5)]
    return sum(w*(c/12.92 if c <= .04045 else ((c+.055)/1.055)**2.4) for w, c in zip((.2126, .7152, .0722), parts))

@pytest.mark.parametrize('paper', ['#ffffff', '#1e1e1e', '#111111', '#0d1117'])
def test_every_colour_stands_out_from_light_and_dark_paper(paper):
    for color in (*PALETTE, GREY):
        low, high = sorted((luminance(color), luminance(paper)))
        assert (high+.05)/(low+.05) >= 3, color

BLINDNESS = { # Machado, Oliveira and Fernandes 2009, severity 1, for linear RGB
    'protan': [[.152286, 1.052583, -.204868], [.114503, .786281, .099216], [-.003882, -.048116, 1.051998]],
    'deutan': [[.367322, .860646, -.227968], [.280085, .672501, .047413], [-.011820, .042940, .968881]],
    'tritan': [[1.255528, -.076749, -.178779], [-.078411, .930809, .147602], [.004733, .691367, .303900]]}

def lab(color, matrix):
    "CIELAB of a colour as seen through a matrix"
    linear = [c/12.92 if c <= .04045 else ((c+.055)/1.055)**2.4 for c in (int(color[i:i+2], 16)/255 for i in (1, 3, 5))]
    seen = [min(max(sum(m*c for m, c in zip(row, linear)), 0), 1) for row in matrix]
    xyz = [sum(m*c for m, c in zip(row, seen))/w for row, w in
           zip([(.4124, .3576, .1805), (.2126, .7152, .0722), (.0193, .1192, .9505)], (.9505, 1, 1.089))]
    fx, fy, fz = (t**(1/3) if t > .008856 else 7.787*t+16/116 for t in xyz)
    return 116*fy-16, 500*(fx-fy), 200*(fy-fz)

@pytest.mark.parametrize('kind', BLINDNESS)
def test_the_colours_differ_for_the_colour_blind(kind):
    for a, b in combinations(PALETTE, 2):
        assert math.dist(lab(a, BLINDNESS[kind]), lab(b, BLINDNESS[kind])) > 15, (a, b)

@pytest.mark.slow
def test_nobody_elses_pictures_change(two):
    before = dict(matplotlib.rcParams)
    plot_run(two/'leash'/'seed-0')
    compare_runs(two)
    panels(2)
    plt.close('all')
    assert dict(matplotlib.rcParams) == before

def test_what_is_written_later_has_the_look():
    ax, = panels()
    ax.plot([1, 2], label='one')
    ax.set_title('title')
    ax.set_xlabel('step')
    texts = [ax.title, ax.xaxis.label, ax.text(0, 1, 'text'), ax.annotate('note', (0, 1)), *ax.legend().get_texts()]
    assert {t.get_color() for t in texts} == {GREY}
    assert all(t.get_color() == GREY for t in ax.get_xticklabels())
    plt.close('all')

@pytest.mark.slow
def test_a_users_own_settings_are_not_in_the_way(two):
    with matplotlib.rc_context({'text.usetex': True, 'axes.facecolor': 'black', 'text.color': 'red'}):
        figure = plot_run(two/'leash'/'seed-0')
        figure.savefig(io.BytesIO(), format='png')
    assert figure.axes[0].get_facecolor()[3] == 0

def test_the_paper_shines_through(two):
    from PIL import Image
    plot_run(two/'leash'/'seed-0', save=two/'a.png')
    assert Image.open(two/'a.png').convert('RGBA').getpixel((0, 0))[3] == 0

# --- any text as a name

NAMES = ['$x^2$', r'$\frac{1', '_hidden', '<script>alert(1)</script>', r'\textbf{a}', 'a_b^c', '$', '$$', 'a$b$c$',
         'x\x1b[2Jy', 'line\nline', '\u202egnp', 'nul\0', '\ud800', '%', '{', '', 'long '*50, '名前']

@pytest.mark.filterwarnings('ignore:Glyph')
@pytest.mark.parametrize('name', few(NAMES, 3))
def test_a_name_is_shown_and_not_interpreted(name, tmp_path):
    ax, = panels()
    curves({name: [1, 2], 'other': [2, 1]}, ax=ax)
    bar, = panels()
    bars({name: 1., 'other': 2.}, ax=bar)
    for a in (ax, bar):
        a.figure.savefig(io.BytesIO(), format='svg')
    label = ax.get_legend().get_texts()[0]
    shown, is_math = label._preprocess_math(label.get_text())
    assert not is_math and len(shown) <= 41 and len(ax.get_legend().get_texts()) == 2
    tick = bar.get_yticklabels()[0]
    assert not tick._preprocess_math(tick.get_text())[1]
    plain = name.replace('\n', '⏎')
    if plain.isprintable() and len(plain) <= 40: assert shown.strip() == plain.strip()
    plt.close('all')

@pytest.mark.filterwarnings('ignore:Glyph')
@pytest.mark.parametrize('name', few(['$x^2$', '_a', '<b>&amp;', '$\\alpha', 'a\x1b[2J', 'b\ud800'], 1))
def test_a_comparison_takes_any_name(name, two, tmp_path):
    figure = compare_runs({name: two/'leash'/'seed-0', 'other': two/'free'/'seed-0'}, save=tmp_path/'x.svg')
    assert len(figure.axes[0].get_legend().get_texts()) == 2
    assert literal(name).strip() in caption(figure)
    text = figure._supxlabel
    assert not text._preprocess_math(text.get_text())[1]

@pytest.mark.slow
def test_a_metric_takes_any_name(tmp_path):
    name = 'rewards/$f_1$/mean'
    runs = [made_up(tmp_path/x, **{name: .5}) for x in 'ab']
    assert compare_runs(runs, metric=name).axes[0].get_title() == literal(name)

def test_events_take_any_value():
    ax, = panels()
    mark_events(ax, [dict(step=3, event='$\\beta$', value='<b>', before=None), dict(step=4, event='_x', value=[1, {}])])
    assert len(ax.texts) == 2 and not any(t._preprocess_math(t.get_text())[1] for t in ax.texts)
    plt.close('all')

# --- one run

def test_the_curves_are_the_metrics(tmp_path):
    run = made_up(tmp_path/'run')
    rows = [json.loads(line) for line in (run/'metrics.jsonl').read_text().splitlines()]
    figure = plot_run(run)
    titles = {title: name for name, title in PLOTTED}
    assert [titles[ax.get_title()] for ax in figure.axes] == ['reward', 'kl', 'frac_reward_zero_std']
    for ax in figure.axes:
        assert list(ax.lines[0].get_xdata()) == list(range(1, 31))
        assert list(ax.lines[0].get_ydata()) == [r[titles[ax.get_title()]] for r in rows]

@pytest.mark.parametrize('value', few([float('nan'), None, 'nan', float('inf'), [1], True, {}], 1))
def test_what_is_no_number_is_left_out(value, tmp_path):
    run = made_up(tmp_path/'run')
    with (run/'metrics.jsonl').open('a') as f: f.write(json.dumps(dict(step=31, reward=.7, kl=value))+'\n')
    kl = next(ax for ax in plot_run(run).axes if ax.get_title().startswith('KL'))
    assert all(isinstance(y, float) and math.isfinite(y) for y in kl.lines[0].get_ydata()[:30])

def test_events_stand_in_the_curves(tmp_path):
    run = made_up(tmp_path/'run')
    (run/'events.jsonl').write_text('{"step": 10, "event": "beta", "value": 0.1, "before": 0.04}\n\n{"st\n[]\n'
                                    '{"step": 99, "event": "planned"}\n')
    figure = plot_run(run)
    dotted = [l for l in figure.axes[0].lines if l.get_linestyle() == ':']
    assert [l.get_xdata()[0] for l in dotted] == [10]
    assert [t.get_text().strip() for t in figure.axes[0].texts] == ['beta 0.04 → 0.1']

@pytest.mark.parametrize('ending, start', few([('.svg', b'<?xml'), ('.png', b'\x89PNG'), ('.pdf', b'%PDF'), ('.PNG', b'\x89PNG')], 1))
def test_files(ending, start, two):
    place = two/'new'/f'a.b{ending}'
    plot_run(two/'free'/'seed-1', save=place)
    assert place.read_bytes().startswith(start) and not list(two.glob('new/*.part'))

# --- several runs

def test_bands_are_the_seeds(two):
    figure = compare_runs({'leash': sorted(two.glob('leash/*')), 'free': sorted(two.glob('free/*'))}, smooth=1)
    ax, = figure.axes
    for line, arm in zip(thick(ax), ('leash', 'free')):
        runs = [[json.loads(l)['reward'] for l in (p/'metrics.jsonl').read_text().splitlines()] for p in sorted(two.glob(f'{arm}/*'))]
        assert list(line.get_ydata()) == pytest.approx([sum(c)/3 for c in zip(*runs)])
    assert 't-interval of the mean' in caption(figure) and '3 seed(s) each' in caption(figure)
    assert 'free less leash' in caption(figure) and 'paired t, 3 seeds' in caption(figure)

@pytest.mark.slow
def test_a_study_or_a_list_gives_the_same_arms(two):
    as_list = [p for p in sorted(two.glob('*/*'))]
    assert list(arms_of(two)) == list(arms_of(as_list)) == ['free', 'leash']
    assert caption(compare_runs(two)) == caption(compare_runs(as_list))

def test_student_t_is_that_of_scipy():
    stats = pytest.importorskip('scipy.stats')
    for df in (1, 2, 3, 4, 5, 9, 10, 30, 31):
        for t in (0., .1, 1., 2.5, 12., 80.): assert student_p(t, df) == pytest.approx(2*stats.t.sf(t, df), abs=1e-9)
    before, after = {0: .1, 1: .5, 2: .45, 7: .9}, {0: .3, 1: .6, 2: .5, 7: 1.3}
    assert seed_difference(before, after).p_value == pytest.approx(stats.ttest_rel(list(after.values()), list(before.values())).pvalue)

def test_seeds_are_matched_by_number_not_by_order(tmp_path):
    arms = dict(a=[made_up(tmp_path/f'a{s}', s, gain=.4) for s in (0, 1, 2)],
                b=[made_up(tmp_path/f'b{s}', s, gain=.6) for s in (5, 2, 1)])
    assert '2 seeds' in caption(compare_runs(arms))
    arms['b'] = arms['b'][:1]
    assert 'no seed in common' in caption(compare_runs(arms))

@pytest.mark.slow
def test_unknown_seeds_are_paired_in_their_order(tmp_path):
    arms = {g: [made_up(tmp_path/f'{g} {s}', s, gain=g, settings=False) for s in range(3)] for g in (.4, .7)}
    assert 'seeds not known' in caption(compare_runs(arms)) and 'paired t, 3 seeds' in caption(compare_runs(arms))

def test_runs_of_different_length_are_compared_where_all_are(tmp_path):
    arms = dict(a=[made_up(tmp_path/f'a{s}', s, steps=30) for s in range(3)],
                b=[made_up(tmp_path/f'b{s}', s, steps=20, gain=.9) for s in range(3)])
    figure = compare_runs(arms)
    assert [l.get_xdata()[-1] for l in thick(figure.axes[0])] == [30, 20]
    assert 'up to 20' in caption(figure)

@pytest.mark.slow
def test_a_metric_that_some_lack_is_said(tmp_path):
    runs = dict(a=made_up(tmp_path/'a', entropy=.5), b=made_up(tmp_path/'b'))
    figure = compare_runs(runs, metric='entropy')
    assert 'not logged by b' in caption(figure) and len(thick(figure.axes[0])) == 1

def test_gaps_and_nan_do_not_stop_a_comparison(tmp_path):
    a, b = made_up(tmp_path/'a'), made_up(tmp_path/'b')
    lines = (a/'metrics.jsonl').read_text().splitlines()
    lines[3], lines[7] = json.dumps(dict(step=4, reward=float('nan'))), 'broken'
    (a/'metrics.jsonl').write_text('\n'.join(lines)+'\n')
    line = thick(compare_runs([a, b]).axes[0])[0]
    assert 4 not in line.get_xdata() and 8 not in line.get_xdata() and len(line.get_xdata()) == 28

@pytest.mark.slow
def test_two_seeds_have_a_range_and_one_has_no_band(two):
    runs = sorted(two.glob('leash/*'))
    assert 'lowest and highest' in caption(compare_runs({'a': runs[:2]}))
    assert 'band' not in caption(compare_runs({'a': runs[0]}))

@pytest.mark.slow
def test_many_arms_are_told_apart(tmp_path):
    runs = [made_up(tmp_path/f'run-{i}', steps=6) for i in range(10)]
    figure = compare_runs(runs)
    looks = {(l.get_color(), l.get_linestyle()) for l in thick(figure.axes[0])}
    assert len(looks) == 10 and 'Holm' not in caption(figure)

def test_band_of_nothing(): assert band_of([]).steps == []

# --- distributions

def test_ridges_hold_every_answer(tmp_path):
    run = made_up(tmp_path/'run')
    rollouts(run, {s: [dict(group=0, reward=float(i % 2), tokens=10+i) for i in range(8)] for s in (1, 5, 9)})
    left, right = ridges(run).axes
    assert [t.get_text() for t in left.get_yticklabels()] == ['1', '5', '9']
    values, edges, base = left.patches[0].get_data()
    heights = [v-base for v in values]
    assert heights[0] == heights[-1] > 0 and sum(h > 0 for h in heights) == 2
    assert edges[0] == 0 and edges[-1] == 1

@pytest.mark.parametrize('rows', few([
    [dict(group=0, reward=None, tokens=3)],
    [dict(group=0, reward=float('nan'), tokens=3), dict(group=0, reward=1., tokens=3)],
    [dict(group=0, tokens=3)],
    [dict(completion='x')],
    [dict(group=0, reward=1e300, tokens=3), dict(group=0, reward=-1e300, tokens=3)]], 1))
def test_odd_rollouts_are_drawn(rows, tmp_path):
    run = rollouts(made_up(tmp_path/'run'), {1: rows, 2: rows})
    for draw in (ridges, group_spread): draw(run, save=tmp_path/'x.png')

@pytest.mark.slow
def test_a_damaged_step_is_left_out(tmp_path):
    run = rollouts(made_up(tmp_path/'run'), {s: [dict(group=0, reward=1., tokens=3)] for s in (1, 2)})
    (run/'rollouts'/'step-000002.parquet').write_bytes(b'no table')
    assert [t.get_text() for t in ridges(run).axes[0].get_yticklabels()] == ['1']

def test_dead_groups_by_kind(tmp_path):
    rewards = [[1, 1], [0, 0], [0, 0], [0, 1]]
    table = [dict(group=g, reward=float(r), tokens=3) for g, some in enumerate(rewards) for r in some]
    left, right = group_spread(rollouts(made_up(tmp_path/'run'), {s: table for s in (1, 2, 3)})).axes
    assert [t.get_text() for t in right.get_legend().get_texts()] == ['all right', 'all wrong']
    top = max(y for c in right.collections for x, y in c.get_paths()[0].vertices)
    assert top == pytest.approx(.75)

# --- the command

@pytest.fixture
def said(capsys):
    def run(*argv):
        try: code = main(list(map(str, argv)))
        except SystemExit as e: code = e.code
        out = capsys.readouterr()
        return code, out.out.strip(), out.err.strip()
    return run

def test_plot_one_run(two, said):
    run = two/'leash'/'seed-0'
    assert said('plot', run) == (0, str(run/'curves.png'), '') and (run/'curves.png').exists()
    assert said('plot', run, '-o', two/'x'/'y.svg')[0] == 0 and (two/'x'/'y.svg').exists()
    assert said('plot', run, '--kind', 'spread', '--out', two/'s.pdf')[0] == 0

@pytest.mark.slow
def test_plot_several_runs(two, said):
    assert said('plot', *sorted(two.glob('*/*')), '-o', two/'a.png')[0] == 0
    assert said('plot', two, '-o', two/'b.png', '--metric', 'reward', 'kl')[0] == 0
    assert (two/'a.png').stat().st_size > 10_000 < (two/'b.png').stat().st_size

@pytest.mark.parametrize('argv, part', few([
    ('plot', 'missing: run'), ('plot nothing', 'there is no directory'), ('plot leash/seed-0 free/sed-0', 'did you mean'),
    ('plot empty', 'holds no metrics'), ('plot empty leash', 'holds no run'), ('plot a.txt', 'is a file'),
    ('plot leash/seed-0 -o x.bmp', '.png, .svg or .pdf'), ('plot leash/seed-0 -o x', '.png, .svg or .pdf'),
    ('plot leash/seed-0 --kind ridge', "did you mean 'ridges'"), ('plot leash free --kind ridges', 'draws one run'),
    ('plot leash/seed-0 --kind ridges', 'has kept no completions'), ('plot leash --metric klt', 'kl'),
    ('plot leash/seed-0 -o a.txt/x.png', 'could not be written'), ('plot .hidden', 'there is no directory')], 4))
def test_mistakes_are_said_in_a_sentence(argv, part, two, said, monkeypatch):
    monkeypatch.chdir(two)
    (two/'empty').mkdir()
    (two/'a.txt').write_text('')
    code, out, err = said(*argv.split())
    assert code in (1, 2) and part in err and len(err.splitlines()) == 1 and 'Traceback' not in err

def test_the_same_run_is_no_second_seed(two):
    runs = [q for some in arms_of(two).values() for q in some]
    assert arms_of({'a': [runs[0], f'{runs[0]}/', Run(runs[0])]}) == {'a': [runs[0]]}

def test_differences_too_large_to_be_squared():
    found = seed_difference({0: 1e200, 1: 2e200, 2: 4e200}, {0: 3e200, 1: 5e200, 2: 9e200})
    plain = seed_difference({0: 1., 1: 2., 2: 4.}, {0: 3., 1: 5., 2: 9.})
    assert found.p_value == pytest.approx(plain.p_value) and found.interval[0] == pytest.approx(1e200*plain.interval[0])

# What is asked wrongly, or has nothing to say ------------------------------------------------------------------------------

@pytest.mark.parametrize('wrong', [None, 3, b'x', [None], dict(a=3), iter([None])], ids=repr)
def test_what_is_no_run_is_a_sentence(wrong):
    with pytest.raises(ValueError, match='a run is given by its directory, not as'): compare_runs(wrong)

@pytest.mark.parametrize('look', [ridges, group_spread, plot_run])
def test_nothing_is_no_run(look):
    with pytest.raises(ValueError, match='a run is given by its directory, not as NoneType'): look(None)

def test_runs_may_come_one_by_one(two):
    runs = [two/'leash'/'seed-0', two/'free'/'seed-1']
    assert arms_of(r for r in runs) == arms_of(runs) and arms_of(dict(a=iter(runs))) == arms_of(dict(a=runs))

@pytest.mark.parametrize('smooth', [0, -1, .5, None, 'a'], ids=repr)
def test_an_average_over_nothing_is_refused(smooth, tmp_path):
    made_up(tmp_path/'a', steps=3)
    for draw in (plot_run, compare_runs):
        with pytest.raises(ValueError, match='smooth is'): draw(tmp_path/'a', smooth=smooth)

def rows_in(path, *rows):
    path.mkdir()
    (path/'metrics.jsonl').write_text(''.join(json.dumps(r)+'\n' for r in rows))
    (path/'config.json').write_text(json.dumps(dict(args=dict(seed=0))))
    return path

def test_runs_without_a_step_in_common(tmp_path):
    early, late = (rows_in(tmp_path/name, dict(step=s, reward=.5), dict(step=s+1, reward=.7)) for name, s in (('early', 1), ('late', 11)))
    for runs in ([early, late], [late, early]): assert 'no step in common: not tested' in caption(compare_runs(runs))

def test_rewards_that_are_all_nan_are_said(tmp_path):
    with pytest.raises(ValueError, match="'reward' holds no number that is finite"): compare_runs(rows_in(tmp_path/'a', dict(step=1, reward=math.nan)))

def test_three_hundred_digits_are_not_shown(tmp_path):
    huge, one = rows_in(tmp_path/'huge', dict(step=1, reward=1e299)), rows_in(tmp_path/'one', dict(step=1, reward=1.))
    assert '-1e+299' in caption(compare_runs([huge, one]))

def test_groups_of_any_kind(tmp_path):
    found = group_kinds(dict(group=[[0, 1], [0, 1], {'a': 1}, {'a': 1}], reward=[0., 1., 1., 1.]), 1., 0.)
    assert (found['groups'], found['right'], len(found['std'])) == (2, 1, 1)
