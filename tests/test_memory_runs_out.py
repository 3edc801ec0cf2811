"""Memory runs out in the middle of a run, wherever that may be: the run goes on, and what it says is that of a run which was left alone."""
import contextlib, functools, warnings, weakref
import pytest, torch
from grpo_lit import GRPOConfig, GRPOTrainer
from grpo_lit.shortages import free_memory, is_out_of_memory, retried
from grpo_lit.run import update
from grpo_lit.tasks import addition_task
from two_processes import together

ERRORS = [torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB'),
          RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`'),
          RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'),
          RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
          MemoryError()]

def some_answers(completions, **columns): return [float(len(c)%3) for c in completions]

def new_trainer(out=None, model='tiny', rows=16, **settings):
    usual = dict(max_steps=2, learning_rate=.1, optim='sgd', gold_check=0, seed=3, disable_tqdm=True, use_cpu=True, output_dir=out,
                 num_generations=4, per_device_train_batch_size=8, max_completion_length=24)
    return GRPOTrainer(model, some_answers, GRPOConfig(**usual | settings), addition_task().train[:rows])

class Short:
    "Memory that is not enough for what `too_much(ids, calls)` says; used as a hook of a model's first layers"
    def __init__(self, too_much, error=ERRORS[0]):
        self.too_much, self.error, self.calls, self.raised = too_much, error, 0, 0

    def __call__(self, module, args, kwargs):
        ids = kwargs.get('input_ids', args[0] if args else None)
        self.calls += 1
        if self.too_much(ids, self.calls):
            self.raised += 1
            raise self.error

@contextlib.contextmanager
def short(model, too_much, error=ERRORS[0]):
    hook = Short(too_much, error)
    handle = model.get_decoder().register_forward_pre_hook(hook, with_kwargs=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        try: yield hook
        finally: handle.remove()
    hook.said = [str(w.message) for w in said if 'out of memory' in str(w.message)]

def figures(trainer):
    names = ('loss', 'kl', 'entropy', 'grad_norm', 'reward', 'num_tokens', 'completions/mean_length')
    return [[m[n] for n in names if n in m] for m in trainer.history]

def alike(a, b, exactly=False):
    near = 0. if exactly else 1e-4
    assert len(a.history) == len(b.history)
    for mine, its in zip(figures(a), figures(b)): assert mine == pytest.approx(its, rel=near, abs=near)
    for x, y in zip(a.model.parameters(), b.model.parameters()): assert torch.equal(x, y) if exactly else torch.allclose(x, y, atol=1e-5)

@functools.cache
def calm(**settings):
    "A run that is left alone"
    trainer = new_trainer(**settings)
    trainer.train()
    return trainer

reading = lambda ids: not torch.is_grad_enabled() and ids.shape[1] > 40 # a pass over whole answers, not a token of sampling

# --- the reference, the weights of tokens, the update

slow = functools.partial(pytest.param, marks=pytest.mark.slow)

@pytest.mark.parametrize('error', [ERRORS[1], slow(ERRORS[0]), *map(slow, ERRORS[2:])], ids=range(5))
def test_the_reference_is_read_in_smaller_portions(error):
    whole, made = calm(), new_trainer()
    with short(made.reference.frozen, lambda ids, n: ids.numel() > 60, error) as hook: made.train()
    assert hook.raised and hook.said and len(set(hook.said)) == len(hook.said)
    assert made.state.memory_divisor > 1
    raised = hook.raised
    with short(made.reference.frozen, lambda ids, n: ids.numel() > 60, error) as hook:
        made.state.total_steps += 2
        list(made.steps())
    assert raised >= hook.raised # it was remembered
    for mine, its in zip(figures(made)[:2], figures(whole)): assert mine == pytest.approx(its, rel=1e-4, abs=1e-4)

@pytest.mark.slow
def test_weights_of_tokens_are_read_in_smaller_portions():
    how = dict(top_entropy_quantile=.5, num_iterations=2, importance_sampling_mode='token_truncate')
    whole, made = calm(**how), new_trainer(**how)
    with short(made.model, lambda ids, n: reading(ids) and ids.numel() > 70) as hook: made.train()
    assert hook.raised and made.state.memory_divisor > 1
    alike(whole, made)

@pytest.mark.parametrize('nth', [slow(1), 2, slow(3)])
def test_an_update_that_breaks_off_in_the_middle_begins_anew(nth):
    how = dict(micro_batch_tokens=60)
    whole, made = calm(**how), new_trainer(**how)
    seen = []
    def too_much(ids, n):
        if torch.is_grad_enabled(): seen.append(1)
        return len(seen) == nth and torch.is_grad_enabled()
    with short(made.model, too_much) as hook: made.train()
    assert hook.raised >= 1 and hook.said
    alike(whole, made)

def test_twice_in_a_row_and_then_again():
    whole, made, seen = calm(), new_trainer(), []
    def too_much(ids, n):
        if torch.is_grad_enabled(): seen.append(1)
        return torch.is_grad_enabled() and len(seen) in (1, 2, 5)
    with short(made.model, too_much) as hook: made.train()
    assert hook.raised == 3
    alike(whole, made)

class Breaks(torch.autograd.Function):
    "Runs out of memory on the way back, so many times"
    left = 0
    @staticmethod
    def forward(ctx, x): return x.view_as(x)
    @staticmethod
    def backward(ctx, g):
        if Breaks.left:
            Breaks.left -= 1
            raise RuntimeError('CUDA error: out of memory')
        return g

@pytest.mark.parametrize('checkpointing, left', [(False, 1), (True, 2), slow(False, 3), slow(True, 1)])
def test_on_the_way_back_also_inside_checkpointed_layers(checkpointing, left):
    how = dict(gradient_checkpointing=checkpointing)
    whole, made = calm(**how), new_trainer(**how)
    mlp = made.model.model.layers[1].mlp
    mlp.register_forward_hook(lambda module, args, out: Breaks.apply(out) if torch.is_grad_enabled() else out)
    Breaks.left = left
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        made.train()
    assert Breaks.left == 0
    alike(whole, made)

def test_a_portion_of_one_row_that_does_not_fit_is_an_error_that_explains_and_a_checkpoint(tmp_path):
    made = new_trainer(str(tmp_path/'run'), save_minutes=0)
    next(made.steps())
    before = [p.detach().clone() for p in made.model.parameters()]
    with pytest.raises(torch.OutOfMemoryError, match='^out of memory: the largest part is') as said:
        with short(made.model, lambda ids, n: torch.is_grad_enabled()): made.train()
    assert '\n' not in str(said.value) and 'Change: ' in str(said.value)
    assert [c.name for c in made.run.checkpoints()] == ['checkpoint-1']
    assert all(torch.equal(a, b) for a, b in zip(before, made.model.parameters()))

def test_what_was_learned_stays_with_a_run_that_is_resumed(tmp_path):
    made = new_trainer(str(tmp_path/'run'), save_steps=1)
    with short(made.reference.frozen, lambda ids, n: ids.numel() > 60): made.train()
    again = new_trainer()
    again.load_checkpoint(tmp_path/'run'/'checkpoint-2')
    assert again.state.memory_divisor > 1
    with short(again.reference.frozen, lambda ids, n: ids.numel() > 60) as hook: list(again.steps())
    assert not hook.raised

# --- the step

class Grudging(torch.optim.SGD):
    "Moves a part of the weights, then runs out of memory"
    left, after = 0, 0
    def step(self, closure=None):
        if Grudging.left:
            Grudging.left -= 1
            with torch.no_grad():
                for p in self.param_groups[0]['params'][:Grudging.after]:
                    p.add_(1.)
                    self.state[p]['half'] = torch.zeros(1)
            raise torch.OutOfMemoryError('CUDA out of memory')
        return super().step(closure)

def with_grudging(**settings):
    made = new_trainer(**settings)
    groups = [dict(params=g['params']) for g in made.optimizer.param_groups]
    made.state.optimizer = Grudging(groups, lr=.1)
    return made

@pytest.mark.parametrize('left, after', [slow(1, 0), (2, 3), slow(1, 99)])
def test_a_first_step_that_breaks_off_is_made_wholly(left, after):
    whole, made = with_grudging(), with_grudging()
    whole.train()
    Grudging.left, Grudging.after = left, after
    made.train()
    assert Grudging.left == 0
    alike(whole, made, exactly=True)

def test_a_first_step_for_which_there_is_never_room_moves_nothing(tmp_path):
    made = with_grudging(out=str(tmp_path/'run'))
    before = [p.detach().clone() for p in made.model.parameters()]
    Grudging.left, Grudging.after = 99, 5
    try:
        with pytest.raises(torch.OutOfMemoryError, match='out of memory: '): made.train()
    finally: Grudging.left = 0
    assert all(torch.equal(a, b) for a, b in zip(before, made.model.parameters())) and not made.state.torn
    made.train()
    assert made.state.step == 2

def test_of_a_torn_step_there_is_no_checkpoint(tmp_path):
    made = with_grudging(out=str(tmp_path/'run'), save_steps=1)
    steps = made.steps()
    next(steps)
    for p in made.model.parameters(): made.state.optimizer.state[p]['there'] = torch.zeros(1) # a later step: it has a state
    Grudging.left, Grudging.after = 99, 5
    try:
        with pytest.raises(torch.OutOfMemoryError, match='out of memory: '): next(steps)
    finally: Grudging.left = 0
    assert made.state.torn
    with pytest.raises(ValueError, match='broke off in the middle'): made.save_checkpoint(tmp_path/'other')
    assert [c.name for c in made.run.checkpoints()] == ['checkpoint-1']
    made.load_checkpoint(tmp_path/'run'/'checkpoint-1')
    assert not made.state.torn

@pytest.mark.parametrize('optim, nth', [('adamw_torch_fused', 41), ('adamw_torch', 17), slow('adamw_torch_fused', 2),
                                        *(slow(optim, n) for optim in ('adamw_torch_fused', 'adamw_torch') for n in (1, 40))])
def test_adams_state_is_made_wholly(monkeypatch, nth, optim):
    how = dict(optim=optim, learning_rate=1e-4)
    whole, made = calm(**how), new_trainer(**how)
    plain, calls = torch.zeros_like, []
    def zeros_like(x, **kwargs):
        if kwargs.get('memory_format') is not None: calls.append(1) # as the optimizer asks for it
        if kwargs.get('memory_format') is not None and len(calls) == nth: raise ERRORS[0]
        return plain(x, **kwargs)
    monkeypatch.setattr(torch, 'zeros_like', zeros_like)
    made.train()
    assert len(calls) > nth
    alike(whole, made, exactly=True)

@pytest.mark.parametrize('failures', [1, slow(2)])
def test_clipping(monkeypatch, failures):
    how = dict(max_grad_norm=.1)
    whole, made, left = calm(**how), new_trainer(**how), [ERRORS[0]]*failures
    plain = torch.nn.utils.clip_grad_norm_
    def clip(*args, **kwargs):
        if left: raise left.pop()
        return plain(*args, **kwargs)
    monkeypatch.setattr(torch.nn.utils, 'clip_grad_norm_', clip)
    made.train()
    assert not left
    alike(whole, made, exactly=True)

# --- the next attempt begins when the last one is gone

@pytest.mark.parametrize('circle', [False, True])
def test_a_failed_attempt_holds_nothing_when_the_next_begins(circle):
    held, alive = [], []
    def attempt():
        alive.extend(x() is not None for x in held)
        big = torch.zeros(10)
        held.append(weakref.ref(big))
        if circle: me = [big]; me.append(me)
        if len(held) < 3: raise torch.OutOfMemoryError('CUDA out of memory')
        return 'done'
    assert retried(attempt, lambda: True) == 'done' and alive == [False]*3

def test_an_update_holds_nothing_when_it_is_tried_again():
    made, held, alive = new_trainer(max_steps=1), [], []
    layer = made.model.model.layers[-1]
    def fail(module, args, out):
        if not torch.is_grad_enabled(): return
        alive.extend(x() is not None for x in held)
        hidden = out[0] if isinstance(out, tuple) else out
        held.append(weakref.ref(hidden))
        if len(held) < 4: raise torch.OutOfMemoryError('CUDA out of memory')
    layer.register_forward_hook(fail)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        made.train()
    assert len(held) >= 4 and not any(alive[:6])

@pytest.mark.parametrize('said', ['out of resource: shared memory, Required: 131072, Hardware limit: 65536', 'device-side assert triggered',
                                  'mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)', 'an illegal memory access was encountered'])
def test_other_errors_are_none_of_memory(said): assert not is_out_of_memory(RuntimeError(said))

@pytest.mark.slow
def test_another_error_ends_the_run():
    said = 'CUDA error: device-side assert triggered'
    made = new_trainer()
    with pytest.raises(RuntimeError, match=said[:12]), short(made.reference.frozen, lambda ids, n: True, RuntimeError(said)) as hook: made.train()
    assert hook.raised == 1 and made.state.memory_divisor == 1

@pytest.mark.parametrize('said', ['HIP out of memory. Tried to allocate 2.00 GiB', 'MPS backend out of memory (MPS allocated: 1 GB)',
    'CUDA driver error: out of memory', 'cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate`',
    'DefaultCPUAllocator: not enough memory: you tried to allocate 80 bytes.', 'Triton Error [CUDA]: out of memory',
    'cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED', '[Errno 12] Cannot allocate memory'])
