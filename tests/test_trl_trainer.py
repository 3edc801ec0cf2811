"""Scripts written for TRL: callbacks, rewards, data and results in the forms in which their authors have them."""
import asyncio, functools, inspect, json, logging, tempfile
from pathlib import Path
import pandas as pd
import pytest
import torch
import transformers
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainerCallback
from grpo_lit import GRPOConfig, GRPOTrainer, load_policy
from grpo_lit.rewards import accuracy_reward
from grpo_lit.run.trackers import LOGGER_TYPE_TO_CLASS, trackers_named
from grpo_lit.tasks import addition_task, as_chat

torch.set_num_threads(1)
task = addition_task(64, 8)

def chatty(tokenizer):
    "The tiny tokenizer with a template that shows the words of the user"
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return tokenizer

def lengths(completions, **kwargs): return [float(len(c)) for c in completions]

def trainer(rewards=accuracy_reward, train=task.train, test=None, callbacks=None, chat=False, trainer_kwargs={}, **settings):
    model, tokenizer = load_policy('tiny', device='cpu')
    usual = dict(max_steps=3, per_device_train_batch_size=8, num_generations=4, max_completion_length=24,
                 learning_rate=1e-4, use_cpu=True, disable_tqdm=True, seed=0, gold_check=0)
    tokenizer = chatty(tokenizer) if chat else tokenizer
    return GRPOTrainer(model, rewards, GRPOConfig(**usual | settings), train, test, tokenizer, callbacks=callbacks, **trainer_kwargs)

def weights(t): return torch.cat([p.detach().flatten() for p in t.model.parameters()])


# the constructor

def test_the_constructor_has_the_arguments_of_trl():
    from trl import GRPOTrainer as theirs
    names = list(inspect.signature(theirs).parameters)
    assert list(inspect.signature(GRPOTrainer).parameters) == names

def test_what_is_not_here_is_said():
    with pytest.raises(ValueError, match='^rollout_func: this version samples'): trainer(trainer_kwargs=dict(rollout_func=print))


# callbacks

class Everything(TrainerCallback):
    "Notes each moment"
    def __init__(self): self.seen = []

def _noting(moment):
    def method(self, args, state, control, **kwargs):
        assert isinstance(args, GRPOConfig) and kwargs['model'] is not None and kwargs['processing_class'] is not None
        assert state.max_steps == 3 and state.is_world_process_zero
        self.seen.append((moment, state.global_step))
    return method

for moment in vars(TrainerCallback):
    if moment.startswith('on_'): setattr(Everything, moment, _noting(moment))

def test_all_moments_in_the_order_of_transformers(tmp_path):
    c = Everything()
    trainer(train=task.train[:4], test=task.test[:2], callbacks=[c], eval_steps=3, save_steps=2, logging_steps=2,
            output_dir=str(tmp_path/'run'), save_minutes=0).train()
    step = lambda n: [('on_step_begin', n-1), ('on_pre_optimizer_step', n-1), ('on_optimizer_step', n-1), ('on_step_end', n)]
    assert c.seen == [
        ('on_init_end', 0), ('on_train_begin', 0), ('on_epoch_begin', 0),
        *step(1), *step(2), ('on_epoch_end', 2), ('on_log', 2), ('on_save', 2), ('on_epoch_begin', 2),
        *step(3), ('on_epoch_end', 3), ('on_log', 3), ('on_evaluate', 3),
        ('on_log', 3), ('on_train_end', 3)]

@pytest.mark.parametrize('kind', [PrinterCallback, ProgressCallback, transformers.trainer_callback.DefaultFlowCallback])
def test_callbacks_that_come_with_transformers(kind, capsys):
    trainer(callbacks=[kind]).train()

