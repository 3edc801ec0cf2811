"""What people give by mistake: each is answered by one line that says what to do, and exit code 2; and what looks odd but can be read is read."""
import bz2, gzip, json, lzma, os, subprocess, sys, tarfile, time, zipfile
from io import BytesIO
import pytest
from grpo_lit.hub import model_directory
from grpo_lit.policy import load_policy
from grpo_lit.run import cli
from grpo_lit.run.cli import main
from grpo_lit.run.datasets import load_task, read_rows

GOOD = 'question,answer\n1+1=?,2\n2+2=?,4\n3+3=?,6\n4+4=?,8\n'
ROWS = [dict(question=f'{n}+{n}=?', answer=str(2*n)) for n in range(1, 7)]
LINES = '\n'.join(map(json.dumps, ROWS))
SHARED = [dict(conversations=[{'from': 'human', 'value': r['question']}, {'from': 'gpt', 'value': r['answer']}]) for r in ROWS]
ASKED = [dict(messages=[dict(role='user', content=r['question']), dict(role='assistant', content=r['answer'])]) for r in ROWS]

def lines(rows): return '\n'.join(map(json.dumps, rows))

def put(folder, files):
    "Write files: text as UTF-8, bytes as they are"
    for name, content in files.items():
        path = folder/name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None: path.mkdir()
        else: path.write_bytes(content.encode() if isinstance(content, str) else content)

@pytest.fixture
def there(tmp_path, monkeypatch):
    "An empty working directory"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    return tmp_path

def said(capfd, argv) -> str:
    "The one line of complaint of a command that ends with code 2"
    try: code = main(argv)
    except SystemExit as e: code = e.code
    out, err = capfd.readouterr()
    told = [line for line in err.splitlines() if line.strip()]
    assert (code, len(told)) == (2, 1), (code, err, out)
    assert 'Traceback' not in err and len(told[0]) < 700
    return told[0]

def zipped(folder='inside.csv') -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, 'w') as z: z.writestr(folder, GOOD)
    return buffer.getvalue()

def tarred() -> bytes:
    buffer, info = BytesIO(), tarfile.TarInfo('a.csv')
    info.size = len(GOOD)
    with tarfile.open(fileobj=buffer, mode='w:gz') as archive: archive.addfile(info, BytesIO(GOOD.encode()))
    return buffer.getvalue()

# --- files with questions: name of the case -> (content of the file, its name, what the line must say)

