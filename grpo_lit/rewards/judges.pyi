# made by tools/stubs.py: edit the source, then run it
__all__ = ['RUBRIC', 'Question', 'read_rubric', 'grade', 'judge_reward', 'pairwise_judge']

import json, re, secrets

from dataclasses import dataclass

from fastcore.meta import delegates

from ..core import completion_text, prompt_text

from ..tensors import no_such

from .endpoint import Endpoint, JudgeError, as_endpoint

@dataclass(frozen=True)
class Question:
    """What a judge is asked; equal questions have equal verdicts"""
    rules: str
    data: tuple
    names: tuple
    top: int = 10

    def messages(self, refused: str='') -> list:
        """The question as a conversation, with the reason why the last reply was no verdict"""
        ...

    def schema(self) -> dict:
        """A JSON schema that only verdicts fit"""
        ...

    def check(self, v) -> dict:
        """Raises `ValueError` with what is wrong"""
        ...

    def read(self, reply: str) -> dict:
        """What the judge wrote; raises `ValueError` where it is no verdict"""
        ...

RUBRIC = [dict(name='right', description='Does it do what was asked, without errors?', weight=3.0), dict(name='clear', description='Is it easy to follow for the one who asked?', weight=1.0), dict(name='padding', description='Does it repeat itself, flatter, praise itself or fill space?', weight=-1.0)]

def read_rubric(rubric) -> list:
    """Criteria in their plain form; raises `ValueError` with what is wrong"""
    ...

def grade(verdict: dict, rubric: list) -> float:
    """The weighted sum of the scores over the sum of the positive weights, or of the sizes if there are none"""
    ...

def judge_reward(model, rubric=RUBRIC, show: tuple=(), name: str='judge', max_chars: int=20000, *, base_url: str='http://localhost:8000/v1', api_key: str | None=None, api_key_env: str='OPENAI_API_KEY', concurrency: int=16, per_minute: float | None=None, timeout: float=60.0, max_retries: int=4, backoff: float=1.0, max_wait: float=60.0, prices: tuple | None=None, max_spend: float | None=None, max_requests: int | None=None, cache_file: str | None=None, body: dict | None=None):
    """A reward by rubric: each completion is scored on every criterion by a language model"""
    ...

def pairwise_judge(model, against: str | None=None, question: str='Which answer serves the one who asked better?', mates: int=1, name: str='pairwise', max_chars: int=20000, *, base_url: str='http://localhost:8000/v1', api_key: str | None=None, api_key_env: str='OPENAI_API_KEY', concurrency: int=16, per_minute: float | None=None, timeout: float=60.0, max_retries: int=4, backoff: float=1.0, max_wait: float=60.0, prices: tuple | None=None, max_spend: float | None=None, max_requests: int | None=None, cache_file: str | None=None, body: dict | None=None):
    """A reward by comparison, each pair judged in both orders"""
    ...
