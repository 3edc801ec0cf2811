"""Searching: BM25 beside its library, files of questions in many spellings, hostile queries, what an answer is worth, and documents that lie."""
import copy, gzip, importlib.util, json, os, random, re, threading
from pathlib import Path
import numpy as np
import pytest
from grpo_lit.agents.bm25 import BM25, best_of, terms
from grpo_lit.agents.corpora import Passage, load_qa, qa_prompts, read_passages
from grpo_lit.agents.retrieval import BM25Engine, FTS5Engine, holds, recall_at_k, retrieval_reward, search_tool, search_worth
from grpo_lit.rewards import accuracy_reward, audit_reward, check_gold, qa_answer, qa_f1_reward, qa_reward, strict_accuracy_reward
from grpo_lit.rewards.poison import poisoned_documents, poisoned_episodes
from grpo_lit.run.graders import RewardNotes, graders
from grpo_lit.scoring import score_completions
from grpo_lit.tasks import column_addition
from scripted import scripted

has_library = importlib.util.find_spec('bm25s') is not None
library = pytest.mark.skipif(not has_library, reason='bm25s is not installed')
folder = Path(os.getenv('GRPO_LIT_CASES') or '.')/'data'/'rag'
real = pytest.mark.skipif(not folder.is_dir(), reason='GRPO_LIT_CASES names no folder with data/rag')

def hotpotqa(): return load_qa(folder/'hotpotqa_questions.jsonl', folder/'hotpotqa_corpus.jsonl')

def invented(n, seed=0):
    "Texts of few different words, so that many scores are equal"
    rng = random.Random(seed)
    return [' '.join(rng.choices('ada bo cy dan eve fay gus'.split(), k=rng.randint(0, 8))) for _ in range(n)]

# BM25

@library
@pytest.mark.parametrize('k1,b', [(1.2, .75), (1.5, .75), (.9, .4), (2., 0.), (.5, 1.)])
def test_scores_are_those_of_the_library(k1, b):
    import bm25s
    texts = invented(200)
    theirs = bm25s.BM25(k1=k1, b=b)
    theirs.index([terms(t) for t in texts], show_progress=False)
    ours = BM25(texts, k1, b)
    for query in ('ada', 'bo cy', 'gus gus ada', 'eve unknown'):
        known = [w for w in terms(query) if w in theirs.vocab_dict]
        np.testing.assert_allclose(ours.scores(query), theirs.get_scores(known), atol=1e-5)

@library
def test_words_may_be_cut_elsewhere():
    import bm25s
    texts = ['A cat is a feline.', 'Dogs bark; the dog barked.', 'The cat and the dog']
    cut = bm25s.tokenize(texts, show_progress=False, return_ids=False)
    theirs = bm25s.BM25()
    theirs.index(cut, show_progress=False)
    for query in (['cat'], ['dog', 'cat'], ['dog', 'dog', 'barked']):
        np.testing.assert_allclose(BM25(cut, 1.5, .75).scores(query), theirs.get_scores(query), atol=1e-5)

@library
@real
def test_scores_on_real_passages_are_those_of_the_library():
    import bm25s
    rows, passages = hotpotqa()
    texts = [str(p) for p in passages]
    theirs = bm25s.BM25(k1=1.2, b=.75)
    theirs.index([terms(t) for t in texts], show_progress=False)
    ours = BM25(texts)
    for row in rows:
        known = [w for w in terms(row['question']) if w in theirs.vocab_dict]
        np.testing.assert_allclose(ours.scores(row['question']), theirs.get_scores(known), atol=1e-5)

@real
def test_recall_on_real_passages(capsys):
    rows, passages = hotpotqa()
    engines = dict(numpy=BM25Engine(passages, library=False), fts5=FTS5Engine(passages))
    found = {name: recall_at_k(engine, rows, 5) for name, engine in engines.items()}
    with capsys.disabled(): print('\nrecall@5', found)
    assert found['numpy'] == pytest.approx(.775, abs=.011)
    assert .74 < found['fts5'] < .82
    assert recall_at_k(lambda q: [], rows) == 0
    assert recall_at_k(lambda q: passages, rows[:3], len(passages)) == 1

