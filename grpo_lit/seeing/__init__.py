"What happened inside a run, to look at and to turn. Names are loaded when they are first used."
from .._window import window

__getattr__, __dir__, __all__ = window(__name__, {
})