BROKEN = {
    # encodings
    'latin-1': (GOOD.replace('1+1', 'Wie spät').encode('latin-1'), 'a.csv', ['line 2', 'latin-1', '--encoding latin-1']),
    'latin-1 JSON lines': ('{"prompt": "1", "answer": "1"}\n{"prompt": "é", "answer": "2"}'.encode('latin-1'), 'a.jsonl', ['line 2', 'latin-1']),
    'Windows quotes': (GOOD.replace('1+1', '“1”').encode('cp1252'), 'a.csv', ['line 2', 'cp1252', '--encoding']),
    'utf-16': (GOOD.encode('utf-16'), 'a.csv', ['utf-16', '--encoding utf-16']),
    'utf-16 without a mark': (GOOD.encode('utf-16-le'), 'a.csv', ['utf-16-le']),
    'utf-32': (GOOD.encode('utf-32'), 'a.csv', ['utf-32']),
    'Cyrillic': (GOOD.replace('1+1', 'Сколько будет два плюс два и ещё три').encode('cp1251'), 'a.csv', ['line 2', '--encoding']),
    'Chinese': (GOOD.replace('1+1', '一加一等于几请用一个数字回答这个问题').encode('gb18030'), 'a.csv', ['line 2', '--encoding']),
    'a zero byte': (GOOD.replace('2+2', '2\x00+2'), 'a.csv', ['line 3', 'zero byte']),
    # what is no text
    'zip': (zipped(), 'a.csv', ['zip archive', 'unpack']),
    'Excel': (zipped('xl/workbook.xml'), 'a.xlsx', ['Excel', 'CSV']),
    'Excel under another name': (zipped('xl/workbook.xml'), 'a.csv', ['Excel', 'CSV']),
    'old Excel': (b'\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1', 'a.xls', ['Excel', 'CSV']),
    'junk called xlsx': ('question', 'a.xlsx', ['Excel', 'CSV']),
    'a PDF': (b'%PDF-1.7', 'a.jsonl', ['PDF']),
    'a web page': ('<!DOCTYPE html><html>', 'a.json', ['web page', 'download']),
    'a pointer of LFS': ('version https://git-lfs.github.com/spec/v1\noid', 'a.parquet', ['Parquet']),
    'a pointer of LFS as JSON': ('version https://git-lfs.github.com/spec/v1\noid', 'a.jsonl', ['git lfs pull']),
    'a pickle': (b'\x80\x04\x95', 'a.json', ['pickle']),
    'SQLite': (b'SQLite format 3\x00', 'a.csv', ['SQLite', 'CSV']),
    'gzip, cut off': (gzip.compress(GOOD.encode()*50)[:60], 'a.csv.gz', ['damaged or cut off']),
    'gzip, damaged': (b'\x1f\x8b'+b'x'*40, 'a.csv.gz', ['damaged or cut off']),
    'Parquet, cut off': (b'PAR1', 'a.parquet', ['Parquet']),
    'text called Parquet': (GOOD, 'a.parquet', ['Parquet']),
    'an unknown ending': (GOOD, 'a.txt', ['none of json, jsonl']),
    'no ending': (GOOD, 'questions', ['none of json, jsonl']),
    'a tar archive': (tarred(), 'a.tar.gz', ['tar archive', 'unpack']),
    'a tar archive called CSV': (tarred(), 'a.csv.gz', ['tar archive', 'unpack']),
    '7z': (b'7z\xbc\xaf\x27\x1c', 'a.jsonl', ['7z', 'unpack']),
    'zstd': (b'\x28\xb5\x2f\xfd', 'a.csv.zst', ['zstd -d']),
    'xz, cut off': (lzma.compress(GOOD.encode())[:-20], 'a.csv.xz', ['damaged or cut off']),
    'bzip2, cut off': (bz2.compress(GOOD.encode())[:-9], 'a.csv.bz2', ['damaged or cut off']),
    'Arrow': (b'ARROW1\0\0', 'a.arrow', ['Arrow', 'Parquet']),
    'zero bytes at the end': (GOOD+'\0\0', 'a.csv', ['line 6', 'zero byte']),
    'JSON lines in utf-16 without a mark': (LINES.encode('utf-16-be'), 'a.jsonl', ['utf-16-be']),
    'only commas': (',,,\n,,,\n', 'a.csv', ['only commas']),
    'only semicolons': (';;\n;;\n', 'a.csv', ['only semicolons']),
    # nothing
    'empty': ('', 'a.csv', ['is empty']),
    'empty JSON lines': ('\n\n', 'a.jsonl', ['is empty']),
    'an empty list': ('[]', 'a.json', ['has no rows']),
    'only a header': ('question,answer\n', 'a.csv', ['only a header']),
    'empty gzip': (gzip.compress(b''), 'a.jsonl.gz', ['is empty']),
    # JSON
    'a broken line': (LINES.replace('"4"}', '"4"'), 'a.jsonl', ['line 2', 'no valid JSON']),
    'a broken line behind empty ones': ('\n\n'+LINES+'\n{"question"', 'a.jsonl', ['line 9']),
    'the last line cut off': (LINES[:-10], 'a.jsonl', ['line 6']),
    'single quotes': ("{'question': '1+1', 'answer': '2'}", 'a.jsonl', ['line 1', 'double quotes']),
    'a broken list': ('[\n{"question": "1+1", "answer": "2"}\n{"question": "1+2", "answer": "3"}\n]', 'a.json', ['line 3']),
    'a trailing comma': ('[{"question": "1+1", "answer": "2"},\n]', 'a.json', ['line']),
    'a line that is a list': ('{"question": "1", "answer": "1"}\n[1, 2]', 'a.jsonl', ['line 2', 'no row']),
    'a list of texts': ('["1+1", "1+2"]', 'a.json', ['item 1', 'no row']),
    'a number': ('7', 'a.json', ['no row']),
    'several lists': (json.dumps(dict(train=ROWS, test=ROWS)), 'a.json', ['several lists', 'train, test', '--split']),
    'an object without rows': ('{"version": 2}', 'a.json', ['which column holds the question']),
    'deep': ('[' * 100_000, 'a.json', ['nested too deeply']),
    'commas after the lines': (LINES.replace('\n', ',\n'), 'a.jsonl', ['line 1', 'without commas']),
    'two objects in a line': ('{"question": "1", "answer": "1"}{"question": "2", "answer": "2"}', 'a.jsonl', ['line 1', 'one object a line']),
    'a comment': ('// rows\n'+LINES, 'a.jsonl', ['line 1']),
    'a null for a row': ('null\n'+LINES, 'a.jsonl', ['line 1', 'no row']),
    'columns of different lengths': ('{"question": ["1+1", "2+2"], "answer": ["2"]}', 'a.json', ['different lengths', "'answer' 1"]),
    'half a character': (LINES+'\n{"question": "\\ud83d", "answer": "1"}', 'a.jsonl', ['line 7', 'half a character']),
    'five thousand digits': (LINES+'\n{"question": "1", "answer": '+'9'*5000+'}', 'a.jsonl', ['line 7', 'too many digits']),
    'a chart': (json.dumps(dict(columns=['a', 'b'], data=[[1, 2], [3, 4]])), 'a.json', ['which column holds the question', 'a, b']),
    # CSV
    'too many fields': (GOOD+'5+5,10,ten\n', 'a.csv', ['line 6', '3 fields']),
    'too few fields': (GOOD+'5+5\n', 'a.csv', ['line 6', '1 fields']),
    'a comma in a question': (GOOD+'one, and one,2\n', 'a.csv', ['line 6', 'quotation marks']),
    'an open quote': (GOOD+'"5+5,10\n6+6,12\n', 'a.csv', ['line 6', 'never closed']),
    'duplicate columns': ('question,answer,answer\n1+1,2,3\n', 'a.csv', ["two columns are called 'answer'"]),
    'no header': ('1+1=?,2\n2+2=?,4\n', 'a.csv', ['first line names the columns']),
    'other columns': ('q,a\n1+1,2\n2+2,4\n', 'a.csv', ['which column holds the question', 'q, a']),
    'no answers': ('question\n1+1\n2+2\n', 'a.csv', ['which column holds the answer']),
    # rows
    'a null prompt': (lines([*ROWS[:3], dict(question=None, answer='2'), *ROWS[3:]]), 'a.jsonl', ['line 4', 'question is missing']),
    'null prompts behind empty lines': ('\n'+lines([*ROWS[:3], dict(question=None, answer='2'), dict(answer='3')]), 'a.jsonl', ['line 5', '2 of 5']),
    'an empty prompt': (GOOD+'  ,5\n', 'a.csv', ['line 6', 'question is missing']),
    'a row without its question': ('[{"question": "1+1", "answer": "2"}, {"answer": "3"}]', 'a.json', ['item 2', 'question is missing']),
    'answers all null': (lines([dict(question=r['question'], answer=None) for r in ROWS]), 'a.jsonl', ['empty in every row']),
    'answers all NaN': (lines([dict(question=r['question'], answer=float('nan')) for r in ROWS]), 'a.jsonl', ['empty in every row']),
    'answers all blank': (lines([dict(question=r['question'], answer=' '*n) for n, r in enumerate(ROWS)]), 'a.jsonl', ['empty in every row']),
    'answers empty in CSV': ('question,answer\n1,\n2,\n', 'a.csv', ['empty in every row']),
    'nobody answers': (lines([dict(messages=[dict(role='user', content=r['question'])]) for r in ROWS]), 'a.jsonl', ['end with the user', 'column answer']),
    'ShareGPT that ends with a question': (lines([dict(conversations=[*r['conversations'], {'from': 'human', 'value': 'And?'}]) for r in SHARED]), 'a.jsonl', ['end with the user']),
    'ShareGPT without a value': (lines([dict(conversations=[{'from': 'human', 'value': None}])]*3), 'a.jsonl', ['line 1', 'without text']),
    'an unknown speaker': (lines([dict(conversations=[{'from': 'alien', 'value': 'hi'}])]*3), 'a.jsonl', ['line 1', "'alien'"]),
    'a list of texts for a prompt': (lines([dict(question=['1', '2'], answer='1')]*3), 'a.jsonl', ['line 1', 'no message']),
    'an object for a prompt': (lines([dict(question=dict(a=1), answer='1')]*3), 'a.jsonl', ['line 1', 'role and content']),
    'a number for a message': (lines([dict(messages=[dict(role='user', content=5)], answer='1')]*3), 'a.jsonl', ['line 1', 'without text']),
    'swapped': ('question,answer\n2,What is 1+1?\n4,What is 2+2?\n6,What is 3+3?\n', 'a.csv', ['swapped', '--prompt-column answer']),
    'swapped without question marks': ('question,answer\n2,the sum of one and one\n4,the sum of two and two\n', 'a.csv', ['swapped']),
    'one row': ('question,answer\n1+1,2\n', 'a.csv', ['one row', '--test']),
    'the same question in all rows': ('question,answer\n'+'1+1,2\n'*5, 'a.csv', ['also a held-out one']),
    'a role that is none': (lines([dict(messages=[dict(role='usr', content='1+1')], answer='2')]*3), 'a.jsonl', ['line 1', "'user'"]),
    'messages without content': (lines([dict(messages=[dict(role='user')], answer='2')]*3), 'a.jsonl', ['line 1', 'role and content']),
    'nobody asks': (lines([dict(messages=[dict(role='assistant', content='2')], answer='2')]*3), 'a.jsonl', ['line 1', 'user says nothing']),
    'an empty conversation': (lines([*ASKED[:2], dict(messages=[])]), 'a.jsonl', ['line 3', 'empty']),
    'a picture': (lines([dict(messages=[dict(role='user', content=[dict(type='image', url='x')])], answer='2')]*3), 'a.jsonl', ['line 1', 'pictures']),
    'no row of GSM8K': (lines([dict(question='1+1?', answer='2\n#### 2'), dict(question='1+1?', answer=None)]), 'a.jsonl', ['line 2', 'gsm8k']),
}

