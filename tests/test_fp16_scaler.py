"""float16 and its loss scaler on a CPU: the scale changes nothing, an infinite gradient moves nothing, and a run goes on as it was"""
import copy
import pytest, torch
from grpo_lit import GRPOConfig, GRPOTrainer
from grpo_lit.policy import load_policy
from grpo_lit.run import trainer as trainer_module
from grpo_lit.run.accelerator import new_accelerator
from grpo_lit.tasks import addition_task

pytestmark = pytest.mark.filterwarnings('ignore')
task = addition_task()
SMALL = dict(max_steps=4, num_generations=4, per_device_train_batch_size=8, max_completion_length=8, learning_rate=1e-3, seed=0,
             use_cpu=True, gold_check=0, disable_tqdm=True, report_to='none', lr_scheduler_type='linear')


def lengths(completions, **columns): return [len(text)%5/5 for text in completions]


def lora():
    from peft import LoraConfig
    return LoraConfig(r=2, target_modules='all-linear', task_type='CAUSAL_LM')


def new_trainer(scale=None, half=False, peft=False, growth_interval=2000, **settings):
    "A run with a loss scaler; `half`: products in float16 as well"
    model, tokenizer = load_policy('tiny', device='cpu')
    made = trainer_module.new_accelerator
    def accelerator(args):
        found = new_accelerator(args)
        found.native_amp = half
        if scale: found.scaler = torch.amp.GradScaler('cpu', init_scale=scale, growth_interval=growth_interval)
        return found
    trainer_module.new_accelerator = accelerator
    try:
        return GRPOTrainer(model, lengths, GRPOConfig(**SMALL | dict(fp16=half) | settings), task.train[:32], None, tokenizer,
                           peft_config=lora() if peft else None)
    finally: trainer_module.new_accelerator = made


def figures(metrics): # Without what a clock says
    clocks = 'time/', 'floor/', 'step_time', 'tokens_per_second'
    return {name: value for name, value in metrics.items() if not name.startswith(clocks)}


def weights(trainer): return torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])
def played(trainer): return [figures(m) for m in trainer.steps()], weights(trainer)


def moments(trainer): # Copies of all that the optimizer keeps; what is zero was made and not moved
    found = trainer.optimizer.state_dict()['state']
    return {p: copy.deepcopy(kept) for p, kept in found.items() if any(bool(x.any()) for x in kept.values())}


def equal(a, b): # Bit for bit, at any depth
    if isinstance(a, torch.Tensor): return torch.equal(a, b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return a == b


KINDS = dict(float32={}, LoRA=dict(peft=True), accumulated=dict(micro_batch_tokens=40), two_updates=dict(num_iterations=2),
             clipped=dict(max_grad_norm=.01), unclipped=dict(max_grad_norm=None), resting=dict(offload_optimizer=True), SGD=dict(optim='sgd'))


@pytest.mark.parametrize('kind', [pytest.param(k, marks=[] if k in ('float32', 'accumulated', 'clipped') else pytest.mark.slow) for k in KINDS])
def test_a_power_of_two_changes_no_bit(kind):
    "Products in float32, so that nothing overflows or is lost: with a scale and without, all figures and weights are equal"
    expected, moved = played(new_trainer(**KINDS[kind]))
    for scale in (2.**4, 2.**12):
        found, here = played(new_trainer(scale, **KINDS[kind]))
        assert found == expected and torch.equal(here, moved)


def test_small_gradients_are_saved_by_the_scale():
    "In float16 gradients below 6e-8 are lost, and a scale brings them back: rewards that hardly differ"
    def tiny(completions, **columns): return [len(text)%5*1e-7 for text in completions]
    def norm(scale):
        trainer = new_trainer(scale, half=True, scale_rewards='none', beta=0., max_steps=1)
        trainer.reward_funcs[0].func = tiny
        return next(trainer.steps())['grad_norm']
    assert norm(1.) == 0. < norm(2.**14)


def poisoned(trainer, at, value=float('inf')):
    "Let the gradient of one weight become `value` in the update after step `at`, times the scale"
    def spoil(g):
        if trainer.state.step != at: return g
        g = g.clone()
        g.view(-1)[0] = value
        return g
    trainer.model.get_input_embeddings().weight.register_hook(spoil)


@pytest.mark.parametrize('value', [float('inf'), float('-inf'), float('nan')])
@pytest.mark.parametrize('at', [0, 2])
def test_an_infinite_gradient_moves_nothing(value, at):
    "The step is skipped, the scale halved, the schedule and the count of updates go on"
    trainer = new_trainer(2.**10, half=True)
    poisoned(trainer, at, value)
    steps = trainer.steps()
    for _ in range(at): next(steps)
    before, kept, scale = weights(trainer).clone(), moments(trainer), trainer.state.scaler.get_scale()
    metrics = next(steps)
    assert metrics['skipped'] == 1 and metrics['step'] == at+1
    assert torch.equal(weights(trainer), before) and equal(moments(trainer), kept)
    assert trainer.state.scaler.get_scale() == scale/2
    assert all(p.grad is None for p in trainer.model.parameters())
    metrics = next(steps)
    assert metrics['skipped'] == 0 and not torch.equal(weights(trainer), before)
    plain = new_trainer()
    rates = [m['learning_rate'] for m in plain.steps()]
    assert metrics['learning_rate'] == rates[at+1] and trainer.state.schedule.last_epoch == trainer.state.step == at+2
    steps_made = {int(s['step']) for s in trainer.optimizer.state_dict()['state'].values()}
    assert steps_made == {at+1} # of the optimizer: the one that was skipped does not count


def test_a_skipped_step_with_several_micro_batches():
    trainer = new_trainer(2.**10, half=True, micro_batch_tokens=40)
    poisoned(trainer, 0)
    before = weights(trainer).clone()
    assert next(trainer.steps())['skipped'] == 1 and torch.equal(weights(trainer), before)
    assert trainer.state.scaler.get_scale() == 2.**9


def test_the_scale_is_found():
    "A scale that is far too high falls until steps are made; after some good ones it grows"
    trainer = new_trainer(2.**40, half=True, max_steps=40)
    found = []
    for metrics in trainer.steps():
        found.append((metrics['skipped'], trainer.state.scaler.get_scale()))
        if not metrics['skipped']: break
    assert found[-1][0] == 0 and [s for _, s in found] == [2.**(40-i) for i in range(1, len(found))]+[2.**(41-len(found))]
    grown = new_trainer(2.**4, half=True, growth_interval=2)
    assert [grown.state.scaler.get_scale() for _ in grown.steps()] == [16., 32., 32., 64.]


@pytest.mark.parametrize('at', [1, pytest.param(3, marks=pytest.mark.slow)])
def test_resumed_to_the_bit(at, tmp_path):
    "Scale and the count of good steps since it last changed are in the checkpoint"
    whole, paths = new_trainer(2.**6, half=True, growth_interval=2), {}
    poisoned(whole, 1)
    history = []
    for metrics in whole.steps():
        history.append(figures(metrics))
        paths[metrics['step']] = whole.save_checkpoint(tmp_path/str(metrics['step']))
    resumed = new_trainer(2.**3, half=True, growth_interval=2) # another scale: the checkpoint's counts
    poisoned(resumed, 1)
    resumed.load_checkpoint(paths[at])
    assert [figures(m) for m in resumed.steps()] == history[at:]
    assert torch.equal(weights(resumed), weights(whole)) and resumed.state.scaler.state_dict() == whole.state.scaler.state_dict()
