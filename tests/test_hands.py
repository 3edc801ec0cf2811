"Threads that are used again: never one that was left behind, and none that a fork has lost"
import os, threading, time

import pytest

from grpo_lit.agents.asking import Call
from grpo_lit.agents.tools import Running, Toolbox
from grpo_lit.agents.waiting import Pending, heard
from grpo_lit.rewards import limits
from patience import patient


def test_a_thread_that_was_left_behind_gets_no_other_work():
    heard = []
    def hangs():
        heard.append(threading.get_ident())
        end = time.monotonic()+120
        while time.monotonic() < end: pass
    hanging = Running(hangs, .2)
    assert hanging.result() is None
    hanging.join(60.)
    assert not hanging.is_alive()
    time.sleep(.05)
    assert all(hand.ident != heard[0] for hand in limits._idle)
    later = [Running(lambda i=i: i, 60.) for i in range(40)]
    assert [r.result() for r in later] == list(range(40))


def test_a_pending_answer_that_came_too_late_gives_its_thread_to_nobody():
    slow = Pending(lambda request: time.sleep(.3), None, .05)
    assert isinstance(slow.wait(), TimeoutError)
    ident = slow.running.ident
    slow.running.join(60.)
    time.sleep(.05)
    assert all(hand.ident != ident for hand in limits._idle)


def test_quick_answers_share_threads():
    def answer(request):
        time.sleep(.001)
        return threading.get_ident()
    found = [Pending(answer, None, 60.).wait() for _ in range(50)]
    assert len(set(found)) < 50


@patient(.2, 1., 3.)
def test_many_slow_answers_wait_together(limit):
    begun = time.monotonic()
    waiting = [Pending(lambda request: time.sleep(limit) or 'done', None, 60.) for _ in range(128)]
    assert [p.wait() for p in waiting] == ['done']*128
    assert time.monotonic()-begun < 25*limit # one after another: 128


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
def test_a_forked_process_has_threads_of_its_own():
    assert Running(lambda: 1, 60.).result() == 1
    end = time.monotonic()+60
    while not limits._idle and time.monotonic() < end: time.sleep(.02)
    assert limits._idle
    pid = os.fork()
    if not pid: os._exit(0 if Running(lambda: 7, 60.).result() == 7 else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_thread_ends_when_nothing_comes(monkeypatch):
    monkeypatch.setattr(limits, 'IDLE', .05)
    found = Pending(lambda request: threading.get_ident(), None, 60.).wait()
    end = time.monotonic()+60
    while any(hand.ident == found for hand in limits._idle) and time.monotonic() < end: time.sleep(.02)
    assert all(hand.ident != found for hand in limits._idle)


def test_a_hanging_tool_is_late_also_where_nobody_can_be_sent_to_end_it(monkeypatch):
    def nap(n:int) -> str:
        """
        Sleeps.

        Args:
            n: A number
        """
        time.sleep(.3)
        return 'rested'
    def none(self): raise RuntimeError("can't start new thread")
    monkeypatch.setattr(threading.Thread, 'start', none)
    first, second = Toolbox([nap], timeout=.05).run([Call('nap', dict(n=1)), Call('none')])
    assert (first.failure, second.failure) == ('timeout', 'unknown')


def test_an_error_is_told_in_the_same_words_in_every_run():
    class Page: pass
    told = [heard('left', KeyError(Page())).texts[0] for _ in range(2)]
    assert told[0] == told[1] and told[0].startswith('Error: KeyError: ') and ' at 0x' not in told[0]
    assert heard('left', TimeoutError('no answer within 3 s')).texts == ['Error: no answer within 3 s']
    assert heard('left', ValueError()).texts == ['Error: ValueError']