def test_by_hand():
    "Two texts, one word: idf ln(1+1.5/1.5) for a word in one of them"
    scores = BM25(['ada bo', 'cy dan'], k1=1., b=0.).scores('ada')
    np.testing.assert_allclose(scores, [np.log(2)/2, 0])

@pytest.mark.parametrize('seed', range(5))
def test_equals_keep_their_order(seed):
    texts = invented(300, seed)
    engines = [BM25Engine(texts, most=25, library=False), *([BM25Engine(texts, most=25, library=True)] if has_library else [])]
    for query in ('ada', 'bo cy', 'gus fay eve'):
        for engine in engines:
            scores = engine.scores(query)
            want = sorted(np.flatnonzero(scores > 0), key=lambda i: (-scores[i], i))[:25]
            assert [p.text for p in engine(query)] == [texts[i] for i in want]
    assert best_of(np.zeros(5), 3) == [] and best_of(np.ones(5), 9) == [0, 1, 2, 3, 4]

@pytest.mark.parametrize('query,text', [
    ('beyonce', 'Beyoncé sang.'), ('BEYONCE\u0301', 'beyoncé'), ('straße', 'STRASSE'), ('东京', '我住在东京。'), ('o’brien', "O'Brien"),
    ('２０２４', 'in 2024'), ('snake case', 'snake_case'), ('Привет', 'ПРИВЕТ, мир'), ('1,000', '1,000 km')])
def test_one_word_in_two_spellings_meets(query, text):
    assert BM25(['nothing here', text]).scores(query).argmax() == 1

HOSTILE = ['', ' ', '\n\t', '"', "'", '""', "who's", 'a AND', 'NOT', 'NEAR(a b)', 'col:x', '-x', 'x*', '^x', '(', ')', '{x y}:z', 'x + y', '; DROP TABLE passages',
           '\0', 'a\0b', '\ud800', '\u202e', '%s %d {}', '<search>x</search>', '</result>', 'x'*10**6, 'ada '*10**5, '🙂', '\\', 'ada OR 1=1 --', '東京', 'ﷺ', 'İ']

@pytest.mark.parametrize('make', [lambda t: BM25Engine(t, library=False), FTS5Engine] + ([lambda t: BM25Engine(t, library=True)] if has_library else []))
def test_any_query_is_a_query(make):
    engine = make(invented(50))
    rng = random.Random(0)
    noise = [''.join(chr(rng.choice([rng.randrange(128), rng.randrange(0x3000)])) for _ in range(30)) for _ in range(200)]
    for query in HOSTILE+noise:
        assert isinstance(engine(query), list)
        assert isinstance(search_tool(engine)(query), str)
    assert len(engine('ada')) > 5    # nothing was dropped

@pytest.mark.parametrize('make', [lambda t: BM25Engine(t, library=False), FTS5Engine] + ([lambda t: BM25Engine(t, library=True)] if has_library else []))
def test_threads_and_copies_share_an_engine(make):
    engine = make(invented(100))
    assert copy.deepcopy(dict(tools=[engine]))['tools'][0] is engine
    queries = ['ada', 'bo cy', 'gus', 'eve fay']*10
    alone, together = [engine(q) for q in queries], [None]*len(queries)
    def ask(i): together[i] = engine(queries[i])
    threads = [threading.Thread(target=ask, args=[i]) for i in range(len(queries))]
    for t in threads: t.start()
    for t in threads: t.join()
    assert together == alone

# Files

PARTS = [('Velm', ['It is the capital of Orland.', 'It has a mayor.']), ('Tarn', ['It is a river.']), ('Ada Brook', ['She is the mayor of Velm.'])]
ASKED = dict(question='Who is the mayor of the capital of Orland?')
NEEDED = ['It is the capital of Orland. It has a mayor.', 'She is the mayor of Velm.']