@pytest.mark.parametrize('name', BROKEN)
def test_broken_files(name, there, capfd):
    content, file, wanted = BROKEN[name]
    put(there, {file: content})
    line = said(capfd, ['train', '--model', 'tiny', '--data', file])
    for part in [file, *wanted]: assert part in line, line

# --- what looks odd and can be read: (content, name of the file, options of load_task)

TAKEN = {
    'utf-8 with a mark': (GOOD.encode('utf-8-sig'), 'a.csv', {}),
    'latin-1, said so': (GOOD.encode('latin-1'), 'a.csv', dict(encoding='latin-1')),
    'utf-16, said so': (GOOD.encode('utf-16'), 'a.csv', dict(encoding='utf-16')),
    'semicolons': (GOOD.replace(',', ';'), 'a.csv', {}),
    'tabs': (GOOD.replace(',', '\t'), 'a.tsv', {}),
    'tabs in a csv': (GOOD.replace(',', '\t'), 'a.csv', {}),
    'Windows ends of lines': (GOOD.replace('\n', '\r\n'), 'a.csv', {}),
    'old Mac ends of lines': (GOOD.replace('\n', '\r'), 'a.csv', {}),
    'empty lines': (GOOD.replace('\n', '\n\n'), 'a.csv', {}),
    'commas at the ends of lines': (GOOD.replace('\n', ',\n').replace('answer,', 'answer'), 'a.csv', {}),
    'an index column': ('\n'.join(','.join([str(i) if i else '', line]) for i, line in enumerate(GOOD.splitlines())), 'a.csv', {}),
    'capital names': (GOOD.replace('question,answer', 'Question, Answer'), 'a.csv', {}),
    'data': (json.dumps(dict(data=ROWS)), 'a.json', {}),
    'data, printed': (json.dumps(dict(version=1, rows=ROWS), indent=1), 'a.json', {}),
    'one of several lists': (json.dumps(dict(train=ROWS, test=ROWS[:2])), 'a.json', dict(split='train')),
    'a list': (json.dumps(ROWS), 'a.json', {}),
    'a list called jsonl': (json.dumps(ROWS, indent=1), 'a.jsonl', {}),
    'lines called json': (LINES, 'a.json', {}),
    'ndjson': (LINES, 'a.ndjson', {}),
    'empty lines between': (LINES.replace('\n', '\n\n'), 'a.jsonl', {}),
    'columns': (json.dumps({k: [r[k] for r in ROWS] for k in ROWS[0]}), 'a.json', {}),
    'gzip': (gzip.compress(LINES.encode()), 'a.jsonl.gz', {}),
    'bzip2': (bz2.compress(LINES.encode()), 'a.jsonl.bz2', {}),
    'xz': (lzma.compress(GOOD.encode()), 'a.csv.xz', {}),
    'packed twice': (gzip.compress(gzip.compress(GOOD.encode())), 'a.csv.gz', {}),
    'bars': (GOOD.replace(',', '|'), 'a.csv', {}),
    'a mark and semicolons': (GOOD.replace(',', ';').encode('utf-8-sig'), 'a.csv', {}),
    'a mark before JSON lines': (LINES.encode('utf-8-sig'), 'a.jsonl', {}),
    'old Mac JSON lines': (LINES.replace('\n', '\r'), 'a.jsonl', {}),
    'capital ending': (GOOD, 'A.CSV', {}),
    'a name with spaces': (GOOD, 'my dätä.csv', {}),
    'pandas, by column': (json.dumps({k: {str(i): r[k] for i, r in enumerate(ROWS)} for k in ROWS[0]}), 'a.json', {}),
    'pandas, by index': (json.dumps({str(i): r for i, r in enumerate(ROWS)}), 'a.json', {}),
    'pandas, in parts': (json.dumps(dict(columns=[*ROWS[0]], index=[*range(6)], data=[[*r.values()] for r in ROWS])), 'a.json', {}),
    'a list inside data': (json.dumps(dict(data=dict(train=ROWS))), 'a.json', {}),
    'the only list': (json.dumps(dict(train=ROWS)), 'a.json', {}),
    'an index of null': (lines([r|dict(note=None) for r in ROWS]), 'a.jsonl', {}),
    'notes of all kinds': (lines([r|dict(note=[n, 'n', [n]][n%3]) for n, r in enumerate(ROWS)]), 'a.jsonl', {}),
    'gzip without the ending': (gzip.compress(GOOD.encode()), 'a.csv', {}),
    'columns named': (GOOD.replace('question,answer', 'answer,question'), 'a.csv', dict(prompt_column='answer', answer_column='question')),
}

