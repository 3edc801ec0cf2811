"""Rows that are put aside and come back with several tokens: what they predict is what the whole text predicts, whatever happened between."""
import random
import pytest, torch
from transformers import AutoConfig, AutoModelForCausalLM
from grpo_lit.fast import suffixes
from grpo_lit.fast.decoding import Decoding
from grpo_lit.fast.sharing import Forked, share_prefix
from grpo_lit.fast.static import StaticDecoding, decoder

small = dict(vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             head_dim=8, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2)
window = small | dict(sliding_window=6)
configs = dict(llama=small, qwen2=small, qwen3=small, phi3=small, mistral=window, gemma2=window,
               gemma3_text=window | dict(num_hidden_layers=3, sliding_window_pattern=3),
               gpt2=dict(vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2))
ROOM = 100
KINDS = dict(shared=lambda m: decoder(m, ROOM, False, static=False), copied=lambda m: decoder(m, ROOM, True, static=False),
             static=lambda m: decoder(m, ROOM, False, static=True), static_copied=lambda m: decoder(m, ROOM, True, static=True),
             forked=Forked)

def new_model(kind, dtype=torch.float32):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    m = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **configs[kind])).eval()
    with torch.no_grad():
        for p in m.parameters(): p.mul_(2.)               # untrained models are near uniform
    m = m.to(dtype)
    assert share_prefix(m)
    return m

@pytest.fixture(scope='module')
def models():
    made = {}
    def get(kind, dtype=torch.float32):
        if (kind, dtype) not in made: made[kind, dtype] = new_model(kind, dtype)
        return made[kind, dtype]
    return get

class Play:
    "Drives a state, knows the text of every row, and notes what is predicted after it"
    def __init__(self, state, seed, most=8):
        self.state, self.random, self.most = state, random.Random(seed), most
        self.rows, self.waiting, self.notes = [], [], []   # [prompt, tokens read]; (parked, prompt, tokens)
        self.alone = isinstance(state, Forked)             # rows come only when nobody is there
        self.done = dict(enter=0, step=0, park=0, rejoin=0, forget=0)

    def tokens(self, n): return [self.random.randrange(3, 40) for _ in range(n)]

    def note(self, rows, logits):
        assert len(logits) == len(rows)
        self.notes += [(p+t, x.clone()) for (p, t), x in zip(rows, logits)]

    def leave(self, gone):
        stay = [i for i in range(len(self.rows)) if i not in gone]
        self.rows = [self.rows[i] for i in stay]
        self.state.leave(torch.tensor(stay, dtype=torch.long, device=self.state.model.device))

    def enter(self, prompts, G):
        new = [[p, []] for p in prompts for _ in range(G)]
        logits = self.state.enter(prompts, G)
        self.rows += new
        self.note(new, logits)
        self.done['enter'] += 1

    def step(self, n=1):
        for _ in range(n):
            tokens = self.tokens(len(self.rows))
            logits = self.state.step(torch.tensor(tokens, device=self.state.model.device))
            for row, t in zip(self.rows, tokens): row[1] = row[1]+[t]
            self.note(self.rows, logits)
            self.done['step'] += 1

    def park(self, rows, cut=0): # Of what each has written, so much is garbage
        keep = [max(0, len(self.rows[i][1])-cut) for i in rows]
        found = self.state.park(torch.tensor(rows), keep)
        self.waiting += [(one, self.rows[i][0], self.rows[i][1][:n]) for one, i, n in zip(found, rows, keep)]
        self.leave(rows)
        self.done['park'] += len(rows)

    def rejoin(self, which, counts):
        back, new = [self.waiting[i] for i in which], [self.tokens(n) for n in counts]
        self.waiting = [w for i, w in enumerate(self.waiting) if i not in which]
        logits = self.state.rejoin([w[0] for w in back], new)
        rows = [[p, t+more] for (_, p, t), more in zip(back, new)]
        self.rows += rows
        self.note(rows, logits)
        self.done['rejoin'] += len(which)

    def forget(self, which):
        gone = [self.waiting[i] for i in which]
        self.waiting = [w for i, w in enumerate(self.waiting) if i not in which]
        self.state.forget([w[0] for w in gone])
        self.done['forget'] += len(which)

    def some(self, n): return self.random.sample(range(n), self.random.randint(1, n))

    def anything(self): # One move that is possible now
        move = self.random.choice(['step']*5+['park']*2+['rejoin']*2+['leave', 'forget', 'enter'])
        if move == 'step' and self.rows and max(len(t) for _, t in self.rows) < ROOM-40: self.step()
        if move == 'park' and self.rows: self.park(self.some(len(self.rows)), self.random.choice([0, 0, 1, 3]))
        if move == 'rejoin' and self.waiting and not (self.alone and self.rows):
            which = self.some(len(self.waiting))
            room = ROOM-20-max(len(self.waiting[i][2]) for i in which)
            self.rejoin(which, [self.random.randint(1, min(9, room)) for _ in which])
        if move == 'leave' and self.rows: self.leave(self.some(len(self.rows))[:2])
        if move == 'forget' and self.waiting: self.forget(self.some(len(self.waiting))[:2])
        free = not self.rows if self.alone else len(self.rows)+len(self.waiting) < self.most
        if move == 'enter' and free: self.enter([self.tokens(self.random.choice([1, 4, 9, 17]))], self.random.choice([1, 2, 3]))

    def end(self):
        if self.rows: self.leave(range(len(self.rows)))
        if self.waiting: self.forget(range(len(self.waiting)))

