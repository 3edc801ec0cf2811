"Countdown problems written elsewhere: our solver and our grader agree with them; skipped where the data file is absent"
import json
from pathlib import Path
import pytest
from grpo_lit.rewards.countdown import calculate, countdown_reward, solve_countdown

FILE = Path(__file__).resolve().parents[2]/'shared'/'data'/'countdown'/'problems.jsonl'

@pytest.mark.skipif(not FILE.exists(), reason='needs the data file')
def test_countdown_problems():
    rows = [json.loads(l) for l in open(FILE)]
    solvable = [r for r in rows if r.get('solution')]
    assert len(rows)==440 and len(solvable)==400
    for r in rows:
        found = solve_countdown(r['numbers'], r['target'])
        assert (found is not None)==bool(r.get('solution')), r
        if found: assert calculate(found)[0]==r['target']
    give = lambda f: countdown_reward([], [f'<answer>{f(r)}</answer>' for r in solvable], [], [r['numbers'] for r in solvable], [r['target'] for r in solvable])
    assert set(give(lambda r: r['solution']))=={1.} and set(give(lambda r: r['solution']+'+1'))=={0.} and set(give(lambda r: r['target'])) == {0.}
