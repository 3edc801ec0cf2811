"""Recorded steps, rehearsed on the CPU: the same tokens, few recordings, and no way to replay what is no longer true."""
import types, warnings, weakref
from functools import partial
import pytest, torch
from transformers import AutoConfig, AutoModelForCausalLM
from grpo_lit import sampling
from grpo_lit.fast import recording
from grpo_lit.fast.recording import Camera, Recorder, drop_recordings, recorder_of
from grpo_lit.fast.rehearsing import HostWait, Rehearsal
from grpo_lit.fast.sharing import share_prefix
from grpo_lit.fast.slots import rung
from grpo_lit.fast.static import decoder
from grpo_lit.policy import check_tokenizer, tiny_tokenizer
from grpo_lit.sampling import sample_groups

small = dict(vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2)
kinds = dict(llama=small, qwen2=small, qwen3=small | dict(num_key_value_heads=1), mistral=small | dict(sliding_window=8),
             gemma2=small | dict(sliding_window=8), gemma3_text=small | dict(sliding_window=8), phi3=small,
             gpt2=dict(vocab_size=32, n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=1, eos_token_id=2))
short = ['1+1=?', '958+467=?', '12345+67890=?']
long = ['1+'*30+'1=?', '958+467+'*9+'1=?', '7+7=?']

def new_model(kind='llama', **more):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **kinds.get(kind, small) | more)).eval()
    with torch.no_grad():
        for p in model.parameters(): p.mul_(3.) # untrained models are near uniform: make them opinionated
    return model

def sampled(model, monkeypatch, still, prompts, G=4, limit=12, seed=0, **more):
    monkeypatch.setattr(sampling, 'decoder', partial(decoder, static=still))
    return sample_groups(model, check_tokenizer(tiny_tokenizer()), prompts, G, limit, seed=seed, **more)

def equal(a, b):
    assert a.completions == b.completions
    assert (a.logps-b.logps).abs().max() < 1e-4

@pytest.mark.parametrize('kind', kinds)
def test_the_same_tokens(kind, monkeypatch):
    model = new_model(kind)
    for prompts, more in ((short, {}), (long, {}), (long, dict(max_rows=6))):
        plain, recorded = (sampled(model, monkeypatch, still, prompts, limit=10, **more) for still in (False, True))
        equal(plain, recorded)
    assert recorder_of(model).recordings and not recorder_of(model).why

def test_a_run_of_rollouts_records_each_shape_once(monkeypatch):
    model = new_model()
    for seed in range(4):
        for prompts in (long, long[1:]):
            equal(*(sampled(model, monkeypatch, still, prompts, seed=seed, limit=16) for still in (False, True)))
    assert recorder_of(model).recordings == len(recorder_of(model).kept) >= 3

def test_the_same_rollout_again_records_nothing(monkeypatch):
    model, made = new_model(), []
    for _ in range(3):
        for prompts in (short, long): sampled(model, monkeypatch, True, prompts, G=2, limit=24)
        made.append(recorder_of(model).recordings)
    assert made[1] == made[2] > 0

def test_far_fewer_recordings_than_departures(monkeypatch):
    "Rows leave one after another, 24 times; on the ladder there are 9 rungs"
    model, P, G = new_model(), 3, 8
    share_prefix(model)
    state = decoder(model, 60, static=True)
    state.enter([[5]*50, [6]*20, [7]*9], G)
    for n in range(P*G, 0, -1):
        for _ in range(2): state.step(torch.full((n,), 8))
        state.leave(torch.arange(n-1))
    assert recorder_of(model).recordings <= 1+len({rung(n) for n in range(1, P*G+1)}) # and one with all rows in order

def rows_of(state): return len(state.seats.ages) if hasattr(state, 'seats') else len(state.books.owner)

def random_walk(model, seed, still, copy):
    "Prompts enter and rows leave at random -> all logits"
    g = torch.Generator().manual_seed(seed)
    draw = lambda n: int(torch.randint(n, (1,), generator=g))
    state, found = decoder(model, 150, copy, still), []
    for t in range(30):
        have = rows_of(state)
        if not have or draw(6) == 0:
            G, P = 1+draw(4), 1+draw(2)
            found.append(state.enter([[3+draw(20)]*(1+draw(70)) for _ in range(P)], G))
        elif draw(3) == 0:
            keep = torch.rand(have, generator=g) < .6
            state.leave(keep.nonzero()[:,0])
            if not keep.any(): continue
        have = rows_of(state)
        found.append(state.step(torch.randint(3, 30, (have,), generator=g)).clone())
    return torch.cat(found)

