"Questions about GRPO, each answered by runs of several seeds. Names are loaded when they are first used."
from .._window import window

__getattr__, __dir__, __all__ = window(__name__, {
    '.tables': 'StudyTable',
    '.study': 'Study StudyResult STUDIES run_study study_named study_table',
})
