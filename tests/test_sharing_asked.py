"""Whether a model shares its prompts does not depend on when, where and how it is asked; nothing stays changed behind the question."""
import subprocess, sys, threading, warnings
from unittest import mock
import pytest, torch
from transformers import AutoConfig, AutoModelForCausalLM
from grpo_lit import GRPOConfig, GRPOTrainer, load_policy, sample_groups
from grpo_lit import sampling
from grpo_lit.fast import sharing
from grpo_lit.fast.prefix import ACROSS, Packed
from grpo_lit.fast.sharing import share_prefix
from grpo_lit.logprobs import token_logps
from grpo_lit.run.evaluate import evaluate
from grpo_lit.rewards import accuracy_reward
from grpo_lit.tasks import addition_task

pytestmark = pytest.mark.filterwarnings('error:.*cannot share.*')
task = addition_task(32, 4)

@pytest.fixture(autouse=True)
def two_threads(): torch.set_num_threads(2)

@pytest.fixture
def cudnn():
    "The switch of cuDNN's attention, put back afterwards"
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield torch.backends.cuda.cudnn_sdp_enabled
    torch.backends.cuda.enable_cudnn_sdp(before)

def tiny(dtype=torch.float32): return load_policy('tiny', dtype, 'cpu')

small = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2)

def untrained(kind, **kw):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **small | kw))

# How it is asked

def plain(f): return f()

def in_mode(mode):
    def ask(f):
        with mode(): return f()
    return ask

def in_a_thread(f):
    found = []
    t = threading.Thread(target=lambda: found.append(f()))
    t.start()
    t.join()
    return found[0]

def deterministic(f):
    torch.use_deterministic_algorithms(True)
    try: return f()
    finally: torch.use_deterministic_algorithms(False)

def in_default_dtype(dtype):
    def ask(f):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try: return f()
        finally: torch.set_default_dtype(before)
    return ask

def autocast(dtype): return in_mode(lambda: torch.autocast('cpu', dtype))

WAYS = dict(
    plain=plain,
    bf16=autocast(torch.bfloat16),
    fp16=autocast(torch.float16),
    no_grad=in_mode(torch.no_grad),
    inference=in_mode(torch.inference_mode),
    anomaly=in_mode(torch.autograd.detect_anomaly),
    thread=in_a_thread,
    deterministic=deterministic,
    default_device=in_mode(lambda: torch.device('meta')),
    default_bf16=in_default_dtype(torch.bfloat16),
    default_float64=in_default_dtype(torch.float64),
)

@pytest.mark.filterwarnings('ignore:Anomaly Detection')
@pytest.mark.parametrize('way,dtype', [*((way, d) for way in WAYS for d in (torch.float32, torch.bfloat16)),
                                       ('fp16', torch.float16), ('inference', torch.float64)], ids=str)
def test_however_it_is_asked(way, dtype):
    model, tokenizer = tiny(dtype)
    weights = [(p.data_ptr(), p.dtype, p.clone()) for p in model.parameters()]
    training = [m.training for m in model.modules()]
    assert WAYS[way](lambda: share_prefix(model)) is True
    assert training==[m.training for m in model.modules()]
    for p, (place, kind, value) in zip(model.parameters(), weights):
        assert p.data_ptr()==place and p.dtype==kind and torch.equal(p, value) and p.grad is None
    ro = sample_groups(model, tokenizer, ['1+2=?'], 4, 8, seed=0)
    token_logps(model, ro).sum().backward()                             # and it can still be trained
    assert all(p.grad is not None for p in model.parameters())