@pytest.mark.parametrize('name', TAKEN)
def test_odd_files_that_can_be_read(name, there):
    content, file, options = TAKEN[name]
    put(there, {file: content})
    task = load_task(file, **options)
    rows = sorted([*task.train, *task.test], key=lambda r: r['prompt'])
    assert [(r['prompt'], str(r['answer'])) for r in rows] == [(r['question'], r['answer']) for r in ROWS][:len(rows)]
    assert len(rows) in (4, 6)

@pytest.mark.parametrize('rows', [SHARED, ASKED], ids=['ShareGPT', 'OpenAI'])
def test_conversations(rows, there):
    put(there, {'a.jsonl': lines(rows)})
    task = load_task('a.jsonl')
    row = min([*task.train, *task.test], key=lambda r: r['prompt'][0]['content'])
    assert row['prompt'] == [dict(role='user', content='1+1=?')] and row['answer'] == '2'

def test_numbers_are_text(there):
    put(there, {'a.jsonl': lines([dict(question=n, answer=n+1) for n in range(10)])})
    assert sorted(r['prompt'] for r in load_task('a.jsonl').train)[0] == '0'

def test_places_are_those_of_the_file(there):
    put(there, {'a.jsonl': '\n\n'+LINES})
    task = load_task('a.jsonl')
    for row, place in zip(task.train, task.places):
        assert place == f"'a.jsonl', line {int(row['answer'])//2+2}"

def test_a_saved_dataset_and_parquet(there):
    from datasets import Dataset
    Dataset.from_list(ROWS).save_to_disk('saved')
    Dataset.from_list(ROWS).to_parquet('a.parquet')
    assert list(read_rows('saved')) == list(read_rows('a.parquet')) == ROWS

def test_two_rows(there):
    put(there, {'a.csv': 'question,answer\n1+1=?,2\n2+2=?,4\n'})
    task = load_task('a.csv')
    assert (len(task.train), len(task.test)) == (1, 1)

# --- command lines: what follows `grpo-lit`, and what the line must say

