"""Runs of every kind on a pretended GPU: no tensors of two devices meet, and Python waits for the device no more often than it must"""
import functools
import pytest, torch
from grpo_lit import GRPOConfig, GRPOTrainer, sampling
from grpo_lit.fast import speed
from grpo_lit.fast.decoding import Decoding
from grpo_lit.fast.static import StaticDecoding
from grpo_lit.policy import tiny_tokenizer
from grpo_lit.run import collect as collect_module, report, trainer as trainer_module, update as update_module
from grpo_lit.run.precision import precision
from grpo_lit.run.accelerator import new_accelerator
from grpo_lit.run.sampler import Sampler
from grpo_lit.tasks import addition_task
import test_parking
from pretended import MixedDevices, NAME, pretended_gpu

pytestmark = pytest.mark.filterwarnings('ignore')
task = addition_task()
SMALL = dict(max_steps=2, num_generations=4, per_device_train_batch_size=8, max_completion_length=16, learning_rate=1e-4, seed=0,
             use_cpu=True, gold_check=0, disable_tqdm=True, report_to='none')


def lengths(completions, **columns): return [len(text)%5/5 for text in completions]


def small_policy(layers=2):
    "With grouped-query heads"
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2)
    ends = dict(pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **shape, **ends)).eval(), tokenizer


def on_gpu(args):
    "`new_accelerator` for the pretended device"
    accelerator, kind = new_accelerator(args), precision(args)
    accelerator.own, accelerator.native_amp = (torch.device(NAME, 0), kind), kind != 'no'
    if kind == 'fp16': accelerator.scaler = torch.amp.GradScaler(NAME, init_scale=2.**10)
    return accelerator


@pytest.fixture
def gpu(monkeypatch):
    "The device, with the parts of a run in its ledger"
    monkeypatch.setattr(trainer_module, 'new_accelerator', on_gpu)
    monkeypatch.setattr(report, 'machine', lambda *where: speed.Machine(flops=1e12, bandwidth=1e11))
    monkeypatch.setattr(sampling, 'decode', functools.partial(sampling.decode, look=8))
    with pretended_gpu() as ledger:
        def count(place, name, part): monkeypatch.setattr(place, name, ledger.around(part, getattr(place, name)))
        count(Sampler, 'generate', 'sample')
        for kind in (Decoding, StaticDecoding): count(kind, 'step', 'token')
        for name in ('write', 'go_on', 'look'): count(sampling.Rows, name, 'draw' if name != 'look' else 'look')
        count(collect_module, 'add_reference', 'reference')
        count(update_module, 'micro_batch_loss', 'micro-batch')
        count(update_module.Updater, 'gradients', 'gradients')
        count(update_module.Updater, 'apply', 'apply')
        count(GRPOTrainer, 'step', 'step')
        yield ledger


def static_shapes(monkeypatch):
    "As on a real GPU: rehearsed, as there is none to record"
    monkeypatch.setattr(sampling, 'decoder', lambda model, room, copy=False: StaticDecoding(model, room, copy))


def lora():
    from peft import LoraConfig
    return LoraConfig(r=2, target_modules='all-linear', task_type='CAUSAL_LM')


def new_trainer(peft=False, evaluated=False, long=False, layers=2, **settings):
    policy, tokenizer = small_policy(layers)
    rows = [dict(r, prompt=r['prompt']*9) for r in task.train[:8]] if long else task.train[:8]
    policy.to(NAME) # by its parameters, while nobody knows them: on a real device they stay the same objects
    return GRPOTrainer(policy, lengths, GRPOConfig(**SMALL | settings), rows, task.test[:2] if evaluated else None,
                       tokenizer, peft_config=lora() if peft else None)


