"""Calls of a policy: every form that chat templates write, and texts that are there to hurt."""
import importlib.util, json, random, time
from pathlib import Path
import pytest
from hypothesis import given, settings, strategies as st
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from grpo_lit.agents.asking import Call, DEEPEST_JSON
from grpo_lit.agents.calls import MOST_CALLS, CALL_READERS, ChatCalls, TagCalls, call_format_of
from grpo_lit.agents.described import TemplateCalls, chat_calls

def block(text): return f'<tool_call>\n{text}\n</tool_call>'
def as_json(name, arguments, key='arguments'): return json.dumps({'name': name, key: arguments}, ensure_ascii=False)
def read(text): return ChatCalls().read(text)
def good(calls): return [c for c in calls if not c.problem]

WRITERS = dict(
    hermes=lambda n, a: block(as_json(n, a)),
    llama=lambda n, a: as_json(n, a, 'parameters'),
    python_tag=lambda n, a: '<|python_tag|>'+as_json(n, a, 'parameters')+'<|eom_id|>',
    mistral=lambda n, a: '[TOOL_CALLS] ['+as_json(n, a)+']</s>',
    mistral_named=lambda n, a: f'[TOOL_CALLS]{n}[ARGS]{json.dumps(a)}',
    smollm=lambda n, a: '<tool_call>['+as_json(n, a)+']</tool_call>',
    quoted=lambda n, a: block(json.dumps(dict(name=n, arguments=json.dumps(a)))),
    openai=lambda n, a: block(json.dumps(dict(id='1', type='function', function=dict(name=n, arguments=a)))),
    indented=lambda n, a: block(json.dumps(dict(name=n, arguments=a), indent=4)),
    one_line=lambda n, a: f'<tool_call>{as_json(n, a)}</tool_call>',
)
TEXTS = ['', 'Lima', 'a "quoted" \\ one', 'two\nlines', '</tool_call>', '<tool_call>', '</think>', '<think>', '{}', '<|im_end|>', 'ñ 東京 🗼', '</s>',
         '[TOOL_CALLS]', '<function=x>', '\x00\x1f', '}', '"}', '```']

@pytest.mark.parametrize('form', WRITERS)
def test_whatever_the_query_says_the_call_is_read(form):
    for text in TEXTS:
        want = Call('search', dict(query=text, k=3))
        assert read(WRITERS[form]('search', dict(query=text, k=3))) == [want], (form, text)

@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(WRITERS)), st.dictionaries(st.text(), st.recursive(
    st.none() | st.booleans() | st.integers(-2**60, 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8), max_size=4))
def test_arguments_come_back_as_they_were(form, arguments):
    assert read(WRITERS[form]('f', arguments)) == [Call('f', arguments)]

MARKUP = ['print("a\\n")', 'if x:\n    y()', '{"a": 1}', '<b>bold</b>', 'a < b > c', '</tool_call>', '<tool_call>', '</think>', 'ñ', '7', '']
@pytest.mark.parametrize('text', MARKUP)
def test_markup_keeps_text_as_it_is(text):
    xml = f'<tool_call>\n<function=python>\n<parameter=code>\n{text}\n</parameter>\n</function>\n</tool_call>'
    assert read('I compute.\n'+xml) == [Call('python', dict(code=text))]
    assert read(xml.replace('<tool_call>\n', '', 1)) == [Call('python', dict(code=text))]    # Qwen3-Coder forgets it now and then
    pairs = f'<tool_call>python\n<arg_key>code</arg_key>\n<arg_value>{text}</arg_value>\n</tool_call>'
    assert read(pairs) == [Call('python', dict(code=text))]

def test_thoughts_do_not_count():
    for write in WRITERS.values():
        call, other = write('a', dict(q=1)), write('b', dict(q=2))
        assert [c.name for c in read(f'<think>\n{call}\n</think>\n\n{other}')] == ['b']
        assert [c.name for c in read(f'hm\n{call}\nno\n</think>\n\n{other}')] == ['b']            # the prompt began the thoughts
        assert read(f'<think>\n{call}') == []
        assert read(f'<think>\n{call}\n</think>\n\nIt is Lima.') == []

@pytest.mark.parametrize('text', ['', ' ', 'It is Lima.', '<answer>7</answer>', '{"answer": 7}', '{"name": "Lima", "population": 10}', '[1, 2]', '{', '}',
                                  'f(x) = {"name": 1}', '```json\n{"a": 1}\n```', '</tool_call>', '<tool_response>{"name": "a"}</tool_response>', '<tool>'])
def test_an_answer_is_no_call(text):
    assert read(text) == []

