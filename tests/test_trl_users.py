"""What a script for TRL asks a trainer besides training: losses, loaders, the data as they were given, sentences that it knows."""
import pytest
import torch
from datasets import Dataset, IterableDataset
from grpo_lit import GRPOConfig, GRPOTrainer, load_policy
from grpo_lit.fast.offpolicy import off_policy_mask
from grpo_lit.rewards import accuracy_reward
from grpo_lit.tasks import addition_task

torch.set_num_threads(1)
task = addition_task(64, 8)
STREAM = Dataset.from_list(task.train[:12]).to_iterable_dataset()

def lengths(completions, **kwargs): return [float(len(c)) for c in completions]

def trainer(rewards=accuracy_reward, train=task.train, test=None, trainer_kwargs={}, **settings):
    model, tokenizer = load_policy('tiny', device='cpu')
    usual = dict(max_steps=2, per_device_train_batch_size=8, num_generations=4, max_completion_length=16,
                 learning_rate=1e-4, use_cpu=True, disable_tqdm=True, seed=0, gold_check=0)
    return GRPOTrainer(model, rewards, GRPOConfig(**usual | settings), train, test, tokenizer, **trainer_kwargs)


# an evaluation has a loss

@pytest.mark.parametrize('settings', [
    dict(), dict(loss_type='dr_grpo'), dict(loss_type='luspo'), dict(kl_in_reward=True, scale_rewards='none'),
    dict(scale_rewards='batch'), dict(mask_truncated_completions=True), dict(entropy_coef=.1)])
def test_the_loss_of_an_evaluation_is_a_number(settings):
    t = trainer(lengths, test=task.test[:3], num_generations_eval=2, **settings)
    before = [p.clone() for p in t.model.parameters()]
    assert abs(t.evaluate()['eval_loss']) < 100
    assert all(torch.equal(a, b) for a, b in zip(before, t.model.parameters()))

def test_before_the_first_step_and_with_one_answer_it_is_nothing():
    t = trainer(test=task.test[:3])
    assert t.evaluate()['eval_loss'] == pytest.approx(0, abs=1e-6) # policy and reference are the same
    t.args.beta, t.state.beta = 0., 0.
    assert t.evaluate()['eval_loss'] == 0

def test_it_moves_with_the_distance_from_the_reference():
    t = trainer(test=task.test[:3], beta=.5)
    with torch.no_grad():
        for p in t.model.parameters(): p.mul_(1.02)
    assert t.evaluate()['eval_loss'] > 1e-5

def test_each_of_several_has_one_and_a_prefix():
    both = dict(easy=task.test[:2], hard=task.test[2:5])
    found = trainer(test=both, num_generations_eval=2).evaluate(metric_key_prefix='test')
    parts = found['test_easy_loss'], found['test_hard_loss']
    assert found['test_loss'] == pytest.approx((2*parts[0]+3*parts[1])/5)

def test_it_can_choose_the_best():
    t = trainer(test=task.test[:2], eval_strategy='steps', eval_steps=1)
    t.args.metric_for_best_model = 'loss'
    t.train()
    losses = [h['eval_loss'] for h in t.state.log_history if 'eval_loss' in h]
    assert len(losses) == 2 and t.state.best_metric == min(losses)


# the loss without its bonus

@pytest.mark.parametrize('loss_type', ['grpo', 'dapo', 'dr_grpo', 'luspo'])
def test_policy_loss(loss_type):
    def first(**more):
        t = trainer(lengths, loss_type=loss_type, max_steps=1, gradient_accumulation_steps=2, **more)
        t.train()
        return t.history[0]
    plain, paid = first(), first(entropy_coef=.5)
    assert paid['entropy_coef'] == .5 and paid['loss'] < plain['loss']
    assert paid['policy_loss'] == pytest.approx(plain['loss'], abs=1e-5)

def test_there_is_none_without_a_bonus():
    t = trainer(max_steps=1)
    t.train()
    assert not {'policy_loss', 'entropy_coef'} & set(t.history[0])


