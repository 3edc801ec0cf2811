"More than one device, more than one process, and the way out. Names are loaded when they are first used."
from .._window import window

__getattr__, __dir__, __all__ = window(__name__, {
    '.launched': 'launch Launched',
    '.for_trl': 'to_trl trl_fields',
    '.for_verifiers': 'to_verifiers',
    '.exporting': 'export',
})