SPELLINGS = {
    'hotpotqa': dict(_id='5a', answer='Ada Brook', type='bridge', level='hard', context=[list(p) for p in PARTS], supporting_facts=[['Velm', 0], ['Ada Brook', 0], ['Velm', 1]]),
    'hotpotqa on the hub': dict(id='5a', answer='Ada Brook', type='bridge', context=dict(title=[t for t, _ in PARTS], sentences=[s for _, s in PARTS]),
                                supporting_facts=dict(title=['Velm', 'Ada Brook'], sent_id=[0, 0])),
    'spaces in front of sentences': dict(answer='Ada Brook', context=[[t, [' '+s for s in said]] for t, said in PARTS], supporting_facts=[['Velm', 0], ['Ada Brook', 0]]),
    '2wiki': dict(_id='8c', answer='Ada Brook', type='compositional', evidences=[['a', 'b', 'c']], context=[list(p) for p in PARTS], supporting_facts=[['Velm', 0], ['Ada Brook', 0]]),
    'musique': dict(id='2hop__7_8', answer='Ada Brook', answer_aliases=['A. Brook'], answerable=True, question_decomposition=[{}, {}],
                    paragraphs=[dict(idx=i, title=t, paragraph_text=' '.join(s), is_supporting=t!='Tarn') for i, (t, s) in enumerate(PARTS)])}

@pytest.mark.parametrize('name', SPELLINGS)
def test_spellings_of_one_question(name):
    rows, passages = load_qa([ASKED | SPELLINGS[name]])
    assert [(r['answer'], r['hops'], r['supporting']) for r in rows] == [('Ada Brook', 2, NEEDED)]
    assert [p.title for p in passages] == ['Velm', 'Tarn', 'Ada Brook'] and passages[0].text == NEEDED[0]

@pytest.mark.parametrize('golds,want', [
    (dict(answer='a'), ['a']), (dict(answers=['a', 'b']), ['a', 'b']), (dict(answer='a', answers=['b', 'a']), ['a', 'b']), (dict(golden_answers=['a']), ['a']),
    (dict(answer=['a', None, '']), ['a']), (dict(answer=dict(value='a', aliases=['b'], matched='c')), ['a', 'b']), (dict(answers=dict(text=['a'], answer_start=[0])), ['a']),
    (dict(answer=7), ['7']), (dict(answer=np.array(['a', 'b'])), ['a', 'b']), (dict(answer=False), ['no', 'false']), (dict(answer='  a\n'), ['a']), (dict(answer='The The'), ['The The'])])
def test_golds_in_all_forms(golds, want):
    assert load_qa([ASKED | golds])[0][0]['answers'] == want

@pytest.mark.parametrize('row,says', [
    ({}, 'row 2: no question, but nothing'), (dict(question='  ', answer='a'), 'no question'), (dict(question=7, answer='a'), 'no question'), (ASKED, 'row 2: no answer to'),
    (ASKED | dict(answer='?!'), 'no answer'), (ASKED | dict(answer=[]), 'no answer'), ('text', "'text' is no row"), (None, 'is no row'), ([1], 'is no row'),
    (ASKED | dict(answer='a', context=[['only a title']]), 'its passages cannot be read'), (ASKED | dict(answer='a', context=[['t', ['s'], 'more']]), 'its passages cannot be read'),
    (ASKED | dict(answer='a', paragraphs=['text']), 'its passages cannot be read'), (ASKED | dict(answer='a', paragraphs=[dict(title='t')]), 'cannot be read'),
    (ASKED | dict(answer='a', context=dict(title=['t'])), 'cannot be read'), (ASKED | dict(answer='a', supporting_doc_ids=['x']), "'x' that supports the answer is not in the corpus")])
def test_rows_that_cannot_be_used_are_named(row, says):
    good = ASKED | dict(answer='a')
    with pytest.raises(ValueError, match=re.escape(says)): load_qa([good, row, good], [dict(id='p', text='t')])

@pytest.mark.parametrize('text,says', [
    ('', 'holds no questions'), ('{"question": "q", "answer": "a"}\n{"question"', 'line 2: no valid JSON'), ('[1', 'no valid JSON'), ('"text"', 'line 1'),
    (b'\xff\xfe\x00', 'no text in UTF-8'), (b'\x1f\x8b\x08broken', 'packed with gzip'), ('['*100000, 'no valid JSON')])