@pytest.mark.slow
@pytest.mark.parametrize('kind', kinds)
def test_long_completions_climb_the_ladder(kind, monkeypatch):
    model = new_model(kind)
    for seed in range(3):
        for prompts in (short, long):
            equal(*(sampled(model, monkeypatch, still, prompts, limit=140, seed=seed, max_rows=8) for still in (False, True)))

@pytest.mark.parametrize('copy', [False, True])
@pytest.mark.parametrize('kind', ['llama', 'mistral', 'gemma2'])
def test_any_order_of_entering_and_leaving(kind, copy):
    model = new_model(kind)
    assert share_prefix(model)
    for seed in range(2):
        plain, recorded = (random_walk(model, seed, still, copy) for still in (False, True))
        assert (plain-recorded).abs().max() < 1e-3*plain.abs().max()

# --- what makes recordings void, and what does not

def test_updates_in_place_keep_recordings_and_are_seen(monkeypatch):
    model = new_model()
    for _ in range(2): sampled(model, monkeypatch, True, long)
    made = recorder_of(model).recordings
    optimizer = torch.optim.SGD(model.parameters(), lr=.5)
    model(input_ids=torch.tensor([[5,6,7]])).logits.square().mean().backward()
    optimizer.step()
    plain, recorded = (sampled(model, monkeypatch, still, long, temperature=0) for still in (False, True))
    equal(plain, recorded)
    assert recorder_of(model).recordings >= made and recorder_of(model).kept

@pytest.mark.parametrize('move', ['data', 'load_assign', 'half', 'train', 'hook'])
def test_what_has_moved_is_recorded_anew(move, monkeypatch):
    model = new_model()
    for _ in range(2): sampled(model, monkeypatch, True, long)
    assert recorder_of(model).kept
    if move == 'data':
        for p in model.parameters(): p.data = p.data*2
    if move == 'load_assign': model.load_state_dict({k: v.clone() for k,v in model.state_dict().items()}, assign=True)
    if move == 'half': model.to(torch.bfloat16)
    if move == 'train': model.train()
    if move == 'hook': model.model.layers[0].register_forward_hook(lambda m, args, out: out*1.)
    assert not recorder_of(model).kept
    if move != 'half':
        equal(*(sampled(model, monkeypatch, still, long) for still in (False, True)))

def test_an_adapter_that_is_switched_off(monkeypatch):
    from peft import LoraConfig, get_peft_model
    model = get_peft_model(new_model(), LoraConfig(target_modules=['q_proj','v_proj'], init_lora_weights=False)).eval()
    with_it = [sampled(model, monkeypatch, True, long, temperature=0) for _ in range(2)][-1]
    with model.disable_adapter():
        equal(*(sampled(model, monkeypatch, still, long, temperature=0) for still in (False, True)))
        without = sampled(model, monkeypatch, True, long, temperature=0)
    equal(with_it, sampled(model, monkeypatch, True, long, temperature=0))
    assert with_it.completions != without.completions

def test_two_decodings_beside_each_other():
    model = new_model()
    share_prefix(model)
    plain = []
    for still in (False, True):
        one, two = (decoder(model, 20, static=still) for _ in range(2))
        found = [one.enter([[5]*9], 2), two.enter([[6]*7], 3)]
        for t in range(5):
            found += [one.step(torch.tensor([4+t,9])).clone(), two.step(torch.tensor([8,7,4+t])).clone()]
        plain.append(torch.cat(found))
    assert (plain[0]-plain[1]).abs().max() < 1e-4*plain[0].abs().max()

def test_nan_leaves_nothing_behind(monkeypatch):
    model = new_model()
    good = sampled(model, monkeypatch, True, long)
    weights = {k: v.clone() for k,v in model.state_dict().items()}
    with torch.no_grad(): model.model.layers[0].self_attn.v_proj.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError): sampled(model, monkeypatch, True, long)
    model.load_state_dict(weights)
    equal(good, sampled(model, monkeypatch, True, long))

def test_memory_goes_when_it_is_asked_for_and_with_the_model(monkeypatch):
    model = new_model()
    for _ in range(2): sampled(model, monkeypatch, True, long)
    assert recorder_of(model).slots and drop_recordings() and not recorder_of(model).slots
    assert not drop_recordings()
    equal(*(sampled(model, monkeypatch, still, long) for still in (False, True)))
    kept = weakref.ref(recorder_of(model)), weakref.ref(model)
    del model
    import gc; gc.collect()
    assert [k() for k in kept] == [None, None]

