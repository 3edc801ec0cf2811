"""The same work in this package and in TRL, in one run: step time, held-out accuracy, and the time to 0.90 of it, side by side.

    python tools/beside_trl.py [--steps 72] [--every 6] [--seed 0] [--rounds 1] [--out FILE.json]

Same base, rows, rewards, group size, batch, learning rate and schedule, optimizer, leash, clipping, length limit and precision, two threads each. The two
trainers take turns in processes of their own; each policy is saved every few steps, off the clock, and all are evaluated by the same code on the same
held-out questions.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time
from pathlib import Path

def settings(a, out): # what both trainers understand, under the same names
    return dict(output_dir=str(out), max_steps=a.steps, num_generations=8, per_device_train_batch_size=32, gradient_accumulation_steps=2, max_completion_length=64, learning_rate=a.learning_rate,
                lr_scheduler_type='cosine', warmup_steps=0, adam_beta2=.99, max_grad_norm=1., weight_decay=0., beta=.04, temperature=1., loss_type='dapo', reward_weights=[1,.2], seed=a.seed)

def one(a, out):
    "Train with one of the two and save the policy; prints the seconds of each step as JSON"
    import torch
    from grpo_lit.policy import load_policy
    from grpo_lit.rewards import accuracy_reward, think_format_reward
    from grpo_lit.tasks import addition_task
    torch.set_num_threads(a.threads)
    (model, tokenizer), task, rewards = load_policy('tiny', device='cpu'), addition_task(seed=a.seed), [accuracy_reward, think_format_reward]
    if a.only=='ours':
        from grpo_lit.run.config import GRPOConfig
        from grpo_lit.run.trainer import GRPOTrainer
        def keep(trainer, m): m['step']%a.every==0 and trainer.save_model(out/f"policy-{m['step']}")
        t = GRPOTrainer(model, rewards, GRPOConfig(**settings(a, out/'run'), log_completions=False), task.train, processing_class=tokenizer, callbacks=[keep])
        t.train(); seconds = [m['step_time'] for m in t.history]
    else:
        from datasets import Dataset
        from transformers import TrainerCallback
        from trl import GRPOConfig, GRPOTrainer
        class Clock(TrainerCallback):
            at = []
            def on_step_begin(self, *args, **kw): self.began = time.perf_counter()
            def on_step_end(self, args, state, control, **kw):
                self.at.append(time.perf_counter()-self.began)
                if state.global_step%a.every==0: model.save_pretrained(out/f'policy-{state.global_step}'); tokenizer.save_pretrained(out/f'policy-{state.global_step}')
        args = GRPOConfig(**settings(a, out/'run'), use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False, report_to='none', save_strategy='no', disable_tqdm=True, logging_steps=10**6)
        t = GRPOTrainer(model, rewards, args=args, train_dataset=Dataset.from_list(task.train), processing_class=tokenizer, callbacks=[Clock()])
        t.train(); seconds = Clock.at
    print(json.dumps(seconds))

def accuracy(path, seed, threads):
    import torch
    from grpo_lit.run.evaluate import evaluate
    from grpo_lit.policy import load_policy
    from grpo_lit.tasks import addition_task
    torch.set_num_threads(threads)
    return evaluate(*load_policy(str(path), device='cpu'), addition_task(seed=seed), num_generations=4, seed=seed)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--steps', type=int, default=72); p.add_argument('--every', type=int, default=6); p.add_argument('--seed', type=int, default=0); p.add_argument('--rounds', type=int, default=1); p.add_argument('--learning-rate', type=float, default=3e-4)
    p.add_argument('--threads', type=int, default=2); p.add_argument('--out', default=''); p.add_argument('--only', choices=('ours','trl'), help=argparse.SUPPRESS); p.add_argument('--dir', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.steps%a.every: p.error('--steps must be a multiple of --every')
    if a.only: return one(a, Path(a.dir))
    os.environ.update(OMP_NUM_THREADS=str(a.threads), TOKENIZERS_PARALLELISM='false', HF_HUB_OFFLINE='1'); found = dict(ours=[], trl=[])
    with tempfile.TemporaryDirectory() as d:
        for r in range(a.rounds):
            for who in (('ours','trl') if r%2==0 else ('trl','ours')):
                out = Path(d)/f'{who}{r}'; out.mkdir()
                cmd = [sys.executable, __file__, '--only', who, '--dir', str(out), '--steps', str(a.steps), '--every', str(a.every), '--seed', str(a.seed+r), '--threads', str(a.threads), '--learning-rate', str(a.learning_rate)]
                done = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                if done.returncode: sys.exit(f'{who} failed:\n{done.stderr[-3000:]}')
                seconds = json.loads(done.stdout.strip().splitlines()[-1]); at = range(a.every, a.steps+1, a.every); judged = [accuracy(out/f'policy-{n}', a.seed+r, a.threads) for n in at]
                e, spent = judged[-1], [sum(seconds[:n]) for n in at]
                found[who].append(dict(seed=a.seed+r, median_step_seconds=statistics.median(seconds), training_seconds=sum(seconds), accuracy=e.accuracy, interval=e.interval, mean_length=e.mean_length,
                                       curve=[(s, o.accuracy) for s,o in zip(spent, judged)], seconds_to_090=next((s for s,o in zip(spent, judged) if o.accuracy >= .9), None)))
    print(f'{"":6}{"seed":>5}{"s/step":>9}{"training s":>12}{"accuracy":>10}{"95 % interval":>18}{"length":>8}{"s to 0.90":>11}')
    for who,rows in found.items():
        for f in rows: print(f'{who:6}{f["seed"]:5}{f["median_step_seconds"]:9.2f}{f["training_seconds"]:12.1f}{f["accuracy"]:10.3f}{"[%.3f, %.3f]" % f["interval"]:>18}{f["mean_length"]:8.1f}{f["seconds_to_090"] or float("nan"):11.1f}')
    ratio = [o['median_step_seconds']/t['median_step_seconds'] for o,t in zip(found['ours'], found['trl'])]
    from importlib.metadata import version
    print(f'TRL {version("trl")}, torch {version("torch")}, {a.threads} threads; step time ours/TRL: {statistics.median(ratio):.2f}')
    if all(f['seconds_to_090'] for rows in found.values() for f in rows): print('time to 0.90 held-out, ours/TRL: %.2f' % statistics.median(o['seconds_to_090']/t['seconds_to_090'] for o,t in zip(found['ours'], found['trl'])))
    if a.out: Path(a.out).write_text(json.dumps(found, indent=1))

if __name__=='__main__': main()
