# made by tools/stubs.py: edit the source, then run it
from .launch import launch as launch
from .launch import Launched as Launched

__all__ = [
    'launch',
    'Launched']
