"""The same work here and in TRL, in one run: step time, held-out accuracy, and the time to 0.90 of it, side by side.

    python bench/beside_trl.py [--steps 72] [--every 6] [--seed 0] [--rounds 1] [--who ours trl] [--out FILE.json]

Same base, rows, rewards, group size, batch, learning rate and schedule, optimizer, leash, clipping, length limit and
precision, two threads each. The two trainers take turns in processes of their own; each policy is saved every few
steps, off the clock, and all are evaluated by the same code on the same held-out questions.
"""
import argparse, json, math, statistics, tempfile
from pathlib import Path
from settings import add_numbers, arguments, clock, flags_for, in_a_process, our_trainer, prepare
from settings import ratio, sums, taking_turns, tiny_policy, trl_trainer, versions

NUMBERS = dict(
    steps=72,
    every=6,
    seed=0,
    rounds=1,
    learning_rate=3e-4,
    threads=2)

# --- one trainer, in its own process

def arguments_of(a, out):
    batch = dict(num_generations=8, per_device_train_batch_size=32, gradient_accumulation_steps=2,
                 max_completion_length=64)
    schedule = dict(max_steps=a.steps, learning_rate=a.learning_rate, lr_scheduler_type='cosine', warmup_steps=0)
    optimizer = dict(adam_beta2=.99, max_grad_norm=1., weight_decay=0.)
    return arguments(out/'run', a.seed, **batch, **schedule, **optimizer, reward_weights=[1, .2])

def one(a, out):
    "Train with one of the two and save the policy every few steps; prints the seconds of each step as JSON"
    import torch
    from grpo_lit.rewards import accuracy_reward, think_format_reward
    torch.set_num_threads(a.threads)
    model, tokenizer = tiny_policy()
    rewards, rows = [accuracy_reward, think_format_reward], sums(a.seed).train
    def keep(step):
        if step%a.every == 0:
            model.save_pretrained(out/f'policy-{step}')
            tokenizer.save_pretrained(out/f'policy-{step}')
    train = ours if a.only == 'ours' else theirs
    print(json.dumps(train(model, tokenizer, rewards, arguments_of(a, out), rows, keep)))

def ours(model, tokenizer, rewards, args, rows, keep):
    "Seconds of each step"
    def after(trainer, metrics): keep(metrics['step'])
    trainer = our_trainer(model, tokenizer, rewards, args, rows, [after])
    trainer.train()
    return [m['step_time'] for m in trainer.history]

def theirs(model, tokenizer, rewards, args, rows, keep):
    "The same of TRL"
    watch = clock(after=keep)
    trl_trainer(model, tokenizer, rewards, args, rows, [watch]).train()
    return watch.seconds

# --- both, side by side

def judged(path, seed, threads):
    "A saved policy on the held-out questions"
    import torch
    from grpo_lit.run.evaluate import evaluate
    torch.set_num_threads(threads)
    return evaluate(*tiny_policy(path), sums(seed), num_generations=4, seed=seed)

def measured(a, who, out):
    "Train one of them and judge what it saved"
    flags = flags_for(a, ('steps', 'every', 'seed', 'threads', 'learning_rate'))
    seconds = in_a_process(__file__, who, ['--dir', str(out), *flags])
    at = range(a.every, a.steps+1, a.every)
    results = [judged(out/f'policy-{n}', a.seed, a.threads) for n in at]
    curve = [(sum(seconds[:n]), o.accuracy) for n,o in zip(at, results)]
    last = results[-1]
    return dict(seed=a.seed, median_step_seconds=statistics.median(seconds), training_seconds=sum(seconds),
                accuracy=last.accuracy, interval=last.interval, mean_length=last.mean_length, curve=curve,
                seconds_to_090=next((s for s,accuracy in curve if accuracy >= .9), None))

def print_found(found):
    print(f'{"":6}{"seed":>5}{"s/step":>9}{"training s":>12}'
          f'{"accuracy":>10}{"95 % interval":>18}{"length":>8}{"s to 0.90":>11}')
    for who,runs in found.items():
        for f in runs:
            interval = '[%.3f, %.3f]' % tuple(f['interval'])
            reached = f['seconds_to_090'] or math.nan
            print(f'{who:6}{f["seed"]:5}{f["median_step_seconds"]:9.2f}{f["training_seconds"]:12.1f}'
                  f'{f["accuracy"]:10.3f}{interval:>18}{f["mean_length"]:8.1f}{reached:11.1f}')

def print_ratios(found, threads):
    "The versions, and ours over TRL's where both were run"
    if len(found) < 2:
        return print(versions(threads))
    ours, trl = found['ours'], found['trl']
    print(f'{versions(threads)}; step time ours/TRL: {ratio(ours, trl, "median_step_seconds"):.2f}')
    reached = ratio(ours, trl, 'seconds_to_090')
    if reached:
        print(f'time to 0.90 held-out, ours/TRL: {reached:.2f}')

def flags():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_numbers(p, NUMBERS)
    p.add_argument('--who', nargs='+', choices=('ours', 'trl'), default=['ours', 'trl'])
    p.add_argument('--out', default='')
    p.add_argument('--only', choices=('ours', 'trl'), help=argparse.SUPPRESS)
    p.add_argument('--dir', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.steps%a.every:
        p.error('--steps must be a multiple of --every')
    return a

def main():
    a = flags()
    if a.only:
        return one(a, Path(a.dir))
    prepare(a.threads)
    found, first = {w:[] for w in a.who}, a.seed
    with tempfile.TemporaryDirectory() as d:
        for r,who in taking_turns(a.who, a.rounds):
            a.seed, out = first+r, Path(d)/f'{who}{r}'
            out.mkdir()
            found[who].append(measured(a, who, out))
    print_found(found)
    print_ratios(found, a.threads)
    if a.out:
        Path(a.out).write_text(json.dumps(found, indent=1))

if __name__ == '__main__':
    main()
