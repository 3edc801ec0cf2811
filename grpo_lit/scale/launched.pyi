# made by tools/stubs.py: edit the source, then run it
from typing import Any

__all__ = ['UNKILLABLE', 'ENDS', 'HURRY', 'Descendants', 'last_lines', 'words_of_code', 'Launched', 'FollowedChild', 'handed_on', 'launch', 'of_command', 'of_script', 'on_cpu']

import contextlib, os, shlex, signal, subprocess, sys, time

from pathlib import Path

import psutil

from fastcore.basics import patch

from ..run.following import Followed

from ..run.options import nearest

from ..run.runs import Record

from ..run.signals import before_the_end, in_main_thread, leave_by, put_signals_back, take_signals

from ..run.watch import shown_until

from .commandline import COMMANDS_LAUNCHED, START_COMMAND, childs_environment, command_words, directory_asked, known_options, script_words

from ..tensors import visible

UNKILLABLE = 30.0

class Descendants:
    """A process, and all that it has started"""
    known: Any

    def __init__(self, pid: int):
        ...

    def look(self):
        """Remember who has come"""
        ...

    def alive(self) -> list:
        """Who is still there"""
        ...

    def kill(self, grace: float=0.0) -> list:
        """End all of them"""
        ...

def last_lines(path: Path, begin: int=0, most: int=30) -> str:
    """The end of what was said, without what would steer a terminal"""
    ...

ENDS = {0: 'done', 1: 'something could not be written', 2: 'wrong input', 3: 'nothing could be learned', 4: 'one of several processes was lost'}

def words_of_code(code: int) -> str:
    """How a process ended"""
    ...

class Launched:
    """A run that trains in processes of its own"""
    cut_off: Any
    family: Any
    name: str
    words: list
    out: str
    log: Any
    asked: Any
    begin: Any
    process: Any

    def __init__(self, name: str, words: list, out: str, cpu: bool=False):
        ...

    def __repr__(self):
        ...

    @property
    def state(self) -> str:
        """How it stands, in words"""
        ...

    @property
    def summary(self) -> dict:
        """What the run says of itself at its end; empty before"""
        ...

    def said(self, lines: int=30) -> str:
        """The end of what it has printed"""
        ...

    def ask(self):
        """Ask it to save a checkpoint and end"""
        ...

    def stop(self, patience: float=600.0) -> Launched:
        """Have it save a checkpoint and end; behind the call nothing of it is left; raises `RuntimeError` if it failed"""
        ...

    def watch(self, poll: float=0.5, stream=None) -> Launched:
        """Show it until it has ended; raises `RuntimeError` if it failed"""
        ...

    def as_asked(self, code: int) -> bool:
        """Has it ended by the signal that asked it to? A launcher of several processes says so in words"""
        ...

    def checked(self) -> Launched:
        """Itself; raises `RuntimeError` if it failed"""
        ...

class FollowedChild(Followed):
    """A run directory, and the process that we know to write it"""
    launched: Launched

    def __init__(self, launched: Launched):
        ...

    def figures(self):
        """The run as it is now"""
        ...

    def goes_on(self, found):
        """It runs; between the steps its last line says what it does"""
        ...

HURRY = 10.0

@contextlib.contextmanager
def handed_on(launched: Launched):
    """Signals that would end this process ask the launched one to end"""
    ...

def launch(what: str='train', *arguments, out: str='', processes: int=1, wait: bool=True, poll: float=0.5, stream=None, **options) -> Launched:
    """Train in processes of its own, seen from here; raises `ValueError` for wrong options, `RuntimeError` if it fails"""
    ...

def of_command(command: str, arguments: tuple, out: str, processes: int, options: dict) -> tuple:
    """Name, words and directory of a command of `grpo-lit`"""
    ...

def of_script(script: str, arguments: tuple, out: str, processes: int, options: dict) -> tuple:
    """Name, words and directory of a script"""
    ...

def on_cpu() -> bool:
    """Is there no GPU here? Asked of the driver, so that this process does not touch one"""
    ...