def test_files_that_cannot_be_read_are_named(tmp_path, text, says):
    path = tmp_path/'questions.jsonl'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=re.escape(says)) as e: load_qa(path)
    assert 'questions.jsonl' in str(e.value)
    with pytest.raises(ValueError, match='that is a folder'): load_qa(tmp_path)

@pytest.mark.parametrize('form', ['list', 'lines', 'indented', 'wrapped', 'gz', 'bom', 'crlf'])
def test_files_in_all_forms(tmp_path, form):
    rows = [ASKED | dict(answer=f'a{i}') for i in range(3)]
    lines = '\n'.join(map(json.dumps, rows))
    text = dict(list=json.dumps(rows), lines=lines+'\n\n', indented=json.dumps(rows, indent=1), wrapped=json.dumps(dict(version='1', data=rows), indent=2),
                gz=lines, bom='\ufeff'+lines, crlf=lines.replace('\n', '\r\n'))[form].encode()
    path = tmp_path/'rows'
    path.write_bytes(gzip.compress(text) if form=='gz' else text)
    assert [r['answer'] for r in load_qa(str(path))[0]] == ['a0', 'a1', 'a2']

def test_corpora_in_all_forms(caplog):
    found = read_passages([dict(_id=30, title=None, text='a'), dict(id='x', contents='"T"\nb'), dict(docid='y', text='   '), dict(text='half \ud800 a sign', title='\ud800')])
    assert [(p.id, p.title, p.text) for p in found] == [('30', '', 'a'), ('x', 'T', 'b'), ('3', '?', 'half ? a sign')]
    assert '1 of 4 passages are empty' in caplog.text
    for p in found: str(p).encode()
    with pytest.raises(ValueError, match='row 2: the id'): read_passages([dict(id=1, text='a'), dict(id='1', text='b')])
    with pytest.raises(ValueError, match='row 1: a passage without text'): read_passages([dict(id=1, text=7)])

def test_what_cannot_be_answered_is_left_out(caplog):
    rows, _ = load_qa([SPELLINGS['musique'] | ASKED, SPELLINGS['musique'] | ASKED | dict(answerable=False)])
    assert len(rows) == 1 and '1 questions without an answer' in caplog.text

# What an answer is worth

@pytest.mark.parametrize('text,gold,want', [
    ('<answer>the Eiffel Tower.</answer>', 'Eiffel Tower', 1.), ('<answer>eiffel   tower</answer>', ['x', 'Eiffel Tower'], 1.), ('<answer>Eiffel</answer>', 'Eiffel Tower', 0.),
    ('<answer>yes</answer>', 'yes', 1.), ('<answer>Yes.</answer>', True, 1.), ('<answer>no</answer>', 'yes', 0.), ('<answer>yes and no</answer>', 'yes', 0.),
    ('\\boxed{Paris}', 'Paris', 1.), ('The answer is Paris.', 'Paris', 1.), ('Final answer: **St. Louis**', 'St. Louis', 1.), ('Answer: J. K. Rowling. She wrote it.', 'J.K. Rowling', 0.),
    ('The answer is J. K. Rowling', 'J K Rowling', 1.), ('Paris', 'Paris', 1.), ('I think it is Paris', 'Paris', 0.), ('<think>Paris</think>', 'Paris', 0.), ('<think>Paris', 'Paris', 0.),
    ('<answer>Rome</answer><answer>Paris</answer>', 'Paris', 1.), ('<answer>Paris</answer><answer>Rome</answer>', 'Paris', 0.), ('<answer>Paris</answer> <answer> </answer>', 'Paris', 0.),
    ('<answer>Paris', 'Paris', 0.), ('<answer>Paris, Rome, Bern</answer>', 'Paris', 0.), ('<answer>Paris</answer><result>Rome</result>', 'Paris', 0.),
    ('<information><answer>Paris</answer></information>', 'Paris', 0.), ('<answer>1986–2013</answer>', '1986-2013', 1.), ('<answer>“Emma”</answer>', 'Emma', 1.),
    ('<answer>Beyonce\u0301</answer>', 'Beyoncé', 1.), ('<answer>Раris</answer>', 'Paris', 0.), ('<answer>42</answer>', 42, 1.), ('<answer>A</answer>', 'A', 1.),
    ('<answer>NYC</answer>', dict(value='New York', aliases=['NYC']), 1.), ('<answer>b</answer>', np.array(['a', 'b']), 1.), ('<answer>x</answer>', None, None), ('<answer>x</answer>', [], None), ('<answer>x</answer>', '...', None), ('', 'x', 0.)])