T = 'train --model tiny --data a.csv '
LINES_OF_COMMANDS = {
    'nothing': ('', ['train', '--help']),
    'no such command': ('trian', ["did you mean 'train'?"]),
    'no such option': (T+'--lerning-rate 1', ["did you mean '--learning-rate'?"]),
    'an option of nobody': (T+'--xyzzy', ["no option '--xyzzy'"]),
    'a word too many': (T+'more', ["'more' belongs to no option"]),
    'an option without a value': (T+'--learning-rate', ['--learning-rate', 'expected one argument']),
    'no model': ('train --data a.csv', ['--model']),
    'no data': ('train --model tiny', ['--data']),
    'no model to measure': ('eval --data a.csv', ['missing', '--model']),
    'text for a number': (T+'--max-steps many', ["'many' is not a whole number"]),
    'half a step': (T+'--max-steps 1.5', ["'1.5' is not a whole number"]),
    'limit below zero': (T+'--limit -3', ['--limit is -3', 'at least 0']),
    'questions below zero': (T+'--eval-questions -1', ['--eval-questions is -1']),
    'rank below zero': (T+'--lora-r -4', ['--lora-r is -4']),
    'steps below zero': (T+'--max-steps -7', ['max_steps is -7']),
    'no steps': (T+'--max-steps 0', ['max_steps is 0']),
    'learning rate inf': (T+'--learning-rate inf', ['learning_rate is inf']),
    'learning rate nan': (T+'--learning-rate nan', ['learning_rate is nan']),
    'learning rate below zero': (T+'--learning-rate -1e-6', ['learning_rate is -1e-06']),
    'top_p 2': (T+'--top-p 2', ['top_p is 2.0', 'at most 1']),
    'temperature 0': (T+'--temperature 0', ['temperature is 0']),
    'temperature inf': (T+'--temperature inf', ['temperature is inf']),
    'beta nan': (T+'--beta nan', ['beta is nan']),
    'one completion': (T+'--num-generations 1', ['num_generations is 1']),
    'groups that do not fit': (T+'--num-generations 3', ['num_generations=3']),
    'no such loss': (T+'--loss-type gpro', ["did you mean 'grpo'?"]),
    'no such schedule': (T+'--lr-scheduler-type cosin', ["did you mean 'cosine'?"]),
    'no such dtype': (T+'--dtype bf61', ['model_dtype']),
    'no such device': (T+'--device gpu', ["no device 'gpu'"]),
    'no such encoding': (T+'--encoding latn-1', ["did you mean 'latin-1'?"]),
    'an encoding that it is not': (T.replace('a.csv', 'u.csv')+'--encoding utf-16', ['u.csv', 'utf-16']),
    'no such style': (T+'--prompt-style chta', ['prompt styles are for the benchmarks']),
    'no such column': (T+'--prompt-column qestion', ["did you mean 'question'?"]),
    'one column for both': (T+'--prompt-column question --answer-column question', ['cannot be the question and the answer']),
    'columns swapped': (T+'--prompt-column answer --answer-column question', ['swapped']),
    'columns of a task made here': ('train --model tiny --data addition --prompt-column q', ['is made here']),
    'no such file': (T.replace('a.csv', 'aa.csv'), ["no file 'aa.csv'", "did you mean 'a.csv'?"]),
    'no such path': (T.replace('a.csv', './data/b'), ["no file './data/b'"]),
    'no such task': (T.replace('a.csv', 'adition'), ["did you mean 'addition'?"]),
    'a directory': (T.replace('a.csv', 'folder'), ['is a directory', 'inside.jsonl']),
    'an empty directory': (T.replace('a.csv', 'empty'), ['is a directory']),
    'a test file that is missing': (T+'--test tset.csv', ["no file 'tset.csv'"]),
    'a split of a file': (T+'--test validation', ['a file has no splits']),
    'no such model': (T.replace('tiny', 'tiyn'), ["did you mean 'tiny'?"]),
    'no such model on the hub': (T.replace('tiny', 'nobody/no-such-model'), ["no model 'nobody/no-such-model'"]),
    'no such directory': (T.replace('tiny', './runs/demo'), ["no directory './runs/demo'"]),
    'a file for a model': (T.replace('tiny', 'a.csv'), ['give the directory of a model']),
    'a directory without a model': (T.replace('tiny', 'folder'), ['without a model']),
    'no GGUF file': (T.replace('tiny', 'b.gguf'), ['no GGUF file']),
    'a run that has saved nothing': (T.replace('tiny', 'young'), ['saved no policy']),
    'no such reward': (T+'--reward acuracy_reward', ["did you mean 'accuracy_reward'?"]),
    'no such file of rewards': (T+'--reward b.py:f', ["no file 'b.py'"]),
    'no such module of rewards': (T+'--reward no_such_module:f', ["no module 'no_such_module'"]),
    'no such reward in the file': (T+'--reward fine.py:naer', ["did you mean 'near'?"]),
    'which reward of the file': (T+'--reward two.py', ['which reward', 'one, two']),
    'no function': (T+'--reward fine.py:NUMBER', ['is no function']),
    'a syntax error': (T+'--reward broken.py:near', ['broken.py, line 2']),
    'a syntax error in a module': (T+'--reward broken:near', ['broken.py, line 2']),
    'an error at import': (T+'--reward failing.py:near', ['failing.py, line 3', 'ZeroDivisionError']),
    'a module that is missing': (T+'--reward lacking.py:near', ['lacking.py, line 1', 'no_such_library']),
    'a name with a dot': (T+'--reward fine.near', ['FILE.py:FUNCTION']),
    'no such file of settings': (T+'--config b.toml', ['b.toml', 'no such file']),
    'settings of another kind': (T+'--config a.csv', ['toml, yaml']),
    'a broken file of settings': (T+'--config broken.toml', ['broken.toml', 'line 2']),
    'broken YAML': (T+'--config broken.yaml', ['broken.yaml', 'line 3']),
    'a setting that is none': (T+'--config unknown.toml', ['unknown.toml', "did you mean 'learning_rate'?"]),
    'a setting in a section': (T+'--config section.toml', ["section 'optimizer'", "did you mean 'learning_rate'?"]),
    'text for a number in a file': (T+'--config text.yaml', ['max_steps', "'many' is not a whole number"]),
    'out of range in a file': (T+'--config range.json', ['top_p is 2']),
    'a list of settings': (T+'--config list.json', ['names with values']),
    'a directory of settings': (T+'--config folder', ['directory']),
    'set without a value': (T+'--set learning_rate', ['NAME=VALUE']),
    'set of no option': (T+'--set lerning_rate=1', ["did you mean 'learning_rate'?"]),
    'set to text': (T+'--set beta=much', ["'much' is not a number"]),
    'set twice': (T+'--set beta=1 --beta 2', ['beta is given twice']),
    'a file for a run': (T+'--out u.csv', ['--out u.csv is a file']),
    'resume of a file': ('train --resume a.csv', ['holds no run']),
    'no such tracker': (T+'--report-to wandbb', ['wandb']),
    'weights of other rewards': (T+'--reward-weights 1 2 3', ['3 reward_weights for 2']),
    'no such optimizer': (T+'--optim adamm', ['did you mean']),
    'warm-up below zero': (T+'--warmup-steps -1', ['warmup_steps is -1']),
    'a broken dictionary': (T+'--generation-kwargs {broken', ['generation_kwargs']),
    'a chat without a template': (T+'--chat', ['no chat template']),
    'a seed that is text': (T+'--seed x', ["'x' is not a whole number"]),
    'no checkpoints kept': (T+'--save-total-limit 0', ['save_total_limit is 0']),
    'the same file for both': (T+'--test a.csv', ['also a held-out one']),
    'a benchmark without a network': (T.replace('a.csv', 'gsm8k'), ['openai/gsm8k']),
    'a pattern': (T.replace('a.csv', '*.csv'), ['not expanded']),
    'an address': (T.replace('a.csv', 'https://example.com/a.csv'), ['address', 'download']),
    'the page of a dataset': (T.replace('a.csv', 'https://huggingface.co/datasets/openai/gsm8k'), ['give the name on the hub, openai/gsm8k']),
    'a bucket': (T.replace('a.csv', 's3://b/a.csv'), ['address']),
    'somebody at home': (T.replace('a.csv', '~/a.csv'), ['~']),
    'two files': (T+'--test a.csv b.csv', ["'b.csv' belongs to no option"]),
    'a device': (T.replace('a.csv', '/dev/null'), ['no file but a pipe']),
    'the page of a model': (T.replace('tiny', 'https://huggingface.co/Qwen/Qwen3-0.6B'), ['give the name on the hub, Qwen/Qwen3-0.6B']),
    'a model by address': (T.replace('tiny', 's3://models/x'), ['address']),
    'a model with a blank': ('train --data a.csv --model=', ['--model']),
    'a GGUF file, cut off': (T.replace('tiny', 'cut.gguf'), ['does not load']),
    'an empty GGUF file': (T.replace('tiny', 'none.gguf'), ['does not load']),
    'only a tokenizer': (T.replace('tiny', 'tokens'), ['without a model']),
    'an adapter of nobody': (T.replace('tiny', 'adapter'), ['adapter', 'nobody/none']),
    'an adapter without a base': (T.replace('tiny', 'baseless'), ['base_model_name_or_path']),
    'a reward that ends the program': (T+'--reward exits.py:near', ['ends the program', '__main__']),
    'a reward that quits': (T+'--reward quits.py:near', ['ends the program']),
    'a reward of nothing': (T+'--reward nothing.py:near', ['does not take answer', '**columns']),
    'a reward of completions alone': (T+'--reward alone.py:near', ['does not take answer', '**columns']),
    'a class for a reward': (T+'--reward kind.py:near', ['does not take', '**columns']),
    'a function of Python': (T+'--reward os:getcwd', ['does not take', '**columns']),
    'too few rewards': (T+'--reward fewer.py:near', ['one per completion']),
    'one reward for all': (T+'--reward single.py:near', ['must return a list']),
    'text for rewards': (T+'--reward texts.py:near', ["'a' (str)"]),
    'an endless reward': (T+'--reward endless.py:near', ['inf']),
    'yielded by a coroutine': (T+'--reward later.py:near', ['async_generator']),
    'a column that is missing': (T+'--reward column.py:near', ["no column 'gold'"]),
    'zero bytes in a reward': (T+'--reward zero.py:near', ['zero.py', 'null bytes']),
    'no reward in the file': (T+'--reward lacking_all.py', ['holds no reward', 'def NAME']),
    'no file of a reward': (T+'--reward :near', ['FILE.py:FUNCTION']),
    'two colons': (T+'--reward fine.py::near', ['FILE.py:FUNCTION']),
    'a dot before a reward': (T+'--reward .fine:near', ['FILE.py:FUNCTION']),
    'a directory for a reward': (T+'--reward folder.py:near', ['is a directory']),
    'a notebook for a reward': (T+'--reward fine.ipynb:near', ['.py']),
    'a reward from elsewhere': (T+'--reward ../fine.py:near', ["no file '../fine.py'"]),
    'numbers for rewards': (T+'--config rewards.json', ['a reward is 1']),
    'a setting twice in JSON': (T+'--config twice.json', ['beta is given twice']),
    'a setting twice in YAML': (T+'--config twice.yaml', ['beta is given twice']),
    'a setting twice in TOML': (T+'--config twice.toml', ['twice.toml', 'line 2']),
    'a section of nothing': (T+'--config nothing.toml', ["section 'foo'", "no option 'bar'"]),
    'a comment in JSON': (T+'--config comment.json', ['comment.json', 'line 1']),
    'a date': (T+'--config date.toml', ['seed']),
    'settings in settings': (T+'--config inner.toml', ["no option 'config'"]),
    'truth for a number': (T+'--config truth.toml', ['beta', 'True is no float']),
    'NaN in JSON': (T+'--config nan.json', ['beta is nan']),
    'a tag of Python in YAML': (T+'--config tag.yaml', ['tag.yaml', 'line 1']),
    'settings in utf-16': (T+'--config wide.toml', ['wide.toml', 'save it as UTF-8']),
    'more than can be counted': (T+'--num-generations 1e30', ['num_generations is']),
    'steps without end': (T+'--max-steps 1e30', ['max_steps is', 'at most 1000000000']),
    'weights cut to nothing': (T+'--importance-sampling-clip-max 0', ['importance_sampling_clip_max is 0']),
    'a comma in a number': (T+'--temperature 0,7', ["'0,7' is not a number"]),
    'a share': (T+'--learning-rate 1/3', ["'1/3' is not a number"]),
    'percent': (T+'--warmup-ratio 5%', ["'5%' is not a number"]),
    'beyond all floats': (T+'--beta 1e400', ['beta is inf']),
    'a run that is a list': ('show listed', ['listed/config.json', 'is damaged']),
    'a summary that is null': ('show ended', ['ended/summary.json', 'is damaged']),
    'resume of a long name': ('train --resume '+'x'*300, ['too long']),
    'resume of a checkpoint that is missing': ('train --resume young/checkpoint-9', ['checkpoint-9']),
    'a step that is text': ('show young --step abc', ["'abc' is not a whole number"]),
    'a step below zero': ('show young --step -1', ['at least 0']),
    'measure below zero': ('eval --model tiny --data a.csv --limit -3', ['limit is -3']),
    'measure what is missing': ('eval --model tiny --data aa.csv', ["did you mean 'a.csv'?"]),
    'measure at top_p 2': ('eval --model tiny --data a.csv --top-p 2', ['top_p is 2']),
    'measure with no attempt': ('eval --model tiny --data a.csv --num-generations 0', ['at least 1']),
    'compare with nothing': ('compare folder', ['other']),
    'compare what was not measured': ('compare folder young', ['holds no answers']),
    'resume of nothing': ('train --resume', ['--resume RUN']),
    'resume of no run': ('train --resume folder', ['holds no run to go on with']),
    'resume of what is not there': ('train --resume runs/no', ["no run 'runs/no'"]),
    'resume of a run by a script': ('train --resume young', ['trainer.train(resume_from_checkpoint=True)']),
    'a damaged run': ('train --resume damaged', ['is damaged']),
    'show nothing': ('show', ['run']),
    'show no run': ('show folder', ['holds no run']),
    'show what is not there': ('show yuong', ["did you mean 'young'?"]),
    'plot no run': ('plot folder', ['holds no metrics']),
    'sample nothing': ('sample tiny', ['prompt']),
    'sample no model': ('sample tiyn 1+1', ["did you mean 'tiny'?"]),
    'sample at nan': ('sample tiny 1+1 --temperature nan', ['temperature is nan']),
    'sample none': ('sample tiny 1+1 --num-generations 0', ['at least 1']),
    'demo of nothing': ('demo --steps 0', ['max_steps is 0']),
}

