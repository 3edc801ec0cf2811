"""Several trainers in one process: each keeps its device and its precision, and one that nobody refers to is gone"""
import gc, itertools, weakref
import pytest, torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from grpo_lit import GRPOConfig, GRPOTrainer
from grpo_lit.policy import load_policy
from grpo_lit.run import trainer as trainer_module
from grpo_lit.run.accelerator import new_accelerator
from grpo_lit.tasks import addition_task

task = addition_task()
SMALL = dict(max_steps=3, num_generations=4, per_device_train_batch_size=8, max_completion_length=8, learning_rate=1e-3,
             seed=0, use_cpu=True, gold_check=0, disable_tqdm=True, report_to='none')


def lengths(completions, **columns): return [len(text)%5/5 for text in completions]


def lora():
    from peft import LoraConfig
    return LoraConfig(r=2, target_modules='all-linear', task_type='CAUSAL_LM')


def with_scaler(args):
    "float16 and the scaler that it needs, on a CPU"
    accelerator = new_accelerator(args)
    if args.fp16: accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler('cpu', init_scale=2.**8)
    return accelerator


def new_trainer(model=None, peft=False, reward=lengths, callbacks=None, **settings):
    policy, tokenizer = load_policy('tiny', device='cpu')
    return GRPOTrainer(model or policy, reward, GRPOConfig(**SMALL | settings), task.train[:32], task.test[:2], tokenizer,
                       callbacks=callbacks, peft_config=lora() if peft else None)


def numbers(metrics): # Without what a clock says
    clocks = 'time/', 'floor/', 'step_time', 'tokens_per_second'
    return {name: value for name, value in metrics.items() if not name.startswith(clocks)}


def weights(trainer): return [p.detach().clone() for p in trainer.model.parameters()]


def same(a, b): return all(map(torch.equal, weights(a), b))


@pytest.fixture
def scaled(monkeypatch): monkeypatch.setattr(trainer_module, 'new_accelerator', with_scaler)


# Each keeps its precision -------------------------------------------------------------------------------------------

KINDS = dict(float32={}, bfloat16=dict(bf16=True), float16=dict(fp16=True))
PAIRS = list(itertools.permutations(KINDS, 2))
FEW = [('bfloat16', 'float32'), ('float16', 'bfloat16')]


@pytest.mark.parametrize('first, second', [pytest.param(*p, marks=[] if p in FEW else pytest.mark.slow) for p in PAIRS])
def test_in_turns(first, second, scaled):
    alone = {}
    for kind in (first, second):
        trainer = new_trainer(**KINDS[kind])
        alone[kind] = [numbers(m) for m in trainer.steps()], weights(trainer)
    assert alone[first][0] != alone[second][0]
    both = {kind: new_trainer(**KINDS[kind]) for kind in (first, second)}
    turns = zip(*(trainer.steps() for trainer in both.values()))
    found = [[numbers(m) for m in pair] for pair in turns]
    for i, (kind, trainer) in enumerate(both.items()):
        assert [pair[i] for pair in found] == alone[kind][0]
        assert same(trainer, alone[kind][1])


