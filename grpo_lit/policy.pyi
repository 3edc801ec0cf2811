# made by tools/stubs.py: edit the source, then run it
from typing import Any

__all__ = ['TINY', 'PICKLES', 'tiny_tokenizer', 'new_tiny', 'check_tokenizer', 'eos_ids', 'unmark_quantized', 'refuse_pickles', 'load_policy', 'has_adapter', 'lent', 'Reference', 'add_lora', 'first_nonfinite', 'not_finite']

import copy, math

from contextlib import contextmanager

from importlib.resources import files

from pathlib import Path

import torch

from safetensors import SafetensorError

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from transformers.utils import logging as notices

from .hub import find_on_hub, is_path, model_directory, no_directory

from .tensors import no_such, seed_for

def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each character of a sum and for each tag"""
    ...

def new_tiny(seed: int=0) -> LlamaForCausalLM:
    """The tiny Llama before any training"""
    ...

def check_tokenizer(tokenizer):
    """Make `tokenizer` fit for generation; raises `ValueError` without an EOS"""
    ...

def eos_ids(model, tokenizer) -> list:
    """Every token that ends a completion: the tokenizer's EOS and those of the model's generation config"""
    ...

def unmark_quantized(model):
    """Let a model whose weights were unpacked from a quantized file be saved like any other; changed in place"""
    ...

TINY = Path(str(files('grpo_lit'))) / 'data' / 'tiny'

PICKLES = ('.bin', '.pt', '.pth', '.ckpt', '.pkl')

def refuse_pickles(where: str):
    """Raise `ValueError` where there are weights in a pickle and none in safetensors"""
    ...

def load_policy(name_or_path: str='tiny', dtype: torch.dtype | str=torch.float32, device: str | None=None, trust_remote_code: bool=False, **kwargs) -> tuple:
    """A causal language model and its tokenizer; raises `ValueError` if there is no such model"""
    ...

def has_adapter(model) -> bool:
    ...

@contextmanager
def lent(model, device):
    """A model whose weights are on another device for a while; what they become there is lost"""
    ...

class Reference:
    """The policy as it was when this was made: a frozen copy, or, for a LoRA policy, its base weights"""
    policy: Any
    frozen: Any

    def __init__(self, model, offload: bool=False):
        ...

    @contextmanager
    def __call__(self):
        """Yields the reference model, where the policy is"""
        ...

    def move(self, alpha: float=0.6):
        """Take the reference a part of the way to the policy, in weights; raises `ValueError` for LoRA"""
        ...

def add_lora(model, peft_config=None, seed: int=0):
    """Train a small adapter instead of all weights; needs the `lora` extra"""
    ...

def first_nonfinite(model) -> str | None:
    """Name of the first weight tensor that holds a NaN or an infinity"""
    ...

def not_finite(model) -> FloatingPointError:
    """What to say when logits are NaN or infinite"""
    ...
