# made by tools/stubs.py: edit the source, then run it
__all__ = ['VALUES', 'Reading', 'called_again']

from dataclasses import dataclass, field, replace

import torch

from ..advantages import group_advantages

from ..logprobs import kl_estimate

from ..loss import average_terms, grpo_loss, loss_items, token_terms

from ..tensors import no_such, patch

@dataclass(repr=False)
class Reading:
    """One update: what was written, how it was judged, and what was known of each token"""
    step: int
    rows: list
    num_generations: int
    prompts: list
    tokens: list | None = None
    ids: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    observed: torch.Tensor | None = None
    advantages: torch.Tensor | None = None
    logps: torch.Tensor | None = None
    old_logps: torch.Tensor | None = None
    ref_logps: torch.Tensor | None = None
    new_logps: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    token_weights: torch.Tensor | None = None
    options: dict = field(default_factory=dict)
    first: bool = True
    advantage_options: dict = field(default_factory=dict)
    items: torch.Tensor | None = None
    note: str = ''
    judge: object = None
    errors: dict = field(default_factory=dict)

    def __len__(self):
        ...

    def __repr__(self):
        ...

    def group_rows(self, i: int) -> range:
        """The rows of group `i`"""
        ...

    def advantages_of(self, rewards) -> torch.Tensor:
        """From rewards, as the run does it"""
        ...

    def terms(self, **changes) -> dict:
        """What each token contributes to the loss: `token_terms`; 0 where the mask is 0"""
        ...

    def loss(self, **changes) -> tuple:
        """`grpo_loss`; of an update whose rows were all kept, what was logged"""
        ...

    def shares(self, **changes) -> torch.Tensor:
        """What the term of each token counts for: the loss is the sum of `terms()['loss']*shares()`"""
        ...

    def gradients(self, **changes) -> torch.Tensor:
        """The gradient of `grpo_loss` at each token's log-prob: negative where the token is to become likelier"""
        ...

    def values(self, kind: str) -> torch.Tensor:
        """One figure for each token; raises `ValueError` where it was not kept"""
        ...

    def dead(self, i: int) -> str:
        """Why group `i` teaches nothing, in words"""
        ...

    def rescored(self, reward_funcs, weights: list | None=None, timeout: float | None=60.0) -> Reading:
        """The same answers, judged anew"""
        ...

def called_again(r: Reading, changes: dict) -> tuple:
    """What the loss is called with once more; raises `ValueError` where something it needs is not known"""
    ...

VALUES = {'logp': lambda r: called_again(replace(r, advantages=torch.zeros(len(r))), dict(beta=0.0))[0], 'ratio': lambda r: r.terms(advantages=torch.zeros(len(r)), beta=0.0)['ratio'], 'kl': _kl, 'entropy': lambda r: _needed(r.entropy, 'entropy'), 'gradient': lambda r: r.gradients(), 'ref_logp': lambda r: _needed(r.ref_logps, 'log-prob under a reference'), 'sampled_logp': lambda r: _needed(r.logps, 'log-prob under the sampler'), 'weight': lambda r: _needed(r.token_weights, 'weight')}