FILES = {
    'a.csv': GOOD, 'u.csv': GOOD+'x', 'folder/inside.jsonl': LINES, 'empty': None,
    'fine.py': 'NUMBER = 3\ndef near(completions, **columns): return [1.]*len(completions)\n',
    'two.py': 'def one(completions, **c): return [1.]\ndef two(completions, **c): return [1.]\n',
    'broken.py': 'def near(completions, **columns):\n    return [1.\n', 'failing.py': 'x = 1\n\ny = x/0\n',
    'lacking.py': 'import no_such_library\n',
    'broken.toml': 'beta = 0.1\nseed = \n', 'broken.yaml': 'beta: 1\nseed: [1\n', 'unknown.toml': 'lerning_rate = 1e-6\n',
    'section.toml': '[optimizer]\nlerning_rate = 1e-6\n', 'text.yaml': 'max_steps: many\n', 'range.json': '{"top_p": 2}', 'list.json': '[1]',
    'cut.gguf': b'GGUF\3\0\0\0'+b'\1'*20, 'none.gguf': b'', 'tokens/tokenizer_config.json': '{}', 'tokens/tokenizer.json': '{}',
    'adapter/adapter_config.json': '{"base_model_name_or_path": "nobody/none", "peft_type": "LORA"}', 'baseless/adapter_config.json': '{"peft_type": "LORA"}',
    'exits.py': 'import sys\nsys.exit(1)\n', 'quits.py': 'quit()\n', 'zero.py': '\0', 'lacking_all.py': 'x = 1\n', 'folder.py/x': '', 'fine.ipynb': '{}',
    'nothing.py': 'def near(): return [1.]\n', 'alone.py': 'def near(prompts, completions, completion_ids): return [1.]*len(completions)\n',
    'kind.py': 'class near:\n    def __init__(self): self.calls = 0\n', 'fewer.py': 'def near(completions, **c): return [1.]\n',
    'single.py': 'def near(completions, **c): return 1.\n', 'texts.py': 'def near(completions, **c): return ["a"]*len(completions)\n',
    'endless.py': 'def near(completions, **c): return [float("inf")]*len(completions)\n', 'column.py': 'def near(completions, gold, **c): return [1.]\n',
    'later.py': 'async def near(completions, **c):\n    yield 1.\n',
    'rewards.json': '{"reward": [1, 2]}', 'twice.json': '{"beta": 1, "beta": 0}', 'twice.yaml': 'beta: 1\nbeta: 0\n', 'twice.toml': 'beta = 1\nbeta = 0\n',
    'nothing.toml': '[foo]\nbar = 1\n', 'comment.json': '{// no\n"beta": 1}', 'date.toml': 'seed = 2020-01-01\n', 'inner.toml': 'config = "a.toml"\n',
    'truth.toml': 'beta = true\n', 'nan.json': '{"beta": NaN}', 'tag.yaml': 'beta: !!python/name:os.system\n', 'wide.toml': 'beta = 1'.encode('utf-16'),
    'listed/config.json': '[]', 'ended/config.json': '{}', 'ended/summary.json': 'null',
    'young/config.json': '{"args": {}}', 'young/rollouts/x': '', 'damaged/config.json': '{"args',
}

