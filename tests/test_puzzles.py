"Countdown and knights: what the graders take and what they refuse; countdown problems written elsewhere"
import itertools, json, os, random, re
from fractions import Fraction
from pathlib import Path
import pytest
from grpo_lit.rewards.countdown import calculate, countdown_reward, solve_countdown
from grpo_lit.rewards.knights import knights_reward, read_roles

CASES = os.environ.get('GRPO_LIT_CASES') # The folder that holds data/
PROBLEMS = Path(CASES)/'data'/'countdown'/'problems.jsonl' if CASES else None

@pytest.mark.skipif(PROBLEMS is None or not PROBLEMS.exists(), reason='needs GRPO_LIT_CASES, the folder that holds data/countdown/problems.jsonl')
def test_countdown_problems():
    rows = [json.loads(line) for line in open(PROBLEMS)]
    solvable = [r for r in rows if r.get('solution')]
    assert len(rows)==440 and len(solvable)==400
    for r in rows:
        found = solve_countdown(r['numbers'], r['target'])
        assert (found is not None)==bool(r.get('solution')), r
        if found: assert calculate(found)[0]==r['target']
    def earned(answer):
        texts = [f'<answer>{answer(r)}</answer>' for r in solvable]
        return set(countdown_reward([], texts, [], [r['numbers'] for r in solvable], [r['target'] for r in solvable]))
    assert earned(lambda r: r['solution'])=={1.}
    assert earned(lambda r: f'-(-({r["solution"]}))')=={1.}
    assert earned(lambda r: r['solution']+'+1')=={0.}
    assert earned(lambda r: r['target'])=={0.}

# Countdown: a minus in front, and zeros

MINUS = {
    '-3+5': (2, [3,5]),
    '2*-3': (-6, [2,3]),
    '-(1+2)': (-3, [1,2]),
    '-2*-3': (6, [2,3]),
    '6/-3': (-2, [6,3]),
    '3--5': (8, [3,5]),
    '3 - -5': (8, [3,5]),
    '3+-5': (-2, [3,5]),
    '--3': (3, [3]),
    '−3 × −(2 − 5)': (-9, [3,2,5]),
    '-(-(-1))': (-1, [1]),
    '1-(-2)': (3, [1,2]),
    '-8/(3-8/3)': (-24, [8,3,8,3]),
    '-10-3-2': (-15, [10,3,2]),
    '-0': (0, [0]),
    '10+0': (10, [10,0]),
}

@pytest.mark.parametrize('text', MINUS)
def test_minus(text): assert calculate(text)==MINUS[text]

REFUSED = ['007', '3+05', '00', '-01', '(02)', '1/0001', '-', '3-', '(-)', '*-3', '3-*5', '-/3', '+3', '3-+5', '-()', '3(-5)',
           '0.5', '-.5', '-1e3']

@pytest.mark.parametrize('text', REFUSED)
def test_refused(text):
    with pytest.raises(ValueError): calculate(text)

def test_like_python():
    "Random strings: what is taken is worth what Python makes of it"
    rng, taken = random.Random(0), 0
    for _ in range(30_000):
        text = ''.join(rng.choice(['1','2','13','0','+','-','-','*','/','(',')',' ']) for _ in range(rng.randint(1, 9)))
        try: got = calculate(text)[0]
        except ValueError: continue
        taken += 1
        assert got==eval(re.sub(r'(\d+)', r'Fraction(\1)', text), dict(Fraction=Fraction)), text
    assert taken>1000

HIDDEN = ['-(-5)*7', '5*7+3--3', '-3+3+5*7', '5*7-(3-3)', '5*7*--3/3', '-35', '--35', '3-3+35', '5*7-0', '5*7+03-3', '5*7*3/-3', '-5*-7']

@pytest.mark.parametrize('text', HIDDEN)
def test_a_minus_hides_no_number(text):
    assert countdown_reward([], [f'<answer>{text}</answer>'], [], [[3,5,7]], [35])==[0.]

def test_a_minus_in_an_answer():
    fair = ['-3*5+50', '50-3*5', '-(3*5-50)', '50+-3*5', '50 - -(-3)*5', '-5*3+50 = 35']
    assert countdown_reward([], [f'<answer>{t}</answer>' for t in fair], [], [[3,5,50]]*len(fair), [35]*len(fair))==[1.]*len(fair)

# Knights: many ways to say it