KINDS = {
    'plain': {},
    'long prompts': dict(long=True),
    'no leash': dict(beta=0.),
    'bfloat16': dict(bf16=True),
    'float16 with a scaler': dict(fp16=True),
    'LoRA': dict(peft=True),
    'LoRA in bfloat16': dict(peft=True, bf16=True),
    'sampler in bfloat16': dict(sampling_dtype='bfloat16'),
    'LoRA, sampler in float16': dict(peft=True, sampling_dtype='float16'),
    'overlap': dict(overlap_rewards=True),
    'dynamic sampling': dict(dynamic_sampling=1),
    'two updates': dict(num_iterations=2),
    'two updates in bfloat16': dict(num_iterations=2, bf16=True),
    'parts of a rollout': dict(steps_per_generation=2),
    'accumulation': dict(gradient_accumulation_steps=2, micro_batch_tokens=60),
    'evaluation': dict(evaluated=True, eval_steps=1, num_generations_eval=2),
    'reference at rest': dict(offload_reference=True),
    'optimizer at rest': dict(offload_optimizer=True),
    'importance': dict(importance_sampling_mode='token_truncate', num_iterations=2),
    'importance of sequences': dict(importance_sampling_mode='sequence_truncate', importance_sampling_level='sequence', loss_type='grpo'),
    'entropy quantile': dict(top_entropy_quantile=.2),
    'entropy bonus': dict(entropy_coef=.01),
    'stop strings': dict(stop=['</think>', '2']),
    'filters': dict(top_k=9, top_p=.9, min_p=.01, repetition_penalty=1.1),
    'more filters': dict(generation_kwargs=dict(min_new_tokens=3, no_repeat_ngram_size=4, typical_p=.9)),
    'greedy': dict(temperature=1e-3),
    'cut answers left out': dict(mask_truncated_completions=True),
    'KL in the reward': dict(kl_in_reward=True, scale_rewards='none'),
    'reference that moves': dict(sync_ref_model=True, ref_model_sync_steps=1),
    'checkpointed': dict(gradient_checkpointing=True),
    'checkpointed in float16': dict(gradient_checkpointing=True, fp16=True),
    'few rows': dict(max_rows=4),
    'many rows come and go': dict(max_rows=8, per_device_train_batch_size=16),
    'no off-policy tokens': dict(off_policy_mask_threshold=.5, num_iterations=2),
    'cispo': dict(loss_type='cispo', epsilon_high=5., num_iterations=2),
    'adaptive beta': dict(target_kl=.1),
    'groups of one reward': dict(scale_rewards='batch'),
    'SGD': dict(optim='sgd'),
}
COMMON = ('plain', 'float16 with a scaler', 'LoRA in bfloat16', 'overlap', 'evaluation', 'reference at rest', 'optimizer at rest',
          'entropy quantile', 'filters', 'checkpointed in float16')


def kinds(always): return [pytest.param(name, marks=[] if name in always else pytest.mark.slow) for name in KINDS]


def weights(trainer): return torch.cat([p.detach().cpu().flatten() for p in trainer.model.parameters()])


def play(name, **more):
    "Two steps of a run of this kind; the trainer"
    trainer = new_trainer(**KINDS[name] | more)
    before = weights(trainer)
    for metrics in trainer.steps():
        assert metrics['skipped'] == 0 and metrics['loss'] == metrics['loss'], metrics
    assert trainer.model.device.type == NAME and not torch.equal(weights(trainer), before)
    return trainer


@pytest.mark.parametrize('name', kinds(COMMON))
def test_run(name, gpu):
    play(name)
    assert gpu['step'].times == 2


@pytest.mark.parametrize('name', kinds(('plain', 'long prompts', 'LoRA, sampler in float16', 'stop strings',
                                        'many rows come and go')))
def test_run_with_static_shapes(name, gpu, monkeypatch):
    static_shapes(monkeypatch)
    play(name)
    assert gpu['token'].times


@pytest.mark.parametrize('way', test_parking.KINDS)
def test_rows_that_wait(way):
    "Parked and back on the device, as texts of their own on the CPU; Python waits for the device once a wave, not once a row or layer"
    model = test_parking.new_model('gemma2')
    with pretended_gpu() as ledger:
        there = test_parking.new_model('gemma2').to(NAME)
        state = test_parking.KINDS[way](there)
        state.rejoin = ledger.around('rejoin', state.rejoin)
        game = test_parking.Play(state, seed=1)
        test_parking.several_turns(game, cut=1)
        notes = [(text, logits.cpu()) for text, logits in game.notes]
    test_parking.check(model, notes, 1e-5)
    assert ledger['rejoin'].each('waits') <= 12, ledger['rejoin']


# Resuming ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', ['plain', pytest.param('float16 with a scaler', marks=pytest.mark.slow)])
def test_resumed(name, gpu, tmp_path):
    "A checkpoint is read onto the device, and the run ends with the same weights"
    whole = new_trainer(**KINDS[name])
    steps = whole.steps()
    next(steps)
    path = whole.save_checkpoint(tmp_path/'first')
    for _ in steps: pass
    resumed = new_trainer(**KINDS[name])
    resumed.load_checkpoint(path)
    for _ in resumed.steps(): pass
    assert torch.equal(weights(resumed), weights(whole))


# How often -----------------------------------------------------------------------------------------------------------