def test_a_callback_stops_saves_evaluates_and_logs(tmp_path):
    class Wants(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 1: control.should_evaluate = control.should_log = True
            if state.global_step == 2: control.should_training_stop = control.should_save = True
            return control
    t = trainer(test=task.test[:2], callbacks=[Wants], output_dir=str(tmp_path/'run'), logging_strategy='no', save_minutes=0)
    result = t.train()
    assert (result.global_step, result['interrupted']) == (2, False)
    assert [c.name for c in t.run.checkpoints()] == ['checkpoint-2']
    assert [h['step'] for h in t.state.log_history] == [1, 1, 2] and 'eval_reward' in t.history[0]
    assert t.train()['step'] == 3 # asked again, it goes on

def test_a_callback_takes_back_what_is_due(tmp_path):
    class Refuses(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs): control.should_save = control.should_log = False
    t = trainer(callbacks=[Refuses], output_dir=str(tmp_path/'run'), save_steps=1, save_strategy='steps', save_minutes=0)
    t.train()
    assert [h['step'] for h in t.state.log_history] == [3] # the end
    assert [c.name for c in t.run.checkpoints()] == ['checkpoint-3'] # what a run leaves

def test_a_callback_that_fails_ends_the_run_which_is_saved(tmp_path, caplog):
    class Fails(TrainerCallback):
        def on_log(self, args, state, control, **kwargs):
            if state.global_step == 2: raise RuntimeError('my own fault')
    t = trainer(callbacks=[Fails], output_dir=str(tmp_path/'run'))
    with pytest.raises(RuntimeError, match='my own fault'): t.train()
    assert 'the callback Fails failed (on_log): the run ends with its error' in caplog.text
    assert t.state.step == 2 and (tmp_path/'run'/'checkpoint-2').is_dir()

def test_a_callback_that_fails_between_the_step_and_its_record_is_waited_for(tmp_path):
    "The weights have moved: a checkpoint that did not count the step would make it twice"
    class Fails(TrainerCallback):
        def on_optimizer_step(self, args, state, control, **kwargs): raise RuntimeError('my own fault')
    t, whole = trainer(callbacks=[Fails], output_dir=str(tmp_path/'run')), trainer()
    with pytest.raises(RuntimeError, match='my own fault'): t.train()
    whole.train()
    again = trainer(output_dir=str(tmp_path/'run'))
    again.train(resume_from_checkpoint=True)
    assert again.history[0]['step'] == 2 and torch.equal(weights(again), weights(whole))

def test_callbacks_are_added_and_taken_out():
    t, seen = trainer(), []
    def plain(trainer, metrics): seen.append(metrics['step'])
    t.add_callback(plain)
    t.add_callback(Everything)
    c = t.pop_callback(Everything)
    assert isinstance(c, Everything) and t.pop_callback(Everything) is None
    t.add_callback(c)
    t.remove_callback(c)
    t.train()
    assert seen == [1, 2, 3] and not c.seen
    for wrong in ('early', 3, None):
        with pytest.raises(ValueError, match='a callback is a function'): t.add_callback(wrong)

def test_early_stopping_of_transformers():
    t = trainer(test=task.test[:2], callbacks=[EarlyStoppingCallback(1)], eval_strategy='steps', eval_steps=1, max_steps=6, learning_rate=0.)
    t.args.metric_for_best_model, t.args.greater_is_better, t.args.load_best_model_at_end = 'eval_reward', True, True
    assert t.train().global_step == 2 # the second evaluation was not better than the first
    assert t.state.best_metric == t.history[0]['eval_reward'] and t.state.best_global_step == 1


# what training says

def test_the_history_is_the_mean_of_the_steps_between():
    t = trainer(logging_steps=2, max_steps=5)
    result = t.train()
    rows, steps = t.state.log_history, t.history
    assert [r['step'] for r in rows] == [2, 4, 5] and len(steps) == 5
    assert rows[0]['reward'] == pytest.approx((steps[0]['reward']+steps[1]['reward'])/2)
    assert rows[0]['learning_rate'] == steps[1]['learning_rate']
    assert {'train_loss', 'train_runtime', 'epoch', 'reward'} <= set(rows[-1])
    assert result.metrics['train_loss'] == result.training_loss == pytest.approx(sum(s['loss'] for s in steps)/5)
    assert isinstance(result, dict) and result['step'] == t.state.global_step == 5
    assert t.state.epoch == steps[-1]['epoch'] > 0

@pytest.mark.parametrize('how, told', [(dict(logging_strategy='no'), [4]), (dict(logging_steps=.5), [2, 4, 4]),
                                       (dict(logging_steps=3, logging_first_step=True), [1, 3, 4]),
                                       (dict(logging_strategy='epoch'), [2, 4, 4])])
def test_when_it_is_said(how, told):
    t = trainer(train=task.train[:4], max_steps=4, **how)
    t.train()
    assert [h['step'] for h in t.state.log_history] == told

def test_a_resumed_run_has_its_history(tmp_path):
    folder = str(tmp_path/'run')
    trainer(output_dir=folder, save_steps=2, max_steps=2).train()
    t = trainer(output_dir=folder, max_steps=3)
    t.train(resume_from_checkpoint=True)
    assert [h['step'] for h in t.state.log_history] == [1, 2, 3, 3]

def test_files_that_scripts_ask_for(tmp_path, capsys):
    t = trainer(output_dir=str(tmp_path/'run'))
    result = t.train()
    t.log_metrics('train', result.metrics)
    t.save_metrics('train', result.metrics | dict(train_samples=64))
    t.save_state()
    assert 'train_loss' in capsys.readouterr().out
    assert json.loads((tmp_path/'run'/'train_results.json').read_text())['train_samples'] == 64
    assert json.loads((tmp_path/'run'/'trainer_state.json').read_text())['global_step'] == 3
    assert t.is_world_process_zero() and t.accelerator.is_main_process


# evaluation

def test_evaluation_of_several_datasets_by_name():
    t = trainer(test=dict(easy=task.test[:2], hard=Dataset.from_list(task.test[2:5])))
    found = t.evaluate()
    mean = (2*found['eval_easy_reward']+3*found['eval_hard_reward'])/5
    assert found['eval_reward'] == pytest.approx(mean)
    assert t.evaluate('easy')['eval_reward'] == found['eval_easy_reward']
    other = t.evaluate(eval_dataset=task.test[:2], metric_key_prefix='test')
    assert other['test_reward'] == found['eval_easy_reward'] and 'eval_reward' not in other
    with pytest.raises(ValueError, match="no eval_dataset called 'odd'"): t.evaluate('odd')
    with pytest.raises(ValueError, match='there is no eval_dataset'): trainer().evaluate()

def test_evaluation_on_start_and_several_completions():
    t = trainer(test=task.test[:2], eval_on_start=True, num_generations_eval=3, max_steps=1)
    t.train()
    assert ['eval_reward' in h for h in t.state.log_history] == [True, False, False]


# rewards

def test_a_reward_knows_the_run_and_notes_things(tmp_path):
    seen = []
    def noting(completions, trainer_state, log_extra, log_metric, **kwargs):
        seen.append(trainer_state.global_step)
        log_extra('first', [c[:1] for c in completions])
        log_metric('mine', trainer_state.global_step)
        return lengths(completions)
    def modern(completions, **kwargs):
        assert kwargs['trainer_state'].max_steps == 3
        kwargs['log_metric']('theirs', 2)
        return [None]*len(completions)
    t = trainer([noting, modern], test=task.test[:2], output_dir=str(tmp_path/'run'), log_completions=True)
    t.train()
    assert seen[-3:] == [0, 1, 2]
    assert [h['mine'] for h in t.history] == [0, 1, 2] and t.history[0]['theirs'] == 2
    assert t.state.log_history[1]['mine'] == 1
    assert all(r['first'] == r['completion'][:1] for r in t.run.rollouts(2))
    assert t.evaluate()['eval_mine'] == 3

@pytest.mark.parametrize('overlap', [False, True])
def test_notes_stay_with_their_texts_when_rows_fail(overlap):
    def picky(completions, log_extra, **kwargs):
        log_extra('read', list(completions))
        if any(len(c)%2 for c in completions): raise ValueError('odd')
        return lengths(completions)
    t = trainer(picky, overlap_rewards=overlap)
    row = next(t.steps())
    ro = t.last_rollouts
    assert 0 < row['reward_errors'] < len(ro)
    assert ro.notes['read'] == [c if len(c)%2 == 0 else None for c in ro.completions]

def test_names_that_would_be_the_same():
    class Judge:
        def __call__(self, completions, **kwargs): return lengths(completions)
    class Slow:
        async def __call__(self, completions, **kwargs):
            await asyncio.sleep(0)
            return lengths(completions)
    funcs = [lambda completions, **kw: lengths(completions), lambda completions, **kw: [0.]*len(completions),
             Judge(), Judge(), Slow(), functools.partial(lengths, unused=1), lengths]
    t = trainer(funcs, reward_weights=[1]*7)
    t.train()
    assert t.reward_func_names == ['<lambda>', '<lambda>_2', 'Judge', 'Judge_2', 'Slow', 'lengths', 'lengths_2']
    means = [t.history[-1][f'rewards/{name}/mean'] for name in t.reward_func_names]
    assert means[1] == 0 and len(set(means)) == 2

@pytest.fixture(scope='module')
def taste(tmp_path_factory):
    "The directory of a reward model"
    from transformers import LlamaConfig, LlamaForSequenceClassification
    _, tokenizer = load_policy('tiny', device='cpu')
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_labels=1, pad_token_id=tokenizer.pad_token_id)
    folder = tmp_path_factory.mktemp('models')/'taste'
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