@pytest.mark.parametrize('name', LINES_OF_COMMANDS)
def test_mistakes_of_a_command_line(name, there, capfd):
    put(there, FILES)
    line, wanted = LINES_OF_COMMANDS[name]
    told = said(capfd, line.split())
    for part in wanted: assert part in told, told

@pytest.mark.parametrize('kind', ['pipe', 'link to nothing', 'link to itself'])
def test_what_is_no_file(kind, there, capfd):
    if kind=='pipe': os.mkfifo('a.csv')
    else: os.symlink('b.csv' if kind=='link to nothing' else 'a.csv', 'a.csv')
    told = said(capfd, T.split())
    assert ('is no file but a pipe' if kind=='pipe' else 'it is a link') in told

ODD = ['nan', 'inf', '-inf', '1e400', 'abc', '', '[1]', '0x10', '1,5', 'true']

def test_no_number_takes_what_is_none():
    "Every numeric option of `train`, each with everything odd: refused by name in one sentence"
    from grpo_lit.run.config import GRPOConfig
    from grpo_lit.run.options import kinds_of, options_of, typed
    numeric = [o for o in options_of('train').values() if {'int', 'float'} & set(kinds_of(o))]
    assert len(numeric) > 50
    for option in numeric:
        for text in ODD:
            with pytest.raises(ValueError) as told: GRPOConfig(**{option.name: typed(option, text)})
            assert '\n' not in str(told.value) and len(str(told.value)) < 300

