"""The checks of `tools/gpu_check.py`: each is a function in a module of this folder, registered by `check`.

A check returns a dictionary of figures for its row of the table, raises `Skipped` where it cannot be made here, and
anything else where something is wrong. `order` says how telling it is: the most telling are made first, so that a
short run answers what matters most.
"""
import gc, sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

root = Path(__file__).resolve().parents[2]
MODULES = 'environment', 'same', 'runs', 'steps', 'more', 'learning', 'cells'
CHECKS = {} # Name -> Check

@dataclass
class Check:
    "One row of the table"
    name:str
    function:object # Called with the `Place`; returns figures
    order:int # The most telling first
    seconds:float # About, on a card of the H100's kind

@dataclass
class Place:
    "Where and how large the checks are made"
    device:str # "cuda" or "cpu"
    small:bool # Tiny sizes, to try the checks themselves
    found:dict # Name -> result of the checks before

    @property
    def cuda(self): return self.device == 'cuda'

class Skipped(Exception):
    "Why a check cannot be made here"

def check(name, order, seconds=5.):
    "Register a check under this name"
    def register(f):
        CHECKS[name] = Check(name, f, order, seconds)
        return f
    return register

def all_checks():
    "Every check, the most telling first"
    for folder in (root, root/'bench'):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    for name in MODULES:
        import_module(f'{__name__}.{name}')
    return sorted(CHECKS.values(), key=lambda c: c.order)

def need(*modules):
    "Skip the check unless these can be imported"
    absent = [m for m in modules if not find_spec(m)]
    if absent:
        raise Skipped(f'needs {", ".join(absent)}: pip install {" ".join(absent)}')

def need_gpu(place):
    if not place.cuda:
        raise Skipped('needs a GPU')

# --- memory of the card

def clear(place):
    "Give back what a check has left, and begin to count anew"
    gc.collect()
    if place.cuda:
        import torch
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

def held(place):
    "GB that tensors take now"
    import torch
    return torch.cuda.memory_allocated()/2**30 if place.cuda else 0.

def peak(place):
    "GB that tensors took at most since `clear`"
    import torch
    return torch.cuda.max_memory_allocated()/2**30 if place.cuda else 0.

def wait(place):
    "A GPU works on while Python goes ahead"
    if place.cuda:
        import torch
        torch.cuda.synchronize()