def test_reward_models_by_name_and_as_modules(taste):
    from transformers import AutoModelForSequenceClassification
    module = AutoModelForSequenceClassification.from_pretrained(taste)
    t = trainer([str(taste), accuracy_reward, module], trainer_kwargs=dict(reward_processing_classes=[None]*3))
    t.train()
    assert t.reward_func_names == ['taste', 'accuracy_reward', 'taste_2']
    last = t.history[-1]
    assert last['rewards/taste/mean'] == pytest.approx(last['rewards/taste_2/mean'])
    assert not module.training and all(p.grad is None for p in module.parameters())
    _, tokenizer = load_policy('tiny', device='cpu')
    given = trainer(module, trainer_kwargs=dict(reward_processing_classes=tokenizer))
    assert given.reward_processing_classes == [tokenizer]

@pytest.mark.parametrize('rewards, more, why', [
    ([], {}, 'there is no reward function'), (None, {}, 'there is no reward function'),
    (7, {}, 'a reward is a function, a model or the name of one'),
    ('no/such-model', {}, "no model 'no/such-model'"), ('./such-model', {}, 'there is no directory'),
    ([lengths], dict(reward_processing_classes=[None, None]), '2 reward_processing_classes for 1')])
def test_what_is_no_reward(rewards, more, why, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(ValueError, match=why): trainer(rewards, trainer_kwargs=more)


# data

ROWS = task.train[:12]
FORMS = dict(tuple=tuple(ROWS), dataset=Dataset.from_list(ROWS), frame=pd.DataFrame(ROWS),
             splits=DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(task.test)),
             columns={k: [r[k] for r in ROWS] for k in ROWS[0]})