def test_more_ways_to_say_it(said):
    assert is_out_of_memory(RuntimeError(said)) and is_out_of_memory(OSError(said))
    assert not is_out_of_memory(ValueError(said))

def test_free_memory_does_not_touch_a_gpu_that_is_not_there(): free_memory()

# --- evaluation, figures, and the first budget

@pytest.mark.parametrize('rows', [2, slow(5), slow(16)])
def test_an_evaluation_writes_and_reads_what_fits(rows):
    from grpo_lit.policy import Reference, load_policy
    from grpo_lit.run.evaluate import evaluate
    model, tokenizer = load_policy('tiny', device='cpu')
    reference, how = Reference(model), dict(num_generations=2, limit=8, max_completion_length=20, seed=1)
    whole = evaluate(model, tokenizer, addition_task(), reference=reference, **how)
    with short(model, lambda ids, n: ids.shape[0] > rows or ids.shape[0] == 1 and ids.shape[1] > 12*rows) as hook, \
         short(reference.frozen, lambda ids, n: ids.numel() > 60) as read:
        found = evaluate(model, tokenizer, addition_task(), reference=reference, **how)
    assert read.raised and (hook.raised or rows == 16)
    assert [r['completions'] for r in found.rows] == [r['completions'] for r in whole.rows]
    assert found.kl == pytest.approx(whole.kl, abs=1e-5) and found.accuracy == whole.accuracy
    if hook.raised: assert len(set(hook.said)) == len(hook.said)

