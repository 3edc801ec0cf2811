# made by tools/stubs.py: edit the source, then run it
from .findings import Check as Check
from .findings import Diagnosis as Diagnosis
from .findings import Finding as Finding
from .findings import VERDICTS as VERDICTS
from .patient import Patient as Patient
from .patient import Sample as Sample
from .diagnosing import CHECKS as CHECKS
from .diagnosing import diagnose as diagnose

__all__ = [
    'Check',
    'Diagnosis',
    'Finding',
    'VERDICTS',
    'Patient',
    'Sample',
    'CHECKS',
    'diagnose']
