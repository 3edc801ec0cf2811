"""A GRPO step in this package and in TRL, taking turns in one run: seconds of each phase, tokens a second and peak memory, and their ratios.

    python tools/speed.py                                  # 2 prompts of 256 tokens x 8 completions of 64, SmolLM2-135M's shape
    python tools/speed.py --prompts 1 --prompt-tokens 1024
    python tools/speed.py --sweep prompt                   # step time against prompt length; also: completion, group, size
    python tools/speed.py --who ours trl trl-cb --out FILE.json

Weights are random, of real shapes, so nothing is downloaded; both trainers get the same model, prompts, group size, batch, leash and update. Lengths are
forced: the tokenizer's EOS lies outside the vocabulary of the model. Each measurement is a process of its own, so that its peak memory is its own.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time
from pathlib import Path

SHAPES = {'tiny':dict(hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4, vocab_size=512),
          '17M':dict(hidden_size=256, intermediate_size=704, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2, vocab_size=32_768),
          '135M':dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, vocab_size=49_152),
          '360M':dict(hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15, num_key_value_heads=5, vocab_size=49_152),
          '0.5B':dict(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, vocab_size=151_936)}
SWEEPS = dict(prompt=('prompt_tokens', [64,128,256,512]), completion=('completion_tokens', [16,32,64,128]), group=('group', [2,4,8,16]), size=('model', ['tiny','17M','135M']))

def model_and_tokenizer(a):
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
    V = SHAPES[a.model]['vocab_size']; vocab = {f't{i}':i for i in range(V)} | {'</s>':V}
    t = Tokenizer(models.WordLevel(vocab, unk_token='t0')); t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=t, pad_token='t0', eos_token='</s>', padding_side='left')
    torch.manual_seed(a.seed)
    kind = 'qwen2' if a.model=='0.5B' else 'llama'
    config = AutoConfig.for_model(kind, **SHAPES[a.model], tie_word_embeddings=True, max_position_embeddings=8192, pad_token_id=0, bos_token_id=1, eos_token_id=None)
    return AutoModelForCausalLM.from_config(config), tokenizer

def settings(a, out): # what both trainers understand
    B = a.prompts*a.group
    return dict(output_dir=str(out), max_steps=a.steps+1, num_generations=a.group, per_device_train_batch_size=a.micro_batch or B, gradient_accumulation_steps=B//(a.micro_batch or B), max_completion_length=a.completion_tokens,
                learning_rate=1e-6, beta=.04, temperature=1., loss_type='dapo', seed=a.seed, use_cpu=not a.cuda, bf16=a.cuda, fp16=False, gradient_checkpointing=False)

def one(a):
    "Train a few steps with one of them; prints seconds and peak memory as JSON"
    import torch
    if not a.cuda: torch.set_num_threads(a.threads)
    model, tokenizer = model_and_tokenizer(a); g = torch.Generator().manual_seed(a.seed)
    rows = [dict(prompt=' '.join(f't{i}' for i in torch.randint(2, SHAPES[a.model]['vocab_size'], (a.prompt_tokens,), generator=g).tolist())) for _ in range(a.prompts*(a.steps+1))]
    def reward(prompts, completions, completion_ids, **kw): return [float(sum(ids)%7) for ids in completion_ids]        # some of each, and no work
    if a.cuda: model.cuda(); torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as out:
        if a.only=='ours':
            from grpo_lit.run.config import GRPOConfig
            from grpo_lit.run.trainer import GRPOTrainer
            extra = dict(micro_batch_tokens=a.micro_batch_tokens) if a.micro_batch_tokens else {}
            t = GRPOTrainer(model, reward, GRPOConfig(**settings(a, out), **extra, log_completions=False), rows, processing_class=tokenizer)
            t.train(); steps = [dict(step=m['step_time'], sample=m['time/sample'], reference=m['time/reference'], update=m['time/update'], **{k:m[k] for k in m if k.startswith('floor/')}) for m in t.history]
            assert all(m['completions/mean_length']==a.completion_tokens for m in t.history), 'a completion ended early'
        else:
            import trl
            from datasets import Dataset
            from transformers import TrainerCallback
            class Clock(TrainerCallback):
                at = []
                def on_step_begin(self, *args, **kw): self.began = time.perf_counter()
                def on_step_end(self, *args, **kw): a.cuda and torch.cuda.synchronize(); self.at.append(time.perf_counter()-self.began)
            spent = {}
            def timed(name, kind):
                inner = getattr(trl.GRPOTrainer, name)
                def f(*args, **kw):
                    began = time.perf_counter(); r = inner(*args, **kw); a.cuda and torch.cuda.synchronize()
                    spent.setdefault(kind, []).append(time.perf_counter()-began); return r
                setattr(trl.GRPOTrainer, name, f)
            timed('_generate_single_turn', 'sample'); timed('_generate_and_score_completions', 'made')
            extra = dict(use_transformers_continuous_batching=True) if a.only=='trl-cb' else {}
            args = trl.GRPOConfig(**settings(a, out), **extra, report_to='none', save_strategy='no', disable_tqdm=True, logging_steps=10**6)
            start = Path(out)/'start'; model.save_pretrained(start); tokenizer.save_pretrained(start); model.config._name_or_path = str(start)        # it reads its reference from disk
            t = trl.GRPOTrainer(model, reward, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[Clock()])
            t.train()
            steps = [dict(step=s, sample=d, reference=m-d, update=s-m) for s,d,m in zip(Clock.at, spent['sample'], spent['made'])]
    try: peak = int(next(o for o in open('/proc/self/status') if o.startswith('VmHWM')).split()[1])/2**20
    except FileNotFoundError: import resource; peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**30
    if a.cuda: peak = torch.cuda.max_memory_allocated()/2**30
    print(json.dumps(dict(steps=steps[1:], memory=peak)))           # the first step warms up

def measured(a, who):
    flags = [x for n in ('model','prompts','group','prompt_tokens','completion_tokens','steps','seed','threads','micro_batch','micro_batch_tokens') for x in ('--'+n.replace('_','-'), str(getattr(a, n)))]
    done = subprocess.run([sys.executable, __file__, '--only', who, *flags] + ['--cuda']*a.cuda, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode: sys.exit(f'{who} failed:\n{done.stderr[-3000:]}')
    return json.loads(done.stdout.strip().splitlines()[-1])

def compare(a):
    "All of `a.who` in turn, `a.rounds` times: medians of each"
    found = {w:[] for w in a.who}
    for r in range(a.rounds):
        for w in (a.who if r%2==0 else a.who[::-1]): found[w].append(measured(a, w))
    middle = lambda runs, k: statistics.median(s[k] for m in runs for s in m['steps'])
    return {w:{k:middle(runs, k) for k in runs[0]['steps'][0]} | dict(memory=statistics.median(m['memory'] for m in runs)) for w,runs in found.items()}

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--model', choices=SHAPES, default='135M')
    for n,v in dict(prompts=2, group=8, prompt_tokens=256, completion_tokens=64, steps=1, rounds=1, seed=0, threads=2, micro_batch=0, micro_batch_tokens=0).items(): p.add_argument('--'+n.replace('_','-'), type=int, default=v)
    p.add_argument('--who', nargs='+', choices=('ours','trl','trl-cb'), default=['ours','trl']); p.add_argument('--sweep', choices=SWEEPS)
    p.add_argument('--cuda', action='store_true'); p.add_argument('--out', default=''); p.add_argument('--only', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.only: return one(a)
    os.environ.update(OMP_NUM_THREADS=str(a.threads), TOKENIZERS_PARALLELISM='false', HF_HUB_OFFLINE='1')
    name, values = SWEEPS[a.sweep] if a.sweep else ('model', [a.model]); table = []
    print(f'{"":16}{"":8}{"step":>9}{"sample":>9}{"reference":>11}{"update":>9}{"memory GB":>11}')
    for v in values:
        setattr(a, name, v); found = compare(a)
        for w,f in found.items(): print(f'{name+" "+str(v):16}{w:8}{f["step"]:9.2f}{f["sample"]:9.2f}{f["reference"]:11.2f}{f["update"]:9.2f}{f["memory"]:11.2f}', flush=True)
        for w in a.who[1:]: print(f'{"":16}{"ours/"+w:8}{found["ours"]["step"]/found[w]["step"]:9.3f}{found["ours"]["sample"]/found[w]["sample"]:9.3f}{"":11}{found["ours"]["update"]/found[w]["update"]:9.3f}{found["ours"]["memory"]/found[w]["memory"]:11.3f}', flush=True)
        print(f'{"":16}{"of floor":8}{"":9}' + ''.join(f'{found["ours"]["floor/"+k]:{w}.2f}' for k,w in (('sample',9),('reference',11),('update',9)) if 'floor/'+k in found['ours']), flush=True)
        table.append({name:v, **found})
    from importlib.metadata import version
    work = {n:getattr(a, n) for n in ('model','prompts','group','prompt_tokens','completion_tokens','micro_batch','micro_batch_tokens')}
    print(f'{work}; TRL {version("trl")}, torch {version("torch")}, {a.threads} threads' + ', CUDA'*a.cuda)
    if a.out: Path(a.out).write_text(json.dumps(dict(work=work, found=table), indent=1))

if __name__=='__main__': main()