@pytest.fixture(scope='module')
def of_a_list():
    t = trainer(train=ROWS)
    t.train()
    return weights(t)

@pytest.mark.parametrize('form', FORMS)
def test_every_form_of_the_same_rows_is_the_same_run(form, of_a_list):
    t = trainer(train=FORMS[form])
    t.train()
    assert torch.equal(weights(t), of_a_list)

def test_a_stream_is_read_in_order_and_only_as_far_as_needed():
    read = []
    def rows():
        for n in range(1000):
            read.append(n)
            yield ROWS[n%12]
    t = trainer(train=IterableDataset.from_generator(rows))
    assert max(read) < 64
    t.train()
    assert max(read) < 64 and t.history[-1]['epoch'] == 1.
    in_order = trainer(train=ROWS, shuffle_dataset=False)
    in_order.train()
    assert torch.equal(weights(t), weights(in_order))

@pytest.mark.parametrize('rounds', [0, 2])
def test_a_stream_goes_on_exactly(tmp_path, rounds):
    stream = Dataset.from_list(task.train[:7]).to_iterable_dataset().shuffle(seed=1, buffer_size=3)
    def new(name=None, **more):
        folder = dict(output_dir=str(tmp_path/name)) if name else {}
        return trainer(train=stream, max_steps=6, num_iterations=2, dynamic_sampling=rounds, per_device_train_batch_size=8, **folder, **more)
    whole = new()
    whole.train()
    steps = new('half', save_steps=3).steps()
    for _ in range(3): next(steps)
    steps.close()
    again = new('half')
    again.train(resume_from_checkpoint=True)
    assert torch.equal(weights(whole), weights(again))
    assert again.config['train_rows'] == 0

