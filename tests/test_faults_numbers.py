"Numbers that are none: settings, models and tokenizers are refused before training, a run that diverges says so and ends"
import copy, math, warnings
from decimal import Decimal
from pathlib import Path
import numpy as np
import pytest, torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification
from transformers.trainer_utils import SaveStrategy, SchedulerType
from transformers.training_args import OptimizerNames
from grpo_lit.policy import add_lora, load_policy, new_tiny
from grpo_lit.run import trainer as trainer_module
from grpo_lit.run.cli import main
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.accelerator import new_accelerator
from grpo_lit.run.trainer import GRPOTrainer
from grpo_lit.sampling import sample_groups
from grpo_lit.tasks import addition_task

pytestmark = [pytest.mark.filterwarnings('ignore::UserWarning'), pytest.mark.filterwarnings('ignore::FutureWarning')]
nan, inf = math.nan, math.inf

# Settings ------------------------------------------------------------------------------------------------------------

FLOATS = ['num_train_epochs', 'temperature', 'top_p', 'min_p', 'reward_timeout', 'epsilon', 'epsilon_high', 'delta',
          'sapo_temperature_pos', 'sapo_temperature_neg', 'vespo_k_pos', 'vespo_lambda_pos', 'vespo_k_neg',
          'vespo_lambda_neg', 'entropy_coef', 'top_entropy_quantile', 'importance_sampling_clip_max',
          'importance_sampling_clip_min', 'off_policy_mask_threshold', 'beta', 'target_kl', 'ref_model_mixup_alpha',
          'learning_rate', 'weight_decay', 'adam_beta1', 'adam_beta2', 'adam_epsilon', 'max_grad_norm',
          'repetition_penalty', 'warmup_ratio', 'eval_delay', 'save_minutes']
INTS = ['num_generations', 'per_device_train_batch_size', 'micro_batch_tokens', 'gradient_accumulation_steps',
        'steps_per_generation', 'generation_batch_size', 'num_iterations', 'max_steps', 'max_completion_length', 'top_k',
        'max_rows', 'dynamic_sampling', 'gold_check', 'ref_model_sync_steps', 'seed', 'data_seed', 'stop_when_hopeless',
        'torch_empty_cache_steps', 'per_device_eval_batch_size', 'num_generations_eval', 'num_completions_to_print',
        'warmup_steps', 'eval_steps', 'save_steps', 'logging_steps', 'save_total_limit']
ODD = [(name, value) for name in FLOATS for value in (nan, inf, -inf, np.float32('nan'), torch.tensor(inf), 'fast', '', 'nan', '-inf', True, [1.])]
ODD += [(name, value) for name in INTS for value in (nan, inf, '8.5', 'x', True, 2.5, 1e400, [2])]
ODD += [(name, -.5) for name in FLOATS if name != 'entropy_coef'] + [(name, -2) for name in INTS if 'seed' not in name]
ODD += [
    ('top_k', -1), ('top_p', -1), ('top_p', 0), ('top_p', 1.01), ('min_p', 2), ('temperature', 0), ('temperature', 1e-9),
    ('temperature', 1e9), ('epsilon', 1.5), ('adam_beta1', 1), ('adam_beta2', 1.1), ('adam_epsilon', 0), ('num_train_epochs', 0),
    ('max_steps', 0), ('max_steps', -5), ('num_generations', 1), ('per_device_train_batch_size', 0), ('save_total_limit', 0),
    ('reward_timeout', 0), ('reward_timeout', 1e300), ('warmup_steps', 1.1), ('logging_steps', 0), ('learning_rate', 10**400), ('learning_rate', 1e-5j),
    ('learning_rate', Decimal('NaN')), ('learning_rate', None), ('beta', None), ('max_completion_length', None),
    ('reward_weights', [1, nan]), ('reward_weights', [inf]), ('reward_weights', '1'), ('reward_weights', [True, 1]),
    ('reward_weights', [0, 0]), ('reward_weights', [[1.]]), ('reward_weights', {1: 2}), ('reward_weights', [None]),
    ('reward_weights', np.array([1., nan])), ('reward_clip', [nan, 1]), ('reward_clip', [1, 0]), ('reward_clip', [0]), ('reward_clip', 1),
    ('bf16', 'no'), ('use_cpu', None), ('fp16', 2), ('gradient_checkpointing', 'false'), ('log_completions', []),
    ('stop', ['']), ('stop', ''), ('stop', [3]), ('stop', 3), ('loss_type', 3), ('loss_type', None), ('kl', ['k3']), ('baseline', 'grup'),
    ('lr_scheduler_type', 'cosin'), ('lr_scheduler_type', 'reduce_lr_on_plateau'), ('sampling_dtype', 'int8'),
    ('sampling_dtype', torch.bfloat16), ('output_dir', 3), ('beta_schedule', nan), ('scale_rewards', 2),
    ('optim', 'adam'), ('optim', None), ('optim_args', 'fast'), ('optim_args', '{"momentum": .9'), ('optim_args', [1]), ('optim_args', '=1'),
    ('lr_scheduler_kwargs', {1: 2}), ('generation_kwargs', 7), ('generation_kwargs', {'num_beams': 4}), ('generation_kwargs', {'do_sample': False}), ('generation_kwargs', {'beams': 4}), ('report_to', [3]), ('report_to', 7), ('save_strategy', 'step'),
    ('eval_strategy', True), ('logging_strategy', None), ('hub_strategy', 'never'), ('model_dtype', 'int8'), ('model_dtype', torch.bfloat16),
    ('push_to_hub', 'yes'), ('disable_tqdm', 2), ('repetition_penalty', 0), ('hub_model_id', 3), ('run_name', ['a'])]