def never_ending(**settings): # Nobody ends: every rollout has as many tokens as it may
    ends = tiny_tokenizer().eos_token_id
    return new_trainer(generation_kwargs=dict(suppress_tokens=[ends]), max_steps=1, **settings)


def sampled(gpu, **settings):
    "The account of one rollout"
    trainer = never_ending(**settings)
    before = {name: (a.waits.total(), a.kernels.total(), a.times) for name, a in gpu.accounts.items()}
    next(trainer.steps())
    def since(name):
        was, a = before.get(name, (0, 0, 0)), gpu[name]
        return a.waits.total()-was[0], a.kernels.total()-was[1], a.times-was[2]
    return since


@pytest.mark.parametrize('static', [False, True])
def test_waits_of_a_token(static, gpu, monkeypatch):
    "Python waits where it looks which rows have ended, every eight tokens, and nowhere else"
    if static: static_shapes(monkeypatch)
    sampled(gpu, max_completion_length=8) # what is asked once of a model
    short, _, _ = sampled(gpu, max_completion_length=8)('sample')
    long, _, _ = sampled(gpu, max_completion_length=40)('sample')
    per_token = (long-short)/32
    assert per_token <= 1/8+(.15 if static else 0), gpu['sample']
    assert gpu['draw'].waits.total() == 0 and gpu['look'].each('waits') <= 1


@pytest.mark.parametrize('static, most', [pytest.param(False, 42, marks=pytest.mark.slow), (True, 42)])
def test_kernels_of_a_layer(static, most, gpu, monkeypatch):
    "What a token costs in each layer"
    if static: static_shapes(monkeypatch)
    def of_a_token(layers):
        _, kernels, times = sampled(gpu, max_completion_length=24, layers=layers)('token')
        return kernels/times
    per_layer = (of_a_token(4)-of_a_token(2))/2
    assert 0 < per_layer <= most, per_layer


def test_waits_of_an_update(gpu):
    "One gradient norm, and what is asked of a micro-batch once: not of its tokens, nor of its layers"
    def update(layers, length, **settings):
        since = sampled(gpu, max_completion_length=length, layers=layers, **settings)
        return since('gradients')[0], since('micro-batch')[2], since('apply')[0]
    base, parts, stepped = update(2, 8)
    assert stepped <= 1
    assert base <= 40 and parts == 1, gpu['gradients']
    assert update(4, 8)[0] == base and update(2, 24)[0] == base
    several, parts, _ = update(2, 8, micro_batch_tokens=30)
    assert parts > 1 and (several-base)/(parts-1) <= 30, (several, parts, gpu['gradients'])


# The device itself ---------------------------------------------------------------------------------------------------

def test_rules():
    with pretended_gpu() as ledger, ledger.part('here') as here:
        a, b = torch.ones(3, device=NAME), torch.ones(3)
        for wrong in (lambda: a+b, lambda: torch.cat([a, b]), lambda: b[torch.zeros(1, dtype=torch.long, device=NAME)],
                      lambda: a.index_select(0, torch.zeros(1, dtype=torch.long)), lambda: torch.where(a > 0, a, b)):
            with pytest.raises(MixedDevices): wrong()
        with pytest.raises(TypeError): a.numpy()
        assert (a*torch.tensor(2.)).device.type == NAME and here.waits.total() == 0
        assert torch.equal((a+1).cpu(), b+1)
        assert here.waits.total() == 1 and here.uploads.total() == 0
        a[a > 0] = 0.
        assert here.waits.total() == 1
        assert a[a == 0].shape == (3,) and here.waits.total() == 2
        a.copy_(b)
        assert a.sum().item() == 3. and (here.waits.total(), here.uploads.total()) == (3, 1)
    with pytest.raises(MixedDevices), pretended_gpu(): torch.nn.functional.linear(torch.ones(1, 2), torch.ones(2, 2, device=NAME))
    assert not torch.accelerator.is_available()


def test_autocast_there():
    with pretended_gpu():
        w = torch.ones(2, 2, device=NAME, requires_grad=True)
        with torch.autocast(NAME, torch.bfloat16):
            assert torch.is_autocast_enabled(NAME) and torch.get_autocast_dtype(NAME) == torch.bfloat16
            y = w@w
            assert y.dtype == torch.bfloat16 and y.softmax(-1).dtype == torch.float32
            with torch.autocast(NAME, enabled=False): assert (w@w).dtype == torch.float32
        y.sum().backward()
        assert w.grad.dtype == torch.float32 and w.grad.tolist() == [[4., 4.], [4., 4.]]
        assert (w@w).dtype == torch.float32
