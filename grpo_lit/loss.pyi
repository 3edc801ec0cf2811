# made by tools/stubs.py: edit the source, then run it
__all__ = ['MEAN_OF_ANSWERS', 'MEAN_OF_TOKENS', 'SUM_PER_ANSWER', 'SUM_PER_BUDGET', 'LOSSES', 'FROM_THE_SAMPLER', 'KL_TERMS', 'LEVELS', 'LOSS_OPTIONS', 'Average', 'Loss', 'loss_items', 'average_terms', 'check_loss', 'token_terms', 'grpo_loss']

import inspect

from typing import Callable, NamedTuple

import torch

from .tensors import delegates, masked_mean, no_such

from .fast.offpolicy import off_policy_mask

from .logprobs import KL_KINDS, clamped, kl_estimate

from .terms import capped_term, clipped_term, gamma_term, gated_term, kl_term, tv_term

class Average(NamedTuple):
    """How the terms of tokens become one number"""
    divides_by: str
    row: Callable
    items: Callable

MEAN_OF_ANSWERS = Average('each answer by its tokens, then by the answers', _mean, _answers)

MEAN_OF_TOKENS = Average('the tokens', _total, _tokens)

SUM_PER_ANSWER = Average('the answers', _total, _answers)

SUM_PER_BUDGET = Average('answers x the longest allowed', _total, _budget)

class Loss(NamedTuple):
    """A member of the family"""
    term: Callable
    average: Average

LOSSES = {'grpo': Loss(clipped_term, MEAN_OF_ANSWERS), 'bnpo': Loss(clipped_term, MEAN_OF_TOKENS), 'dapo': Loss(clipped_term, MEAN_OF_TOKENS), 'dr_grpo': Loss(clipped_term, SUM_PER_BUDGET), 'luspo': Loss(clipped_term, SUM_PER_ANSWER), 'cispo': Loss(capped_term, MEAN_OF_TOKENS), 'sapo': Loss(gated_term, MEAN_OF_ANSWERS), 'vespo': Loss(gamma_term, MEAN_OF_TOKENS), 'dppo_tv': Loss(tv_term, MEAN_OF_TOKENS), 'dppo_kl': Loss(kl_term, MEAN_OF_TOKENS)}

FROM_THE_SAMPLER = ('dppo_tv', 'dppo_kl')

def loss_items(loss_type: str, mask: torch.Tensor, max_completion_length: int | None=None) -> torch.Tensor:
    """What a batch with this mask is divided by; micro-batches and processes add theirs up, for `num_items`"""
    ...

def average_terms(x: torch.Tensor, mask: torch.Tensor, loss_type: str, num_items=None, max_completion_length: int | None=None) -> torch.Tensor:
    """The terms of tokens as one number, in the way of `loss_type`"""
    ...

KL_TERMS = {**{kind: _plain(kind) for kind in KL_KINDS}, 'k1_unbiased': _unbiased('k1'), 'k3_unbiased': _unbiased('k3')}

LEVELS = ('token', 'sequence')

LOSS_OPTIONS = [name for term in (gated_term, gamma_term, tv_term) for name in inspect.signature(term).parameters if name.startswith(('sapo_', 'vespo_', 'dppo_'))]

def check_loss(loss_type: str, kl: str, importance_sampling_level: str, epsilon_high: float | None, **options):
    """Raise `ValueError` for settings that no loss of the family has"""
    ...

def token_terms(logps: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, old_logps: torch.Tensor | None=None, ref_logps: torch.Tensor | None=None, *, loss_type: str='dapo', beta: float=0.04, kl: str='k3_unbiased', epsilon: float=0.2, epsilon_high: float | None=None, delta: float | None=None, importance_sampling_level: str='token', max_completion_length: int | None=None, token_weights: torch.Tensor | None=None, off_policy_mask_threshold: float | None=None, sampling_logps: torch.Tensor | None=None, entropy: torch.Tensor | None=None, entropy_coef: float=0.0, **options) -> dict:
    """What each token contributes, part by part; `loss` is policy + beta*kl - entropy_coef*entropy, to be averaged over the mask"""
    ...

def grpo_loss(logps: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, old_logps: torch.Tensor | None=None, ref_logps: torch.Tensor | None=None, *, loss_type: str='dapo', num_items=None, max_completion_length: int | None=None, beta: float=0.04, kl: str='k3_unbiased', epsilon: float=0.2, epsilon_high: float | None=None, delta: float | None=None, importance_sampling_level: str='token', token_weights: torch.Tensor | None=None, off_policy_mask_threshold: float | None=None, sampling_logps: torch.Tensor | None=None, entropy: torch.Tensor | None=None, entropy_coef: float=0.0) -> tuple:
    """The GRPO objective (DeepSeekMath, arXiv 2402.03300, equation 3), negated, and its relatives: the average of `token_terms`"""
    ...