@pytest.mark.parametrize('name,value', ODD, ids=lambda o: repr(o)[:30])
def test_odd_setting(name, value):
    with pytest.raises(ValueError) as error: GRPOConfig(**{name: value})
    said = str(error.value)
    assert '\n' not in said and name.split('_')[0] in said and len(said) < 400


GOOD = [
    ('learning_rate', np.float32(.5), .5), ('learning_rate', torch.tensor(.5), .5), ('learning_rate', 0, 0), ('learning_rate', 1, 1),
    ('num_generations', np.int64(4), 4), ('num_generations', 4., 4), ('max_steps', 1e3, 1000), ('max_steps', -1, -1),
    ('seed', -3, -3), ('seed', 2**40, 2**40), ('seed', np.uint8(7), 7), ('bf16', np.True_, True), ('use_cpu', 1, True),
    ('reward_weights', (1, -.5), [1, -.5]), ('reward_weights', np.array([1, .5]), [1, .5]), ('reward_clip', (0, inf), [0, inf]),
    ('stop', '\n\n', ('\n\n',)), ('stop', ['a', 'b'], ('a', 'b')), ('output_dir', Path('runs/x'), 'runs/x'), ('max_grad_norm', 0, 0),
    ('target_kl', None, None), ('entropy_coef', -.01, -.01), ('top_p', 1, 1), ('scale_rewards', True, True), ('weight_decay', 0, 0),
    ('learning_rate', '1e-6', 1e-6), ('max_steps', '20', 20), ('beta', '0', 0), ('warmup_steps', .1, .1), ('save_steps', .25, .25),
    ('seed', str(2**62+1), 2**62+1), ('min_p', None, 0.), ('top_k', None, 0), ('eval_steps', None, 0), ('stop', None, ()),
    ('lr_scheduler_type', SchedulerType.COSINE, 'cosine'), ('optim', OptimizerNames.SGD, 'sgd'), ('save_strategy', SaveStrategy.EPOCH, 'epoch'),
    ('report_to', None, []), ('report_to', 'none', []), ('report_to', 'wandb', ['wandb']), ('report_to', ['wandb', 'trackio'], ['wandb', 'trackio']),
    ('optim_args', 'momentum=.9,nesterov=True,mode=fast', dict(momentum=.9, nesterov=True, mode='fast')), ('optim_args', '', {}),
    ('generation_kwargs', '{"typical_p": 0.9, "use_cache": true}', dict(typical_p=.9)), ('chat_template_kwargs', dict(enable_thinking=False), dict(enable_thinking=False)),
    ('bf16', None, None), ('disable_tqdm', np.False_, False)]

@pytest.mark.parametrize('name,value,kept', GOOD, ids=lambda o: repr(o)[:30])
def test_good_setting(name, value, kept):
    found = getattr(GRPOConfig(**{name: value}), name)
    assert found == kept and type(found).__module__ == 'builtins'


