"""A GRPO step here and in TRL, taking turns in one run: seconds of each phase, peak memory, and their ratios.

    python bench/speed.py                  # 2 prompts of 256 tokens x 8 completions of 64, SmolLM2-135M's shape
    python bench/speed.py --prompts 1 --prompt-tokens 1024
    python bench/speed.py --sweep prompt   # step time against prompt length; also: completion, group, size
    python bench/speed.py --who ours trl trl-cb --out FILE.json
    python bench/speed.py --weights DIR    # a real model, as load_policy takes it
    python bench/speed.py --against DIR    # beside an older checkout of this project, "before"

Weights are random, of real shapes, so nothing is downloaded, unless real ones are given; all trainers get the same model,
prompts, group size, batch, leash and update. Lengths are forced: the logit of the EOS is so low that it is never drawn. Each
measurement is a process of its own, so that its peak memory is its own.
"""
import argparse, json, statistics, tempfile, time
from pathlib import Path
from settings import SHAPES, add_numbers, arguments, clock, flags_for, in_a_process, our_trainer, prepare
from settings import plain_words, random_model, real_model, root, taking_turns, trl_trainer, versions, wait_for

NUMBERS = dict(
    prompts=2,
    group=8,
    prompt_tokens=256,
    completion_tokens=64,
    steps=1,
    rounds=1,
    seed=0,
    threads=2,
    micro_batch=0,
    micro_batch_tokens=0)
SWEEPS = dict( # Name -> the setting that grows, and its values
    prompt=('prompt_tokens', [64, 128, 256, 512]),
    completion=('completion_tokens', [16, 32, 64, 128]),
    group=('group', [2, 4, 8, 16]),
    size=('model', ['tiny', '17M', '135M']))
WORK = ('model', 'prompts', 'group', 'prompt_tokens', 'completion_tokens', 'micro_batch', 'micro_batch_tokens')
COLUMNS = dict(step=9, sample=9, reference=11, update=9, memory=11) # Figure -> width in the table

# --- one trainer, in its own process

def arguments_of(a, out):
    B = a.prompts*a.group
    rows = a.micro_batch or B
    return arguments(out, a.seed, a.cuda, max_steps=a.steps+1, num_generations=a.group,
                     per_device_train_batch_size=rows, gradient_accumulation_steps=B//rows,
                     max_completion_length=a.completion_tokens, learning_rate=1e-6)

def random_prompts(a, words=None):
    "Rows of so many random words for every step, and for one more that warms up"
    import torch
    g = torch.Generator().manual_seed(a.seed)
    words = words or [f't{i}' for i in range(2, SHAPES[a.model]['vocab_size']-1)]
    def prompt():
        chosen = torch.randint(len(words), (a.prompt_tokens,), generator=g)
        return ' '.join(words[i] for i in chosen.tolist())
    return [dict(prompt=prompt()) for _ in range(a.prompts*(a.steps+1))]

def model_and_rows(a):
    "A model, its tokenizer and prompts of exactly so many tokens"
    if not a.weights:
        return *random_model(a.model, a.seed), random_prompts(a)
    model, tokenizer = real_model(a.weights)
    rows = [dict(prompt=' '+r['prompt']) for r in random_prompts(a, plain_words(tokenizer))]
    lengths = {len(tokenizer(r['prompt']).input_ids) for r in rows}
    assert lengths == {a.prompt_tokens}, f'prompts have {lengths} tokens'
    return model, tokenizer, rows

def reward(prompts, completions, completion_ids, **kw):
    "Some of each value, and no work"
    return [float(sum(ids)%7) for ids in completion_ids]

def ours(a, model, tokenizer, rows, out):
    "Seconds of each phase of each step"
    extra = dict(micro_batch_tokens=a.micro_batch_tokens) if a.micro_batch_tokens else {}
    trainer = our_trainer(model, tokenizer, reward, arguments_of(a, out), rows, **extra)
    trainer.train()
    assert all(m['completions/mean_length'] == a.completion_tokens for m in trainer.history), 'a completion ended early'
    return [phases(m) for m in trainer.history]

def phases(m):
    "What is compared, and the floors, from the metrics of a step"
    floors = {k:m[k] for k in m if k.startswith('floor/')}
    times = dict(step=m['step_time'], sample=m['time/sample'], reference=m['time/reference'], update=m['time/update'])
    return times | floors

def theirs(a, model, tokenizer, rows, out):
    "The same of TRL, whose methods are timed from outside"
    import trl
    sample = timed(trl.GRPOTrainer, '_generate_single_turn', a.cuda)
    made = timed(trl.GRPOTrainer, '_generate_and_score_completions', a.cuda)
    extra = dict(use_transformers_continuous_batching=True) if a.only == 'trl-cb' else {}
    start = out/'start' # it reads its reference from disk
    model.save_pretrained(start)
    tokenizer.save_pretrained(start)
    model.config._name_or_path = str(start)
    watch = clock(cuda=a.cuda)
    trl_trainer(model, tokenizer, reward, arguments_of(a, out), rows, [watch], **extra).train()
    return [dict(step=s, sample=d, reference=m-d, update=s-m) for s,d,m in zip(watch.seconds, sample, made)]

def timed(cls, name, cuda):
    "Time every call of a method; returns the list that the seconds go to"
    inner, seconds = getattr(cls, name), []
    def f(*args, **kw):
        began = time.perf_counter()
        r = inner(*args, **kw)
        wait_for(cuda)
        seconds.append(time.perf_counter()-began)
        return r
    setattr(cls, name, f)
    return seconds

