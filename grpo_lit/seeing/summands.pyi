# made by tools/stubs.py: edit the source, then run it
from typing import Any

__all__ = ['WRITTEN_TERMS', 'KL_FORMULAS', 'LOSS_DEFAULTS', 'math_of', 'as_formula', 'option_of', 'six', 'policy_formula', 'kl_formula', 'Summand', 'check_token', 'token_numbers', 'summands', 'TokenSum', 'whole_loss']

import html, inspect, math, re

from typing import NamedTuple

import torch

from ..loss import LOSSES, grpo_loss

from ..terms import capped_term, clipped_term, gamma_term, gated_term, kl_term, tv_term

from ..tensors import patch

from .reading import called_again

from .shades import BLUE_INK, PURPLE_INK, SKY_INK

from .shades import as_digits, plain_table, safe_line, seen

from .walk import check_row, kept_tokens

def math_of(formula: str, ink: str='') -> str:
    """A formula as browsers draw it"""
    ...

def as_formula(*parts: str) -> str:
    ...

def option_of(term, name: str, options: dict):
    """What an option of a term is: as given, or its default"""
    ...

def six(value) -> str:
    """Six digits, in brackets where there is a sign in front"""
    ...

WRITTEN_TERMS = {clipped_term: _clipped, capped_term: _capped, gated_term: _gated, gamma_term: _weighed, tv_term: _let_go_of, kl_term: _let_go_of}

def policy_formula(v: dict, options: dict) -> tuple:
    """The term that the advantage is in"""
    ...

KL_FORMULAS = {'k1': 'd', 'k2': 'd²/2', 'k3': 'exp(−d) + d − 1'}

def kl_formula(v: dict, kind: str) -> tuple:
    """The term of the leash, without its price"""
    ...

class Summand(NamedTuple):
    """A line of the sum"""
    name: str
    formula: str
    numbers: str
    value: float
    ink: str = ''

def check_token(reading, b: int, t: int):
    """Raise `ValueError` unless this token has a term in the loss"""
    ...

LOSS_DEFAULTS = {name: p.default for name, p in _OF_LOSS.items() if p.default is not p.empty}

def token_numbers(reading, b: int, t: int, changes: dict) -> tuple:
    """What goes into a token's terms, by the letters of the formulas"""
    ...

def summands(v: dict, options: dict) -> list:
    """The terms of one token"""
    ...

class TokenSum:
    """One token's way into the loss"""
    lines: Any
    step: Any
    row: Any
    t: int
    token: Any
    values: Any
    options: Any
    loss: Any
    gradient: Any
    share: Any

    def __init__(self, reading, b: int, t: int, **changes):
        ...

    @property
    def clipped(self) -> bool:
        ...

    def rows(self) -> list:
        """The lines of the sum as a table"""
        ...

    def reading(self) -> str:
        """What it comes to, in a sentence"""
        ...

    def title(self) -> str:
        ...

    def __repr__(self):
        ...

    def _repr_html_(self):
        ...

def whole_loss(lines: list, loss_type: str) -> str:
    """The loss of a step as the sum that it is, each term in the colour of its line"""
    ...