def test_a_seed_of_numpy_is_the_same_seed():
    assert repr(GRPOConfig(seed=np.int64(5)).seed) == repr(GRPOConfig(seed=5).seed)


REQUESTS = [dict(temperature=nan), dict(temperature=inf), dict(temperature=-1), dict(top_p=-1), dict(top_p=0), dict(top_p=nan),
            dict(top_p=1.5), dict(top_k=-1), dict(top_k=2.5), dict(min_p=2), dict(min_p=-.1), dict(min_p=nan)]

@pytest.mark.parametrize('how', REQUESTS, ids=str)
def test_odd_request(how, tiny):
    with pytest.raises(ValueError, match=next(iter(how))): sample_groups(*tiny, ['1+1=?'], 2, 4, **how)


def test_command_says_it_in_one_line(capsys):
    for given in (['--learning-rate', 'nan'], ['--top-k', '-1'], ['--min-p', '2'], ['--temperature', 'inf']):
        assert main(['train', '--model', 'tiny', '--data', 'addition', *given]) == 2
        said = capsys.readouterr().err
        assert said.count('\n') == 1 and given[0].strip('-').replace('-', '_') in said


# Models --------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def tiny(): return load_policy('tiny', device='cpu')

def policy(): return load_policy('tiny', device='cpu')[0]

SMALL = dict(vocab_size=31, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, pad_token_id=0,
             bos_token_id=1, eos_token_id=2, max_position_embeddings=256)

def built(kind='llama', cls=AutoModelForCausalLM, **kwargs):
    return cls.from_config(AutoConfig.for_model(kind, **SMALL | kwargs))

def with_value(value, name='model.layers.1.mlp.up_proj.weight'):
    model = policy()
    with torch.no_grad(): model.get_parameter(name).view(-1)[0] = value
    return model

def on_meta(some=False):
    model = policy()
    return model.to('meta') if not some else (model.model.layers[3].to('meta'), model)[1]

def in_integers():
    model = policy()
    layer = model.model.layers[0].self_attn.q_proj
    layer.weight = torch.nn.Parameter(torch.zeros(128, 64, dtype=torch.uint8), requires_grad=False)
    return model

def nan_adapter():
    model = add_lora(policy())
    with torch.no_grad(): next(p for p in model.parameters() if p.requires_grad).view(-1)[0] = nan
    return model

def headed(rows): # A head with more rows than the embedding
    model = built(tie_word_embeddings=False)
    model.lm_head = torch.nn.Linear(32, rows, bias=False)
    return model

MODELS = { # name -> (maker, a word of the sentence)
    'narrow vocabulary': (lambda: built(vocab_size=20), 'rows in its embedding'),
    'one row too few': (lambda: built(vocab_size=30), 'rows in its embedding'),
    'vocabulary of two': (lambda: built(vocab_size=2, bos_token_id=None, pad_token_id=0, eos_token_id=None), 'rows in its embedding'),
    'head wider than the embedding': (lambda: headed(40), 'writes 40 ids'),
    'meta': (on_meta, 'meta device'),
    'partly meta': (lambda: on_meta(some=True), 'meta device'),
    'NaN': (lambda: with_value(nan), 'not finite'),
    'infinity': (lambda: with_value(inf), 'not finite'),
    'NaN in a norm': (lambda: with_value(nan, 'model.norm.weight'), 'not finite'),
    'NaN in the embedding': (lambda: with_value(-inf, 'model.embed_tokens.weight'), 'not finite'),
    'NaN in an adapter': (nan_adapter, 'not finite'),
    'classifier': (lambda: built(cls=AutoModelForSequenceClassification), 'no causal language model'),
    'without a head': (lambda: built(cls=AutoModel), 'no causal language model'),
    'encoder': (lambda: built('bert', cls=AutoModel), 'no causal language model'),
    'encoder and decoder': (lambda: AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(
        't5', vocab_size=31, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)), 'no causal language model'),
    'a module': (lambda: torch.nn.Linear(2, 2), 'causal language model'),
    'None': (lambda: None, 'causal language model'),
    'a number': (lambda: 3, 'causal language model'),
    'weights alone': (lambda: policy().state_dict(), 'causal language model'),
    'frozen': (lambda: policy().requires_grad_(False), 'nothing to train'),
    'integers': (in_integers, 'quantized'),
    'context too short': (lambda: built(max_position_embeddings=16), 'exceeds the context'),
}