def peak_memory(cuda):
    "GB, of the GPU or of this process"
    import torch
    if cuda:
        return torch.cuda.max_memory_allocated()/2**30
    try:
        line = next(o for o in open('/proc/self/status') if o.startswith('VmHWM'))
        return int(line.split()[1])/2**20
    except FileNotFoundError:
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**30

def one(a):
    "Train a few steps with one of them; prints seconds and peak memory as JSON"
    import torch
    if not a.cuda:
        torch.set_num_threads(a.threads)
    model, tokenizer, rows = model_and_rows(a)
    if a.cuda:
        model.cuda()
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as out:
        train = ours if a.only in ('ours', 'before') else theirs
        steps = train(a, model, tokenizer, rows, Path(out))
    print(json.dumps(dict(steps=steps[1:], memory=peak_memory(a.cuda)))) # the first step warms up

# --- all of them, side by side

def compare(a):
    "All of `a.who` in turn, `a.rounds` times: medians of each"
    flags = flags_for(a, ('steps', 'seed', 'threads', *WORK)) + ['--cuda']*a.cuda
    flags += ['--weights', str(a.weights)] if a.weights else []
    found = {w:[] for w in a.who}
    for _,w in taking_turns(a.who, a.rounds):
        checkout = a.against if w == 'before' else root
        found[w].append(in_a_process(__file__, w, flags, checkout))
    return {w:medians(runs) for w,runs in found.items()}

def medians(runs):
    steps = [s for m in runs for s in m['steps']]
    times = {k:statistics.median(s[k] for s in steps) for k in steps[0]}
    return times | dict(memory=statistics.median(m['memory'] for m in runs))

def print_found(title, found):
    "A line for each trainer, one for each ratio, and how near ours came to what the machine can do"
    def line(title, who, figures): print(f'{title:16}{who:8}{figures}', flush=True)
    for w,f in found.items():
        line(title, w, ''.join(f'{f[k]:{width}.2f}' for k,width in COLUMNS.items()))
    if 'ours' not in found:
        return
    mine = found['ours']
    for w,f in found.items():
        if w != 'ours':
            line('', f'ours/{w}', ''.join(f'{mine[k]/f[k]:{width}.3f}' for k,width in COLUMNS.items()))
    for w in ('ours', 'before'):
        if w in found:
            line('', 'of floor', of_floor(found[w])+('' if w == 'ours' else '  before'))

def of_floor(f):
    "Which share of each phase's time the machine could not have done without"
    floors = {k:f.get(f'floor/{k}') for k in COLUMNS}
    known = [f'{v:{COLUMNS[k]}.2f}' for k,v in floors.items() if v is not None]
    return ' '*COLUMNS['step'] + ''.join(known)

def check(p, a):
    "Say what is wrong before anything is loaded"
    for name in NUMBERS:
        least = 0 if name in ('seed', 'micro_batch', 'micro_batch_tokens') else 1
        if getattr(a, name) < least:
            p.error(f'--{name.replace("_", "-")}: at least {least}')
    if a.micro_batch and a.prompts*a.group%a.micro_batch:
        p.error(f'--micro-batch: {a.prompts*a.group} completions are not made of parts of {a.micro_batch}')
    if a.against and not (a.against/'grpo_lit').is_dir():
        p.error(f'--against: there is no grpo_lit in {a.against}')
    if a.weights and not [*a.weights.glob('*.safetensors'), *a.weights.glob('*/*.safetensors')]:
        p.error(f'--weights: there is no model in {a.weights}')
    if a.weights and a.sweep == 'size':
        p.error('--sweep size: not with --weights, which are of one size')
    if a.out and not Path(a.out).absolute().parent.is_dir():
        p.error(f'--out: there is no folder {Path(a.out).absolute().parent}')

def flags():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--model', choices=SHAPES, default='135M')
    add_numbers(p, NUMBERS)
    p.add_argument('--who', nargs='+', choices=('ours', 'trl', 'trl-cb'), default=['ours', 'trl'])
    p.add_argument('--sweep', choices=SWEEPS)
    p.add_argument('--cuda', action='store_true')
    p.add_argument('--out', default='')
    p.add_argument('--weights', type=Path, help='a folder with a model, in place of random weights')
    p.add_argument('--against', type=Path, help='a checkout of this project that is measured too, as "before"')
    p.add_argument('--only', help=argparse.SUPPRESS)
    a = p.parse_args()
    check(p, a)
    if a.against:
        a.against = a.against.resolve()
        a.who = [*a.who, 'before']
    if a.weights:
        a.weights = a.weights.resolve()
    return a

def main():
    a = flags()
    if a.only:
        return one(a)
    prepare(a.threads)
    name, values = SWEEPS[a.sweep] if a.sweep else ('model', [a.model])
    table = []
    print(' '*24 + ''.join(f'{"memory GB" if k == "memory" else k:>{width}}' for k,width in COLUMNS.items()))
    for v in values:
        setattr(a, name, v)
        found = compare(a)
        title = a.weights.name[:15] if a.weights and name == 'model' else f'{name} {v}'
        print_found(title, found)
        table.append({name:v, **found})
    work = {n:getattr(a, n) for n in WORK}
    weights = f'weights of {a.weights.name}; ' if a.weights else ''
    print(f'{weights}{work}; {versions(a.threads)}' + ', CUDA'*a.cuda)
    if a.out:
        Path(a.out).write_text(json.dumps(dict(work=work, found=table), indent=1))

if __name__ == '__main__':
    main()
