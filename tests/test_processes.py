"""Two processes do what one does with twice as many micro-batches: weights, metrics, texts; DDP and FSDP2, in every way of training.

Each world is one pair of processes that makes all runs of its list, so that starting it is paid once."""
import math
import pytest, torch
import pretended_agents as agents
from grpo_lit import GRPOConfig, GRPOTrainer
from grpo_lit.policy import load_policy
from grpo_lit.rewards.comparing import accuracy_reward
from grpo_lit.rewards.shape import think_format_reward
from grpo_lit.run.fake_vllm import FakeServer
from grpo_lit.tasks import addition_task
from scripted import one_thread, undecided # the first is a fixture
from two_processes import Team, together

SHARDED = dict(ACCELERATE_USE_FSDP='true', FSDP_VERSION='2', FSDP_AUTO_WRAP_POLICY='TRANSFORMER_BASED_WRAP')
USUAL = dict(max_steps=2, num_generations=4, per_device_train_batch_size=8, learning_rate=1e-4, max_completion_length=40, seed=0,
             use_cpu=True, disable_tqdm=True, report_to='none', gold_check=0)
TALKS = dict(observation_coef=.05, max_completion_length=240, max_observation_length=40, max_turns=3, learning_rate=1e-5)
CASES = { # Name -> settings; `rollouts`: updates that a rollout serves, one after the other
    'plain': dict(max_steps=3),
    'three groups for two': dict(dynamic_sampling=2, per_device_train_batch_size=6, rollouts=2, overlap_rewards=True),
    'one group for two': dict(num_generations=8, per_device_train_batch_size=4),
    'of the batch': dict(scale_rewards='batch', top_entropy_quantile=.5, importance_sampling_mode='token_truncate', num_iterations=2,
                         log_tokens=10**6, loss_type='grpo', micro_batch_tokens=60),
    'evaluated': dict(eval_steps=1, per_device_eval_batch_size=3, num_generations_eval=2, max_steps=1),
    'LoRA': dict(num_iterations=2, max_steps=3),
    'entropy': dict(entropy_coef=.01, target_kl=.01, mask_truncated_completions=True, max_completion_length=20),
    'KL in the reward': dict(kl_in_reward=True, scale_rewards='none', sync_ref_model=True, ref_model_sync_steps=1, loss_type='dr_grpo'),
    'notes': dict(beta=0., baseline='batch', scale_rewards='none'),
    'recomputed': dict(loss_type='cispo', epsilon_high=5., beta=0., gradient_checkpointing=True),
    'stream': dict(loss_type='luspo'),
    'ahead': dict(max_staleness=1, max_steps=3),
    'tools': TALKS}
COMMON = ('plain', 'three groups for two', 'one group for two', 'of the batch', 'evaluated', 'LoRA')

def noting(completions, log_metric, **columns):
    "A reward that judges some answers only"
    for c in completions: log_metric('length', len(c))
    return [None if len(c)%3 == 0 else float(len(c)%2) for c in completions]

class Rows:
    "A stream"
    def __iter__(self): yield from addition_task(seed=0).train[:50]