@torch.no_grad()
def check(model, notes, most):
    "Against passes over whole texts; the largest difference as a share of the largest logit"
    texts = [t for t, _ in notes]
    ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    for row, t in zip(ids, texts): row[:len(t)] = torch.tensor(t)
    whole = torch.cat([model(input_ids=part, use_cache=False).logits for part in ids.split(64)])
    whole = torch.stack([w[len(t)-1] for w, t in zip(whole, texts)])
    ours = torch.stack([x for _, x in notes])
    assert ours.isfinite().all()
    gap = ((ours-whole).abs().max()/whole.abs().max()).item()
    assert gap < most, gap

def several_turns(play, cut=0):
    "Two prompts of different lengths, three turns each, in an order of their own"
    play.enter([play.tokens(3), play.tokens(19)], 3)
    play.step(2)
    play.park([4, 0], cut)          # five prompts' rows stay; one of each is away
    play.step(3)
    if play.alone:
        play.park([0, 1, 2, 3])
        play.rejoin([3, 1, 0], [4, 1, 12])
    else: play.rejoin([1, 0], [5, 2])
    play.step(2)
    play.park([1, 2], cut)
    play.step(1)
    play.park(list(range(len(play.rows))))     # all are away
    n = len(play.waiting)
    play.rejoin(list(range(n)), [1+(5*i)%11 for i in range(n)])
    play.step(4)
    play.park([0])
    play.step(1)
    play.leave([0, 1])
    play.end()

OFTEN = ('llama', 'qwen3', 'gemma2', 'gpt2')
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', [pytest.param(n, marks=[] if n in OFTEN else pytest.mark.slow) for n in configs])
def test_what_comes_back_predicts_as_the_whole_text(models, name, kind):
    model = models(name)
    play = Play(KINDS[kind](model), seed=1)
    several_turns(play, cut=1)
    check(model, play.notes, 1e-5)

@pytest.mark.parametrize('kind', KINDS)
def test_to_the_last_digits(models, kind):
    model = models('gpt2', torch.float64)          # its norms stay in float64 as well
    play = Play(KINDS[kind](model), seed=2)
    several_turns(play)
    check(model, play.notes, 1e-10)

@pytest.mark.parametrize('kind', KINDS)
def test_any_order_of_moves(models, kind):
    model, done = models('gemma2'), {}
    for seed in range(2):
        play = Play(KINDS[kind](model), seed)
        play.enter([play.tokens(5)], 2)
        for _ in range(70): play.anything()
        play.end()
        check(model, play.notes, 1e-5)
        done = {k: done.get(k, 0)+n for k, n in play.done.items()}
    assert min(done.values()) > 0, done

@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', configs)
def test_any_order_of_moves_for_long(models, name, kind):
    model = models(name)
    for seed in range(100, 105):
        play = Play(KINDS[kind](model), seed, most=14)
        play.enter([play.tokens(5), play.tokens(30)], 2)
        for _ in range(120): play.anything()
        play.end()
        check(model, play.notes, 1e-5)

@pytest.mark.parametrize('kind', KINDS)
def test_one_row_many_times(models, kind):
    model = models('qwen2')
    play = Play(KINDS[kind](model), seed=3)
    play.enter([play.tokens(7)], 1)
    for n in (1, 6, 2, 40):                        # at once after the first token; a tail that has to grow
        play.park([0])
        play.rejoin([0], [n])
        play.step(1)
    play.end()
    check(model, play.notes, 1e-5)