def test_dropping_in_the_middle_of_a_rollout():
    model = new_model()
    share_prefix(model)
    found = []
    for still in (False, True):
        for _ in range(2):
            state = decoder(model, 40, static=still)
            logits = [state.enter([[5]*9, [6]*4], 2)]
            for t in range(12):
                if still and t == 6: drop_recordings()
                logits.append(state.step(torch.tensor([5,6,7,8+t])).clone())
            state.leave(torch.tensor([], dtype=torch.long))
        found.append(torch.cat(logits))
    assert (found[0]-found[1]).abs().max() < 1e-4*found[0].abs().max()

def test_inference_mode_and_after(monkeypatch):
    model = new_model()
    with torch.inference_mode(): sampled(model, monkeypatch, True, long)
    equal(*(sampled(model, monkeypatch, still, long) for still in (False, True)))

# --- models that cannot be recorded

cannot = dict(dynamic_rope=('llama', dict(rope_parameters=dict(rope_type='dynamic', rope_theta=10000., factor=2.), max_position_embeddings=16)),
              experts_in_a_loop=('mixtral', dict(num_local_experts=4, num_experts_per_tok=2, experts_implementation='eager')))

@pytest.mark.parametrize('case', cannot)
def test_named_once_and_decoded_step_by_step(case, monkeypatch):
    kind, more = cannot[case]
    recording._said.clear()
    model = new_model(kind, **more)
    share_prefix(model)
    def walk(still):
        state = decoder(model, 16, static=still)
        found = [state.enter([[5]*3, [6]*2], 2)]
        for t in range(6): found.append(state.step(torch.tensor([5,6,7,8+t])).clone())
        state.leave(torch.tensor([], dtype=torch.long))
        return torch.cat(found)
    plain = walk(False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        for _ in range(3): assert (walk(True)-plain).abs().max() < 1e-4*plain.abs().max()
    told = [str(w.message) for w in told if 'recorded' in str(w.message)]
    assert len(told) == 1 and type(model).__name__ in told[0]
    assert recorder_of(model).why and not recorder_of(model).recordings

# --- the rehearsal finds what a GPU would not

def rehearsed(step, change):
    rehearsal = Rehearsal(step)
    rehearsal.replay(step)
    change()
    with pytest.raises(AssertionError): rehearsal.replay(step)

s = types.SimpleNamespace()

@pytest.fixture(autouse=True)
def things():
    s.x, s.y, s.out, s.n, s.way, s.at = torch.ones(4,4), torch.ones(4,4), torch.zeros(4,4), 2, True, torch.arange(4)

changes = dict(
    number=(lambda: s.out.copy_(s.x*s.n), lambda: vars(s).update(n=3)),
    slice=(lambda: s.out[:s.n].fill_(1.), lambda: vars(s).update(n=3)),
    branch=(lambda: s.out.copy_(s.x.exp() if s.way else s.x), lambda: vars(s).update(way=False)),
    moved=(lambda: s.out.copy_(s.x), lambda: vars(s).update(x=s.x.clone())),
    moved_output=(lambda: s.out.copy_(s.x), lambda: vars(s).update(out=s.out.clone())),
    another=(lambda: s.out.copy_(s.x), lambda: vars(s).update(x=s.y)),
    shape=(lambda: s.out.copy_(s.x), lambda: vars(s).update(x=s.x[:1])),
    stride=(lambda: s.out.copy_(s.x), lambda: vars(s).update(x=s.x.T)),
    dtype=(lambda: s.out.copy_(s.x), lambda: vars(s).update(x=s.x.view(torch.int32))),
    offset=(lambda: torch.sum(s.x[s.n:s.n+1], 0, out=s.out[0]), lambda: vars(s).update(n=1)),
    index=(lambda: s.out.copy_(s.x[s.at]), lambda: vars(s).update(at=s.at.clone())),
    more=(lambda: [s.out.add_(s.x) for _ in range(s.n)], lambda: vars(s).update(n=3)),
    fewer=(lambda: [s.out.add_(s.x) for _ in range(s.n)], lambda: vars(s).update(n=1)))

@pytest.mark.parametrize('name', changes)
def test_a_replay_that_would_be_wrong(name): rehearsed(*changes[name])

@pytest.mark.parametrize('wait', [
    lambda x: x.sum().item(), lambda x: x.tolist(), lambda x: x.numpy(), lambda x: x.cpu(), lambda x: bool(x.any()),
    lambda x: int(x[0,0]), lambda x: float(x[0,0]), lambda x: x.nonzero(), lambda x: x[x > 0], lambda x: x.masked_select(x > 0),
    lambda x: x.long().unique(), lambda x: x.long()[0].bincount(), lambda x: x.repeat_interleave(x[0].long(), 0),
    lambda x: [0,1,2][x[0,0].long()], lambda x: 1 if x.sum() > 0 else 2, lambda x: torch.where(x > 0), lambda x: torch.equal(x, x),
    lambda x: torch.tensor([1.,2.]), lambda x: x.index_put_((x > 0,), x.new_zeros(())), lambda x: torch.allclose(x, x)])
def test_a_step_that_waits(wait):
    with pytest.raises(HostWait): Rehearsal(lambda: wait(s.x))

def test_new_numbers_in_the_same_memory_are_no_change():
    def step(): s.out.copy_(s.x.softmax(-1)[s.at].clamp(min=0.) @ s.y.T)
    rehearsal = Rehearsal(step)
    for _ in range(3):
        s.x.normal_(), s.at.copy_(torch.randperm(4))
        torch.empty(1000)       # memory of the step may lie elsewhere
        rehearsal.replay(step)

def test_the_least_recently_used_recording_goes():
    recorder = Recorder('cpu', most=3)
    run = lambda n: recorder.run(n, lambda: s.out[:n].copy_(s.x[:n]), s.out[:n])
    for n in (1,2,3): run(n), run(n)
    run(1)
    run(4), run(4)
    assert list(recorder.kept) == [3,1,4] and recorder.recordings == 4

def test_a_replay_with_another_result_is_refused():
    class Wrong:
        def warm(self, step): step()
        def record(self, step): return types.SimpleNamespace(replay=lambda step: s.out.fill_(7))
    recorder, step = Recorder('cpu', 'A model that is replayed wrongly'), lambda: s.out.copy_(s.x)
    recorder.camera = Wrong()
    with pytest.warns(UserWarning, match='gave another result'):
        for _ in range(3): recorder.run('all', step, s.out)
    assert torch.equal(s.out, s.x)

# --- the real camera, with a pretended CUDA

class Cuda:
    "Streams and graphs that note what is done; a capture with `broken` is invalid when it ends"
    def __init__(self): self.now, self.notes, self.broken = 'main', [], False
    def install(self, patch):
        cuda = self
        class Graph:
            def capture_begin(self, pool, capture_error_mode): cuda.notes.append(('begin', cuda.now, capture_error_mode))
            def capture_end(self):
                cuda.notes.append(('end', cuda.now))
                if cuda.broken: raise RuntimeError('CUDA error: capture was invalidated')
            def reset(self): cuda.notes.append('reset')
            def replay(self): cuda.notes.append('replay')
        class Generator:
            def get_offset(self): return 8
            def set_offset(self, n): cuda.notes.append(('offset', n))
            def clone_state(self): return 'fresh'
            def graphsafe_set_state(self, state): cuda.notes.append(('state', state))
        for name, fake in dict(Stream=lambda device: types.SimpleNamespace(wait_stream=lambda o: None), CUDAGraph=Graph,
                               graph_pool_handle=lambda: (0,1), current_stream=lambda device=None: self.now,
                               set_stream=lambda x: setattr(self, 'now', x), synchronize=lambda device=None: None,
                               default_generators=[Generator()]).items():
            patch.setattr(torch.cuda, name, fake, raising=False)
        def end_pool(i, pool):
            if not self.broken: raise RuntimeError('endAllocatePool: not currently recording to mempool_id')
            self.notes.append('end pool')
        patch.setattr(torch._C, '_cuda_endAllocateToPool', end_pool, raising=False)
        patch.setattr(torch._C, '_cuda_releasePool', lambda i, pool: self.notes.append('release'), raising=False)
        def rand(*size, device):
            if self.broken: raise RuntimeError('Offset increment outside graph capture encountered unexpectedly')
        patch.setattr(recording.torch, 'rand', rand)

@pytest.fixture
def cuda(monkeypatch):
    fake = Cuda()
    fake.install(monkeypatch)
    return fake

def test_a_capture(cuda):
    camera, where = Camera('cuda'), []
    camera.record(lambda: where.append(cuda.now)).replay()
    assert where == [camera.stream] and cuda.now == 'main'
    assert cuda.notes == [('begin', camera.stream, 'thread_local'), ('end', camera.stream), 'replay']

@pytest.mark.parametrize('broken', [False, True])
@pytest.mark.parametrize('raises', [None, ValueError('odd'), torch.OutOfMemoryError('full'), KeyboardInterrupt()])
def test_a_capture_that_fails(cuda, raises, broken):
    if not (raises or broken): return
    camera, cuda.broken = Camera('cuda'), broken
    def step():
        if raises: raise raises
    with pytest.raises(type(raises) if raises else RuntimeError): camera.record(step)
    assert cuda.now == 'main'                           # back on the stream that was current
    assert cuda.notes.count(('end', camera.stream)) == 1
    assert 'reset' in cuda.notes
    assert ('end pool' in cuda.notes) == ('release' in cuda.notes) == broken # else the graph itself has given it back
    assert (('state', 'fresh') in cuda.notes) == broken # the generator would go on recording
    assert cuda.notes[-1] == ('offset', 8)              # and draws what it would have drawn

# --- rewards beside

class Away(torch.Tensor):
    "A tensor that says it is elsewhere, until it is fetched"
    device = property(lambda self: torch.device('meta'))
    def to(self, device): return self.as_subclass(torch.Tensor)

def test_rewards_in_another_thread_get_tensors_of_the_cpu(monkeypatch):
    from dataclasses import replace
    from grpo_lit.run.sampler import overlapped
    ro = sampled(new_model(), monkeypatch, False, short)
    tensors = [n for n,v in vars(ro).items() if isinstance(v, torch.Tensor)]
    def sample(tell):
        for i in (2,0,1):
            group = ro.take(slice(4*i, 4*i+4))
            tell(i, replace(group, **{n: getattr(group, n).as_subclass(Away) for n in tensors}))
    def score(group):
        assert {type(getattr(group, n)) for n in tensors} == {torch.Tensor}
        return replace(group, rewards=group.lengths.float())
    joined, _ = overlapped(sample, score, 3)
    assert {getattr(joined, n).device.type for n in tensors} == {'meta'}
    assert torch.equal(joined.rewards, ro.lengths.float())

def test_a_copy_in_16_bits_that_follows_is_not_recorded_anew(monkeypatch):
    from grpo_lit.run.copies import follow, half_copy
    model = new_model()
    copied = half_copy(model, torch.bfloat16)
    for _ in range(2): sampled(copied, monkeypatch, True, long)
    before = dict(recorder_of(copied).kept)
    with torch.no_grad():
        for p in model.parameters(): p.mul_(.5)
    follow(copied, model)
    plain, recorded = (sampled(copied, monkeypatch, still, long) for still in (False, True))
    assert (plain.logps[:,0]-recorded.logps[:,0]).abs().max() < .1
    assert before and before.items() <= dict(recorder_of(copied).kept).items()

def test_a_shortage_lets_go_of_them(monkeypatch):
    from grpo_lit.shortages import retried, times
    model = new_model()
    for _ in range(2): sampled(model, monkeypatch, True, long)
    found = []
    def attempt():
        found.append(bool(recorder_of(model).slots))
        if len(found) < 2: raise torch.OutOfMemoryError('full')
    retried(attempt, times(1))
    assert found == [True, False]

def test_two_decodings_when_memory_is_given_back_between_them():
    model = new_model()
    share_prefix(model)
    plain = []
    for still in (False, True):
        one, two = (decoder(model, 20, static=still) for _ in range(2))
        found = [one.enter([[5]*9], 2)]
        found += [one.step(torch.tensor([4+t,9])).clone() for t in range(3)]
        if still: assert drop_recordings()
        found.append(two.enter([[6]*7], 2))
        for t in range(4):
            found += [one.step(torch.tensor([4+t,9])).clone(), two.step(torch.tensor([8,4+t])).clone()]
        plain.append(torch.cat(found))
    assert (plain[0]-plain[1]).abs().max() < 1e-4*plain[0].abs().max()

def test_a_hook_in_the_place_of_another(monkeypatch):
    model = new_model()
    def hooked(factor): return model.model.layers[0].mlp.register_forward_hook(lambda m, args, out: factor*out)
    for factor in (1., 0., -1.):
        hook = hooked(factor)
        before = recorder_of(model).recordings
        for _ in range(2): equal(*(sampled(model, monkeypatch, still, short) for still in (False, True)))
        assert recorder_of(model).recordings > before
        hook.remove()
