"""`grpo-lit train --processes 2` and `accelerate launch script.py`, as commands: what they leave, say and end with."""
import json, os, re, signal, subprocess, sys, time
import psutil, pytest
from torch.distributed.elastic.multiprocessing.api import SignalException
from grpo_lit.run.launching import passing_on
from grpo_lit.run.peers import LOST
from grpo_lit.run.runs import Run
from grpo_lit.run.signals import ENDING

ENV = os.environ | dict(OMP_NUM_THREADS='1', OMP_WAIT_POLICY='passive', GLOO_SOCKET_IFNAME='lo', HF_DEACTIVATE_ASYNC_LOAD='1')
LIMIT = 300 # Seconds, for what hangs

def command(*words):
    "`grpo-lit` in a process of its own"
    start = 'import sys; from grpo_lit.run.cli import main; sys.exit(main())'
    return subprocess.Popen([sys.executable, '-c', start, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENV)

def ended(process):
    "Exit code and text"
    try: text = process.communicate(timeout=LIMIT)[0]
    finally: process.kill()
    return process.returncode, text

def train(out, *more):
    sizes = ['--per-device-train-batch-size', 8, '--num-generations', 4, '--max-completion-length', 16, '--learning-rate', 1e-4]
    return command('train', '--model', 'tiny', '--data', 'addition', '--device', 'cpu', '--out', out, '--eval-questions', 8, *sizes, *more)

def until(happens, process):
    end = time.monotonic()+LIMIT
    while not happens():
        assert time.monotonic() < end and process.poll() is None, process.communicate(timeout=5)[0]
        time.sleep(.1)

@pytest.mark.parametrize('signum', ENDING)
def test_a_signal_is_passed_on(signum):
    "Also those that a cluster sends, of which torch's launcher knows nothing by itself"
    before = signal.getsignal(signum)
    with pytest.raises(SignalException) as e, passing_on(): signal.raise_signal(signum)
    assert e.value.sigval == signum and signal.getsignal(signum) == before

def ranks_of(process):
    "The processes that the launcher has started, by rank"
    found = [p for p in psutil.Process(process.pid).children(recursive=True) if 'RANK' in p.environ()]
    return {int(p.environ()['RANK']): p for p in found}

@pytest.mark.parametrize('signum', [signal.SIGINT, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_trains_is_interrupted_and_goes_on_alone(tmp_path, signum):
    "Both stop behind the same step, one checkpoint, 130 for Ctrl-C; one process goes on from it"
    out, run = tmp_path/'run', Run(tmp_path/'run')
    process = train(out, '--processes', 2, '--max-steps', 10**5, '--save-total-limit', 1)
    until(lambda: len(run.metrics()) >= 2, process)
    process.send_signal(signum)
    code, text = ended(process)
    assert code == 128+signum and 'Traceback' not in text, text
    assert text.count('saved') == 1 and text.count('before: accuracy') == 1, text
    done = run.read('summary.json')['steps']
    assert run.checkpoints()[-1].name == f'checkpoint-{done}' and run.metrics()[-1]['step'] == done
    code, text = ended(command('train', '--resume', out, '--processes', 1, '--gradient-accumulation-steps', 2, '--max-steps', done+1))
    assert code == 0 and f'going on from {out}/checkpoint-{done}' in text, text
    assert [m['step'] for m in run.metrics()] == [*range(1, done+2)]

@pytest.mark.slow
def test_questions_are_asked_by_two(tmp_path):
    "The same answers as by one"
    asked = ['eval', '--model', 'tiny', '--data', 'addition', '--limit', 12, '--batch-size', 4]
    code, text = ended(command(*asked, '--processes', 2, '--out', tmp_path/'two'))
    assert code == 0, text
    code, text = ended(command(*asked, '--out', tmp_path/'one'))
    one, two = (json.loads((tmp_path/name/'summary.json').read_text()) for name in ('one', 'two'))
    assert code == 0 and one['accuracy'] == two['accuracy'] and one['mean_length'] == two['mean_length']
    assert (tmp_path/'one/rows/addition.jsonl').read_text().splitlines()[1:] == (tmp_path/'two/rows/addition.jsonl').read_text().splitlines()[1:]

@pytest.mark.slow
def test_a_killed_process_is_one_line(tmp_path):
    "The launcher's own report is not there"
    out, run = tmp_path/'run', Run(tmp_path/'run')
    process = train(out, '--processes', 2, '--max-steps', 10**5, '--save-steps', 2, '--eval-questions', 0)
    until(lambda: run.checkpoints(), process)
    began = time.monotonic()
    ranks_of(process)[1].kill()
    code, text = ended(process)
    assert code == LOST and time.monotonic()-began < 60, text
    said = [line for line in text.splitlines() if line.startswith('process ') or line.startswith('grpo-lit')]
    assert len(said) == 1 and re.search(r'process 2 of 2 .* is gone: the run ends; go on from .*checkpoint-\d+', said[0]), text
    assert 'Traceback' not in text and 'elastic' not in text, text

@pytest.mark.slow
def test_mistakes_are_one_line(tmp_path):
    code, text = ended(train(tmp_path/'run', '--processes', 0))
    assert code == 2 and '--processes is 0' in text
    code, text = ended(train(tmp_path/'run', '--processes', 2, '--reward', 'acuracy_reward'))
    assert code == 2 and text.count("did you mean 'accuracy_reward'?") == 1 and 'Traceback' not in text, text

SCRIPT = '''
from accelerate import PartialState
from grpo_lit import GRPOConfig, GRPOTrainer
from grpo_lit.policy import load_policy
from grpo_lit.rewards import accuracy_reward
from grpo_lit.tasks import addition_task

model, tokenizer = load_policy('tiny', device='cpu')
args = GRPOConfig(output_dir={out!r}, max_steps=2, num_generations=4, per_device_train_batch_size=8, max_completion_length=12, use_cpu=True)
trainer = GRPOTrainer(model, accuracy_reward, args, addition_task().train, processing_class=tokenizer)
trainer.train()
trainer.save_model({out!r}+'/final')
if trainer.is_world_process_zero(): print('done by', trainer.world)
'''

@pytest.mark.slow
def test_a_script_by_accelerate(tmp_path):
    "Nothing in it says how many there are; sharded, by the launcher's options"
    (tmp_path/'train.py').write_text(SCRIPT.format(out=str(tmp_path/'run')))
    line = [sys.executable, '-m', 'accelerate.commands.launch', '--use_fsdp', '--fsdp_version', '2', '--fsdp_auto_wrap_policy', 'TRANSFORMER_BASED_WRAP',
            '--fsdp_cpu_ram_efficient_loading', 'false', '--num_processes', '2', '--num_machines', '1', '--mixed_precision', 'no', '--dynamo_backend', 'no',
            '--main_process_port', '0', str(tmp_path/'train.py')]
    done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT, env=ENV | dict(ACCELERATE_USE_CPU='true'))
    assert done.returncode == 0, done.stdout+done.stderr
    assert done.stdout.count('done by World(rank 0 of 2)') == 1
    assert [m['step'] for m in Run(tmp_path/'run').metrics()] == [1, 2]
    from grpo_lit.policy import load_policy
    model, _ = load_policy(str(tmp_path/'run/final'), device='cpu')
    assert type(model).__name__ == 'LlamaForCausalLM' or not type(model).__name__.startswith('FSDP')