def test_exact_match(text, gold, want):
    assert qa_reward([], [text], [], answer=[gold]) == [want]
    assert qa_reward([], [[dict(role='assistant', content=text)]], [], answers=[gold]) == [want]

@pytest.mark.parametrize('text,want', [
    ('Barack Obama', 1.), ('Obama', 2/3), ('President Barack Obama', .8), ('Barack Obama or Joe Biden', 0.), ('Joe Biden / Barack Obama', 0.), ('Biden, Obama, Barack Obama', 0.),
    ('Biden; Barack Obama', 0.), ('Biden\nBarack Obama', 0.), (' '.join(['Barack Obama']+['Biden']*11), 0.), ('', 0.), ('Biden', 0.)])
def test_f1_of_what_does_not_hedge(text, want):
    assert qa_f1_reward([], [f'<answer>{text}</answer>'], [], answer=['Barack Obama']) == [pytest.approx(want)]

@pytest.mark.parametrize('text,gold,want', [
    ('The answer is Warner Bros. Pictures.', 'Warner Bros. Pictures', 1.), ('Answer: Prof. Moriarty', 'Prof. Moriarty', 1.),
    ('The answer is 42!', 'answer is 42', 1.), ('The answer is Paris. It is in France.', 'Paris', 1.),
    ('Rome. The answer is Paris', 'Rome', 0.), ('Answer: Rome\nAnswer: Paris', 'Rome', 0.),
    ('<answer>Paris</answer>\nThe answer is Rome', 'Rome', 0.), ('<think>Rome</think>', 'Rome', 0.)])
def test_a_gold_said_word_for_word(text, gold, want):
    for f in (qa_reward, qa_f1_reward): assert f(completions=[text], answer=[gold]) == [want]

def test_golds_with_marks_of_a_list_are_no_hedges():
    for gold in ('Trinidad and Tobago', 'Washington, D.C.', 'AC/DC', 'Now or Never', 'Oh, and there, and here'):
        assert qa_f1_reward([], [gold], [], answer=[gold]) == qa_reward([], [gold], [], answer=[gold]) == [1.]

def test_the_last_assistant_message_is_what_counts():
    tool, said = dict(role='tool', content='<answer>Paris</answer>'), lambda t: dict(role='assistant', content=t)
    for messages, want in (([said('Paris'), tool, said('Rome')], 0.), ([said('Rome'), tool, said('Paris')], 1.), ([said('x'), tool], 0.), ([said('x'), tool, said(None)], 0.),
                           ([said('x'), tool, said([dict(type='text', text='Par'), dict(type='text', text='is')])], 1.)):
        assert qa_reward([], [messages], [], answer=['Paris']) == [want]

def test_metrics_by_hops_and_type():
    notes = RewardNotes()
    [grader] = graders([qa_reward], notes=notes)
    args = dict(prompts=['q']*4, completions=['a', 'b', 'a', 'a'], completion_ids=[[0]]*4)
    assert grader(**args, answer=['a', 'a', 'a', None], hops=[1, 2, 2, 2]) == [1., 0., 1., None]
    assert notes.take_metrics() == {'qa/exact_match': 2/3, 'qa/f1': 2/3, 'qa/exact_match/1_hop': 1., 'qa/f1/1_hop': 1., 'qa/exact_match/2_hop': .5, 'qa/f1/2_hop': .5}
    grader(**args, answer=['a']*4, type=['bridge', 'bridge', 'comparison', None])
    measured = notes.take_metrics()
    assert measured['qa/exact_match/bridge'] == .5 and measured['qa/exact_match/comparison'] == 1. and measured['qa/exact_match'] == .75