# --- and what is right

def test_a_misspelt_model_costs_seconds(there):
    began = time.monotonic()
    with pytest.raises(ValueError, match="did you mean 'tiny'"): load_policy('tiyn')
    assert time.monotonic()-began < 60

def test_help_is_quick_and_loads_nothing_heavy():
    tell = 'import atexit, sys; atexit.register(lambda: print(sorted({"torch", "transformers", "datasets", "numpy"} & set(sys.modules))))\n'
    for argv in ([], *([c] for c in cli.COMMANDS)):
        code = tell+f'from grpo_lit.run.cli import main; main({[*argv, "--help"]!r})'
        began = time.monotonic()
        done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
        assert time.monotonic()-began < 60
        assert (done.returncode, done.stderr, done.stdout.splitlines()[-1]) == (0, '', '[]')
        assert 'examples:' in done.stdout

SMALL = ['--per-device-train-batch-size', '8', '--max-completion-length', '24', '--eval-questions', '1', '--device', 'cpu']

def test_a_file_and_a_run_that_goes_on(there, capfd):
    "Settings from a file, one changed by --set, one on the command line; then --resume alone; a run is given for a model"
    put(there, {'a.jsonl': lines(SHARED), 'run.toml': 'model = "tiny"\ndata = "a.jsonl"\n[settings]\nmax_steps = 9\nbeta = 0.1\nseed = 5\n'})
    assert main(['train', '--config', 'run.toml', '--set', 'max_steps=1', '--beta', '0', '--out', 'run', *SMALL]) == 0
    kept = json.loads((there/'run/config.json').read_text())
    again = ['train', '--config', 'run.toml', '--set', 'max_steps=1', '--out', 'run', *SMALL]
    capfd.readouterr()
    assert 'already holds a run' in said(capfd, again)
    assert main([*again, '--overwrite']) == 0
    assert (kept['args']['max_steps'], kept['args']['beta'], kept['args']['seed']) == (1, 0, 5)
    assert main(['train', '--resume', 'run', '--max-steps', '2']) == 0
    assert [json.loads(line)['step'] for line in (there/'run/metrics.jsonl').read_text().splitlines()] == [1, 2]
    assert model_directory(there/'run') == there/'run/policy'
    assert main(['sample', 'run', '1+1=?']) == 0
    assert main(['eval', '--model', 'run', '--data', 'addition', '--limit', '2', '--out', 'eval']) == 0
    assert main(['show', 'run']) == 0
    out, err = capfd.readouterr()
    assert 'step 2' in out and 'reward' in out and not err.count('Traceback')

def test_conversations_are_measured_as_text(there):
    put(there, {'a.jsonl': lines(ASKED)})
    assert main(['eval', '--model', 'tiny', '--data', 'a.jsonl', '--limit', '2', '--out', 'eval']) == 0

def test_dry_run_writes_nothing(there, capfd):
    put(there, {'a.csv': GOOD})
    assert main(['train', '--model', 'tiny', '--data', 'a.csv', '--max-steps', '40', '--dry-run', *SMALL]) == 0
    out, _ = capfd.readouterr()
    assert sorted(p.name for p in there.iterdir()) == ['a.csv']
    for part in ('40 of', 'as the model reads it', 'time ', 'questions '): assert part in out

def test_long_questions_are_named_or_dropped(there, capfd):
    long = [dict(question='1'+'+1'*200+'=?', answer='201')]
    put(there, {'a.jsonl': lines([*ROWS, *long])})
    argv = ['train', '--model', 'tiny', '--data', 'a.jsonl', '--max-steps', '1', '--out', 'run', *SMALL]
    assert "the question has" in said(capfd, argv)
    assert main([*argv, '--drop-long']) == 0

def test_a_row_that_the_model_cannot_read_is_named_by_its_line(there, capfd):
    put(there, {'a.jsonl': '\n'+lines([*SHARED, dict(conversations=[{'from': 'system', 'value': 'Be brief.'}, *SHARED[0]['conversations']])])})
    argv = ['train', '--model', 'tiny', '--data', 'a.jsonl', '--test', 'b.jsonl', '--max-steps', '1', '--out', 'run', *SMALL]
    put(there, {'b.jsonl': lines([dict(question='9+9=?', answer='18')])})
    assert "'a.jsonl', line 8: the prompt is a list of chat messages" in said(capfd, argv)

def test_older_spellings_are_taken():
    name, options = cli.parse_command('train --model tiny --data addition --use_cpu --no-resume --lora 4 --beta -1e-3'.split())
    assert options == dict(model='tiny', data='addition', use_cpu=True, resume=False, lora_r=4, beta=-1e-3)

def test_exit_code_of_a_hopeless_run(monkeypatch):
    monkeypatch.setattr(cli, 'function_of', lambda name: lambda **options: dict(hopeless=True, steps=3))
    assert main(['demo']) == 3