@pytest.mark.parametrize('name', MODELS)
def test_odd_model(name, tiny):
    make, word = MODELS[name]
    with pytest.raises(ValueError, match=word) as error: new_trainer(make(), tokenizer=tiny[1])
    assert '\n' not in str(error.value)


def added(token, special, pad=False):
    tokenizer = copy.deepcopy(load_policy('tiny', device='cpu')[1])
    tokenizer.add_tokens([token], special_tokens=special)
    if pad: tokenizer.pad_token = token
    return tokenizer

TOKENIZERS = {
    'a token more': (lambda: added('<plan>', False), 'rows in its embedding'),
    'a new pad token': (lambda: added('<fill>', True, pad=True), 'the pad token has the id 31'),
    'a special token in the prompts': (lambda: added('=?', True), 'row 0: the prompt has the token 31'),
    'a name': (lambda: 'tiny', 'give a tokenizer'),
    'a function': (lambda: len, 'give a tokenizer'),
}

@pytest.mark.parametrize('name', TOKENIZERS)
def test_odd_tokenizer(name):
    make, word = TOKENIZERS[name]
    with pytest.raises(ValueError, match=word): new_trainer(policy(), tokenizer=make())


@pytest.mark.parametrize('name', ['pytorch_model.bin', 'model.pt', 'model.ckpt', 'adapter_model.bin'])
def test_pickle(name, tmp_path, tiny):
    tiny[0].save_pretrained(tmp_path/'m')
    tiny[1].save_pretrained(tmp_path/'m')
    (tmp_path/'m'/'model.safetensors').unlink()
    torch.save(tiny[0].state_dict(), tmp_path/'m'/name)
    for where in (tmp_path/'m', tmp_path/'m'/name):
        with pytest.raises(ValueError, match='in a pickle') as error: load_policy(str(where))
        assert '\n' not in str(error.value) and name in str(error.value)


