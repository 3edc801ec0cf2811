"""One of two processes is lost, at whatever it was doing: the other one ends soon, with one line and a code of its own."""
import re, signal, time
from pathlib import Path
import pytest
from grpo_lit.policy import load_policy
from grpo_lit.run import ending, peers
from grpo_lit.run.config import GRPOConfig
from grpo_lit.run.trainer import GRPOTrainer
from grpo_lit.tasks import addition_task
from two_processes import Team

def touch(folder, rank): (Path(folder)/f'here-{rank}').touch()

def stay(folder, rank):
    "Hang here until somebody kills this process"
    touch(folder, rank)
    while True: time.sleep(1)

def first_token_of(text): return float(sum(map(ord, text))%3)

def hang_in(trainer, place, folder, rank):
    "This process will not come back from `place`, after its first step"
    class late:
        def __init__(self, f, after=0): self.f, self.after = f, after
        def __getattr__(self, name): return getattr(self.f, name)
        def __call__(self, *args, **kwargs): return stay(folder, rank) if trainer.state.step > self.after else self.f(*args, **kwargs)
    if place == 'sampling': trainer.collector.sample = late(trainer.collector.sample)
    if place == 'scoring': trainer.collector.score = late(trainer.collector.score)
    if place == 'update': trainer.updater.gradients = late(trainer.updater.gradients)
    if place == 'evaluation': trainer.evaluate = late(trainer.evaluate, after=1) # which comes before the checkpoint of its step

def work(rank, place, folder, patience=peers.PATIENCE, **settings):
    "A run of which the second process hangs in some place"
    peers.Peers.__init__.__defaults__ = (patience, .2, None)
    model, tokenizer = load_policy('tiny', device='cpu')
    args = GRPOConfig(output_dir=f'{folder}/run', max_steps=3, num_generations=4, per_device_train_batch_size=8, max_completion_length=12,
                      learning_rate=1e-3, save_steps=1, eval_steps=1, use_cpu=True, gold_check=0, reward_timeout=None, **settings)
    def reward(completions, **columns): return [first_token_of(c) for c in completions]
    task = addition_task()
    trainer = GRPOTrainer(model, reward, args, task.train, task.test[:4], tokenizer)
    if rank == 1: hang_in(trainer, place, folder, rank)
    trainer.train(live=False)

def lines_of(team, rank): return [line for line in team.text(rank).splitlines() if re.match('(the )?process ', line)]

@pytest.mark.parametrize('place', ['sampling', pytest.param('scoring', marks=pytest.mark.slow), 'update', 'evaluation'])
def test_a_killed_process_ends_the_other(tmp_path, place):
    "Whatever it was in the middle of, while the other one waits for it or works itself"
    with Team(work, place, str(tmp_path)) as team:
        team.until((tmp_path/'here-1').exists)
        team.signal(1)
        began = time.monotonic()
        assert team.wait() == [peers.LOST, -signal.SIGKILL]
        assert time.monotonic()-began < 60
        said, = lines_of(team, 0)
        assert re.fullmatch(r'process 2 of 2 \(process \d+ on .*\) is gone: the run ends; go on from .*checkpoint-[12]', said), team.texts()
        assert 'Traceback' not in team.text(0) and not (tmp_path/'run'/'run.lock').exists()

def test_the_first_process_is_killed(tmp_path):
    "It also holds the store by which the others hear of it; the second one says the line"
    with Team(endless, str(tmp_path)) as team:
        team.until(lambda: len(list((tmp_path/'run').glob('checkpoint-*'))) > 0)
        team.signal(0)
        assert team.wait() == [-signal.SIGKILL, peers.LOST]
        said, = lines_of(team, 1)
        assert 'is gone: the run ends' in said and 'Traceback' not in team.text(1), team.texts()

def endless(rank, folder):
    "A run without an end"
    peers.Peers.__init__.__defaults__ = (peers.PATIENCE, .2, None)
    model, tokenizer = load_policy('tiny', device='cpu')
    args = GRPOConfig(output_dir=f'{folder}/run', max_steps=10**6, num_generations=4, per_device_train_batch_size=8, max_completion_length=12,
                      save_steps=1, save_total_limit=2, use_cpu=True, gold_check=0, log_completions=False)
    def reward(completions, **columns): return [first_token_of(c) for c in completions]
    GRPOTrainer(model, reward, args, addition_task().train, None, tokenizer).train(live=False)

