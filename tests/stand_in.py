"""A model of Qwen's kind with random weights, small enough for a test: a tokenizer of its own and a chat template."""
from pathlib import Path
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

template = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")

def stand_in_tokenizer(texts) -> PreTrainedTokenizerFast:
    "Byte pairs learned from a few texts; `<|im_end|>` ends an answer"
    special = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=letters))
    t = PreTrainedTokenizerFast(tokenizer_object=words, pad_token=special[0], eos_token=special[2], padding_side='left')
    t.chat_template = template
    return t

def stand_in(folder, texts=('How many eggs are in 3 boxes of 6?',)) -> str:
    "Write the model and its tokenizer into a folder; its path"
    t = stand_in_tokenizer(texts)
    torch.manual_seed(0)
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    ends = dict(pad_token_id=t.pad_token_id, eos_token_id=t.eos_token_id, bos_token_id=None)
    config = Qwen2Config(vocab_size=len(t), max_position_embeddings=2048, tie_word_embeddings=True, **shape, **ends)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    t.save_pretrained(folder)
    return str(Path(folder))