GOLD = {'amelia':'knight', 'penelope':'knave'}
FAIR = r'''
(1) Amelia is a knight\n(2) Penelope is a knave
(1) Amelia is a knight (2) Penelope is a knave
(1) Amelia is a knight, (2) Penelope is a knave.
(1) Amelia is a knight; and (2) Penelope is a knave
(2) Penelope is a knave\n(1) Amelia is a knight
 (1)  Amelia is a knight \n\n (2)  Penelope is a knave\n
1. Amelia is a knight\n2. Penelope is a knave
1. Amelia is a knight.\n2. Penelope is a knave.
1.Amelia is a knight 2.Penelope is a knave
1) Amelia is a knight\n2) Penelope is a knave
1) Amelia: knight\n2) Penelope: knave
1: Amelia is a knight, 2: Penelope is a knave
1 - Amelia is a knight\n2 - Penelope is a knave
1.) Amelia is a knight 2.) Penelope is a knave
**(1)** Amelia is a knight\n**(2)** Penelope is a knave
(1): Amelia is a knight\n(2): Penelope is a knave
Amelia is a knight — Penelope is a knave
(1) amelia is a knight\n(2) penelope is a knave
(1) AMELIA IS A KNIGHT\n(2) PENELOPE IS A KNAVE
Amelia is a knight, and Penelope is a knave.
Amelia is a knight. Penelope is a knave.
Amelia is a Knight & Penelope is a Knave
Amelia is knight, Penelope is knave
Amelia is the knight and Penelope is the knave
Amelia is a knight while Penelope is a knave
Amelia is a knight, but Penelope is a knave
Amelia is a knight; however, Penelope is a knave
Therefore, Amelia is a knight and Penelope is a knave.
Thus: Amelia is a knight, Penelope is a knave
The answer is: Amelia is a knight, Penelope is a knave
Final answer: Amelia is a knight, Penelope is a knave
Solution: (1) Amelia is a knight (2) Penelope is a knave
Amelia must be a knight, so Penelope must be a knave
Amelia is therefore a knight; Penelope is a knave
Amelia's a knight, Penelope’s a knave
Amelia: knight, Penelope: knave
Amelia: Knight\nPenelope: Knave
Amelia : a knight ; Penelope : a knave
Amelia = knight, Penelope = knave
Amelia - knight\nPenelope - knave
Amelia – knight\nPenelope — knave
Amelia -> knight, Penelope -> knave
Amelia → knight, Penelope => knave
Amelia (knight), Penelope (knave)
- Amelia is a knight\n- Penelope is a knave
* Amelia is a knight\n* Penelope is a knave
• Amelia is a knight\n• Penelope is a knave
- **Amelia**: Knight\n- **Penelope**: Knave
**Amelia is a knight**, **Penelope is a knave**
(1) **Amelia** is a **knight**\n(2) **Penelope** is a **knave**
(1) *Amelia* is a _knight_\n(2) *Penelope* is a _knave_
`Amelia is a knight, Penelope is a knave`
"Amelia is a knight, Penelope is a knave"
{"Amelia": "knight", "Penelope": "knave"}
$\text{Amelia is a knight}, \quad \text{Penelope is a knave}$
\text{Amelia is a knight} \\ \text{Penelope is a knave}
Knight: Amelia, Knave: Penelope
Knights: Amelia\nKnaves: Penelope
The knight is Amelia and the knave is Penelope.
'''.strip('\n').split('\n')
FAIR = [re.sub(r'\\n(?![a-z])', '\n', line) for line in FAIR]

def earned(answers, gold='Amelia is a knight, Penelope is a knave'):
    return knights_reward([], [f'<think>hm</think><answer>{a}</answer>' for a in answers], [], [gold]*len(answers))

@pytest.mark.parametrize('text', FAIR)
def test_ways_to_say_it(text): assert read_roles(text)==GOLD and earned([text])==[1.]

def test_gold_may_have_any_form():
    for gold in FAIR: assert set(earned(FAIR, gold))=={1.}

def test_more_people():
    gold = 'Zoey is a knight, Owen is a knave, Ava is a knave, and Liam is a knight.'
    fair = [
        '(1) Zoey is a knight\n(2) Owen is a knave\n(3) Ava is a knave\n(4) Liam is a knight',
        'Zoey and Liam are knights, Owen and Ava are knaves.',
        'Knights: Zoey, Liam\nKnaves: Owen, Ava',
        'Both Zoey and Liam are knights, and Owen and Ava are both knaves',
        'The knights are Zoey and Liam. The knaves are Ava and Owen.',
    ]
    foul = [
        '(1) Zoey is a knight\n(2) Owen is a knave\n(3) Ava is a knave',
        'Zoey, Owen and Liam are knights, Ava is a knave',
        'Zoey and Liam are knights',
        'Zoey and Liam are knights, the others are knaves',
        'Zoey and Liam and Zoey are knights, Owen and Ava are knaves',
        'Zoey and Liam are not knights, Owen and Ava are knaves',
        'Knights: Zoey, Liam, Owen, Ava\nKnaves: Owen, Ava',
        'Zoey or Liam are knights, Owen and Ava are knaves',
        'Zoey and Liam is a knight, Owen and Ava are knaves',
    ]
    assert earned(fair, gold)==[1.]*len(fair) and earned(foul, gold)==[0.]*len(foul)

