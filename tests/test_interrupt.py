"""Ctrl-C as a real signal: on the command from outside, and inside the optimizer's step."""
import os, signal, subprocess, sys, threading, time
import pytest, torch
from grpo_lit.policy import load_policy
from grpo_lit.rewards import accuracy_reward
from grpo_lit.run import sampler
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.runs import Run
from grpo_lit.run.trainer import GRPOTrainer
from grpo_lit.sampling import sample_groups
from grpo_lit.tasks import addition_task

def small_trainer(out):
    "A trainer of the tiny policy for three steps"
    model, tokenizer = load_policy('tiny', device='cpu')
    args = GRPOConfig(
        output_dir=str(out), max_steps=3, per_device_train_batch_size=16, max_completion_length=32,
        learning_rate=5e-4, use_cpu=True)
    return GRPOTrainer(model, accuracy_reward, args, addition_task().train, processing_class=tokenizer)

def test_nobody_samples_once_scoring_has_been_interrupted(monkeypatch):
    monkeypatch.setattr(sampler, 'LEFT_BEHIND', .1)
    (model, tokenizer), threads = load_policy('tiny', device='cpu'), []
    def sample(on_group):
        threads.append(threading.current_thread())
        model.eval()
        try:
            on_group(0, sample_groups(model, tokenizer, ['1+1=?'], 2, 4, seed=0))
            while True: time.sleep(.001) # a long group
        finally: model.train()
    def score(group): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): sampler.overlapped(sample, score, 2)
    threads[0].join(5)
    assert not threads[0].is_alive() and model.training

def interrupt_next_step(optimizer):
    "Ctrl-C arrives when the optimizer has begun its step, once"
    step = optimizer.step
    def late(*args, **kwargs):
        optimizer.step = step
        signal.raise_signal(signal.SIGINT)
        return step(*args, **kwargs)
    optimizer.step = late

def test_interrupt_inside_the_optimizer(tmp_path):
    "It is held back until the step is complete and recorded; going on ends where an undisturbed run ends"
    torch.set_num_threads(2)
    calm, disturbed = small_trainer(tmp_path/'calm'), small_trainer(tmp_path/'run')
    run = Run(tmp_path/'run')
    calm.train()
    interrupt_next_step(disturbed.optimizer)
    assert disturbed.train()['interrupted']
    assert disturbed.state.step == len(run.metrics()) == 1
    assert run.checkpoints()[-1].name == 'checkpoint-1'
    assert not disturbed.train()['interrupted']
    assert [m['step'] for m in run.metrics()] == [1, 2, 3]
    for a, b in zip(calm.model.parameters(), disturbed.model.parameters()):
        assert torch.equal(a, b)

def command(out, *more):
    "`grpo-lit train` in a process of its own"
    start = 'import sys; from grpo_lit.run.cli import main; sys.exit(main())'
    options = ['--model', 'tiny', '--data', 'addition', '--out', str(out), '--eval-questions', '0',
               '--per-device-train-batch-size', '8', '--max-completion-length', '48', '--learning-rate', '1e-4']
    return [sys.executable, '-c', start, 'train', *options, *more]

def test_interrupt_and_resume(tmp_path):
    "The signal ends the command with 130 and a checkpoint, from which the same command goes on"
    out, env = tmp_path/'run', os.environ | dict(OMP_NUM_THREADS='1')
    run = Run(out)
    process = subprocess.Popen(command(out, '--max-steps', '10000'), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, env=env)
    end = time.time()+240
    while len(run.metrics()) < 2 and time.time() < end and process.poll() is None:
        time.sleep(.2)
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=240)[0]
    assert process.returncode == 130, text
    summary = run.read('summary.json')
    done = summary['steps']
    assert summary['interrupted']
    assert run.checkpoints()[-1].name == f'checkpoint-{done}'
    assert len(run.metrics()) == done >= 2
    again = subprocess.run(command(out, '--max-steps', str(done+2), '--resume'), capture_output=True, text=True, env=env)
    assert again.returncode == 0, again.stdout+again.stderr
    assert [m['step'] for m in run.metrics()] == list(range(1, done+3))
