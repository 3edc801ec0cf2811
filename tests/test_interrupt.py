"""Ctrl-C as a real signal: on the command from outside, and inside the optimizer's step."""
import os, signal, subprocess, sys, time
import torch
from grpo_lit.policy import load_policy
from grpo_lit.rewards import accuracy_reward
from grpo_lit.run.runs import Run
from grpo_lit.tasks import addition_task
from grpo_lit.run.trainer import GRPOConfig, GRPOTrainer

def test_interrupt_inside_the_optimizer(tmp_path):
    "It is held back until the step is complete and recorded; going on ends where an undisturbed run ends"
    torch.set_num_threads(2)
    def trainer(out):
        model, tokenizer = load_policy('tiny', device='cpu')
        args = GRPOConfig(output_dir=str(out), max_steps=3, per_device_train_batch_size=16, max_completion_length=32, learning_rate=5e-4, use_cpu=True)
        return GRPOTrainer(model, accuracy_reward, args, addition_task().train, processing_class=tokenizer)
    calm, t = trainer(tmp_path/'calm'), trainer(tmp_path/'run'); calm.train()
    step = t.optimizer.step
    def late(*a, **k): t.optimizer.step = step; signal.raise_signal(signal.SIGINT); return step(*a, **k)
    t.optimizer.step = late
    assert t.train()['interrupted'] and t.state['step'] == len(t.run().metrics()) == 1 and t.run().checkpoints()[-1].name == 'checkpoint-1'
    assert not t.train()['interrupted'] and [m['step'] for m in t.run().metrics()] == [1,2,3]
    for a,b in zip(calm.model.parameters(), t.model.parameters()): assert torch.equal(a, b)

def command(out, *more): return [sys.executable, '-c', 'import sys; from grpo_lit.cli import main; sys.exit(main())', 'train', '--model', 'tiny', '--data', 'addition', '--out', str(out), '--eval-questions', '0', '--per-device-train-batch-size', '8', '--max-completion-length', '48', '--learning-rate', '1e-4', *more]

def test_interrupt_and_resume(tmp_path):
    out, env = tmp_path/'run', os.environ | dict(OMP_NUM_THREADS='1')
    p = subprocess.Popen(command(out, '--max-steps', '10000'), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    end = time.time()+240
    while len(Run(out).metrics()) < 2 and time.time() < end and p.poll() is None: time.sleep(.2)
    p.send_signal(signal.SIGINT); text = p.communicate(timeout=240)[0]
    assert p.returncode == 130, text
    run = Run(out); done = run.read('summary.json')['steps']
    assert run.checkpoints()[-1].name == f'checkpoint-{done}' and len(run.metrics()) == done >= 2 and run.read('summary.json')['interrupted']
    again = subprocess.run(command(out, '--max-steps', str(done+2), '--resume'), capture_output=True, text=True, env=env)
    assert again.returncode == 0, again.stdout+again.stderr
    assert [m['step'] for m in run.metrics()] == list(range(1, done+3))
