# made by tools/stubs.py: edit the source, then run it
from typing import Any

__all__ = ['NARROW', 'PAGES', 'answer_or_reason', 'place_controls', 'rule_controls', 'other_controls', 'Sliders']

import ipywidgets as W

from ..loss import KL_TERMS, LEVELS, LOSSES

from ..run.named_rewards import reward_named

from ..tensors import in_line, patch, question_text

from .hits import tokens_hit

from .inspector import Inspector

from .rules import most_moved

from .shades import TOKEN_KINDS, safe, seen

from .summands import LOSS_DEFAULTS

from .walk import GroupView, TokensView, kept_tokens

def answer_or_reason(f, *args) -> str:
    """What a question shows, or why it has no answer"""
    ...

NARROW = W.Layout(width='16em')

def place_controls(inspector) -> dict:
    """Where to look"""
    ...

def rule_controls(options: dict) -> dict:
    """What can be changed; they begin where the run was"""
    ...

def other_controls(inspector) -> dict:
    """Questions to the whole run"""
    ...

PAGES = ('formula and rules', 'step', 'beside', 'search', 'another reward')

class Sliders:
    """Controls over an inspector; `html` holds what they show, by name"""
    controls: Any
    html: Any
    inspector: Inspector
    quiet: Any

    def __init__(self, inspector: Inspector):
        ...

    def __getattr__(self, name):
        ...

    def __repr__(self):
        ...

    def set(self, control, **values):
        """Move a control without what follows"""
        ...

    def to_step(self):
        """The controls follow the step"""
        ...

    def to_row(self):
        """The controls follow the completion"""
        ...

    def changes(self) -> dict:
        """What is not as the run was"""
        ...

    def draw_group(self):
        ...

    def draw_rules(self):
        ...

    def draw_beside(self):
        ...

    def draw_search(self):
        ...

    def draw_scorer(self):
        ...

    def draw_step(self):
        ...

    def redraw(self):
        """What is to be seen now"""
        ...

    def connect(self):
        """Each control does something"""
        ...

    def moved(self, name: str):
        """A control was moved"""
        ...

    def walk(self, n: int):
        """So many tokens on"""
        ...

    def as_it_was(self):
        """The rule of the run again"""
        ...

    def page_boxes(self) -> dict:
        """Each page with its own controls"""
        ...

    def widget(self):
        """All of it"""
        ...