@pytest.mark.parametrize('peft', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_evaluated_beside_another(peft):
    trainer = new_trainer(bf16=True, peft=peft)
    expected = trainer.evaluate()
    other = new_trainer()
    assert trainer.evaluate() == expected
    assert (trainer.accelerator.mixed_precision, other.accelerator.mixed_precision) == ('bf16', 'no')


def test_trained_after_another_was_built():
    plain = new_trainer(bf16=True)
    plain.train()
    first = new_trainer(bf16=True)
    new_trainer()
    first.train()
    assert same(first, weights(plain))


def test_a_second_run_with_the_same_model():
    "The precision is the run's, not the model's: the model is what it was"
    trainer = new_trainer(bf16=True)
    assert 'forward' not in vars(trainer.model)
    x = trainer.tokenizer('1+2=?', return_tensors='pt').input_ids
    model, tokenizer = load_policy('tiny', device='cpu')
    assert torch.equal(trainer.model(x).logits, model(x).logits)
    second = new_trainer(trainer.model)
    plain = new_trainer()
    second.train()
    plain.train()
    assert same(second, weights(plain))


def test_accelerators_of_others():
    "A trainer beside an accelerator of the caller's own keeps its precision as well"
    trainer = new_trainer(bf16=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    Accelerator(cpu=True, mixed_precision='no')
    with trainer.accelerator.autocast(): assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    trainer.train()
    plain = new_trainer(bf16=True)
    plain.train()
    assert same(trainer, weights(plain))


def test_an_optimizer_in_the_wrapper_of_the_caller():
    "Its owner is adding up gradients, and the wrapper makes no step meanwhile"
    def trained(wrapped):
        model, tokenizer = load_policy('tiny', device='cpu')
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1/(step+1))
        if wrapped:
            owner = Accelerator(cpu=True, gradient_accumulation_steps=2)
            optimizer, schedule = owner.prepare(optimizer, schedule)
            owner.gradient_state._set_sync_gradients(False)
        args = GRPOConfig(**SMALL)
        trainer = GRPOTrainer(model, lengths, args, task.train[:16], None, tokenizer, optimizers=(optimizer, schedule))
        try: trainer.train()
        finally: trainer.accelerator.gradient_state._set_sync_gradients(True)
        return trainer
    plain, wrapped = trained(False), trained(True)
    assert same(wrapped, weights(plain))
    rates = [[m['learning_rate'] for m in t.history] for t in (plain, wrapped)]
    assert rates[0] == rates[1] and rates[0][0] > rates[0][1]


def test_an_optimizer_that_calls_back_is_refused():
    model, tokenizer = load_policy('tiny', device='cpu')
    optimizer = torch.optim.LBFGS(model.parameters())
    with pytest.raises(ValueError, match='LBFGS needs a closure'):
        GRPOTrainer(model, lengths, GRPOConfig(**SMALL), task.train[:16], None, tokenizer, optimizers=(optimizer, None))


# One that nobody refers to is gone ----------------------------------------------------------------------------------

@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


class Broken(Exception): pass


def breaks(trainer, metrics): raise Broken


def no_use(completions, **columns): raise ValueError('no reward')


def trained(trainer): trainer.train()
def built(trainer): pass
def abandoned(trainer): next(trainer.steps())
def evaluated(trainer): trainer.evaluate()


def left_half_way(trainer):
    for _ in trainer.steps(): break


def broken(trainer):
    trainer.callbacks.append(breaks)
    try: trainer.train()
    except Broken: pass


def saved_and_loaded(trainer, tmp_path):
    trainer.train()
    trainer.load_checkpoint(trainer.save_checkpoint(tmp_path/'saved'))


WAYS = [built, trained, abandoned, left_half_way, evaluated, broken]
RUNS = dict(plain={}, bfloat16=dict(bf16=True), float16=dict(fp16=True), LoRA=dict(peft=True), overlap=dict(overlap_rewards=True),
            checkpointed=dict(gradient_checkpointing=True), offloaded=dict(offload_optimizer=True, offload_reference=True),
            moving=dict(sync_ref_model=True, ref_model_sync_steps=1), evaluating=dict(eval_steps=1),
            failing=dict(reward=no_use), overlap_failing=dict(reward=no_use, overlap_rewards=True),
            half_sampler=dict(sampling_dtype='bfloat16'), LoRA_merged=dict(peft=True, sampling_dtype='bfloat16'))
COMMON = {(name, way.__name__) for name, way in
          [('plain', w) for w in WAYS] + [('float16', trained), ('bfloat16', trained), ('LoRA', trained), ('overlap', broken), ('failing', trained),
                                          ('LoRA_merged', abandoned), ('overlap_failing', trained), ('evaluating', trained)]}
ALL = [pytest.param(name, way, marks=[] if (name, way.__name__) in COMMON else pytest.mark.slow, id=f'{name}-{way.__name__}')
       for name in RUNS for way in WAYS]


def alive(trainer):
    "Weak references to what a trainer must not leave behind"
    things = dict(trainer=trainer, model=trainer.model, weights=next(trainer.model.parameters()), optimizer=trainer.optimizer,
                  reference=trainer.reference)
    return {name: weakref.ref(thing) for name, thing in things.items()}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name, way', ALL)
def test_gone(name, way, scaled, no_collector, tmp_path):
    trainer = new_trainer(**RUNS[name] | (dict(output_dir=str(tmp_path), save_steps=2) if way is trained else {}))
    way(trainer)
    left = alive(trainer)
    del trainer
    assert [name for name, there in left.items() if there() is not None] == []


def test_gone_after_a_checkpoint_was_loaded(no_collector, tmp_path):
    trainer = new_trainer()
    saved_and_loaded(trainer, tmp_path)
    left = alive(trainer)
    del trainer
    assert [name for name, there in left.items() if there() is not None] == []


@pytest.mark.filterwarnings('ignore')
def test_many_trainers_take_no_more_memory_than_one(no_collector):
    "What a second trainer in a notebook needs must be there again"
    def numbers_alive(): return sum(o.numel() for o in gc.get_objects() if issubclass(type(o), torch.nn.Parameter))
    before = numbers_alive()
    for _ in range(3):
        trainer = new_trainer(bf16=True)
        next(trainer.steps())
        held = numbers_alive()-before
        trainer = None
        assert numbers_alive() == before and held > 0