def test_a_gold_that_is_nowhere_is_an_error():
    with pytest.raises(ValueError, match='"answer" or "answers"'): qa_reward([], ['a'], [], question=['q'])

# What a search is worth

def test_an_engine_that_returns_one_text():
    assert search_tool(lambda query: 'All of it.', k=2)('x') == '[1] All of it.'

def test_passages_are_found_by_their_text():
    text = ' '.join(f'In {1800+n} the mill of Velm had {n} wheels.' for n in range(20))
    assert holds(f'[1] Mill\n{text[:230]} [cut]', text)                      # cut, but its beginning is there
    assert holds(text.replace(' ', '\n  '), text) and not holds(text[10:], text) and not holds('', '') and not holds('x', ' ')

def test_retrieval_reward_reads_what_came_back():
    rows = [[NEEDED[0]], NEEDED, [], None]
    def tool(text): return [dict(role='assistant', content=''), dict(role='tool', content=text), dict(role='assistant', content='a')]
    seen = tool('x\n'+NEEDED[0])
    assert retrieval_reward(completions=[seen]*4, supporting=rows) == [1., .5, None, None]
    assert retrieval_reward([], [NEEDED[0]], [], supporting=rows[:1]) == [None]            # a text without a record
    said = [dict(role='assistant', content=NEEDED[0])]
    assert retrieval_reward([], [said], [], supporting=rows[:1]) == [0.]                   # the policy's own words

def test_worth_of_given_queries():
    engine = BM25Engine([Passage(' '.join(s), t) for t, s in PARTS])
    rows = [ASKED | dict(answers=['Ada Brook'], supporting=NEEDED), dict(question='?', answers=['yes'], supporting=[])]
    assert search_worth(engine, rows, 1, queries=['river', 'x'])['recall'] == 0.
    assert search_worth(engine, rows, 3)['all'] == 1. and np.isnan(search_worth(engine, rows[1:], 3)['recall'])

# Documents that lie

ROWS = [dict(prompt=f'Who is the mayor of {city}?', answer=name, answers=[name], answer_style='tag')
        for city, name in zip('Velm Tarn Oster Brill Kesh Lund'.split(), 'Nora Brook|Bo Carr|Cy Dorn|Dan Ellis|Abe Frost|Tom Hale'.split('|'))]
CHATS = [r | dict(prompt=[dict(role='user', content=r['prompt'])]) for r in ROWS]

def joined(c): return c if isinstance(c, str) else '\n'.join(m['content'] or '' for m in c)
def gold_in_all(prompts, completions, completion_ids, answer, **columns): return [float(a in joined(c)) for c, a in zip(completions, answer)]
def last_tags(prompts, completions, completion_ids, answer, **columns):
    return [float((re.findall('<answer>(.*?)</answer>', joined(c)) or [''])[-1]==a) for c, a in zip(completions, answer)]
def first_tags(prompts, completions, completion_ids, answer, **columns):
    return [float((re.findall('<answer>(.*?)</answer>', joined(c)) or [''])[0]==a) for c, a in zip(completions, answer)]
def last_message(prompts, completions, completion_ids, answer, **columns):
    return [float(a in (c if isinstance(c, str) else c[-1]['content'])) for c, a in zip(completions, answer)]

@pytest.mark.parametrize('chat', [False, True], ids=['text', 'chat'])
@pytest.mark.parametrize('f', [qa_reward, qa_f1_reward, accuracy_reward, strict_accuracy_reward])
def test_ours_earn_nothing_from_documents(f, chat):
    numbers = column_addition(6)
    for r in numbers: r['prompt'] = [dict(role='user', content=r['prompt'])] if chat else r['prompt']
    check_gold([f], numbers)
    assert audit_reward(f, numbers).holes == []

@pytest.mark.parametrize('rows', [ROWS, CHATS], ids=['text', 'chat'])
def test_qa_rewards_have_no_holes(rows):
    check_gold([qa_reward, qa_f1_reward], rows)
    for f in (qa_reward, qa_f1_reward): assert audit_reward(f, rows).holes == []