BROKEN = {
    'no JSON': block('search Peru please'), 'cut': block('{"name": "search", "arguments": {"query": "Pe'), 'empty': '<tool_call></tool_call>',
    'single quotes': block("{'name': 'search', 'arguments': {}}"), 'comma': block('{"name": "search", "arguments": {},}'),
    'brace': block('{"name": "search", "arguments": {"query": "Peru"}'), 'brace too many': block('{"name": "search", "arguments": {}}}'),
    'no name': block('{"arguments": {}}'), 'number as name': block('{"name": 7, "arguments": {}}'), 'empty name': block('{"name": " ", "arguments": {}}'),
    'list as name': block('{"name": ["search"], "arguments": {}}'), 'long name': block('{"name": "%s"}' % ('a'*10**5)),
    'list as arguments': block('{"name": "a", "arguments": [1]}'), 'text as arguments': block('{"name": "a", "arguments": "Peru"}'),
    'number as arguments': block('{"name": "a", "arguments": 0}'), 'arguments outside': block('{"name": "a", "query": "Peru"}'),
    'both': block('{"name": "a", "arguments": {}, "parameters": {}}'), 'twice': block('{"name": "a", "name": "b", "arguments": {}}'),
    'twice inside': block('{"name": "a", "arguments": {"q": 1, "q": 2}}'), 'NaN': block('{"name": "a", "arguments": {"x": NaN}}'),
    'infinite': block('{"name": "a", "arguments": {"x": -Infinity}}'), 'too large': block('{"name": "a", "arguments": {"x": 1e999}}'),
    'many digits': block('{"name": "a", "arguments": {"x": %s}}' % ('7'*10**5)), 'deep': block('{"name": "a", "arguments": %s}' % ('{"a":'*500+'1'+'}'*500)),
    'very deep': block('{"name": "a", "arguments": %s' % ('['*10**5)), 'a word': block('"search"'), 'empty list': block('[]'),
    'llama cut': '{"name": "search", "parameters": {"query": ', 'llama python': '<|python_tag|>search.call(query="Peru")',
    'mistral': '[TOOL_CALLS] search Peru', 'mistral cut': '[TOOL_CALLS]search[ARGS]{"query', 'markup': block('<function=a>\n<parameter=q>\nPeru\n</function>'),
    'markup name': block('<function=>\n</function>'), 'markup open': '<function=a><parameter=q>Peru</parameter>', 'pairs': block('a\n<arg_key>q</arg_key>'),
}
@pytest.mark.parametrize('name', BROKEN)
def test_a_broken_call_says_what_is_wrong(name):
    call, = read('Let me see.\n'+BROKEN[name])
    assert call.problem and call.failure == 'unparsable'
    assert len(call.problem) < 200 and len(call.name) < 100
    json.dumps(call.__dict__)

def test_nesting_has_one_limit():
    def nested(n): return block(as_json('a', dict(x=json.loads('['*n+']'*n))))
    assert good(read(nested(DEEPEST_JSON-3))) and not good(read(nested(DEEPEST_JSON+1)))

def test_many_calls():
    calls = read(block(as_json('a', {}))*1000)
    assert len(good(calls)) == MOST_CALLS and '992 more calls' in calls[-1].problem and calls[-1].failure == 'limit'
    assert len(ChatCalls(most=2).read(block(as_json('a', {}))*3)) == 3
    assert len(read('<tool_call>['+','.join([as_json('a', {})]*50)+']</tool_call>')) == MOST_CALLS+1
    assert len(TagCalls({'a': 'x'}).read('<a>1</a>'*100)) == MOST_CALLS+1

def test_a_broken_call_does_not_hide_the_next():
    calls = read(block('{broken')+'\n'+block(as_json('a', dict(x=1))))
    assert [bool(c.problem) for c in calls] == [True, False]

MB = 2**20
HURTING = ['<tool_call>', '<tool_call>{', '<tool_call>{"', '<tool_call>["', '<tool_call>[', '</tool_call>', '<think>', '</think>', '<think><tool_call>',
           '<tool_call></think>', '<function=', '<function=a>', '<function=a><parameter=b>', '<parameter=', '<tool_call>a <arg_key>', '[TOOL_CALLS]',
           '[TOOL_CALLS]a{', '[TOOL_CALLS]["', '[TOOL_CALLS]a[CALL_ID]', '{', '{\n', '{"name":', '{"name": "a", "parameters": {\n', '\n{"a":[', '["', '\\"', '"', ' ', '\n', '\t\n ',
           '<|python_tag|>', '<|python_tag|>{', '<', 'a', '1', '<search>', '</search>', '<search></search>', '<search><think>', 'é', '\ud800', '<tool_call>{"name":"a"}',
           '<tool_call>{"name":"a"}</tool_call>', '{"name":"a","parameters":{}};', '<tool_call>'+' '*50,
           '<tool_call>{'*40+'</think>', '<tool_call>{"a": "</tool_call>']