@pytest.mark.slow
def test_an_evaluation_for_which_there_is_never_room_is_an_error():
    from grpo_lit.policy import load_policy
    from grpo_lit.run.evaluate import evaluate
    model, tokenizer = load_policy('tiny', device='cpu')
    with pytest.raises(torch.OutOfMemoryError), short(model, lambda ids, n: True):
        evaluate(model, tokenizer, addition_task(), limit=4)

@pytest.mark.slow
def test_an_evaluation_that_a_callback_asks_for():
    def ask(trainer, metrics): trainer.evaluate()
    made = new_trainer()
    made.eval_dataset = addition_task().test[:4]
    made.add_callback(ask)
    with short(made.reference.frozen, lambda ids, n: ids.numel() > 45) as hook: made.train()
    assert hook.raised and all('eval_loss' in m for m in made.state.log_history if 'eval_reward' in m)

@pytest.mark.slow
def test_a_figure_without_memory_is_left_out(monkeypatch):
    from grpo_lit.run import report
    asked = []
    def machine(*args):
        asked.append(1)
        raise RuntimeError('CUDA error: out of memory')
    monkeypatch.setattr(report, '_unmeasured', set())
    monkeypatch.setattr(report, 'machine', machine)
    made = new_trainer()
    made.train()
    assert len(asked) == 1 and len(made.history) == 2 and not any('floor/sample' in m for m in made.history)

