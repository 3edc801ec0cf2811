"""Figures computed by TRL, verl, Liger, OpenRLHF and torchtune, and numbers their tests assert. The files are not part of this project: without them these tests are skipped."""
import json
import pytest
from torch.testing import assert_close
import neutral_cases as ours

pytestmark = pytest.mark.skipif(not ours.vectors.exists(), reason='the case files are not here (set GRPO_LIT_CASES to the folder that holds vectors/)')
def read(name): return [json.loads(o) for o in open(ours.vectors/name)] if ours.vectors.exists() else []
cases = ours.vectors.parent/'cases'
def each(name): return pytest.mark.parametrize('case', read(name), ids=lambda c: c['id'])
def asked(f, *args):
    try: return f(*args)
    except NotImplementedError as e: pytest.skip(str(e))
def finite(rows): return ours.tensor([float('nan') if v is None else v for v in rows])

@each('loss_vectors.jsonl')
def test_loss(case):
    value, grad = asked(ours.loss_and_grad, case)
    assert_close(value.item(), case['loss'], rtol=1e-6, atol=1e-9)
    if case['config'].get('loss_type')=='vespo': return           # the recorded gradient runs through the weight, which the paper and TRL 1.16 detach
    assert_close(grad, ours.tensor(case['grad_logps']), rtol=1e-6, atol=1e-9)

@each('kl_vectors.jsonl')
def test_kl(case):
    value, grad = asked(ours.kl_and_grad, case)
    tight = dict(rtol=1e-6, atol=1e-9) if 'verl' in case['impl'] else dict(rtol=1e-4, atol=1e-6)          # theirs are float32
    assert_close(value.detach(), ours.tensor(case['kl']), **tight)
    if 'grad_sum_masked' in case: assert_close(grad, ours.tensor(case['grad_sum_masked']), **tight)

@each('advantage_vectors.jsonl')
def test_advantage(case):
    tight = dict(rtol=1e-6, atol=1e-9) if 'vectorized' not in case['function'] else dict(rtol=1e-4, atol=1e-6)
    assert_close(ours.tensor(asked(ours.advantage, case)), finite(case['advantages']), **tight)

@each('upstream_asserted.jsonl')
def test_asserted(case):
    got, want = asked(ours.asserted, case), case['expected']
    close = lambda a, b: assert_close(ours.tensor(a), ours.tensor(b), rtol=case['tolerance'], atol=case['tolerance'])
    if isinstance(want, dict):
        for k,v in want.items(): close(got[k], v)
    else: close(got, want)

def said(kind):
    "The cases whose source says what is right, without those that it marks as wrong"
    rows = [json.loads(o) for o in open(cases/f'{kind}.jsonl')] if cases.exists() else []
    key = lambda r: next(k for k in ('expected','expected_reward','expected_error') if k in r)
    return [pytest.param(kind, r, r[key(r)], id=r['id']) for r in rows if not any('wrong-upstream' in f for f in r.get('flags', []))]

@pytest.mark.parametrize('kind,case,want', [p for k in ('math_equivalence','extraction','choice_extraction','math_completion_rewards','reward_functions','qa_match','code_rewards') for p in said(k)])
def test_reward(kind, case, want):
    if want=='ValueError':
        with pytest.raises(ValueError): getattr(ours, kind)(case)
        return
    got = asked(getattr(ours, kind), {k:v for k,v in case.items() if not k.startswith('expected')})
    assert got==(pytest.approx(want, abs=1e-9) if isinstance(want, (float,list)) and not (isinstance(want, list) and want and isinstance(want[0], str)) else want)