def test_a_stopped_process_ends_the_other(tmp_path):
    "It is there and gives no sign of life"
    with Team(work, 'scoring', str(tmp_path), 2.) as team:
        team.until((tmp_path/'here-1').exists)
        team.signal(1, signal.SIGSTOP)
        team.until(lambda: not team.ranks[0].is_alive())
        assert team.ranks[0].exitcode == peers.LOST
        assert 'is stopped and does not go on' in team.text(0), team.texts()

def hanging(rank, folder):
    "The thread of the watch is well, the main thread does not come back"
    work(rank, 'scoring', folder, ddp_timeout=40)

@pytest.mark.slow
def test_a_process_that_does_not_come_back(tmp_path):
    "It is not gone and not stopped: the others wait as long as they were told"
    with Team(hanging, str(tmp_path)) as team:
        team.until(lambda: not team.ranks[0].is_alive())
        assert team.ranks[0].exitcode == 1
        assert 'did not answer in time (ddp_timeout)' in team.text(0), team.texts()
        team.until(lambda: not team.ranks[1].is_alive()) # told by the first one

def failing(rank, folder, who=(1,), error=ZeroDivisionError('division by zero')):
    "Some processes fail in their second step"
    model, tokenizer = load_policy('tiny', device='cpu')
    args = GRPOConfig(output_dir=f'{folder}/run', max_steps=3, num_generations=4, per_device_train_batch_size=8, max_completion_length=12,
                      use_cpu=True, gold_check=0)
    def reward(completions, **columns): return [first_token_of(c) for c in completions]
    trainer = GRPOTrainer(model, reward, args, addition_task().train, None, tokenizer)
    score = trainer.collector.score
    def fails(*args):
        if trainer.state.step: raise error
        return score(*args)
    if rank in who: trainer.collector.score = fails
    trainer.train(live=False)

def failing_alone(rank, folder, error=ZeroDivisionError('division by zero')):
    peers.GRACE = 1.
    failing(rank, folder, error=error)

def test_an_error_in_one_process_ends_the_others(tmp_path):
    "With what it failed with"
    with Team(failing_alone, str(tmp_path)) as team:
        assert team.wait() == [peers.LOST, 1]
        assert 'process 2 of 2' in team.text(0) and 'failed with ZeroDivisionError: division by zero' in team.text(0), team.texts()
        assert 'ZeroDivisionError' in team.text(1)

@pytest.mark.slow
@pytest.mark.parametrize('who', [0, 1])
def test_figures_of_one_process_are_an_error_as_any(tmp_path, who):
    "Logits that are not finite for a prompt that one process writes: it does not save together with others who know nothing of it"
    with Team(not_drawn, str(tmp_path), who) as team:
        codes = team.wait()
        assert codes[who] == 1 and codes[1-who] == peers.LOST, team.texts()
        end = 'failed with FloatingPointError: no token can be drawn' if who else 'is gone: the run ends' # it held the store
        assert end in team.text(1-who), team.texts()
        assert 'FloatingPointError: no token can be drawn' in team.text(who) and not list((tmp_path/'run').glob('diverged-*')), team.texts()

def not_drawn(rank, folder, who):
    peers.GRACE = 1.
    failing(rank, folder, (who,), FloatingPointError('no token can be drawn'))

def failing_alike(rank, folder):
    "Both fail in their second step, and the first one is slow to write what there is"
    peers.Peers.__init__.__defaults__ = (peers.PATIENCE, .05, None)
    peers.GRACE = .1
    write = ending.write_checkpoint
    def slow_write(*args):
        watch = peers.peers_of_run()
        while not watch.called: time.sleep(.05)
        looks = watch.n
        while watch.n < looks+20: time.sleep(.05) # the end is heard again and again
        write(*args)
    ending.write_checkpoint = slow_write
    failing(rank, folder, who=(0, 1))

def test_an_error_of_all_leaves_a_checkpoint(tmp_path):
    "Its own watch does not end the process that writes it"
    with Team(failing_alike, str(tmp_path)) as team:
        assert team.wait() == [1, 1], team.texts()
        assert 'the run broke off after step 1: saved' in team.text(0), team.texts()
        assert (tmp_path/'run'/'checkpoint-1').is_dir()