def test_portions_begin_with_what_fits(monkeypatch):
    from grpo_lit.run import shortage
    whole, made, sizes = calm(), new_trainer(), []
    monkeypatch.setattr(shortage, 'spare_bytes', lambda device: 8*2**20)
    plain = shortage.portions
    def portions(*args):
        found = plain(*args)
        sizes.append(len(found))
        return found
    monkeypatch.setattr(shortage, 'portions', portions)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        made.train()
    assert max(sizes) > 1 and made.state.memory_divisor == 1
    alike(whole, made)

def test_the_first_budget_is_monotone_and_within_bounds(monkeypatch):
    from grpo_lit.fast.batches import portions
    from grpo_lit.run import shortage
    from grpo_lit.run.footprint import some_rollouts
    made, seen = new_trainer(), []
    ro = some_rollouts(20, 24, 4, 116)
    for megabytes in (0, 5, 20, 40, 100, 1000, 100_000):
        monkeypatch.setattr(shortage, 'spare_bytes', lambda device: megabytes*2**20)
        made.state.seen.clear()
        seen.append(shortage.tokens_at_once(made.state, ro, made.args))
        parts = shortage.portions_now(made.state, ro, made.args)
        assert sorted(torch.cat(parts).tolist()) == [0, 1, 2, 3]
    assert seen == sorted(seen) and seen[0] == 44 and seen[-1] > 10**5
    assert len(parts) == len(portions(made.model, ro, made.args)) # never above what the settings say
    made.state.seen.clear()
    made.args.micro_batch_tokens = 100
    assert shortage.tokens_at_once(made.state, ro, made.args) == float('inf')

