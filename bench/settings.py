"""What the benchmarks share: models and tasks, the arguments that both trainers understand, and how the two take turns.

Each run is a process of its own, so that its peak memory is its own and no trainer warms the other's caches.
"""
import json, os, statistics, subprocess, sys, time
from importlib.metadata import version

# --- a model of a real shape with random weights, so that nothing is downloaded

def shape(width, inner, layers, heads, key_heads, vocabulary):
    "The sizes of a model as `AutoConfig` names them"
    return dict(hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
                num_key_value_heads=key_heads, vocab_size=vocabulary)

SHAPES = {
    'tiny': shape(128, 384, 4, 4, 4, 512),
    '17M': shape(256, 704, 8, 4, 2, 32_768),
    '135M': shape(576, 1536, 30, 9, 3, 49_152),
    '360M': shape(960, 2560, 32, 15, 5, 49_152),
    '0.5B': shape(896, 4864, 24, 14, 2, 151_936)}

def word_tokenizer(size):
    "Tokens t0, t1, ..., and the EOS as the last of `size` tokens"
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    vocabulary = {f't{i}':i for i in range(size-1)} | {'</s>':size-1}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token='t0'))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token='t0', eos_token='</s>', padding_side='left')

def forbid_end(head):
    "Give a model's head a frozen bias, with which the last token, the EOS, is never drawn"
    import torch
    bias = torch.zeros(len(head.weight), dtype=head.weight.dtype, device=head.weight.device)
    bias[-1] = -1e4
    head.bias = torch.nn.Parameter(bias, requires_grad=False)

def random_model(name, seed, device='cpu'):
    "A model of one of the `SHAPES` that never ends early, and its tokenizer; made where it is wanted"
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    sizes = SHAPES[name]
    tokenizer = word_tokenizer(sizes['vocab_size'])
    torch.manual_seed(seed)
    kind = 'qwen2' if name == '0.5B' else 'llama'
    config = AutoConfig.for_model(kind, **sizes, tie_word_embeddings=True, max_position_embeddings=8192,
                                  pad_token_id=0, bos_token_id=1, eos_token_id=None)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config)
    forbid_end(model.get_output_embeddings())
    return model, tokenizer

# --- the policy of the package and what it is asked

def tiny_policy(path='tiny'):
    "The policy that ships in the package, or one trained from it"
    from grpo_lit.policy import load_policy
    return load_policy(str(path), device='cpu')

def sums(seed):
    "The task that the demo learns"
    from grpo_lit.tasks import addition_task
    return addition_task(seed=seed)

# --- two trainers with the same arguments

def arguments(out, seed, cuda=False, **own):
    "What both trainers understand, under the same names; `own` is what one benchmark adds"
    leash = dict(beta=.04, temperature=1., loss_type='dapo')
    precision = dict(use_cpu=not cuda, bf16=cuda, fp16=False, gradient_checkpointing=False)
    return dict(output_dir=str(out), seed=seed) | leash | precision | own

def our_trainer(model, tokenizer, rewards, args, rows, callbacks=(), **own):
    "Our trainer; `own` are settings that only it has"
    from grpo_lit.run.config import GRPOConfig
    from grpo_lit.run.trainer import GRPOTrainer
    args = GRPOConfig(**args, **own, log_completions=False)
    return GRPOTrainer(model, rewards, args, rows, processing_class=tokenizer, callbacks=callbacks)

def trl_trainer(model, tokenizer, rewards, args, rows, callbacks=(), **own):
    "TRL's trainer, which says and saves nothing; `own` are settings that only it has"
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
    quiet = dict(report_to='none', save_strategy='no', disable_tqdm=True, logging_steps=10**6)
    args = GRPOConfig(**args, **own, **quiet)
    return GRPOTrainer(model, rewards, args=args, train_dataset=Dataset.from_list(rows),
                       processing_class=tokenizer, callbacks=callbacks)

def wait_for(cuda):
    "A GPU works on while Python goes ahead: wait before looking at the clock"
    if cuda:
        import torch
        torch.cuda.synchronize()

def clock(after=None, cuda=False):
    "A callback for TRL: `seconds` of each step; `after(step)` runs when the clock stands"
    from transformers import TrainerCallback
    class Clock(TrainerCallback):
        def __init__(self):
            self.seconds = []
        def on_step_begin(self, args, state, control, **kw):
            self.began = time.perf_counter()
        def on_step_end(self, args, state, control, **kw):
            wait_for(cuda)
            self.seconds.append(time.perf_counter()-self.began)
            if after:
                after(state.global_step)
    return Clock()

# --- taking turns

def prepare(threads):
    "For the processes to come: so many threads, and no network"
    os.environ.update(OMP_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM='false', HF_HUB_OFFLINE='1')

def flags_for(a, names):
    "The command line that says again what `a` says of `names`"
    return [o for n in names for o in ('--'+n.replace('_','-'), str(getattr(a, n)))]

def add_numbers(parser, numbers):
    "A flag for each number, with its default and of its type"
    for n,default in numbers.items():
        parser.add_argument('--'+n.replace('_','-'), type=type(default), default=default)

def in_a_process(script, who, flags):
    "Run `script` for one trainer, alone, so that its peak memory is its own; returns the JSON of its last line"
    done = subprocess.run([sys.executable, script, '--only', who, *flags], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f'{who} failed:\n{done.stderr[-3000:]}')
    return json.loads(done.stdout.strip().splitlines()[-1])

def taking_turns(who, rounds):
    "(round, trainer), every other round backwards, so that none has the quieter machine"
    for r in range(rounds):
        for w in who if r%2 == 0 else who[::-1]:
            yield r, w

def ratio(ours, theirs, key):
    "Median of ours/theirs over runs that belong together; None if one of them lacks a value"
    pairs = [(o[key], t[key]) for o,t in zip(ours, theirs)]
    if not all(o and t for o,t in pairs):
        return None
    return statistics.median(o/t for o,t in pairs)

def versions(threads):
    return f'TRL {version("trl")}, torch {version("torch")}, {threads} threads'