@pytest.mark.parametrize('damage', [lambda b: b[:len(b)//2], lambda b: b'', lambda b: b'{'*100, lambda b: bytes(8)+b[8:]])
def test_damaged_weights(damage, tmp_path, tiny):
    tiny[0].save_pretrained(tmp_path)
    tiny[1].save_pretrained(tmp_path)
    file = tmp_path/'model.safetensors'
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match='does not load') as error: load_policy(str(tmp_path))
    assert '\n' not in str(error.value)


def test_good_models_train(tiny):
    "More rows than tokens, dropout, eval mode, a special token that nothing uses, a base in bfloat16 under an adapter"
    wide = policy()
    wide.resize_token_embeddings(64)
    for model, tokenizer in ((wide, tiny[1]), (policy().eval(), added('<image>', True)), (policy().bfloat16(), tiny[1])):
        adapter = None
        if model.dtype == torch.bfloat16:
            from peft import LoraConfig
            adapter = LoraConfig(r=2, target_modules='all-linear', task_type='CAUSAL_LM')
        assert next(new_trainer(model, tokenizer=tokenizer, peft_config=adapter).steps())['skipped'] == 0


def test_adapter_has_the_seed_of_the_run(tiny):
    from peft import LoraConfig
    def weights(seed, draws):
        torch.manual_seed(draws)
        torch.rand(draws)
        before = torch.get_rng_state()
        made = new_trainer(policy(), tokenizer=tiny[1], seed=seed, peft_config=LoraConfig(r=2, target_modules='all-linear'))
        assert torch.equal(torch.get_rng_state(), before)
        return torch.cat([p.flatten() for p in made.model.parameters() if p.requires_grad])
    assert torch.equal(weights(1, 3), weights(1, 50))
    assert not torch.equal(weights(1, 3), weights(2, 3))


# Divergence ----------------------------------------------------------------------------------------------------------

task = addition_task()

def varied(completions, **columns): # Differs within every group
    return [sum(map(ord, text))%11/10 for text in completions]

def new_trainer(model=None, tokenizer=None, peft_config=None, rewards=(varied,), **kwargs):
    settings = dict(max_steps=14, num_generations=4, per_device_train_batch_size=8, max_completion_length=10, learning_rate=1e-4,
                    seed=0, use_cpu=True, gold_check=0)
    return GRPOTrainer(model, list(rewards), GRPOConfig(**settings | kwargs), task.train[:64], task.test[:2], tokenizer, peft_config=peft_config)

class Watched:
    "A run, what it warned of, what it measured, and how it ended"
    def __init__(self, tmp_path, monkeypatch, before=None, each=None, scale=None, model=None, **kwargs):
        if scale: monkeypatch.setattr(trainer_module, 'new_accelerator', scaled(scale))
        if each: poison(monkeypatch, each)
        self.trainer = t = new_trainer(model or policy(), load_policy('tiny', device='cpu')[1], output_dir=str(tmp_path), **kwargs)
        if before: before(t)
        self.error = None
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            try: t.train()
            except FloatingPointError as e: self.error = str(e)
        self.said = [str(w.message) for w in said if 'diverges' in str(w.message)]
        self.metrics, self.run = t.run.metrics(), t.run

def scaled(scale): # float16 and a loss scaler on a CPU
    def made(args):
        accelerator = new_accelerator(args)
        accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler('cpu', init_scale=scale)
        return accelerator
    return made

def poison(monkeypatch, change): # Change every rollout before its update: change(number, rollouts)
    collect = trainer_module.collect
    def poisoned(collector, n):
        ro, found = collect(collector, n)
        change(n, ro)
        return ro, found
    monkeypatch.setattr(trainer_module, 'collect', poisoned)

def hook(factor, times=10**9): # Gradients of one weight times `factor`, so many times
    left = [times]
    def multiply(g):
        left[0] -= 1
        return g*factor if left[0] >= 0 else g
    return lambda t: t.model.model.layers[1].mlp.up_proj.weight.register_hook(multiply)

def when(numbers, change): return lambda n, ro: change(ro) if n in numbers else None

def bad_advantage(ro): ro.advantages[1] = inf
def bad_logps(ro): ro.ref_logps = torch.full_like(ro.ref_logps, -inf)
def large_advantages(ro): ro.advantages = ro.advantages*1e6
def bad_optimizer(t):
    def spoil(trainer, metrics):
        if metrics['step'] == 3: next(iter(trainer.optimizer.state.values()))['exp_avg'].fill_(nan)
    t.callbacks.append(spoil)


DIVERGENCE = { # name -> (settings, times said, ends with, updates that were not finite)
    'learning rate 1e3': (dict(learning_rate=1e3), 1, '10 updates in a row', 10),
    'learning rate 1e10': (dict(learning_rate=1e10), 0, 'computed in float32', 0),
    'learning rate 1e38': (dict(learning_rate=1e38), None, 'finite', None),
    'learning rate .1: far away': (dict(learning_rate=.1, max_steps=5), 1, None, 0),
    'one micro-batch, once': (dict(each=when([2], bad_advantage), micro_batch_tokens=40), 1, None, 1),
    'every second update': (dict(each=when(range(0, 99, 2), bad_advantage)), 1, None, 7),
    'every update': (dict(each=when(range(99), bad_advantage)), 1, '10 updates in a row', 10),
    'gradient norm infinite': (dict(before=hook(1e30)), 1, '10 updates in a row', 10),
    'gradient NaN in one weight, twice': (dict(before=hook(nan, 2)), 1, None, 2),
    'gradient huge': (dict(before=hook(1e12, 3)), 1, None, 0),
    'KL infinite': (dict(each=when(range(99), bad_logps)), 1, '10 updates in a row', 10),
    'loss of a million': (dict(each=when([1, 2, 3], large_advantages), max_steps=5), 1, None, 0),
    'optimizer state NaN': (dict(before=bad_optimizer), 0, 'made weights that are not finite', 0),
    'bfloat16 and 1e10': (dict(learning_rate=1e10, bf16=True), 0, 'computed in bfloat16', 0),
    'float16 without a scaler': (dict(fp16=True, each=when([1, 2], bad_advantage)), 1, None, 2),
    'scale of the loss falls': (dict(fp16=True, scale=4., before=hook(inf)), 1, '10 updates in a row', 10),
    'scale of the loss is found': (dict(fp16=True, scale=2.**26), 0, None, 0),
}
BY_DEFAULT = [name for name in DIVERGENCE if name not in (
    'bfloat16 and 1e10', 'every second update', 'scale of the loss is found', 'gradient NaN in one weight, twice', 'every update',
    'gradient huge', 'learning rate 1e38')]

@pytest.mark.parametrize('name', [pytest.param(n, marks=[] if n in BY_DEFAULT else pytest.mark.slow) for n in DIVERGENCE])
def test_divergence(name, tmp_path, monkeypatch):
    settings, times, end, skipped = DIVERGENCE[name]
    seen = Watched(tmp_path, monkeypatch, save_steps=1, **settings)
    if times is not None: assert len(seen.said) == times, seen.said
    assert (end in seen.error) if end else seen.error is None
    if skipped is not None:
        assert seen.trainer.state.nonfinite_updates == skipped
        assert seen.metrics[-1].get('nonfinite_updates', 0.) == skipped
    for place in seen.run.checkpoints(): # whatever happened, every checkpoint is good
        model = AutoModelForCausalLM.from_pretrained(place)
        assert all(p.isfinite().all() for p in model.parameters())
    if name == 'scale of the loss is found': assert any(m['skipped'] for m in seen.metrics) and not seen.metrics[-1]['skipped']
    if end: assert list(tmp_path.glob('diverged-*')) and 'what is left of the run' in seen.error


def test_good_checkpoints_stay(tmp_path, monkeypatch):
    "A run that diverges at its second update has one good checkpoint, and keeps it although only one may stay"
    seen = Watched(tmp_path, monkeypatch, save_steps=1, save_total_limit=1, learning_rate=1e3)
    assert [c.name for c in seen.run.checkpoints()] == ['checkpoint-1'] and 'checkpoint-1' in seen.error


def test_counting_goes_on_after_resume(tmp_path, monkeypatch):
    "Six updates came to nothing before, four more end the run"
    poison(monkeypatch, when(range(99), bad_advantage))
    tokenizer = load_policy('tiny', device='cpu')[1]
    first = new_trainer(policy(), tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for _, m in zip(range(6), first.steps()): pass
    first.save_checkpoint(tmp_path/'c')
    again = new_trainer(policy(), tokenizer)
    again.load_checkpoint(tmp_path/'c')
    with pytest.raises(FloatingPointError, match='10 updates in a row, up to step 10'):
        for m in again.steps(): pass


def test_no_checkpoint_of_broken_weights(tmp_path):
    t = new_trainer(policy(), load_policy('tiny', device='cpu')[1])
    with torch.no_grad(): next(t.model.parameters())[0, 0] = nan
    with pytest.raises(ValueError, match='no checkpoint is written'): t.save_checkpoint(tmp_path/'c')
    assert not (tmp_path/'c').exists()


DTYPES = {'float32': {}, 'bfloat16': dict(dtype=torch.bfloat16), 'float16': dict(dtype=torch.float16)}

@pytest.mark.parametrize('name', DTYPES)
@pytest.mark.parametrize('temperature', [0, 1.])
@pytest.mark.parametrize('value', [nan, inf])
def test_no_token_from_logits_that_are_not_finite(name, temperature, value):
    model, tokenizer = load_policy('tiny', device='cpu', **DTYPES[name])
    with torch.no_grad(): model.model.norm.weight[0] = value
    with pytest.raises(FloatingPointError, match=f'computed in {name}'):
        sample_groups(model, tokenizer, ['1+1=?', '12+34=?'], 2, 8, temperature, max_rows=2)


def test_a_range_that_is_exceeded_names_float16():
    "Finite in float32, beyond the range of float16"
    model, tokenizer = policy(), load_policy('tiny', device='cpu')[1]
    with torch.no_grad(): model.model.norm.weight.mul_(1e5)
    assert sample_groups(model, tokenizer, ['1+1=?'], 2, 4).logps.isfinite().all()
    with pytest.raises(FloatingPointError, match='computed in float16'): sample_groups(model.half(), tokenizer, ['1+1=?'], 2, 4)


def test_a_healthy_run_is_silent(tmp_path, monkeypatch):
    for kind in ({}, dict(beta=0.), dict(learning_rate=1e-3, num_iterations=2)):
        seen = Watched(tmp_path/str(kind), monkeypatch, **kind)
        assert not seen.said and not seen.error and 'nonfinite_updates' not in seen.metrics[-1]
