"""Training with tools on a pretended GPU: no tensors of two devices meet."""
import pytest, torch
from grpo_lit import GRPOConfig, GRPOTrainer
from pretended_runs import gpu # a fixture
from scripted import undecided
from test_agents_train import TEXTS, asked, look, says_yes

CASES = {'plain': {}, 'a price': dict(observation_coef=.05, num_iterations=2), 'beside': dict(overlap_rewards=True, max_rows=4),
         'bf16': dict(bf16=True, beta=.04), 'weights': dict(importance_sampling_mode='token_mask', top_entropy_quantile=.5)}

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', [n if n == 'a price' else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_a_run_with_tools(gpu, name):
    model, tokenizer = undecided(TEXTS)
    usual = dict(max_steps=3, num_generations=4, per_device_train_batch_size=8, max_completion_length=200, learning_rate=.01, beta=0.,
                 use_cpu=True, disable_tqdm=True, seed=0, max_turns=3)
    rows = [dict(prompt=asked(f'Is it so, {i}?')) for i in range(8)]
    t = GRPOTrainer(model, says_yes, GRPOConfig(**usual | CASES[name]), rows, processing_class=tokenizer, tools=[look])
    t.train()
    ro = t.last_rollouts
    assert ro.observation_mask.any() and ro.observation_mask.device.type == 'gpu' and len(t.history) == 3
    assert all(m['episodes/drift'] == 0 for m in t.history)
