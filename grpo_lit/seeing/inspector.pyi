# made by tools/stubs.py: edit the source, then run it
from typing import Any

__all__ = ['row_changes', 'Inspector', 'in_kernel', 'inspect']

from importlib import import_module

from pathlib import Path

import torch

from ..rewards.calls import reward_name

from ..tensors import no_such, patch

from .beside import BesideReference, BesideSteps, same_prompt

from .hits import Crossings, Hits, of_each

from .readings import readings

from .rules import RuleChange

from .summands import TokenSum

from .walk import GroupView, StepView, TokensView, check_row, known_values, rows_of_group

def row_changes(reading, row: int, advantage: float | None=None, reward: float | None=None) -> dict:
    """One completion's advantage or reward, as a change of all of the step"""
    ...

class Inspector:
    """A run, to be asked"""
    readings: Any
    step: Any
    row: Any
    t: Any

    def __init__(self, run_or_rollouts, **options):
        ...

    @property
    def steps(self) -> list:
        ...

    def at(self, step: int | None=None):
        ...

    def _known(self, step):
        ...

    @property
    def group(self) -> int:
        ...

    def __repr__(self):
        ...

    def show(self, step: int | None=None, group: int | None=None, completion: int | None=None, color: str='logp'):
        """A step, a group or a completion"""
        ...

    def token(self, row: int | None=None, t: int | None=None, step: int | None=None, advantage: float | None=None, reward: float | None=None, **changes):
        """One token's way into the loss, under the run's rule or another"""
        ...

    def rules(self, step: int | None=None, row: int | None=None, advantage: float | None=None, reward: float | None=None, base: dict | None=None, **changes):
        """The step's tokens under another rule"""
        ...

    def rule_counts(self, **changes) -> list:
        """What another rule would have done at each step"""
        ...

    def rescore(self, reward_funcs, weights: list | None=None, steps=None):
        """What another reward would have made of the run's completions"""
        ...

    def search(self, text, prompts: bool=False):
        """Where a word or a number stands"""
        ...

    def beside(self, what, step: int | None=None, group: int | None=None, row: int | None=None):
        """The same question at another step, or a completion under policy and reference"""
        ...

    def page(self, path, **options) -> Path:
        """The run as one HTML file that needs no kernel"""
        ...

    def panel(self):
        """The inspector under sliders"""
        ...

    def _repr_html_(self):
        ...

    def _repr_mimebundle_(self, **kwargs):
        ...

def in_kernel() -> bool:
    """Is there a frontend that could draw widgets?"""
    ...

def inspect(run_or_rollouts, **options) -> Inspector:
    """Look into a run: in a notebook with sliders, anywhere by its methods"""
    ...
