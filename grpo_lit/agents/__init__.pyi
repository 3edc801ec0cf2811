# made by tools/stubs.py: edit the source, then run it
from .asking import Call as Call
from .calls import ChatCalls as ChatCalls
from .calls import TagCalls as TagCalls
from .calls import call_format_of as call_format_of
from .tools import Toolbox as Toolbox
from .tools import Result as Result
from .coder import python_tool as python_tool
from .plain import plain_ids as plain_ids
from .between import ChatFrame as ChatFrame
from .between import TagFrame as TagFrame
from .answering import Answer as Answer
from .answering import Environment as Environment
from .answering import ToolEnvironment as ToolEnvironment
from .environments import Environments as Environments
from .environments import environments_for as environments_for
from .episodes import Episode as Episode
from .episodes import Turn as Turn
from .episodes import CallRecord as CallRecord
from .episodes import episode_metrics as episode_metrics
from .turns import sample_episodes as sample_episodes
from .bm25 import BM25 as BM25
from .corpora import Passage as Passage
from .corpora import read_passages as read_passages
from .corpora import load_qa as load_qa
from .corpora import qa_prompts as qa_prompts
from .retrieval import BM25Engine as BM25Engine
from .retrieval import FTS5Engine as FTS5Engine
from .retrieval import search_tool as search_tool
from .retrieval import search_worth as search_worth
from .retrieval import recall_at_k as recall_at_k
from .retrieval import retrieval_reward as retrieval_reward
from ..rewards.qa import qa_reward as qa_reward
from ..rewards.qa import qa_f1_reward as qa_f1_reward
from .searcher import World as World
from .searcher import search_task as search_task

__all__ = [
    'Call',
    'ChatCalls',
    'TagCalls',
    'call_format_of',
    'Toolbox',
    'Result',
    'python_tool',
    'plain_ids',
    'ChatFrame',
    'TagFrame',
    'Answer',
    'Environment',
    'ToolEnvironment',
    'Environments',
    'environments_for',
    'Episode',
    'Turn',
    'CallRecord',
    'episode_metrics',
    'sample_episodes',
    'BM25',
    'Passage',
    'read_passages',
    'load_qa',
    'qa_prompts',
    'BM25Engine',
    'FTS5Engine',
    'search_tool',
    'search_worth',
    'recall_at_k',
    'retrieval_reward',
    'qa_reward',
    'qa_f1_reward',
    'World',
    'search_task']
