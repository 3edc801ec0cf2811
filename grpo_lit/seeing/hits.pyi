# made by tools/stubs.py: edit the source, then run it
from typing import Any

__all__ = ['needle', 'around_match', 'tokens_hit', 'of_each', 'lost_words', 'Hits', 'share_curve', 'Crossings']

import re

from bisect import bisect_left, bisect_right

from collections import Counter

from itertools import accumulate

from ..run.sparks import curve_line

from ..run.past import SIDES, side

from ..tensors import in_line, patch, question_text

from .shades import plain_table, safe, safe_lines, seen, seen_table

def needle(text) -> re.Pattern:
    """What to look for; raises `ValueError` if there is nothing"""
    ...

def around_match(text: str, at: re.Match, width: int=30) -> tuple:
    """What stands before a match, the match, and what follows"""
    ...

def tokens_hit(tokens: list, text) -> set:
    """The tokens that a word or a number is in, though it may lie across several"""
    ...

def of_each(steps: list, ask) -> tuple:
    """What each step answers; raises `ValueError` where none does"""
    ...

def lost_words(lost: dict) -> str:
    ...

class Hits:
    """Where a text was found"""
    text: Any
    found: Any
    sizes: Any
    lost: Any

    def __init__(self, text, readings, prompts: bool=False):
        ...

    def _look(self, pattern, reading, prompts):
        ...

    def __len__(self):
        ...

    def __iter__(self):
        ...

    def by_step(self) -> list:
        """How many completions have it, step by step"""
        ...

    def rows(self, most: int=20) -> list:
        """The first hits"""
        ...

    def title(self) -> str:
        ...

    def __repr__(self):
        ...

    def _repr_html_(self):
        ...

def share_curve(rows: list) -> str:
    """The shares as a line of blocks, from 0 to the largest"""
    ...

class Crossings:
    """Old completions with another reward, over all steps"""
    lost: dict | None
    name: str
    moved: Any
    counts: Any
    lines: Any

    def __init__(self, pairs: list, name: str, lost: dict | None=None):
        ...

    def _compare(self, old, new):
        ...

    def __len__(self):
        ...

    def sides(self) -> list:
        """From which side to which, all steps together"""
        ...

    def by_step(self) -> list:
        ...

    def title(self) -> str:
        ...

    def rows(self, most: int=12) -> list:
        """Some of the completions that change sides"""
        ...

    def __repr__(self):
        ...

    def _repr_html_(self):
        ...
