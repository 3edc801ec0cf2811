"Several turns with tools and retrieval. Names are loaded when they are first used."
from .._window import window

__getattr__, __dir__, __all__ = window(__name__, {
    # what a policy asks for, and functions that answer
    '.asking': 'Call',
    '.calls': 'ChatCalls TagCalls call_format_of',
    '.tools': 'Toolbox Result',
    '.coder': 'python_tool',
    # what stands between two turns
    '.plain': 'plain_ids',
    '.between': 'ChatFrame TagFrame',
    # who answers
    '.answering': 'Answer Environment ToolEnvironment',
    '.environments': 'Environments environments_for',
    # sampling over turns, and the record of it
    '.episodes': 'Episode Turn CallRecord episode_metrics',
    '.turns': 'sample_episodes',
    # documents
    '.bm25': 'BM25',
    '.corpora': 'Passage read_passages load_qa qa_prompts',
    '.retrieval': 'BM25Engine FTS5Engine search_tool search_worth recall_at_k retrieval_reward',
    '..rewards.qa': 'qa_reward qa_f1_reward',
    # a world to search in
    '.searcher': 'World search_task',
})
