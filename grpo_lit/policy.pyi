# made by tools/stubs.py: edit the source, then run it
from typing import Any

__all__ = ['TINY', 'EMBEDDED', 'PICKLES', 'HUB', 'tiny_tokenizer', 'new_tiny', 'check_tokenizer', 'eos_ids', 'unmark_quantized', 'refuse_pickles', 'base_of', 'borrow_eos', 'own_gpu', 'load_policy', 'has_adapter', 'Reference', 'add_lora']

import json, os, struct

from contextlib import contextmanager, nullcontext

from importlib.resources import files

from pathlib import Path

import torch

from safetensors import SafetensorError

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from transformers.utils import find_adapter_config_file, logging as notices

from .hub import find_on_hub, is_path, model_directory, no_directory

from .finite import first_nonfinite, not_finite

from .frozen import frozen_copy, half_copy_of, is_there, lent, put_away, stays

from .shortages import is_out_of_memory

from .tensors import seed_for

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

EMBEDDED = {name: TINY.with_name(name) for name in ('tiny', 'tiny-searcher')}

PICKLES = ('.bin', '.pt', '.pth', '.ckpt', '.pkl')

def refuse_pickles(where: str):
    """Raise `ValueError` where there are weights in a pickle and none in safetensors"""
    ...

HUB = ('revision', 'token', 'cache_dir', 'subfolder', 'local_files_only')

def base_of(where: str, **hub) -> str | None:
    """The name of the model that an adapter belongs to; raises `ValueError` for an adapter that has none"""
    ...

def borrow_eos(tokenizer, model):
    """Take the EOS from the generation config where the tokenizer has none"""
    ...

def own_gpu() -> str:
    """The GPU of this process: by its number, where a launcher has started several"""
    ...

def load_policy(name_or_path: str='tiny', dtype: torch.dtype | str=torch.float32, device: str | None=None, trust_remote_code: bool=False, tokenizer=None, **kwargs) -> tuple:
    """A causal language model and its tokenizer; raises `ValueError` if there is no such model"""
    ...

def has_adapter(model) -> bool:
    ...

class Reference:
    """The policy as it was when this was made: a frozen copy, or, for a LoRA policy, its base weights"""
    start: Any
    policy: Any
    half: torch.dtype | None
    frozen: Any

    def __init__(self, model, offload: bool=False, half: torch.dtype | None=None):
        ...

    @contextmanager
    def __call__(self):
        """Yields the reference model, where the policy is"""
        ...

    def precision(self):
        ...

    @contextmanager
    def as_it_began(self):
        """A LoRA policy without its adapter, or with the one that it came with"""
        ...

    def move(self, alpha: float=0.6):
        """Take the reference a part of the way to the policy, in weights; raises `ValueError` for LoRA"""
        ...

def add_lora(model, peft_config=None, seed: int=0):
    """Train a small adapter instead of all weights; needs the `lora` extra"""
    ...
