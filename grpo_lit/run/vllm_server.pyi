# made by tools/stubs.py: edit the source, then run it
from typing import Any

__all__ = ['ServerSampler', 'clear_killed', 'cleared', 'check_room']

import asyncio, secrets, weakref

from dataclasses import replace

from functools import partial

from pathlib import Path

from accelerate.utils import broadcast_object_list

from ..core import Rollouts

from ..policy import eos_ids

from .asking import WRITING, Patience, Question, Server, ServerError, Trouble, server_address

from .deliveries import TRIES, Deliveries, Delivery

from .delivery import Compared, Witness, adapter_weights, gathered, whole_weights, write_weights

from .files import remove_quietly

from .fitness import vocabulary

from .lock import is_held

from .sampler import Sampler

from .served import Expected, as_rollouts, check_mode, completion_request, probe_of, served_kwargs

from .server_facts import check_facts, facts_of, sync_folder, sync_way

from . import transfer

from ..sampling import check_fits

from ..scoring import columns_of_rows

from ..tasks import encode_prompt

from ..tensors import patch, seed_for

class ServerSampler(Sampler):
    """Samples with a vLLM server"""
    server: Any
    way: Any
    place: Any
    run: Any
    witness: Any
    found: Any
    remote = True

    def __init__(self, state, tokenizer, args, accelerator, play=None):
        ...

    @property
    def deliveries(self) -> Deliveries:
        """The server, asked what it is when it is first needed"""
        ...

    def sync(self, version: int):
        """Let the server have the weights of the policy"""
        ...

    def send(self, model, weights: dict, version: int) -> Delivery:
        """Write the weights, and let the server load them"""
        ...

    def written(self, model, weights: dict, version: int) -> Path:
        """The files of a delivery"""
        ...

    def begin_place(self):
        """A directory for deliveries, which goes when this does"""
        ...

    def agree(self, sent: Delivery | None, wrong: Exception | None):
        """What the first process has sent, or why not, in all of them"""
        ...

    def requests(self, rows: list, G: int, seed: int, how: dict) -> tuple:
        """What is asked for these rows"""
        ...

    def to_write(self, body: dict, expected: Expected) -> Question:
        """What is asked of the weights that were sent last"""
        ...

    async def group(self, session, body: dict, expected: Expected, gate: asyncio.Lock) -> list:
        """One group by the weights of the last delivery"""
        ...

    def generate(self, rows: list, G: int, seed: int, on_group=None, **how) -> Rollouts:
        """G completions for each row"""
        ...

    def check_log_probs(self, temperature: float):
        """Raise `ValueError` where the server gives others than those at this temperature"""
        ...

def clear_killed(folder: Path):
    """Remove what killed runs have left"""
    ...

def cleared(place: Path, around: bool=True, remove=remove_quietly):
    """Remove it"""
    ...

def check_room(tokens: int, most: int | None):
    """Raise `ValueError` where the server has a shorter context than the policy"""
    ...