@pytest.mark.parametrize('kind', KINDS)
def test_one_pass_reads_all_that_come_back(models, kind):
    model, calls = models('llama'), []
    play = Play(KINDS[kind](model), seed=4)
    play.enter([play.tokens(4), play.tokens(9)], 4)
    play.step(3)
    play.park([0, 3, 6])
    play.step(1)
    play.park(list(range(5)))
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    play.rejoin(list(range(8)), [1, 2, 3, 4, 5, 6, 7, 30])
    handle.remove()
    assert len(calls) == 1
    check(model, play.notes, 1e-5)

@pytest.mark.parametrize('kind', ['shared', 'copied'])
def test_many_scores_are_computed_in_portions(models, kind, monkeypatch):
    for name in ('gemma2', 'mistral'):
        found = []
        for most in (suffixes.PORTION, 4*6*40*2, 1):        # all rows, a few, one at a time
            monkeypatch.setattr(suffixes, 'PORTION', most)
            play = Play(KINDS[kind](models(name)), seed=5)
            several_turns(play)
            check(models(name), play.notes, 1e-5)
            found.append(play.notes)
        assert all([t for t, _ in f] == [t for t, _ in found[0]] for f in found)

@pytest.mark.parametrize('name', ['llama', 'gemma2', 'gpt2'])
@pytest.mark.parametrize('kind', ['shared', 'static'])
def test_few_tokens_read_a_prompt_once_and_many_copy_it(models, name, kind, monkeypatch):
    model, ways = models(name), []
    for way in ('attend_shared', 'attend'):
        was = getattr(suffixes, way)
        def noted(*args, _was=was, _way=way): ways.append(_way); return _was(*args)
        monkeypatch.setattr(suffixes, way, noted)
    play = Play(KINDS[kind](model), seed=17)
    play.enter([play.tokens(4), play.tokens(23)], 3)
    play.step(2)
    play.park([1, 3, 5])
    play.rejoin([2, 0, 1], [1, 3, 4])
    few = set(ways)
    ways.clear()
    play.step(1)
    play.park([0, 4, 5])
    play.rejoin([0, 2, 1], [30, 1, 4])
    play.step(1)
    play.end()
    assert few == {'attend_shared'} and set(ways) == {'attend'}
    check(model, play.notes, 1e-5)

def test_the_same_moves_give_the_same_bits(models):
    for kind in KINDS:
        one, two = (Play(KINDS[kind](models('qwen3')), seed=6) for _ in range(2))
        several_turns(one)
        several_turns(two)
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one.notes, two.notes)), kind

@pytest.mark.parametrize('kind', ['shared', 'static'])
def test_half_precision(models, kind):
    model = models('llama', torch.bfloat16)
    play = Play(KINDS[kind](model), seed=7)
    several_turns(play)
    assert {x.dtype for _, x in play.notes} == {torch.bfloat16}
    check(model, play.notes, .05)

def test_under_autocast(models):
    model = models('llama')
    for kind in ('shared', 'copied'):
        with torch.autocast('cpu', torch.bfloat16):
            play = Play(KINDS[kind](model), seed=8)
            several_turns(play)
            check(model, play.notes, .05)


# What is kept, and for how long ------------------------------------------------------------------------------------------

def test_a_prompt_stays_as_long_as_a_row_of_it_is_away(models):
    play = Play(KINDS['shared'](models('llama')), seed=9)
    play.enter([play.tokens(4), play.tokens(30)], 2)
    play.step(1)
    play.park([2, 3])
    play.leave([1])
    store, seats = play.state.store, play.state.seats
    assert seats.lengths.tolist() == [4, 30] and store.prefix[0][0].shape[2] == 30
    play.forget([0])
    assert seats.lengths.tolist() == [4, 30]
    play.forget([0])                               # the last one
    assert seats.lengths.tolist() == [4] and store.prefix[0][0].shape[:3] == (1, 2, 4)
    play.step(2)
    play.leave([0])
    assert seats.lengths.tolist() == [] and len(store.prefix[0][0]) == 0
    check(models('llama'), play.notes, 1e-5)

