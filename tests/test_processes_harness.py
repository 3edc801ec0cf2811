"""The harness of the tests of several processes: values, errors, signals."""
import signal, time
import pytest, torch
from two_processes import Team, together

def add_up(rank, x):
    "The sum over the world"
    from accelerate import Accelerator
    accelerator = Accelerator(cpu=True)
    return accelerator.reduce(torch.tensor([float(x+rank)])), accelerator.num_processes, torch.get_num_threads()

def one_fails(rank):
    if rank == 1: raise ValueError('as it was meant')
    time.sleep(1000)

def test_ranks_form_one_world():
    for total, n, threads in together(add_up, 3):
        assert total.item() == 7 and n == 2 and threads == 1

def test_an_error_of_one_is_an_error_here():
    with pytest.raises(AssertionError, match='as it was meant'):
        with Team(one_fails) as team:
            team.wait(grace=.5)

def test_a_killed_rank_has_its_signal_as_code():
    with Team(one_fails, n=1) as team:
        team.signal(0)
        assert team.wait() == [-signal.SIGKILL]