@pytest.mark.parametrize('data, more, why', [
    (IterableDataset.from_generator(lambda: iter(ROWS)), dict(max_steps=-1), 'is a stream without a length: set max_steps'),
    ((r for r in ROWS), {}, 'can be read only once'),
    (DatasetDict(a=Dataset.from_list(ROWS), b=Dataset.from_list(ROWS)), {}, "has the splits 'a', 'b'"),
    ('gsm8k', {}, "train_dataset is 'gsm8k'"), (None, {}, '.train_dataset. is required'), (pd.DataFrame(), {}, 'has no rows'),
    (['47+85=?'], {}, 'a row is a dict with the column prompt'),
    (IterableDataset.from_generator(lambda: iter([dict(question='?')])), {}, "column")])
def test_data_that_cannot_be_used(data, more, why):
    with pytest.raises(ValueError, match=why): trainer(train=data, **more)

def test_a_stream_of_bad_rows_without_end_ends(monkeypatch, tmp_path):
    import itertools
    from grpo_lit.run import rows
    class Rows:
        def __iter__(self): return itertools.chain(task.train[:64]*2, itertools.repeat(dict(prompt=None, answer='1')))
    monkeypatch.setattr(rows, 'IN_A_ROW', 500)
    t = trainer(train=Rows(), max_steps=70, max_completion_length=2, output_dir=str(tmp_path/'run'))
    with pytest.raises(ValueError, match='500 rows in a row cannot be used, the last one because:.*not None'): t.train()
    assert [c.name for c in t.run.checkpoints()] == ['checkpoint-64']

def test_streams_to_evaluate_on():
    held_out = Dataset.from_list(task.test[:3]).to_iterable_dataset()
    both = trainer(test=IterableDatasetDict(one=held_out, other=held_out)).evaluate()
    assert both['eval_one_reward'] == both['eval_other_reward'] == trainer(test=task.test[:3]).evaluate()['eval_reward']


# conversations

def test_conversations_reach_rewards_as_messages():
    def check(prompts, completions, answer, **kwargs):
        assert all(p[0]['role'] == 'user' for p in prompts)
        assert all(len(c) == 1 and c[0]['role'] == 'assistant' for c in completions)
        return [float(a in c[0]['content']) for a, c in zip(answer, completions)]
    t = trainer(check, train=as_chat(ROWS), test=as_chat(task.test[:2]), chat=True)
    t.train()
    assert isinstance(t.last_rollouts.prompts[0], list) and 'eval_reward' in t.evaluate()

def test_plain_and_conversational_rows_in_one_dataset():
    def check(prompts, completions, **kwargs):
        return [float(isinstance(p, str) == isinstance(c, str)) for p, c in zip(prompts, completions)]
    t = trainer(check, train=[*ROWS[:2], *as_chat(ROWS[2:4])], chat=True, shuffle_dataset=False, per_device_train_batch_size=16)
    assert next(t.steps())['reward'] == 1.

def test_rewards_of_trl_run_unchanged():
    from trl.rewards import accuracy_reward as theirs, get_soft_overlong_punishment, think_format_reward
    rows = [dict(r, solution=r['answer']) for r in as_chat(ROWS)]
    t = trainer([theirs, think_format_reward, get_soft_overlong_punishment(20, 8)], train=rows, chat=True, reward_timeout=None)
    t.train()
    assert 'reward_errors' not in t.history[-1]
    assert t.reward_func_names == ['accuracy_reward', 'think_format_reward', 'soft_overlong_punishment_reward']


# the policy and its card

