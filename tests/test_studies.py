"""Studies: what a killed one leaves, what their tables read, and the two newest members of the family."""
import json, math
from dataclasses import replace
import pytest, torch
from torch.testing import assert_close
from grpo_lit.advantages import group_advantages
from grpo_lit.loss import grpo_loss
from grpo_lit.run.cli import main
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.runs import Run
from grpo_lit.studies.study import STUDIES, Study, run_study, study_named, study_table
from grpo_lit.studies.tables import StudyTable, with_interval

torch.set_num_threads(1)

def counting(calls, dies_at=()):
    "A run that writes a summary, or dies on the way at the n-th call"
    def run(settings, seed, steps, out):
        calls.append((settings['x'], seed))
        place = Run(out)
        place.write('config.json', settings)
        if len(calls) in dies_at: raise OSError('no space left')
        place.write('summary.json', dict(steps=steps, score=settings['x']+seed/10))
    return run

def small(run, **changed):
    return replace(Study('small', 'How much?', dict(one=dict(x=1.), two=dict(x=2.)), 3, run, dict(score='score')), **changed)

def test_a_study_that_died_goes_on_with_the_run_it_died_in(tmp_path):
    calls = []
    with pytest.raises(OSError): run_study(small(counting(calls, [4])), tmp_path)
    assert len(calls) == 4
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob('*/seed-*/done.json')}
    table = run_study(small(counting(calls)), tmp_path).table
    assert len(calls) == 4+3 and calls[3] == calls[4]          # the fourth again, and the two that were left
    assert len(kept) == 3 and all(p.stat().st_mtime_ns == t for p, t in kept.items())
    assert table.values['two']['score'] == [2., 2.1, 2.2]

def test_an_interrupted_run_ends_the_study_and_is_no_finished_one(tmp_path):
    def stopped(settings, seed, steps, out): Run(out).write('summary.json', dict(steps=1, interrupted=True, score=0.))
    with pytest.raises(KeyboardInterrupt): run_study(small(stopped), tmp_path)
    assert not list(tmp_path.glob('*/seed-*/done.json'))
    assert study_table(tmp_path, small(stopped)).values == {}

def test_the_table_is_read_from_the_directories(tmp_path):
    study = small(counting([]))
    run_study(study, tmp_path)
    file = tmp_path/'one'/'seed-1'/'summary.json'
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(score=7.)))
    assert study_table(tmp_path, study).values['one']['score'] == [1., 7., 1.2]
    (tmp_path/'one'/'seed-2'/'done.json').unlink()
    assert math.isnan(study_table(tmp_path, study).values['one']['score'][2])

@pytest.mark.parametrize('changed', [dict(steps=4), dict(arms=dict(one=dict(x=9.))), dict(name='other')])
def test_a_directory_of_another_study_is_refused(tmp_path, changed):
    run_study(small(counting([])), tmp_path, seeds=[0])
    with pytest.raises(ValueError, match='choose another directory'): run_study(small(counting([]), **changed), tmp_path)

def test_an_arm_and_seeds_may_be_added(tmp_path):
    run_study(small(counting([])), tmp_path, seeds=[0])
    more = small(counting([]), arms=dict(one=dict(x=1.), three=dict(x=3.)))
    table = run_study(more, tmp_path, seeds=[0, 5]).table
    assert table.seeds == [0, 5] and table.values['three']['score'] == [3., 3.5]

def test_a_measure_that_a_run_does_not_have(tmp_path):
    study = small(counting([]), measures=dict(score='score', missing='nothing', odd=lambda run: float('nan')))
    said = repr(run_study(study, tmp_path))
    assert said.splitlines()[2].split()[-2:] == ['-', '-']

def test_a_copied_folder_is_no_seed_and_a_damaged_plan_says_so(tmp_path):
    study = small(counting([]))
    run_study(study, tmp_path, seeds=[0])
    for name in ('seed-0 (copy)', 'seed-x', 'seed-'): Run(tmp_path/'one'/name).write('done.json', {})
    assert study_table(tmp_path, study).seeds == [0]
    for text in ('', '{', '[]', 'null'):
        (tmp_path/'study.json').write_text(text)
        with pytest.raises(ValueError, match='study.json.* is damaged'): run_study(study, tmp_path)