def test_a_copy_is_as_long_as_what_stays(models):
    play = Play(KINDS['shared'](models('llama')), seed=10)
    play.enter([play.tokens(4)], 4)
    play.step(9)
    one, two = play.state.park([3, 1], [2, 5])
    assert one.block is two.block
    assert {x.shape for kv in one.block.values() for x in kv} == {(2, 2, 5, 8)}
    play.state.forget([one, two])

def test_slots_of_prompts_are_used_again(models):
    model = models('qwen2')
    state = KINDS['static'](model)
    play = Play(state, seed=11)
    play.enter([play.tokens(4) for _ in range(4)], 2)
    play.step(1)
    play.park([0, 1, 4, 5])                        # of the first and third prompt
    play.leave([0, 1, 2, 3])                       # nobody writes, two prompts are kept
    assert sorted(n for n in state.books.lengths.values()) == [4, 4] and state.slots is not None
    size = state.slots.size
    play.enter([play.tokens(6) for _ in range(2)], 2)
    play.step(2)
    assert state.slots.size == size
    play.rejoin([3, 0], [3, 7])
    play.step(2)
    play.end()
    assert state.slots is None                     # lent to the next rollout
    check(model, play.notes, 1e-5)

def test_slots_grow_for_rows_that_come_back(models):
    model = models('qwen2')
    play = Play(KINDS['static'](model), seed=12)
    for _ in range(3):
        play.enter([play.tokens(5)], 2)
        play.step(1)
        play.park([0, 1])
    play.rejoin(list(range(6)), [2]*6)             # six rows, where two at a time have been
    play.step(2)
    play.end()
    check(model, play.notes, 1e-5)

def test_what_stands_in_slots_from_before_is_not_seen(models):
    model = models('qwen2')
    several_turns(Play(KINDS['static'](model), seed=13))
    state = KINDS['static'](model)
    play = Play(state, seed=13)
    play.enter([play.tokens(5)], 1)
    recorder = state.recorder
    play.end()
    for slots in recorder.slots.values():
        for x in slots.tables(): x.fill_(torch.nan)
    play = Play(KINDS['static'](model), seed=14)
    several_turns(play)
    check(model, play.notes, 1e-5)

def test_steps_stay_recorded_when_rows_come_back(models):
    model = models('phi3')
    made = []
    for _ in range(3):
        state = KINDS['static'](model)
        play = Play(state, seed=15)
        play.enter([play.tokens(5), play.tokens(70)], 4)
        recorder = state.recorder
        for _ in range(3):
            play.step(4)
            play.park([0, 3, 5])
            play.step(4)
            play.rejoin([0, 1, 2], [3, 4, 5])
        play.step(4)
        play.end()
        made.append(recorder.recordings)
    assert made[0] > 0 and made[1:] == made[:1]*2 and not recorder.why


# What cannot be done -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind', KINDS)
def test_errors_say_what_is_wrong(models, kind):
    play = Play(KINDS[kind](models('llama')), seed=16)
    other = Play(KINDS[kind](models('llama')), seed=16)
    for p in (play, other):
        p.enter([p.tokens(4)], 2)
        p.step(3)
    state = play.state
    for keep in (4, -1):
        with pytest.raises(ValueError, match='3 tokens behind its prompt'): state.park([0], [keep])
    with pytest.raises(ValueError, match='2 rows'): state.park([0, 1], [1])
    assert state.park([], []) == []
    one, two = state.park([0, 1], [3, 3])
    state.leave(torch.tensor([], dtype=torch.long))
    with pytest.raises(ValueError, match='at least'): state.rejoin([one], [[]])
    with pytest.raises(ValueError, match='1 rows come back with tokens for 2'): state.rejoin([one], [[1], [2]])
    with pytest.raises(ValueError, match='0 rows'): state.rejoin([], [])
    with pytest.raises(ValueError, match='once'): state.rejoin([one, one], [[5], [5]])
    stranger, = other.state.park([0], [3])
    with pytest.raises(ValueError, match='where it was parked'): state.rejoin([stranger], [[5]])
    if kind != 'forked':
        with pytest.raises(ValueError, match='there is room for'): state.rejoin([one], [[5]*200])
    state.rejoin([two], [[5, 6]])
    with pytest.raises(ValueError, match='once'): state.forget([two])
    if kind == 'forked':
        with pytest.raises(ValueError, match='no others'): state.rejoin([one], [[5]])
    state.forget([one])
    state.leave(torch.tensor([], dtype=torch.long))
    with pytest.raises(ValueError, match='once'): state.rejoin([one], [[5]])