def test_a_policy_in_the_run_directory_leaves_the_run_whole(tmp_path):
    from transformers import AutoModelForCausalLM
    folder = tmp_path/'run'
    t = trainer(output_dir=str(folder), save_steps=2)
    t.train()
    t.save_model()
    t.model.config.use_cache = True
    t.create_model_card(dataset_name='someone/sums', tags=['math'])
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(torch.cat([p.detach().flatten() for p in again.parameters()]), weights(t))
    assert t.run.read('config.json')['rewards'] == ['accuracy_reward']
    card = (folder/'README.md').read_text()
    assert 'someone/sums' in card and '| learning_rate | 0.0001 |' in card and str(tmp_path) not in card
    assert (folder/'curve.png').stat().st_size > 1000
    more = trainer(output_dir=str(folder), max_steps=4)
    assert more.train(resume_from_checkpoint=True)['step'] == 4
    with pytest.raises(ValueError, match='there is no output_dir'): trainer().save_model()

def test_a_hub_that_cannot_be_reached_ends_nothing(tmp_path, monkeypatch, caplog):
    import huggingface_hub
    class Away:
        def __init__(self, **kwargs): raise ConnectionError('no network')
    monkeypatch.setattr(huggingface_hub, 'HfApi', Away)
    t = trainer(output_dir=str(tmp_path/'run'), push_to_hub=True, save_steps=2)
    assert t.train()['step'] == 3
    assert 'the policy could not be uploaded (ConnectionError: no network); the run goes on' in caplog.text
    with pytest.raises(ConnectionError): t.push_to_hub()


# trackers

def test_a_tensorboard_file_is_read_back(tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    t = trainer(test=task.test[:2], output_dir=str(tmp_path/'run'), report_to='tensorboard', logging_steps=2, eval_steps=2, max_steps=4)
    t.train()
    events = EventAccumulator(str(tmp_path/'run'/'tensorboard')).Reload()
    told = {e.step: e.value for e in events.Scalars('train/reward')}
    assert told[2] == pytest.approx((t.history[0]['reward']+t.history[1]['reward'])/2, rel=1e-6)
    assert [e.step for e in events.Scalars('eval/reward')] == [2, 4]
    assert {'train/kl', 'train/loss', 'train/rewards/accuracy_reward/mean'} <= set(events.Tags()['scalars'])
    table = events.Tensors('completions/text_summary')[-1].tensor_proto.string_val[0].decode()
    assert all(name in table for name in ('completion', 'accuracy_reward', 'advantage'))

class Broken:
    "A tracker that fails at one place"
    name, requires_logging_directory, where = 'broken', False, ''
    def __init__(self, project, **options): self.fail('begin')
    def fail(self, where):
        if where == type(self).where: raise OSError('the server is down')
    def store_init_configuration(self, values): self.fail('settings')
    def log(self, values, step=None): self.fail('log')
    def log_table(self, *args, **kwargs): self.fail('table')
    def finish(self): self.fail('end')

@pytest.mark.parametrize('where', ['begin', 'settings', 'log', 'table', 'end'])
def test_a_tracker_that_fails_never_ends_the_run(where, monkeypatch, caplog):
    import grpo_lit.run.trackers as trackers
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, 'broken', type('Broken', (Broken,), dict(where=where)))
    monkeypatch.setattr(trackers, 'get_available_trackers', lambda: ['broken'])
    assert trainer(report_to='all', max_steps=12, per_device_train_batch_size=4).train()['step'] == 12
    said = [r.getMessage() for r in caplog.records if 'report_to' in r.getMessage()]
    assert 'the server is down' in said[0] and len(said) == (2 if where in ('log', 'table') else 1)

def test_names_of_trackers():
    with pytest.raises(ValueError, match="did you mean 'wandb'"): trainer(report_to='wandbb')
    assert trackers_named('none') == trackers_named([]) == []

@pytest.mark.slow
def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip('wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    trainer(output_dir=str(tmp_path/'run'), report_to=['wandb']).train()
    assert list((tmp_path/'run'/'wandb').glob('offline-run-*/*.wandb'))

@pytest.mark.slow
def test_trackio(tmp_path, monkeypatch):
    pytest.importorskip('trackio')
    monkeypatch.setenv('TRACKIO_DIR', str(tmp_path/'trackio'))
    trainer(output_dir=str(tmp_path/'run'), report_to=['trackio']).train()
    assert list((tmp_path/'trackio').rglob('*.db'))