def new_trainer(name, processes, **more):
    given = dict(USUAL, gradient_accumulation_steps=2//processes) | CASES[name] | more
    given['steps_per_generation'] = given.pop('rollouts', 1)*given['gradient_accumulation_steps']
    if name == 'tools':
        model, tokenizer = undecided(agents.TEXTS, 'qwen3')
        return GRPOTrainer(model, agents.yes, GRPOConfig(**given), agents.ROWS, processing_class=tokenizer, tools=[agents.look])
    task, lora = addition_task(seed=0), None
    model, tokenizer = load_policy('tiny', device='cpu')
    if name == 'LoRA':
        from peft import LoraConfig
        lora = LoraConfig(r=4, target_modules='all-linear', task_type='CAUSAL_LM')
    rewards = [accuracy_reward, think_format_reward, *([noting] if name == 'notes' else [])]
    rows = Rows() if name == 'stream' else task.train
    return GRPOTrainer(model, rewards, GRPOConfig(**given), rows, task.test[:7], processing_class=tokenizer, peft_config=lora)

def full(p): return p.full_tensor() if hasattr(p, 'full_tensor') else p.detach().clone()

def run(name, processes):
    "Weights, metrics of each step, texts, and what was found out about the tokens of the last update"
    trainer = new_trainer(name, processes)
    metrics = list(trainer.steps())
    figures = trainer.updater.figures
    inside = figures.rollouts.completion_mask > 0
    found = {k: v[inside] for k, v in figures.found(torch.arange(len(figures.rollouts))).items()}
    weights = {n: full(p) for n, p in trainer.model.named_parameters()}
    return weights, metrics, [str(c) for c in trainer.last_rollouts.completions], found

def work(rank, names): return {name: run(name, 2) for name in names}

TIMES = ('time/', 'floor/', 'step_time', 'tokens_per_second')

def same_metrics(a:dict, b:dict, near:float):
    assert {k for k in a if not k.startswith(TIMES)} == {k for k in b if not k.startswith(TIMES)}
    for name, value in a.items():
        if name.startswith(TIMES): continue
        both_nan = math.isnan(value) and math.isnan(b[name])
        assert both_nan or math.isclose(value, b[name], rel_tol=3e-4, abs_tol=near), (name, value, b[name])

def same(one, two, each=math.inf, near=1e-5): # How far a single weight, and a figure, may be off
    for name, b in one[0].items():
        a = two[0][name]
        assert (a-b).norm() <= 1e-5*b.norm()+1e-7, (name, float((a-b).norm()/b.norm()))
        if each < math.inf: torch.testing.assert_close(a, b, rtol=1e-5, atol=each)
    assert one[2] == two[2]
    for a, b in zip(one[1], two[1], strict=True): same_metrics(a, b, near)
    for name, x in one[3].items(): torch.testing.assert_close(two[3][name], x, rtol=1e-4, atol=10*near, equal_nan=True)

def compare(names, env=None):
    with Team(work, names, env=env) as team:
        alone = {name: run(name, 1) for name in names}
        first, second = team.values()
    for name in names:
        # Adam makes a step of a gradient that is nothing but rounding, too: of single weights only a few
        near = 2e-3 if name == 'tools' else 1e-5 # its logits reach thousands
        same(alone[name], first[name], 1e-6 if name == 'plain' else math.inf, near)
        assert first[name][2] == second[name][2]
        for n, p in first[name][0].items(): assert torch.equal(p, second[name][0][n]), (name, n)
        for a, b in zip(first[name][1], second[name][1]): # every figure that decides something is the same to the bit
            assert str({k: v for k, v in a.items() if not k.startswith(TIMES)}) == str({k: v for k, v in b.items() if not k.startswith(TIMES)})

def test_ddp(): compare(COMMON[:-1]) # an adapter: sharded, below
def test_fsdp2(): compare(COMMON[:3]+('LoRA',), SHARDED)

@pytest.mark.slow
@pytest.mark.parametrize('env', [None, SHARDED], ids=['ddp', 'fsdp2'])
def test_every_way(env): compare(tuple(CASES), env)

def adapter_beside_a_server(rank, address, way):
    "How far the log-probs of the server are from ours, and the KL, step by step"
    from peft import LoraConfig
    model, tokenizer = load_policy('tiny', device='cpu')
    args = GRPOConfig(**USUAL | dict(max_steps=3, learning_rate=1e-2, max_completion_length=16, use_vllm=True, vllm_mode='server',
                                     vllm_server_base_url=address, vllm_server_timeout=120., vllm_sync=way))
    def reward(completions, **columns): return [float(sum(map(ord, c))%3) for c in completions]
    lora = LoraConfig(r=4, target_modules='all-linear', task_type='CAUSAL_LM')
    trainer = GRPOTrainer(model, reward, args, addition_task(seed=0).train, processing_class=tokenizer, peft_config=lora)
    return [(m['mismatch'], m['kl']) for m in trainer.steps()]

@pytest.mark.slow
@pytest.mark.parametrize('way', ['file', 'lora'])
def test_a_sharded_adapter_beside_a_server(way):
    "Folded in or as it is, what the server has is the policy, of which each process has a piece"
    with FakeServer(*load_policy('tiny', device='cpu'), lora=way == 'lora') as fake:
        one, two = together(adapter_beside_a_server, fake.address, way, env=SHARDED)
    assert one == two and all(mismatch < 1e-4 for mismatch, _ in one) and one[-1][1] > 1e-4
