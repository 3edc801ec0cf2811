# made by tools/stubs.py: edit the source, then run it
from .launched import launch as launch
from .launched import Launched as Launched
from .for_trl import to_trl as to_trl
from .for_trl import trl_fields as trl_fields
from .for_verifiers import to_verifiers as to_verifiers
from .exporting import export as export

__all__ = [
    'launch',
    'Launched',
    'to_trl',
    'trl_fields',
    'to_verifiers',
    'export']
