# made by tools/stubs.py: edit the source, then run it
from typing import Any

__all__ = ['Refusal', 'Engine', 'Bent', 'choice', 'FakeServer', 'as_bytes', 'handler_of']

import contextlib, copy, json, threading

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pathlib import Path

import torch

from ..drawing import uniforms

from ..endings import Endings

from ..filters import new_filters

from .delivery import digest

from ..sampling import decode

from ..tensors import patch

class Refusal(Exception):
    """An answer that is none"""
    status: int
    said: str

    def __init__(self, status: int, said: str):
        ...

class Engine:
    """What is behind the doors"""
    turn: Any
    first: Any
    tokenizer: Any
    dev: bool
    lora: bool

    def __init__(self, model, tokenizer, dev: bool=True, lora: bool=False):
        ...

    def restart(self):
        """All that it was told is gone"""
        ...

    def doors(self) -> dict:
        """What may be asked"""
        ...

    def answer(self, path: str, body: dict) -> dict:
        """By the door of that path"""
        ...

    def health(self, body):
        ...

    def weight_info(self, body):
        ...

    def set_version(self, body):
        ...

    def info(self, body):
        ...

    def models(self, body):
        ...

    def rpc(self, body):
        """`reload_weights` from safetensors"""
        ...

    def checksums(self, body):
        """Of each tensor"""
        ...

    def load(self, body):
        """An adapter"""
        ...

    def unload(self, body):
        """The same"""
        ...

    def completions(self, body):
        """A group"""
        ...

class Bent:
    """A filter behind all others: it changes nothing, and keeps what they have left"""
    n: int
    limit: int
    kept: Any

    def __init__(self, n: int, limit: int):
        ...

    def __call__(self, logits, rows):
        ...

    def of(self, ids: torch.Tensor) -> torch.Tensor:
        """The log-probs of the tokens that were drawn"""
        ...

def choice(prompt: list, i: int, ids, logps, length: int, finished: bool) -> dict:
    """One completion, as vLLM says it"""
    ...

class FakeServer:
    """An engine at an address of this machine, as a context; `calls` has the paths that were asked"""
    engine: Any
    calls: Any
    faults: Any
    ends: Any

    def __init__(self, model, tokenizer, **how):
        ...
    port = 0

    def at(self, port: int):
        """The same server at this port"""
        ...

    def __enter__(self):
        ...

    def __exit__(self, *error):
        ...

    def fault(self, path: str):
        """What goes wrong now; None: nothing"""
        ...

    def answer(self, path: str, body: dict) -> tuple | None:
        """What is said"""
        ...

def as_bytes(found) -> bytes:
    """What goes over the wire"""
    ...

def handler_of(fake: FakeServer):
    """The class by which `http.server` speaks"""
    ...
