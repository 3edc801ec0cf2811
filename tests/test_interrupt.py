"""Ctrl-C from outside, on the real command: a checkpoint, a readable run directory, exit code 130, and a run that can go on."""
import os, signal, subprocess, sys, time
from grpo_lit.runs import Run

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
