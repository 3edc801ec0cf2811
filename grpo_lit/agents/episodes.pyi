# made by tools/stubs.py: edit the source, then run it
__all__ = ['CALL_BEGINS', 'CallRecord', 'Turn', 'Episode', 'drifted', 'episode_metrics']

import re

from dataclasses import asdict, dataclass, field

from ..core import Rollouts

from ..showing import Part

from ..tensors import patch

@dataclass
class CallRecord:
    """A call, and what came of it"""
    name: str
    arguments: dict
    text: str = ''
    failure: str = ''
    seconds: float = 0.0

@dataclass
class Turn:
    """What the policy wrote at one go, and what it was told then"""
    begin: int
    ids: list
    text: str
    calls: list = field(default_factory=list)
    told: list = field(default_factory=list)
    observation: tuple | None = None
    cut: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    @property
    def end(self):
        ...

@dataclass
class Episode:
    """A row with its turns"""
    turns: list
    stop: str
    failure: str = ''
    environment: object = field(default=None, repr=False, compare=False)

    @property
    def finished(self) -> bool:
        ...

    @property
    def calls(self) -> list:
        ...

    @property
    def messages(self) -> list:
        """As rewards of TRL get a completion: assistant, tool, ..., assistant"""
        ...

    def parts(self) -> list:
        """What was written, in order and by whom"""
        ...

    def as_dict(self) -> dict:
        """Turns and why it stopped, as plain data"""
        ...

    @classmethod
    def from_dict(cls, saved: dict) -> Episode:
        """An episode that was saved"""
        ...

CALL_BEGINS = re.compile('<tool_call>|<function=|\\[TOOL_CALLS\\]|<\\|python_tag\\|>|^\\s*\\[?\\s*\\{', re.MULTILINE)

def drifted(rollouts: Rollouts) -> int:
    """Sampled tokens that have changed since they were drawn, or are not counted as the policy's"""
    ...

def episode_metrics(rollouts: Rollouts) -> dict:
    """What happened in the turns"""
    ...