# the data, as they were given and as they come

@pytest.mark.parametrize('given', [STREAM, Dataset.from_list(task.test), task.test[:3], dict(a=STREAM)], ids=['stream', 'dataset', 'list', 'several'])
def test_the_evaluation_data_stay_what_they_are(given):
    assert trainer(test=given).eval_dataset is given

def test_other_evaluation_data_may_be_put_there():
    t = trainer()
    t.eval_dataset = STREAM.take(3)
    assert t.evaluate() == trainer(test=task.train[:3]).evaluate()

def test_a_loader_shows_the_run():
    t = trainer(dataloader_num_workers=1)
    loaded, read = t.get_train_dataloader(), []
    assert loaded.num_workers == 1 and len(loaded) == 64*4/8
    t.collector.sample = lambda rows, *more: read.append(rows) or 1/0
    with pytest.raises(ZeroDivisionError): t.train()
    assert next(iter(trainer().get_train_dataloader())) == [row for row in read[0] for _ in range(4)]

def test_a_loader_of_a_stream():
    t = trainer(train=STREAM, dataloader_num_workers=4)
    assert t.args.dataloader_num_workers == 0 and t.args.accelerator_config.dispatch_batches is False
    first = next(iter(t.get_train_dataloader()))
    assert [r['prompt'] for r in first] == [r['prompt'] for r in task.train[:2] for _ in range(4)]

def test_a_loader_of_the_evaluation():
    t = trainer(test=dict(a=task.test[:3], b=STREAM), per_device_eval_batch_size=2)
    assert [len(b) for b in t.get_eval_dataloader('a')] == [2, 1]
    assert sum(len(b) for b in t.get_eval_dataloader(STREAM)) == 12
    with pytest.raises(ValueError, match='no eval_dataset'): trainer().get_eval_dataloader()

def test_rows_that_one_process_hands_to_the_others():
    with pytest.raises(ValueError, match='require `dispatch_batches=False`'):
        trainer(train=STREAM, accelerator_config=dict(dispatch_batches=True))


# what it has besides

def test_the_reference_is_a_model():
    t = trainer(lengths, sync_ref_model=True, ref_model_sync_steps=1, ref_model_mixup_alpha=.5)
    before = {n: p.clone() for n, p in t.ref_model.named_parameters()}
    t.train()
    assert any(not torch.equal(p, before[n]) for n, p in t.ref_model.named_parameters())
    assert trainer(beta=0.).ref_model is None

def test_the_mask_of_answers_left_behind():
    logps, sampled = -torch.rand(5, 4)*3, -torch.rand(5, 4)
    mask = (torch.arange(4) < torch.tensor([4, 3, 2, 1, 4])[:,None]).float()
    A = torch.tensor([1., -1, -1, -1, 0])[:,None]
    found = GRPOTrainer.get_off_policy_mask(A, logps, sampled, mask, .7)
    assert found.dtype == mask.dtype and torch.equal(found.bool(), off_policy_mask(logps, sampled, A, mask, .7))

@pytest.mark.parametrize('more, why', [
    (dict(rewards=None), 'No reward source provided'), (dict(train=None), '`train_dataset` is required'),
    (dict(rewards=[lengths, lengths], trainer_kwargs=dict(reward_processing_classes=[None])), 'must match'),
    (dict(reward_weights=[1., 2.]), '2 reward_weights for 1 reward functions: the numbers must match')])
def test_sentences_that_scripts_look_for(more, why):
    with pytest.raises(ValueError, match=why): trainer(**more)

def test_all_rewards_are_silent(caplog):
    def silent(completions, **kwargs): return [None]*len(completions)
    trainer(silent, max_steps=6).train()
    assert 'All reward functions returned None for the following kwargs: prompt=' in caplog.text and "answer='" in caplog.text

def test_an_adapter_that_the_sampler_does_not_read():
    from peft import PromptTuningConfig
    virtual = PromptTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=4)
    with pytest.raises(ValueError, match='prompt-learning'): trainer(trainer_kwargs=dict(peft_config=virtual))
