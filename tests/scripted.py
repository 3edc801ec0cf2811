"""Policies that write what a script says, token by token, by nothing but their weights: attention looks for what stands there already.

`scripted(turns)` writes the first text, after it the second, and so on; the last again and again. `undecided(texts)` draws one of them
each time. Every text (or each of its pieces) is a token of its own; after the last piece comes the EOS.
"""
from pathlib import Path
import pytest, torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NEVER = 3000.
KEYS, NOISE = 16, 16 # places of the hidden state: what stands there already, and what makes log-probs depend on all of it

CHATML = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
SMOLLM2 = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
           "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
           "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
           "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")

SPECIAL = {'qwen': ['<|endoftext|>', '<|im_start|>', '<|im_end|>'],
           'llama': ['<|end_of_text|>', '<|begin_of_text|>', '<|eot_id|>', '<|start_header_id|>', '<|end_header_id|>', '<|eom_id|>', '<|python_tag|>']}
MARKS = {'qwen': ['<tool_call>', '</tool_call>', '<tool_response>', '</tool_response>', '<think>', '</think>'], 'llama': []}
EOS = {'qwen': '<|im_end|>', 'llama': '<|eot_id|>'}

def template_of_trl(name):
    "A chat template that trl brings along"
    import trl
    return (Path(trl.__file__).parent/'chat_templates'/f'{name}.jinja').read_text()

TEMPLATES = dict(smollm2=('qwen', SMOLLM2), chatml=('qwen', CHATML))
for name in ('qwen2_5', 'qwen3'): TEMPLATES[name] = ('qwen', template_of_trl(name))
for name in ('llama3', 'llama3_1', 'llama3_2'): TEMPLATES[name] = ('llama', template_of_trl(name))

def byte_tokenizer(pieces=(), template='qwen2_5') -> PreTrainedTokenizerFast:
    "Bytes, the marks of a family of models, and a token for each piece; `template` None: for plain strings"
    family, jinja = TEMPLATES[template] if template else ('qwen', None)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL[family]])
    words.add_tokens([AddedToken(t, special=False, normalized=False) for t in [*MARKS[family], *pieces] if t not in SPECIAL[family]])
    bos = dict(bos_token='<|begin_of_text|>') if family == 'llama' else {}
    t = PreTrainedTokenizerFast(tokenizer_object=words, pad_token=SPECIAL[family][0], eos_token=EOS[family],
                                padding_side='left', **bos)
    t.chat_template = jinja
    return t

def last_ids(tokenizer):
    "Tokens behind which a turn begins: the end of a generation prompt or of a result, a line break, a question mark"
    return sorted({tokenizer.encode(c, add_special_tokens=False)[-1] for c in '\n?>'})

def bare(V, context):
    "A model without a will: each token in a place of its own, and a little noise from attention to all that stands there"
    H = V+KEYS+NOISE
    H += -H%2
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=V, hidden_size=H, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
                         num_key_value_heads=1, head_dim=KEYS, max_position_embeddings=context, tie_word_embeddings=False)
    model = LlamaForCausalLM(config).eval()
    looks, speaks = (layer.self_attn for layer in model.model.layers)
    weights = {n: getattr(looks, n).weight.data for n in ('q_proj', 'k_proj', 'v_proj', 'o_proj')}
    for w in weights.values(): w.zero_()
    for layer in model.model.layers: layer.mlp.down_proj.weight.data.zero_()
    for n in ('q_proj', 'k_proj', 'v_proj', 'o_proj'): getattr(speaks, n).weight.data.normal_(0, .1)
    noise = torch.arange(H).sub(V+KEYS)
    speaks.o_proj.weight.data.mul_(((noise >= 0) & (noise < NOISE))[:, None])
    model.model.embed_tokens.weight.data = torch.eye(V, H)
    model.lm_head.weight.data = torch.zeros(V, H)
    model.lm_head.weight.data[:, V+KEYS:V+KEYS+NOISE].normal_(0, .02)
    return model

def policy(tokenizer, texts, first, after, context):
    "A model that writes `texts`: lists of pieces. Text j gains `first(j)` at any time, `after(i, j)` where text i stands already"
    V = len(tokenizer)
    model = bare(V, context)
    head, looks = model.lm_head.weight.data, model.model.layers[0].self_attn
    texts = [tokenizer.convert_tokens_to_ids(pieces) for pieces in texts]
    eos = tokenizer.eos_token_id
    head[:, :V] = -NEVER
    head[eos, :V] = 0.                                      # behind whatever else it reads, it ends
    def leads(here, there, gain=0.):
        head[eos, here] = -NEVER
        head[there, here] = gain
    for j, row in enumerate(texts):
        for here, there in zip(row, [*row[1:], eos]): leads(here, there)
        for s in last_ids(tokenizer): leads(s, row[0], first(j))
        looks.v_proj.weight.data[j, row[0]] = 1.
        looks.o_proj.weight.data[V+j, j] = 20.
        for i in range(len(texts)): head[row[0], V+i] = after(i, j)
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = eos, tokenizer.pad_token_id
    return model

def as_pieces(texts): return [[t] if isinstance(t, str) else list(t) for t in texts]

def tokenizer_for(texts, template): return byte_tokenizer(dict.fromkeys(p for t in texts for p in t), template)

def scripted(turns, template='qwen2_5', context=4096):
    "Model and tokenizer: it writes the first text, then the second, and so on; the last again and again"
    texts = as_pieces(turns)
    tokenizer, last = tokenizer_for(texts, template), len(texts)-1
    def after(i, j): return 40.*((j == i+1)-(j == i < last))
    return policy(tokenizer, texts, lambda j: -6.*(j > 0), after, context), tokenizer

def undecided(texts, template='qwen2_5', context=4096):
    "Model and tokenizer: each turn is one of the texts, all about as probable"
    texts = as_pieces(texts)
    tokenizer = tokenizer_for(texts, template)
    return policy(tokenizer, texts, lambda j: 0., lambda i, j: 0., context), tokenizer

# What tests with such policies share ------------------------------------------------------------------------------------

@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

def tool(answer):
    "A tool `look` that does this"
    def look(key: str) -> str:
        """Look something up.

        Args:
            key: What to look for.
        """
        return answer(key)
    return look