def test_a_cpu_is_not_asked():
    made = calm()
    assert made.state.seen['tokens_at_once'] == float('inf')

def test_a_model_that_cannot_be_measured_runs_as_the_settings_say(monkeypatch):
    from grpo_lit.run import shortage
    monkeypatch.setattr(shortage, 'spare_bytes', lambda device: 2**20)
    def footprint(*args): raise KeyError('no such layer')
    monkeypatch.setattr(shortage, 'footprint', footprint)
    made = new_trainer(max_steps=1)
    made.train()
    assert made.state.seen['tokens_at_once'] == float('inf')

@pytest.mark.parametrize('nth', [slow(1), 20, slow(77)])
def test_visiting_means_are_brought_again(monkeypatch, nth):
    how = dict(optim='adamw_torch_fused', learning_rate=1e-4, offload_optimizer=True)
    whole, made, calls = calm(**how), new_trainer(**how), []
    plain = torch.zeros_like
    def zeros_like(x, **kwargs):
        if kwargs.get('memory_format') is not None: calls.append(1)
        if kwargs.get('memory_format') is not None and len(calls) == nth: raise ERRORS[0]
        return plain(x, **kwargs)
    monkeypatch.setattr(torch, 'zeros_like', zeros_like)
    made.train()
    assert len(calls) > nth or nth == 77
    alike(whole, made, exactly=True)

# --- in one of two processes

def in_the_second(rank, place):
    "The second process runs out of memory once, in its second update; the others hear of it, and make it again together"
    trainer, f, raised = new_trainer(max_steps=3), getattr(update, place), []
    def short(*args):
        if rank and trainer.state.step == 1 and not raised:
            raised.append(place)
            raise ERRORS[0]
        return f(*args)
    setattr(update, place, short)
    trainer.train(live=False)
    return raised, figures(trainer), torch.cat([p.detach().flatten() for p in trainer.model.parameters()])

@pytest.mark.slow
@pytest.mark.parametrize('place', ['update_parts', 'add_part'])
def test_one_of_two_processes(place):
    (none, first, a), (once, second, b) = together(in_the_second, place)
    assert (none, once) == ([], [place]) and len(first) == 3
    assert first == second and torch.equal(a, b)
