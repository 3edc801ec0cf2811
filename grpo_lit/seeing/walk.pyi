# made by tools/stubs.py: edit the source, then run it
from typing import Any

__all__ = ['NOTED', 'four_figures', 'rows_of_group', 'check_row', 'completion_line', 'spread_line', 'StepView', 'GroupView', 'kept_tokens', 'known_values', 'token_note', 'TokensView']

import math

from dataclasses import replace

import torch

from ..advantages import group_advantages

from ..core import four_answers

from ..logprobs import token_logps

from ..rewards.comparing import accuracy_reward

from ..scoring import score_completions

from ..showing import own_names

from ..tensors import in_line, patch, question_text, visible

from ..run.sparks import BLOCKS

from .readings import Reading, readings

from .shades import Shown, as_digits, distance, legend, plain_table, reach_of

from .shades import safe, safe_line, seen, seen_table, shade, shaded_text, token_kind

def four_figures(model, tokenizer, moved: float=0.25) -> Reading:
    """The running example as an update sees it"""
    ...

def rows_of_group(reading, i: int) -> range:
    """Numbers of the completions of prompt `i`; raises `ValueError` if there is no such prompt"""
    ...

def check_row(reading, b: int):
    """Raise `ValueError` if there is no such completion"""
    ...

def completion_line(row: dict) -> dict:
    """A completion in a table"""
    ...

def spread_line(reading, i: int) -> dict:
    """A group in a table of the step"""
    ...

class StepView:
    """A step: a line for each group"""
    reading: Any

    def __init__(self, reading):
        ...

    def rows(self) -> list:
        ...

    def title(self) -> str:
        ...

    def __repr__(self):
        ...

    def _repr_html_(self):
        ...

class GroupView:
    """A group: a line for each completion"""
    numbers: Any
    reading: Any
    i: int
    row: int | None

    def __init__(self, reading, i: int, row: int | None=None):
        ...

    def rows(self) -> list:
        ...

    def title(self) -> str:
        ...

    @property
    def here(self):
        ...

    def __repr__(self):
        ...

    def _repr_html_(self):
        ...

def kept_tokens(reading, b: int) -> list:
    """The tokens of a completion"""
    ...

NOTED = ('logp', 'ratio', 'kl', 'entropy', 'gradient')

def known_values(reading) -> dict:
    """The numbers of tokens that the run has kept"""
    ...

def token_note(token: str, t: int, numbers: dict) -> str:
    """What a token says when it is pointed at"""
    ...

class TokensView:
    """A completion over one of its numbers"""
    values: dict | None
    reach: float | None
    reading: Any
    row: int
    color: str
    at: int | None
    hits: Any

    def __init__(self, reading, row: int, color: str='logp', at: int | None=None, reach: float | None=None, hits=(), values: dict | None=None):
        ...

    def numbers(self, t: int) -> dict:
        """Kind -> value of one token"""
        ...

    def missing(self) -> str:
        """Why there are no colours"""
        ...

    def is_clipped(self, t: int) -> bool:
        ...

    def tokens(self) -> list:
        """Its tokens; where none were kept, its text in one piece"""
        ...

    def shown(self, t: int, text: str) -> Shown:
        ...

    def __repr__(self):
        ...

    def _repr_html_(self):
        ...
