# made by tools/stubs.py: edit the source, then run it
from .tables import StudyTable as StudyTable
from .study import Study as Study
from .study import StudyResult as StudyResult
from .study import STUDIES as STUDIES
from .study import run_study as run_study
from .study import study_named as study_named
from .study import study_table as study_table

__all__ = [
    'StudyTable',
    'Study',
    'StudyResult',
    'STUDIES',
    'run_study',
    'study_named',
    'study_table']
