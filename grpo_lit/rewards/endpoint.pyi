# made by tools/stubs.py: edit the source, then run it
from typing import Any

__all__ = ['Memory', 'own_share', 'Endpoint', 'JudgeError', 'as_endpoint']

import asyncio, hashlib, json, os

from dataclasses import astuple

from pathlib import Path

from ..tensors import patch

from .client import Budget, Client, Pace, httpx, read_address, read_key, reply_text, tokens_used

class Memory:
    """Verdicts by key; with a path they outlive the process"""
    path: Any
    verdicts: Any

    def __init__(self, path=None):
        ...

    def get(self, key, question):
        """An earlier verdict, if there is one and it still is one; else None"""
        ...

    def put(self, key, verdict, **more):
        """Remember a verdict"""
        ...

def own_share(per_minute, max_spend, max_requests) -> tuple:
    """The part of limits that is left to this process, where a launcher has started several"""
    ...

class Endpoint:
    """A chat model behind an OpenAI-compatible address, asked with limits, retries and a memory; judges may share one"""
    client: Any
    body: dict | None
    model: str
    url: Any
    api_key_env: str
    concurrency: int
    max_retries: int
    pace: Any
    budget: Any
    memory: Any
    stats: Any

    def __init__(self, model: str, base_url: str='http://localhost:8000/v1', api_key: str | None=None, api_key_env: str='OPENAI_API_KEY', concurrency: int=16, per_minute: float | None=None, timeout: float=60.0, max_retries: int=4, backoff: float=1.0, max_wait: float=60.0, prices: tuple | None=None, max_spend: float | None=None, max_requests: int | None=None, cache_file: str | None=None, body: dict | None=None):
        ...

    def __repr__(self):
        ...

    def key(self, question) -> str:
        """A hash of all that a verdict depends on"""
        ...

    async def ask_one(self, session, gate, question):
        """The verdict on one question, or None; raises `JudgeError` where no question could be answered"""
        ...

    async def ask(self, questions: list) -> list:
        """Verdicts of the judge; raises `JudgeError` where no question could be answered"""
        ...

class JudgeError(ValueError):
    """No row can be judged: a wrong key, an unknown model, or no server there"""

def as_endpoint(model, kwargs) -> Endpoint:
    """`model` itself, or made from its name and `kwargs`; raises `ValueError` for settings of what is there already"""
    ...
