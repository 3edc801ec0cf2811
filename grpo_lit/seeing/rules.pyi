# made by tools/stubs.py: edit the source, then run it
from typing import Any

__all__ = ['FATES', 'fates', 'RuleChange', 'changes_told', 'moved_text', 'most_moved']

import torch

from ..tensors import patch

from .shades import Shown, as_digits, legend, plain_table, reach_of

from .shades import safe_line, seen, seen_table, shade, shaded_text

from .walk import kept_tokens

FATES = {'freed': 'not pulled any more', 'caught': 'pulled now, not before', 'turned': 'pulled the other way', 'stronger': 'pulled more', 'weaker': 'pulled less'}

def fates(before: torch.Tensor, after: torch.Tensor, least: float=1e-06) -> dict:
    """What happens to each token's gradient"""
    ...

class RuleChange:
    """A step under the run's own rule and under another"""
    terms: Any
    losses: Any
    fates: Any
    moved: Any
    reading: Any
    changes: dict
    mask: Any
    before: Any
    after: Any

    def __init__(self, reading, changes: dict, base: dict | None=None):
        ...

    def counts(self) -> dict:
        """How many tokens each thing happens to"""
        ...

    def rows(self) -> list:
        """Before and after"""
        ...

    def fate_words(self) -> str:
        """The counts in a sentence"""
        ...

    def __repr__(self):
        ...

    def page(self, rows: list, at: int=0) -> str:
        """The counts, and completions over their gradients under the new rule"""
        ...

    def _repr_html_(self):
        ...

def changes_told(changes: dict) -> str:
    """Changes in words"""
    ...

def moved_text(change: RuleChange, b: int, at: int=0) -> str:
    """A completion over its gradients under the new rule; what changes is underlined"""
    ...

def most_moved(change: RuleChange, most: int=3) -> list:
    """Completions with the most tokens that change"""
    ...
