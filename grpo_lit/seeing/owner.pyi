# made by tools/stubs.py: edit the source, then run it
from typing import Any

__all__ = ['Message', 'said', 'WorkThread', 'StepThread', 'Owner', 'is_unsaved', 'BrokenOff', 'break_off', 'leave_all']

import contextvars, ctypes, os, threading, time, weakref

from concurrent.futures import Future

from ..run.callbacks import training_ends

from ..run.divergence import Diverged

from ..run.ending import newest_saved, save_broken, settle, sum_up

from ..run.files import log

from ..run.signals import before_the_end, say

from ..tensors import in_line, patch

class Message:
    """Something to be done by the owner"""
    f: Any
    future: Any

    def __init__(self, f):
        ...

    def __call__(self):
        ...

def said(error: BaseException) -> str:
    """An error in one line"""
    ...

class WorkThread:
    """Does one thing after the other in a thread: messages first, then steps, until nothing is left"""
    listeners: Any
    state: Any
    left: Any
    messages: Any
    thread: Any
    changed: Any
    pid: Any

    def __init__(self):
        ...

    def advance(self):
        ...

    def work(self):
        """The thread"""
        ...

    def wake(self):
        """Start the thread, where there is none; the lock is held"""
        ...

    def tell(self):
        """Call those who listen; one that fails ends no run"""
        ...

class StepThread(WorkThread):
    """A thread that is told what to do from outside"""
    step_now = None

    def check_ours(self):
        """Raise `RuntimeError` in a child that was forked: it has the weights, and not the thread"""
        ...

    @property
    def within(self) -> bool:
        """Does its own step ask?"""
        ...

    def send(self, f) -> Future:
        """Have something done between two steps; from within a step, which would wait for itself, at once"""
        ...

    def go(self, steps):
        """Have so many steps made from now on"""
        ...

    def become(self, state: str):
        """The thread ends its steps with a word"""
        ...

    def rest(self, timeout: float | None=None) -> bool:
        """Wait until no step is made and none is to be made"""
        ...

class Owner(StepThread):
    """The steps of a trainer, and what is asked for in between"""
    error: Any
    metrics: Any
    leaving: Any
    trainer: Any
    steps: Any

    def __init__(self, trainer):
        ...

    def advance(self):
        """One step"""
        ...

    def close_steps(self):
        """Leave the loop; raises `RuntimeError` from within a step"""
        ...

    def end(self):
        """All steps are done"""
        ...

    def fail(self, error: BaseException):
        """Training broke off: what is there is saved, and the error kept"""
        ...

    def leave(self):
        """Save what is not saved, whatever the thread is doing, and end it"""
        ...

    def work(self):
        """The thread, which may be broken off anywhere; where it breaks by itself, nobody is left waiting"""
        ...

    def is_watched(self):
        """From now on the end of the process is told to this run"""
        ...

def is_unsaved(trainer) -> bool:
    """Would something be lost without a checkpoint?"""
    ...

class BrokenOff(BaseException):
    """The process ends, and with it this thread"""

def break_off(thread, seconds: float=10.0):
    """Raise `BrokenOff` in a thread until it ends"""
    ...

def leave_all():
    """The process ends: let each run leave a checkpoint"""
    ...
