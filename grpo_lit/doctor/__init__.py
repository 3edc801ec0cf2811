"Will this run learn anything? Asked before it begins. Names are loaded when they are first used."
from .._window import window

__getattr__, __dir__, __all__ = window(__name__, {
    '.findings': 'Check Diagnosis Finding VERDICTS',
    '.patient': 'Patient Sample',
    '.diagnosing': 'CHECKS diagnose',
})
