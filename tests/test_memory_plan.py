"""The plan of a run's memory against the peak of a process; what happens when memory runs out; off-loading and resume."""
import json, os, subprocess, sys
import pytest, torch
from grpo_lit import GRPOConfig, GRPOTrainer
from grpo_lit.policy import Reference, lent, load_policy
from grpo_lit.run.memory import memory_plan
from grpo_lit.tasks import addition_task

program = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
from grpo_lit import GRPOConfig, GRPOTrainer
from grpo_lit.policy import load_policy, tiny_tokenizer
from grpo_lit.run.memory import memory_plan
torch.set_num_threads(1)
what = json.loads(sys.argv[1])

def kilobytes(name):
    return int(next(o for o in open('/proc/self/status') if o.startswith(name)).split()[1])

def lora():
    from peft import LoraConfig
    return LoraConfig(r=8, target_modules='all-linear', task_type='CAUSAL_LM')

def trainer(model, adapter, P, G, tokens, steps, **settings):
    rows = [dict(prompt='1+'*(T//2)) for T in [what['prompt']]*P*steps]
    args = GRPOConfig(max_steps=steps, num_generations=G, per_device_train_batch_size=P*G, max_completion_length=tokens,
                      use_cpu=True, gold_check=0, learning_rate=1e-6, disable_tqdm=True, **settings)
    return GRPOTrainer(model, lambda completions, **k: [float(i%3) for i in range(len(completions))], args, rows,
                       processing_class=tiny_tokenizer(), peft_config=lora() if adapter else None)

trainer('tiny', what['adapter'], 1, 2, 8, 1).train() # loads all libraries
torch.randn(512, 1024) @ torch.randn(1024, 8192) # which keep buffers for large products
torch.manual_seed(0)
config = AutoConfig.for_model('llama', **what['shape'], tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=None)
model = AutoModelForCausalLM.from_config(config)
head = model.get_output_embeddings()
bias = torch.zeros(len(head.weight))
bias[2] = -1e4 # no end
bias[31:] = -1e4 # none that the tokenizer lacks
head.bias = torch.nn.Parameter(bias, requires_grad=False)
before = kilobytes('VmRSS')-sum(p.numel() for p in model.parameters())*4/1024
made = trainer(model, what['adapter'], what['P'], what['G'], what['tokens'], 2, **what['settings'])
plan = memory_plan(made.model, made.args, what['prompt'])
open('/proc/self/clear_refs', 'w').write('5') # the peak begins anew
made.train()
assert made.history[-1]['completions/mean_length'] == what['tokens']
print(json.dumps(dict(planned=plan.total/2**20, measured=(kilobytes('VmHWM')-before)/1024)))
"""

def measured(**what):
    "Megabytes: planned, and those of the process (whose allocator gives large blocks back at once)"
    environment = os.environ | dict(MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='65536', OMP_NUM_THREADS='1')
    run = subprocess.run([sys.executable, '-c', program, json.dumps(what)], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])

def shape(width, inner, layers, heads, key_heads, vocabulary):
    return dict(hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
                num_key_value_heads=key_heads, vocab_size=vocabulary)

WIDE, DEEP = shape(640, 1728, 6, 10, 2, 16_000), shape(256, 704, 16, 4, 2, 8_000)
CASES = dict(
    all_weights=dict(shape=WIDE, prompt=64, tokens=48, P=2, G=8),
    lora=dict(shape=WIDE, prompt=64, tokens=96, P=2, G=8, adapter=True),
    checkpointing=dict(shape=DEEP, prompt=128, tokens=96, P=2, G=8, settings=dict(gradient_checkpointing=True)),
    small_micro_batches=dict(shape=DEEP, prompt=128, tokens=64, P=4, G=8, settings=dict(micro_batch_tokens=700)),
    off_loaded=dict(shape=WIDE, prompt=32, tokens=64, P=2, G=8, settings=dict(beta=0.)))

@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists('/proc/self/clear_refs'), reason='the peak of a process is read from Linux')
@pytest.mark.parametrize('name', CASES)
def test_plan_is_the_peak(name):
    found = measured(**dict(adapter=False, settings={}) | CASES[name])
    print(name, found)
    assert abs(found['planned']/found['measured']-1) <= .15, found

# --- what the plan says

def config(**settings):
    return GRPOConfig(**dict(use_cpu=True, num_generations=4, per_device_train_batch_size=8, max_completion_length=32) | settings)

def test_each_setting_saves_what_it_says():
    tiny, _ = load_policy('tiny', device='cpu')
    usual = memory_plan(tiny, config(), 20)
    assert usual.always['weights'] == usual.always['reference'] == 4*tiny.num_parameters()
    assert usual.always['optimizer'] == 8*tiny.num_parameters()
    assert memory_plan(tiny, config(beta=0.), 20).always['reference'] == 0
    assert memory_plan(tiny, config(offload_reference=True), 20).always['reference'] == 0
    assert memory_plan(tiny, config(offload_optimizer=True), 20).always['optimizer'] == 0
    less = memory_plan(tiny, config(gradient_checkpointing=True), 20).phases['update']['activations']
    assert less < usual.phases['update']['activations']
    long = memory_plan(tiny, config(max_completion_length=128), 20)
    assert long.phases['sampling']['sampling cache'] > 2*usual.phases['sampling']['sampling cache']

def test_rows_that_wait_for_tools_are_copies():
    tiny, _ = load_policy('tiny', device='cpu')
    alone, playing = memory_plan(tiny, config(), 60), memory_plan(tiny, config(), 60, tools=True)
    more = playing.totals['sampling']-alone.totals['sampling']
    shape = tiny.config
    per_token = 2*4*shape.num_hidden_layers*shape.num_key_value_heads*shape.hidden_size//shape.num_attention_heads
    assert more == 8*32*per_token and 'rows that wait' in repr(playing) and 'rows that wait' not in repr(alone)
    fewer = memory_plan(tiny, config(max_rows=4), 60, tools=True).phases['sampling']['rows that wait']
    assert fewer == more/2
    playing.free = .5*playing.total
    assert playing.advice() and playing.tools

def test_advice_ends_where_it_fits():
    tiny, _ = load_policy('tiny', device='cpu')
    plan = memory_plan(tiny, config(), 20)
    assert plan.fits and plan.advice() == []
    plan.free = .7*plan.total
    lines = plan.advice()
    assert 'adapter' in lines[0] and any('MB in all' in line for line in lines[1:])
    assert all(len(line) <= 110 for line in repr(plan).splitlines()) and 'does not fit' in repr(plan)

# --- when it runs out

def first_answers(completions, **columns): return [float(i%2) for i in range(len(completions))]

def new_trainer(out=None, model='tiny', **settings):
    settings = dict(max_steps=4, learning_rate=1e-3, gold_check=0, seed=3, disable_tqdm=True, output_dir=out) | settings
    return GRPOTrainer(model, first_answers, config(**settings), addition_task().train[:16])

@pytest.mark.parametrize('where', ['update', 'sampling'])
def test_one_line_and_a_checkpoint(tmp_path, monkeypatch, where):
    trainer = new_trainer(str(tmp_path/'run'), save_minutes=0)
    steps = trainer.steps()
    next(steps)
    steps.close()
    def too_much(*args, **kw): raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB')
    name = dict(update='grpo_lit.run.micro_batch.logps_by', sampling='grpo_lit.run.sampler.sample_groups')[where]
    monkeypatch.setattr(name, too_much)
    with pytest.warns(), pytest.raises(torch.OutOfMemoryError, match=r'^out of memory: the largest part is') as said:
        import warnings
        warnings.warn('one at least')
        trainer.train()
    assert '\n' not in str(said.value) and 'Change: ' in str(said.value)
    assert trainer.run.checkpoints()[-1].name == 'checkpoint-1'

# --- off-loading

def equal(a, b): return all(torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters()))

def test_off_loaded_runs_have_the_same_bits_and_resume(tmp_path):
    away = dict(offload_optimizer=True, offload_reference=True, save_minutes=0)
    plain = new_trainer()
    plain.train()
    whole = new_trainer(str(tmp_path/'run'), save_steps=1, **away)
    whole.train()
    assert equal(plain, whole)
    for settings in (away, {}):
        again = new_trainer(**settings)
        again.load_checkpoint(whole.run.path/'checkpoint-2')
        list(again.steps())
        assert equal(plain, again)

def test_a_lent_model_comes_back_as_it_was():
    model, _ = load_policy('tiny', device='cpu')
    weight = model.model.norm.weight
    storage, was = weight.data_ptr(), weight.detach().clone()
    with pytest.raises(RuntimeError), lent(model, 'meta') as away:
        assert all(p.is_meta for p in away.parameters())
        raise RuntimeError
    assert model.model.norm.weight is weight and weight.data_ptr() == storage and torch.equal(weight, was)
    assert model.lm_head.weight is model.model.embed_tokens.weight

def test_an_off_loaded_reference_moves_with_the_policy():
    model, _ = load_policy('tiny', device='cpu')
    import grpo_lit.leash
    near, far = Reference(model), Reference(model, offload=True)
    with torch.no_grad():
        for p in model.parameters(): p.add_(.1)
    near.move(.5)
    far.move(.5)
    with far() as a, near() as b:
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))

@pytest.mark.slow
@pytest.mark.parametrize('optim, package', [('adamw_torch_8bit', 'torchao'), ('adamw_8bit', 'bitsandbytes')])
def test_optimizers_in_8_bits_resume_exactly(tmp_path, optim, package):
    pytest.importorskip(package)
    if package == 'bitsandbytes' and not torch.cuda.is_available(): pytest.skip('bitsandbytes moves weights on a GPU')
    how = dict(optim=optim, save_minutes=0, use_cpu=package == 'torchao', full_determinism=package != 'torchao')
    whole = new_trainer(str(tmp_path/'run'), save_steps=1, **how)
    whole.train()
    again = new_trainer(**how)
    again.load_checkpoint(whole.run.path/'checkpoint-2')
    list(again.steps())
    assert equal(whole, again)

def test_a_model_of_one_layer_has_a_plan():
    from transformers import AutoConfig
    shape = dict(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, vocab_size=100)
    def total(layers, **more): return memory_plan(AutoConfig.for_model('qwen2', num_hidden_layers=layers, **shape), args, **more).total
    args = GRPOConfig(use_cpu=True)
    assert total(1) < total(2) < total(4)
    with pytest.raises(ValueError, match='divisor 1 or more'): total(1, divisor=0)
