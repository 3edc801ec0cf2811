# made by tools/stubs.py: edit the source, then run it
__all__ = ['TOKEN_FIELDS', 'ROW_FIELDS', 'ROW_LISTS', 'Rollouts', 'four_answers', 'completion_text', 'prompt_text']

import html

from collections import Counter

from dataclasses import dataclass, field, replace

import torch

from .showing import html_table, own_names, text_table

from .tensors import below, masked_mean, pad, patch, piece_size, question_text, some_rows

TOKEN_FIELDS = ('completion_ids', 'completion_mask', 'observation_mask', 'logps', 'ref_logps', 'old_logps', 'token_weights')

ROW_FIELDS = (*TOKEN_FIELDS, 'finished', 'versions', 'reward_table', 'rewards', 'advantages')

ROW_LISTS = ('completions', 'episodes')

@dataclass(repr=False)
class Rollouts:
    """P prompts with G completions each, group-major: row `i*G+j` is completion j of prompt i; B = P*G"""
    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    completion_ids: torch.Tensor
    completion_mask: torch.Tensor
    logps: torch.Tensor | None
    num_generations: int
    finished: torch.Tensor
    prompts: list | None = None
    completions: list | None = None
    columns: dict = field(default_factory=dict)
    reward_names: list = field(default_factory=list)
    reward_table: torch.Tensor | None = None
    rewards: torch.Tensor | None = None
    reward_errors: dict = field(default_factory=dict)
    advantages: torch.Tensor | None = None
    ref_logps: torch.Tensor | None = None
    old_logps: torch.Tensor | None = None
    token_weights: torch.Tensor | None = None
    notes: dict = field(default_factory=dict)
    observation_mask: torch.Tensor | None = None
    episodes: list | None = None
    versions: torch.Tensor | None = None

    def __post_init__(self):
        ...

    @property
    def lengths(self):
        ...

    @property
    def reach(self):
        ...

    def __len__(self):
        ...

    def __repr__(self):
        ...

    @classmethod
    def from_text(cls, tokenizer, prompts: list, completions: list, finished: list | None=None, **columns) -> Rollouts:
        """Rollouts from written text"""
        ...

    def group(self, i: int=0) -> list:
        """The completions of prompt `i` as plain rows"""
        ...

    def table(self, i: int=0, width: int=60) -> str:
        """Group `i` as a plain-text table for a terminal"""
        ...

    def _repr_html_(self, max_groups=3):
        ...

    def take(self, rows) -> Rollouts:
        """The chosen rows, trimmed to their own longest prompt and completion"""
        ...

    @classmethod
    def join(cls, parts: list) -> Rollouts:
        """One after the other, padded to the longest prompt and completion; what only some of them have is left out"""
        ...

    def sequences(self) -> tuple:
        """Prompt and completion joined, the prompt repeated for each of its completions"""
        ...

    def repeated(self, name: str) -> list:
        """A per-prompt column, one value per completion"""
        ...

    def to(self, device) -> Rollouts:
        """The same with every tensor on `device`"""
        ...

def four_answers(tokenizer) -> Rollouts:
    """The running example of the book: worked out, blurted wrong, blurted right, right but without tags"""
    ...

def completion_text(c) -> str:
    """The text that the policy wrote; of a conversation what it said last"""
    ...

def prompt_text(p) -> str:
    """A prompt to be read by people or by another model; what the policy reads is made by its chat template"""
    ...