@pytest.mark.parametrize('kind', ['llama', 'qwen3', 'gemma2', 'gpt2'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_other_models_in_16_bits_under_autocast(kind, dtype):
    model = untrained(kind, **dict(n_embd=32, n_layer=2, n_head=4) if kind=='gpt2' else {}).to(dtype)
    with torch.autocast('cpu', dtype): assert share_prefix(model)

NARROW = [('llama4_text', dict(attention_chunk_size=64, num_local_experts=2, intermediate_size_mlp=64)),
          ('phimoe', dict(sliding_window=64, num_local_experts=2)), ('mistral', dict(sliding_window=64)),
          ('gemma2', dict(sliding_window=64)), ('phi3', dict(sliding_window=64)),
          ('afmoe', dict(sliding_window=64, num_experts=4, num_experts_per_tok=2))]

@pytest.mark.parametrize('kind, more', NARROW, ids=[k for k,_ in NARROW])
def test_a_window_wider_than_the_question(kind, more):
    model, known = untrained(kind, **more).eval(), kind not in ('llama4_text', 'phimoe')
    with warnings.catch_warnings():
        if not known: warnings.filterwarnings('ignore', '.*cannot share.*only its masks know')
        assert share_prefix(model) == known
    prompts, u = [[5,6]*50, [7,8,9]], sampling.uniforms(0, 4, 4)
    never = lambda tokens, rows, out, t: torch.zeros_like(tokens, dtype=torch.bool)
    out, logps = sampling.decode(model, prompts, 2, 4, 1., [], u, never)
    for i, (o, found) in enumerate(zip(out, logps)):
        prompt = prompts[i//2]
        with torch.no_grad(): logits = model(input_ids=torch.tensor([prompt+o.tolist()])).logits[0,len(prompt)-1:-1]
        expected = logits.double().log_softmax(-1).gather(1, o[:,None])[:,0]
        assert (found-expected).abs().max() < 1e-5

def test_dropout_is_not_what_is_asked_about():
    model = untrained('llama', attention_dropout=.5).train()
    assert share_prefix(model) and model.training

@pytest.mark.parametrize('way', ['plain', 'bf16', 'inference'])
def test_a_small_mistake_is_found_however_it_is_asked(way):
    "Completions that see one token of what comes later"
    honest = Packed.mask
    def careless(packed, which, *how):
        mask = honest(packed, which, *how)
        if which!=ACROSS: return mask
        mask = mask.clone()
        mask[...,0,packed.prompts.mask.shape[1]+1] = 0.
        return mask
    model = untrained('llama')
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1: p.mul_(3.)
    with mock.patch.object(Packed, 'mask', careless), pytest.warns(UserWarning, match='cannot share'):
        assert not WAYS[way](lambda: share_prefix(model))

# Products in fewer bits

def older_high(): torch.set_float32_matmul_precision('high')
def older_medium(): torch.set_float32_matmul_precision('medium')
def allow_tf32(): torch.backends.cuda.matmul.allow_tf32 = True
def newer_of_cuda(): torch.backends.cuda.matmul.fp32_precision = 'tf32'
def newer_of_cpu(): torch.backends.mkldnn.matmul.fp32_precision = 'bf16'
def newer_of_all(): torch.backends.fp32_precision = 'tf32'
def newer_after_older(): older_high(), newer_of_cpu()
def older_after_newer(): newer_of_cpu(), older_high()
SHORT = [older_high, older_medium, allow_tf32, newer_of_cuda, newer_of_cpu, newer_of_all, newer_after_older, older_after_newer]

def precision():
    b = torch.backends
    try: older = torch.get_float32_matmul_precision()
    except RuntimeError as e: older = str(e)
    return older, b.fp32_precision, b.cuda.matmul.fp32_precision, b.mkldnn.fp32_precision, b.mkldnn.matmul.fp32_precision

@pytest.fixture
def products():
    b = torch.backends
    yield
    torch.set_float32_matmul_precision('highest')
    b.fp32_precision = 'none'
    for o in (b.cuda.matmul, b.mkldnn.matmul, b.mkldnn): o.fp32_precision = 'none'

@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, 'fp32_precision'), reason='the newer way came with torch 2.9')
@pytest.mark.parametrize('shorten', SHORT, ids=lambda f: f.__name__)
def test_whatever_shortens_products(shorten, products):
    shorten()
    before, seen = precision(), []
    honest = sharing._gap
    def gap(model):
        seen.append([o.fp32_precision for o in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)])
        return honest(model)
    model, _ = tiny()
    with mock.patch.object(sharing, '_gap', gap): assert share_prefix(model)
    assert seen==[['ieee','ieee']]                                      # asked at full length
    assert precision()==before                                          # and left as it was

def test_nothing_set_stays_so(products):
    before = precision()
    assert share_prefix(tiny()[0]) and precision()==before
    torch.backends.fp32_precision = 'tf32'                              # still reaches what inherits it
    assert torch.backends.mkldnn.matmul.fp32_precision=='tf32'

# No answer

@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_weights_without_numbers_are_asked_again(bad):
    model, _ = tiny()
    weight = model.get_input_embeddings().weight
    good = weight.detach().clone()
    with torch.no_grad(): weight.fill_(bad)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert not share_prefix(model)
        with torch.no_grad(): weight.copy_(good)
        assert share_prefix(model)