@pytest.mark.parametrize('text', ['', '{"sco', '[]', 'null', None])
def test_a_run_whose_figures_cannot_be_read_is_made_again(tmp_path, text):
    calls = []
    study = small(counting(calls))
    run_study(study, tmp_path)
    file = tmp_path/'one'/'seed-1'/'summary.json'
    file.unlink() if text is None else file.write_text(text)
    table = study_table(tmp_path, study)
    assert math.isnan(table.values['one']['score'][1]) and table.note.endswith('0, 1, 2; not all of them: one')
    calls.clear()
    table = run_study(study, tmp_path).table
    assert calls == [(1., 1)] and table.values['one']['score'] == [1., 1.1, 1.2] and table.note.endswith('0, 1, 2')

@pytest.mark.parametrize('asked', [dict(seeds=[]), dict(seeds=0), dict(seeds=[.5]), dict(seeds=['x']), dict(seeds=[True]), dict(seeds=[None]),
                                   dict(steps=2.5), dict(steps='few'), dict(steps=0), dict(steps=True)], ids=str)
def test_seeds_and_steps_that_are_none_are_refused_before_anything_is_made(tmp_path, asked):
    with pytest.raises(ValueError, match='seed|steps'): run_study(small(counting([])), tmp_path/'new', **asked)
    assert not (tmp_path/'new').exists()

def test_a_number_of_seeds_is_as_many(tmp_path):
    assert run_study(small(counting([])), tmp_path, seeds=2).table.seeds == [0, 1]

@pytest.mark.parametrize('text', ['{"name": "small"}', '{"name": "small", "steps": 3, "arms": []}', '{"steps": 3, "arms": {}}', '{"arms": null, "x": 1}'])
def test_a_plan_with_holes_is_one_sentence(tmp_path, text):
    study = small(counting([]))
    run_study(study, tmp_path, seeds=[0])
    (tmp_path/'study.json').write_text(text)
    with pytest.raises(ValueError): run_study(study, tmp_path)
    with pytest.raises(ValueError): study_table(tmp_path)

@pytest.mark.parametrize('price', [-1., math.nan, math.inf, -math.inf])
def test_a_price_that_pays_or_is_no_number_is_refused(price):
    from grpo_lit.rewards.marginal import marginal_tests
    with pytest.raises(ValueError, match='price is'): marginal_tests(price=price)

def test_one_seed_has_no_interval():
    table = StudyTable('t', dict(a=dict(x=[1.]), b=dict(x=[3.])), [0])
    assert with_interval([1.]) == '1' and table.note == '1 seed'
    difference, half = table.against('a', 'x')['b']
    assert difference == 2 and math.isnan(half)

@pytest.mark.parametrize('name', STUDIES)
def test_every_study_is_there(name):
    study = study_named(name)
    assert study.name == name and len(study.seeds) >= 3 and study.title.endswith('?')
    assert len(study.arms) > 1 and study.steps >= 1 and study.measures
    json.dumps(study.arms)

@pytest.mark.parametrize('asked', [['nothing'], ['beta', '--seeds', '0'], ['beta', '--steps', '0'], ['beta', '--arms', 'no such arm']])
def test_the_command_says_what_is_wrong(asked, tmp_path, capfd):
    assert main(['study', *asked, '--out', str(tmp_path)]) == 2
    assert len(capfd.readouterr().err.strip().splitlines()) == 1
    assert not list(tmp_path.glob('*/seed-*'))

# --- MaxRL
def test_dividing_by_the_mean():
    right = (torch.rand(40, 8, generator=torch.Generator().manual_seed(0)) < .3).double()
    mean = right.mean(1, keepdim=True)
    expected = torch.where(mean > 0, (right-mean)/mean, 0.)
    assert_close(group_advantages(right.flatten(), 8, scale_rewards='mean').view(-1, 8), expected)
    assert_close(group_advantages(right.flatten()*1e200, 8, scale_rewards='mean').view(-1, 8), expected)

@pytest.mark.parametrize('rewards', [[1., -1.], [0., -1.], [-3., -2.]])
def test_a_mean_that_is_no_rate_is_refused(rewards):
    with pytest.raises(ValueError, match='rewards of 0 and 1'): group_advantages(torch.tensor(rewards), 2, scale_rewards='mean')

