"""What staleness costs, what importance weights mend, and what one step ahead gains: the tiny policy on sums.

    python bench/staleness.py [--seeds 8] [--out FILE.jsonl]       # reward: about 15 s a run, 6 settings
    python bench/staleness.py --seconds [--wait 1]                  # time, with a sampler that is elsewhere for so long

64 updates of 32 answers each, groups of 8, learning_rate 2e-4 without a schedule, no leash. U is the updates of a
rollout, behind is max_staleness: with 8 and 8, an update learns from weights that are 8 to 15 updates old.
"""
import argparse, json, statistics, time
import torch
from grpo_lit import GRPOConfig, GRPOTrainer
from grpo_lit.policy import load_policy
from grpo_lit.rewards import accuracy_reward, think_format_reward
from grpo_lit.run.versions import CopySampler
from grpo_lit.tasks import addition_task

SETTINGS = [ # U, behind, importance_sampling_mode
    (1, 0, None), (1, 1, None), (1, 1, 'none'),
    (8, 0, None), (8, 8, None), (8, 8, 'none')]

def trainer(U, behind, mode, seed, steps=64, **settings):
    "One run, ready to begin"
    task = addition_task(seed=0)
    model, tokenizer = load_policy('tiny', device='cpu')
    args = GRPOConfig(
        max_steps=steps, num_generations=8, per_device_train_batch_size=32, steps_per_generation=U,
        max_completion_length=64, learning_rate=2e-4, lr_scheduler_type='constant', beta=0., reward_weights=[1, .2],
        max_staleness=behind, importance_sampling_mode=mode, seed=seed, per_device_eval_batch_size=100,
        use_cpu=True, disable_tqdm=True, gold_check=0, **settings)
    return GRPOTrainer(model, [accuracy_reward, think_format_reward], args, task.train, task.test, processing_class=tokenizer)

def measured(U, behind, mode, seed):
    "Rewards of one run"
    run = trainer(U, behind, mode, seed)
    history = list(run.steps())
    rewards = [m['reward'] for m in history]
    away = [m['mismatch_kl'] for m in history if 'mismatch_kl' in m]
    clipped = [m['clip_low']+m['clip_high'] for m in history if 'clip_low' in m]
    return dict(U=U, behind=behind, mode=mode, seed=seed, all=statistics.mean(rewards), last=statistics.mean(rewards[-16:]),
                held_out=run.evaluate()['eval_rewards/accuracy_reward/mean'],
                away=statistics.mean(away), clipped=statistics.mean(clipped) if clipped else 0.)

def table(rows):
    "Means over seeds, and half of their 95 % intervals"
    for setting in SETTINGS:
        some = [r for r in rows if (r['U'], r['behind'], r['mode']) == setting]
        def cell(name):
            values = [r[name] for r in some]
            half = 1.96*statistics.stdev(values)/len(values)**.5 if len(values) > 1 else 0.
            return f'{statistics.mean(values):.3f} +- {half:.3f}'
        print('|', ' | '.join([*map(str, setting), *map(cell, ('all', 'last', 'held_out', 'away', 'clipped'))]), '|')

class Elsewhere(CopySampler):
    "As if another machine wrote: it takes its time, and none of ours"
    wait = .5
    def generate(self, *args, **how):
        time.sleep(self.wait)
        return super().generate(*args, **how)

def seconds(wait, uses=4, steps=24):
    "Seconds of an update, in turns and one ahead, where a rollout serves four"
    for behind in (0, uses):
        run = trainer(1, behind, None, 0, steps, num_iterations=uses)
        old = run.collector.sample
        old.sampler = Elsewhere(run.state, run.tokenizer, run.args, run.accelerator)
        old.sampler.wait, run.state.remote = wait, True
        history = list(run.steps())[uses:]
        def each(name): return sum(m.get(name, 0.) for m in history)/len(history)
        print(f"max_staleness={behind}: {each('step_time'):.2f} s for an update; of them waited for answers "
              f"{each('time/sample'):.2f}, learned {each('time/update'):.2f}")

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--seeds', type=int, default=8)
    p.add_argument('--out')
    p.add_argument('--seconds', action='store_true')
    p.add_argument('--wait', type=float, default=1.)
    a = p.parse_args()
    torch.set_num_threads(1)
    if a.seconds: seconds(a.wait)
    else:
        rows = [measured(*setting, seed) for seed in range(a.seeds) for setting in SETTINGS]
        if a.out:
            with open(a.out, 'w', encoding='utf-8') as f: f.writelines(json.dumps(r)+'\n' for r in rows)
        table(rows)