@pytest.mark.parametrize('error', [torch.OutOfMemoryError('CUDA out of memory'),
                                   RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)'),
                                   MemoryError()], ids=lambda e: type(e).__name__)
def test_no_memory_is_no_answer(error):
    model, _ = tiny()
    def full(*a, **kw): raise error
    with mock.patch.object(sharing, '_packed_gaps', full), pytest.raises(type(error)): share_prefix(model)
    assert share_prefix(model)

def test_two_threads_ask_at_once():
    model, asked = tiny(torch.bfloat16)[0], []
    honest = sharing._gap
    def gap(model):
        asked.append(threading.get_ident())
        return honest(model)
    with mock.patch.object(sharing, '_gap', gap):
        found, start = [], threading.Barrier(4)
        def ask():
            start.wait()
            found.append(share_prefix(model))
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for t in threads: t.start()
        for t in threads: t.join()
    assert found==[True]*4 and len(asked)==1
    assert all(p.dtype==torch.bfloat16 for p in model.parameters())

# Whoever asks first

def trainer(model, tokenizer, **settings):
    usual = dict(max_steps=1, num_generations=4, per_device_train_batch_size=4, max_completion_length=8, use_cpu=True, disable_tqdm=True)
    return GRPOTrainer(model, accuracy_reward, GRPOConfig(**usual | settings), task.train, task.test, tokenizer)

def first_train(t): t.train()
def first_sample(t): sample_groups(t.model, t.processing_class, ['1+2=?'], 2, 4, seed=0)
def first_evaluate(t): evaluate(t.model, t.processing_class, task, limit=2, max_completion_length=4)
def first_logps(t):
    ro = sample_groups(t.model, t.processing_class, ['1+2=?'], 2, 4, seed=0)
    token_logps(t.model, ro)

@pytest.mark.parametrize('settings', [dict(bf16=True), dict(bf16=True, beta=0.), dict(fp16=True, beta=0.), dict()], ids=str)
@pytest.mark.parametrize('first', [first_train, first_sample, first_evaluate, first_logps], ids=lambda f: f.__name__)
def test_a_run_in_16_bits_shares_whoever_asks_first(first, settings):
    model, tokenizer = tiny()
    sharing._shared.pop(model, None)
    t = trainer(model, tokenizer, **settings)
    sharing._shared.pop(t.model, None)                                  # as if nobody had asked yet
    first(t)
    assert sharing._shared[t.model]

@pytest.mark.parametrize('asked_before', [False, True])
def test_before_the_trainer_is_made(asked_before):
    model, tokenizer = tiny(torch.bfloat16)
    if asked_before: sample_groups(model, tokenizer, ['1+2=?'], 2, 4, seed=0)
    t = trainer(model, tokenizer, bf16=True, beta=0.)
    t.train()
    assert sharing._shared[t.model]

# cuDNN's attention

def test_cudnn_attention_is_off_for_a_model_that_shares(cudnn):
    model, _ = tiny()
    assert cudnn() and share_prefix(model) and not cudnn()

def test_cudnn_attention_is_off_for_a_model_that_does_not(cudnn):
    with pytest.warns(UserWarning, match='cannot share'): assert not share_prefix(untrained('mamba', state_size=4))
    assert not cudnn()

def test_cudnn_attention_is_off_where_there_is_no_answer_yet(cudnn):
    model, _ = tiny()
    with torch.no_grad(): model.get_input_embeddings().weight.fill_(torch.nan)
    assert not share_prefix(model) and not cudnn()

@pytest.mark.parametrize('settings', [dict(), dict(beta=0.)], ids=str)
def test_cudnn_attention_is_off_under_a_trainer(settings, cudnn):
    trainer(*tiny(), **settings)
    assert not cudnn()

def test_whoever_wants_it_has_it(cudnn):
    model, tokenizer = tiny()
    share_prefix(model)
    torch.backends.cuda.enable_cudnn_sdp(True)
    sample_groups(model, tokenizer, ['1+2=?'], 2, 4, seed=0)
    assert share_prefix(model) and cudnn()

@pytest.mark.slow
def test_importing_switches_nothing():
    ask = 'import torch, grpo_lit; grpo_lit.GRPOTrainer; assert torch.backends.cuda.cudnn_sdp_enabled()'
    subprocess.run([sys.executable, '-c', ask], check=True)