def test_what_cannot_be_judged_is_no_failure():
    a = group_advantages(torch.tensor([1., 0., float('nan'), float('inf')]), 4, scale_rewards='mean')
    assert a.tolist() == [1., -1., 0., 0.]
    assert group_advantages(torch.tensor([float('nan')]*4 + [-1.]*4), 4, scale_rewards='mean').tolist() == [0.]*8

# --- DPPO
def expected_terms(kind, logps, mu, A, limit):
    "Token by token, in plain Python"
    rows = []
    for i, row in enumerate(logps.tolist()):
        rows.append([])
        for t, logp in enumerate(row):
            p, q, a = math.exp(logp), math.exp(mu[i,t]), A[i].item()
            far = abs(p-q) if kind == 'dppo_tv' else q*math.log(q/p)+(1-q)*math.log((1-q)/(1-p))
            away = (a > 0 and p > q) or (a < 0 and p < q)
            rows[-1].append(0. if away and far > limit else -a*p/q)
    return torch.tensor(rows, dtype=torch.float64)

@pytest.mark.parametrize('kind, limit', [('dppo_tv', None), ('dppo_kl', None), ('dppo_tv', .02), ('dppo_kl', .001)])
def test_dppo_against_a_loop(kind, limit):
    g = torch.Generator().manual_seed(1)
    mu = -2*torch.rand(30, 9, generator=g, dtype=torch.float64)-.05
    logps = (mu+.5*torch.randn(30, 9, generator=g, dtype=torch.float64)).clamp(max=-.01).requires_grad_()
    A, mask = torch.randn(30, generator=g, dtype=torch.float64), torch.ones(30, 9)
    expected = expected_terms(kind, logps.detach(), mu, A, limit or dict(dppo_tv=.15, dppo_kl=.05)[kind])
    loss, stats = grpo_loss(logps, A, mask, mu, loss_type=kind, beta=0, dppo_delta=limit)
    assert_close(loss, expected.mean())
    grad, = torch.autograd.grad(loss, logps)
    assert_close(grad, expected/expected.numel())             # the gradient of a ratio is the ratio
    assert_close(stats['clip_low']+stats['clip_high'], (expected == 0).double().mean())
    assert 0 < (expected == 0).double().mean() < .5

def test_dppo_measures_from_the_sampler():
    new, old, sampler = (torch.tensor([[x]], dtype=torch.float64).log() for x in (.5, .45, .2))
    one, ones = torch.ones(1, dtype=torch.float64), torch.ones(1, 1)
    how = dict(loss_type='dppo_tv', beta=0)
    assert grpo_loss(new, one, ones, old, **how)[0].item() == pytest.approx(-.5/.45)
    assert grpo_loss(new, one, ones, old, sampling_logps=sampler, **how)[0].item() == 0.
    assert grpo_loss(new, one, ones, None, sampling_logps=old, **how)[0].item() == pytest.approx(-.5/.45)

def test_a_cap_on_the_ratio():
    new, old = torch.tensor([[.6]]).log(), torch.tensor([[.1]]).log()
    bad = -torch.ones(1)                                      # it comes back, so nothing is left out: a ratio of 6
    assert grpo_loss(new, bad, torch.ones(1, 1), old, loss_type='dppo_kl', beta=0)[0].item() == pytest.approx(6, abs=1e-4)
    assert grpo_loss(new, bad, torch.ones(1, 1), old, loss_type='dppo_kl', beta=0, delta=4.)[0].item() == pytest.approx(4)

@pytest.mark.parametrize('settings', [
    dict(loss_type='dppo_tv', importance_sampling_mode='token_truncate'), dict(loss_type='dppo_kl', importance_sampling_level='sequence'),
    dict(loss_type='dapo', dppo_delta=.1), dict(loss_type='dppo_tv', dppo_delta=-1.), dict(scale_rewards='mean', kl_in_reward=True),
    dict(scale_rewards='mean', baseline='batch'), dict(scale_rewards='average')])
def test_settings_that_do_not_go_together(settings):
    with pytest.raises(ValueError): GRPOConfig(**settings)