def test_wrong_partial_doubled():
    "Over the roles of both, only one assignment earns; half of it and twice of it do not"
    for a, b in itertools.product(['knight','knave'], repeat=2):
        assert earned([f'(1) Amelia is a {a}\n(2) Penelope is a {b}'])==[float((a, b)==('knight','knave'))]
    for text in FAIR:
        assert read_roles(text+'\n'+text) is None
        assert read_roles(text+', Amelia is a knave') is None and read_roles(text+' (3) Amelia is a knight') is None
        somebody_else = re.sub('amelia', 'Cleo', text, flags=re.I)
        assert earned([text+', Cleo is a knave', somebody_else])==[0., 0.]
    assert earned(['', ' ', 'knight', 'Amelia is a knight', 'Amelia', 'Amelia is a', '(1) (2)', 'and', 'Everyone is a knight'])==[0.]*9
    assert earned(['', 'knight'], gold='')==[0., 0.]

TAKES_BACK = [
    'not', 'no', 'never', 'or', 'nor', 'neither', 'either', 'if', 'unless', 'maybe',
    'perhaps', 'probably', 'possibly', 'false', 'wrong', 'untrue', "isn't", 'except', 'almost', 'may',
    'might', 'could', 'would', 'claims', 'says', 'cannot', 'was', 'lies', 'knave', 'knight',
    'a knave', '?', '!', '¬', '~', '/', '|', '!=', '<', '#',
    'un', 'non-', '(0)', 'x', 'é',
]

@pytest.mark.parametrize('word', TAKES_BACK)
def test_no_word_slips_in(word):
    "At every gap of a right answer of any form, a word that takes it back (or any other) leaves no answer"
    for text in FAIR:
        for m in re.finditer(r'(?<=\w)(?=\W)|(?<=\W)(?=\w)|^|$', text):
            at = m.start()
            for spaced in (f' {word} ', word):
                changed = text[:at]+spaced+text[at:]
                assert read_roles(changed)!=GOLD, changed

CHEATS = '''
Amelia is not a knight, Penelope is not a knave
Amelia is not a knave, Penelope is not a knight
Amelia isn't a knave, Penelope is a knave
It is not the case that Amelia is a knight, Penelope is a knave
Amelia is a knight or a knave, Penelope is a knave
Amelia is a knight and a knave, Penelope is a knave
Amelia is a knight and Amelia is a knave, Penelope is a knave
Amelia is a knight/knave, Penelope is a knave
Amelia is a knight, Penelope is a knave, or vice versa
Amelia and Penelope are a knight and a knave
I think Amelia is a knight, Penelope is a knave
If Amelia is a knight, Penelope is a knave
Amelia: knight: Penelope: knave
Knights: Amelia, Penelope: knave
Amelia is a knight's wife, Penelope is a knave
Amelia is a knightess, Penelope is a knave
Amelia is a knight. Penelope is a knave. Just kidding.
Neither Amelia is a knight, nor Penelope is a knave
The knight is not Amelia and the knave is Penelope
The knight is either Amelia or Penelope, the knave is Penelope
The wrong answer is: Amelia is a knight, Penelope is a knave
Not the answer: Amelia is a knight, Penelope is a knave
All but Amelia are knaves
Amelia and Penelope are knights and knaves
(0) Amelia is a knight (0) Penelope is a knave
'''.strip().split('\n')

@pytest.mark.parametrize('text', CHEATS + ['Amelia is a knight' + ' '*3000 + 'Penelope is a knave'])
def test_cheats(text): assert earned([text])==[0.]

def test_only_what_stands_in_the_answer():
    text = 'Amelia is a knight, Penelope is a knave'
    gold = [text]*4
    given = [text, f'<think><answer>{text}</answer></think>', f'\\boxed{{{text}}}', f'<answer>{text}</answer><answer>no</answer>']
    assert knights_reward([], given, [], gold)==[0., 0., 1., 0.]
