# made by tools/stubs.py: edit the source, then run it
from typing import Any

__all__ = ['CACHE_TRIES', 'COMING', 'LOOKS', 'TRIES', 'IN_TURN', 'Delivery', 'Deliveries', 'WrongWeights', 'checksums_of']

import asyncio, time

from dataclasses import dataclass

from pathlib import Path

from .asking import NAP, Question, Server, ServerError, plain

from .delivery import differing

from .files import log

from .server_facts import DEV, LORA, Facts, maybe

from ..tensors import patch

@dataclass
class Delivery:
    """What a server should have"""
    way: str
    stamp: str
    folder: Path | None = None
    weights: dict | None = None
    witness: dict | None = None
    stamped: bool = False
    arrived: bool = False

    @property
    def model(self) -> str | None:
        """The name by which a request asks for these weights"""
        ...

class Deliveries:
    """How one server is told of deliveries"""
    sent: Any
    failures: Any
    group: Any
    turn: Any
    server: Server
    facts: Facts
    rank: int

    def __init__(self, server: Server, facts: Facts, rank: int=0):
        ...

    def ask(self, session, path: str, body: dict | None=None, **how):
        ...

    async def reload(self, session, delivery: Delivery):
        """Let it load files, and forget what the old weights have computed"""
        ...

    async def forget(self, session):
        """Reset the cache of prompts; it is busy as long as something is written"""
        ...

    async def load_adapter(self, session, delivery: Delivery):
        """Let it load an adapter under a new name"""
        ...

    async def unload_adapter(self, session, stamp: str):
        """Let it forget the one before; it may be gone already"""
        ...

    async def check(self, session, judge):
        """Compare one tensor"""
        ...

    def say_unchecked(self):
        """Once"""
        ...

    async def mark(self, session, delivery: Delivery):
        """Let it know that weights are coming; a server without that is believed"""
        ...

    async def version(self, session) -> str:
        """What it says that it has"""
        ...

    async def unmarked(self, session, mark: str, looks: int) -> list:
        """What it says instead of the mark, when it is asked so often at once"""
        ...

    async def seal(self, session, delivery: Delivery):
        """The mark is still there: they have come"""
        ...

    async def unseal(self, session, delivery: Delivery):
        """They are others: no other process may find the stamp"""
        ...

    async def deliver(self, session, delivery: Delivery, judge):
        """One attempt"""
        ...

    async def bring(self, session, delivery: Delivery, judge):
        """Deliver, again where the server breaks down over it"""
        ...

    async def is_current(self, session) -> bool:
        """Has the server what was sent last?"""
        ...

    def judge_again(self, checksums: dict) -> str | None:
        """Compare with what was compared before"""
        ...

    async def is_coming(self, session) -> bool:
        """Does somebody bring it at this moment?"""
        ...

    async def comes_back(self, session) -> bool:
        """Is it there, or does a process before this one bring it?"""
        ...

    async def bring_back(self, session, gate: asyncio.Lock):
        """Repeat the last delivery, if the server has lost it"""
        ...

    async def meet(self, session, group: Group):
        """Form the group"""
        ...

    async def begin_group(self, session, make_group):
        """A group, which is left at the end of these deliveries"""
        ...

    async def transfer(self, session, delivery: Delivery, make_group=Group):
        """Send what is in `delivery.weights`"""
        ...

CACHE_TRIES = 50

class WrongWeights(ServerError):
    """A server has other weights than were sent"""

def checksums_of(answer: dict) -> dict:
    """From the answer of `/weight_checker`; raises `ValueError` for others"""
    ...

COMING = '~'

LOOKS = 8

TRIES = 3

IN_TURN = 5.0