def fifth(i): return [] if i%5==0 else pytest.mark.slow
@pytest.mark.parametrize('part', [pytest.param(p, id=str(i), marks=fifth(i)) for i, p in enumerate(HURTING)])
def test_a_megabyte_is_read_in_a_second(part):
    text = part*(MB//len(part))
    tags = TagCalls({'search': 'query', 'a': 'x'})
    for readers in (ChatCalls(), tags):
        took = timed(readers.read, text)
        assert took < 1 or timed(readers.read, text) < 1, (part, readers, took)

def timed(f, *args):
    began = time.process_time()
    f(*args)
    return time.process_time()-began

PIECES = [*HURTING, ' ', 'Peru', '{"name": "a"', ', "arguments": {', '}', '}}', '</tool_call>', '</parameter>', '</function>', '</arg_key>', '<arg_value>', ':', ',', '"name"', ']', 'null', 'NaN', '1e999']
def test_no_text_makes_a_reader_raise():
    draw = random.Random(0)
    readers = [ChatCalls(), *map(ChatCalls, CALL_READERS), TagCalls({'search': 'query', 'a': 'x'})]
    for _ in range(1500):
        text = ''.join(draw.choices(PIECES, k=draw.randint(0, 14)))
        for r in readers:
            for call in r.read(text):
                assert isinstance(call.name, str) and isinstance(call.arguments, dict) and isinstance(call.problem, str)

# tags

def test_tags():
    tags = TagCalls({'search': 'query', 'python': 'code'})
    assert tags.stop == ('</search>','</python>')
    assert tags.read('<search>a</search>') == [Call('search', dict(query='a'))]
    assert tags.read('a <search>x <search>\n b \n</search>') == [Call('search', dict(query='b'))]
    assert tags.read('<python>if a < b > c: print("<x>")</python>') == [Call('python', dict(code='if a < b > c: print("<x>")'))]
    assert [c.name for c in tags.read('<search>a</search><python>b</python>')] == ['search','python']
    for text in ['', 'a</search>', '<searching>a</searching>', '<result>a</result>', '<Search>a</Search>', '<think><search>a</search></think>', '<think>a']:
        assert tags.read(text) == [], text
    for text in ['<search>', '<search>a', '<search></search>', '<search>  </search>', '<think><search>a</search>', '<search>a</python>']:
        assert [bool(c.problem) for c in tags.read(text)] == [True], text

def test_tags_need_names_that_can_be_tags():
    for name in ['', 'a b', 'a>', '</a', '.*']:
        with pytest.raises(ValueError): TagCalls({name: 'x'})

# what chat templates write

def templates():
    folder = Path(importlib.util.find_spec('trl').origin).parent/'chat_templates'
    return sorted(folder.glob('*.jinja'))

class Tokenizer:
    def __init__(self, template): self.chat_template = template
    def apply_chat_template(self, messages, tools=None, tokenize=False, **kwargs):
        env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        env.filters['tojson'] = lambda x, ensure_ascii=False, **kw: json.dumps(x, ensure_ascii=ensure_ascii, **kw)
        env.globals |= dict(raise_exception=fail, strftime_now=lambda f: '2026')
        return env.from_string(self.chat_template).render(messages=messages, tools=tools, bos_token='', eos_token='')

def fail(text): raise ValueError(text)

FORMATS = dict(qwen2_5='blocks', qwen3='blocks', qwen3_instruct_2507='blocks', qwen3_5_think='blocks', qwen3_8='blocks', glm4moe='blocks', llama3_1='bare',
               llama3_2='bare', llama3='any', gemma='any', phi3='any')
@pytest.mark.parametrize('name', FORMATS)
def test_the_format_is_seen_in_the_template(name):
    found = [p for p in templates() if p.stem == name]
    if not found: pytest.skip('this trl brings no such template')
    assert call_format_of(Tokenizer(found[0].read_text(encoding='utf-8'))) == FORMATS[name]

def test_no_template_is_no_format():
    assert call_format_of(Tokenizer(None)) == call_format_of(Tokenizer('')) == call_format_of(object()) == 'any'
    with pytest.raises(ValueError, match='block'): ChatCalls('block')

RESPONSES = dict(gptoss=' to=functions.search<|channel|>commentary json<|message|>{"query": "Peru"}<|call|>',
                 gemma4='<|tool_call>call:search{query:<|"|>Peru<|"|>}<tool_call|><|tool_response>',
                 lfm2_2_5="<|tool_call_start|>[search(query='Peru')]<|tool_call_end|><|im_end|>")
@pytest.mark.parametrize('name', RESPONSES)
def test_response_templates_are_used_for_other_forms(name):
    from transformers.utils.chat_parsing import parse_response
    found = [p for p in templates() if p.stem == name]
    if not found: pytest.skip('this trl brings no such template')
    class Reads(Tokenizer):
        def parse_response(self, text, schema=None, *, prefix=None): return parse_response(text, schema, prefix=prefix)
    tokenizer = Reads(found[0].read_text(encoding='utf-8'))
    reader = chat_calls(tokenizer)
    assert isinstance(reader, TemplateCalls) and not hasattr(tokenizer, 'response_template')
    assert reader.read(RESPONSES[name]) == [Call('search', dict(query='Peru'))]
    assert reader.read('It is Lima.') == []
    for text in ['', RESPONSES[name][:-20], RESPONSES[name]*100, *HURTING]:
        for call in reader.read(text): assert isinstance(call, Call)
    assert str(chat_calls(Tokenizer(tokenizer.chat_template))) == "ChatCalls('any')"     # a transformers that has no such reader
