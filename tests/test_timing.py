"""The clock at the border of two phases waits for the GPU: a fake one, which counts"""
import time
import numpy as np, pytest, torch
from grpo_lit import GRPOConfig, GRPOTrainer
from grpo_lit.policy import load_policy
from grpo_lit.fast.tallies import Averages
from grpo_lit.tasks import addition_task
from grpo_lit.tensors import clock, wait
from grpo_lit.run import collect as collect_module, trainer as trainer_module

task = addition_task()


def lengths(completions, **columns): return [len(text)%5/5 for text in completions]


def new_trainer(**settings):
    small = dict(max_steps=2, num_generations=4, per_device_train_batch_size=8, max_completion_length=6, use_cpu=True, gold_check=0,
                 disable_tqdm=True, report_to='none')
    model, tokenizer = load_policy('tiny', device='cpu')
    return GRPOTrainer(model, lengths, GRPOConfig(**small | settings), task.train[:16], None, tokenizer)


class LateDevice:
    "Work that is asked for takes its time when somebody waits for it"
    def __init__(self, monkeypatch):
        self.owed, self.waits = 0., 0
        def waited(device):
            self.waits += 1
            time.sleep(self.owed)
            self.owed = 0.
        monkeypatch.setattr('grpo_lit.tensors.wait', waited)

    def asked(self, f, seconds):
        def slow(*args, **kwargs):
            found = f(*args, **kwargs)
            self.owed += seconds
            return found
        return slow


@pytest.fixture
def device(monkeypatch): return LateDevice(monkeypatch)


@pytest.mark.parametrize('phase', ['sample', 'reference', 'update'])
@pytest.mark.parametrize('settings', [{}, dict(dynamic_sampling=1), dict(beta=0.)], ids=['plain', 'dynamic sampling', 'no leash'])
def test_the_phase_that_asked_is_blamed(phase, settings, device, monkeypatch):
    "Half a second of late work is in the time of the phase that asked for it, and in no other"
    trainer = new_trainer(**settings)
    next(trainer.steps())
    late = .5
    if phase == 'sample': trainer.collector.sample = device.asked(trainer.collector.sample, late)
    if phase == 'reference': monkeypatch.setattr(collect_module, 'add_weights', device.asked(collect_module.add_weights, late))
    if phase == 'update': monkeypatch.setattr(trainer.updater, 'apply', device.asked(trainer.updater.apply, late))
    found = next(trainer.steps())
    for name in ('sample', 'reference', 'update'): assert (found[f'time/{name}'] >= late) == (name == phase), found
    assert found['step_time'] >= late


def test_waits_are_few(device):
    "A wait is a hole in the queue of a GPU: one at each border, whatever the number of tokens and micro-batches"
    trainer = new_trainer(micro_batch_tokens=20)
    for _ in trainer.steps(): pass
    assert 0 < device.waits/2 <= 9


def test_a_gpu_is_waited_for_and_a_cpu_is_not(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, 'synchronize', asked.append)
    for name in ('cpu', torch.device('cpu'), 'meta'): wait(name)
    assert asked == []
    before = clock('cuda:1')
    wait(torch.device('cuda'))
    assert asked == ['cuda:1', torch.device('cuda')] and clock('cpu') >= before


def test_the_figures_of_a_micro_batch_wait_once(monkeypatch):
    waits = []
    for name in ('item', 'tolist'):
        plain = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda x, plain=plain: waits.append(1) or plain(x))
    mean = Averages(4)
    mean.add({name: torch.tensor(n) for name, n in dict(kl=1., ratio=.1, off_max=3.).items()}, 4)
    assert len(waits) == 1
    assert mean.result() == dict(kl=1., ratio=float(np.float32(.1)), off_max=3.)