@pytest.mark.parametrize('f,rows,hole', [(gold_in_all, ROWS, 'document: a fact'), (gold_in_all, CHATS, 'document: an instruction'), (last_tags, CHATS, 'document: answer tags'),
                                         (first_tags, ROWS, 'document: a comment'), (first_tags, CHATS, 'document, wrong answer'), (last_message, CHATS, 'document, no turn')])
def test_readers_of_whole_texts_are_found_out(f, rows, hole):
    assert hole in audit_reward(f, rows).holes

@real
def test_golds_of_real_questions_earn_and_nothing_else_does():
    rows = [r | dict(prompt=r['question']) for r in hotpotqa()[0]]
    check_gold([qa_reward, qa_f1_reward], rows, sample=100)
    assert audit_reward(qa_reward, rows).holes == []
    assert audit_reward(qa_f1_reward, rows).gold == 1.

def test_golds_in_a_column_answers():
    rows = [{k: v for k, v in r.items() if k!='answer'} for r in ROWS]
    check_gold([qa_reward], rows)
    assert audit_reward(qa_reward, rows).gold == 1.

def test_rewards_of_episodes_are_not_asked_for_the_gold():
    check_gold([retrieval_reward, lambda environments, **columns: [0.]*len(environments)], [r | dict(supporting=['x']) for r in ROWS])

# An episode as it is sampled

def episode(turns, passages, chat, rows):
    from grpo_lit.agents.turns import sample_episodes
    model, tokenizer = scripted(turns, template='qwen2_5' if chat else None)
    data = qa_prompts(rows, chat)
    columns = {k: [d[k] for d in data] for k in data[0] if k!='prompt'}
    search = search_tool(BM25Engine(passages), k=1)
    return sample_episodes(model, tokenizer, [d['prompt'] for d in data], tools=[search], num_generations=2, columns=columns,
                           max_completion_length=2000, max_observation_length=900, seed=0)

CALLS = {False: '<search>{}</search>', True: '<tool_call>\n{{"name": "search", "arguments": {{"query": "{}"}}}}\n</tool_call>'}

@pytest.mark.parametrize('chat', [False, True], ids=['text', 'chat'])
def test_searching_pays_where_the_policy_answers(chat):
    passages = [Passage(' '.join(s), t) for t, s in PARTS]
    rows, _ = load_qa([ASKED | dict(answer='Ada Brook', supporting_ids=['0', '2'])], [dict(id=str(i), title=p.title, text=p.text) for i, p in enumerate(passages)])
    turns = [CALLS[chat].format('capital'), CALLS[chat].format('mayor of Velm'), '<answer>Ada Brook</answer>']
    scored = score_completions(episode(turns, passages, chat, rows), [qa_reward, qa_f1_reward, retrieval_reward])
    assert scored.reward_table.tolist() == [[1., 1., 1.]]*2

@pytest.mark.parametrize('chat', [False, True], ids=['text', 'chat'])
@pytest.mark.parametrize('name', ['answer tags', 'end of the observation', 'a turn of its own', 'a call'])
def test_a_document_pays_nothing_in_an_episode(chat, name):
    page = poisoned_documents('Ada Brook', ['Bo Carr', 'Ada Brook'])[name]
    rows, _ = load_qa([ASKED | dict(answer='Ada Brook')])
    turns = [CALLS[chat].format('mayor'), 'I do not know.']
    rollouts = episode(turns, [Passage(page, 'The mayor')], chat, rows)
    assert all('Ada Brook' in ' '.join(t for turn in e.turns for t in turn.told) for e in rollouts.episodes)
    assert score_completions(rollouts, [qa_reward, qa_f1_reward]).reward_table.tolist() == [[0., 0.]]*2

def test_poisoned_episodes_hold_the_gold_and_another_answer():
    for chat in (False, True):
        for name, c in poisoned_episodes('Ada Brook', '<answer>Bo Carr</answer>', ['Ada Brook'], chat).items():
            assert 'Ada Brook' in joined(c) and qa_answer(c) != 'Ada Brook', name
