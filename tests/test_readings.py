"""What a run keeps of each token, and what is read from it: the same numbers that the loss was made of."""
import itertools
import pytest, torch
from grpo_lit.fast.offpolicy import off_policy_mask
from grpo_lit.logprobs import kl_estimate
from grpo_lit.loss import KL_TERMS, LEVELS, LOSSES, _ratio, average_terms, grpo_loss
from grpo_lit.tensors import masked_mean

def one_piece(logps, A, mask, old_logps, ref_logps, *, loss_type, beta, kl, level, delta=None, token_weights=None,
              threshold=None, entropy=None, entropy_coef=0., epsilon_high=None):
    "The objective as it was before it had public parts: one number, no detours"
    clean = lambda x: x.masked_fill(mask==0, 0.)
    logps, A = clean(logps), A[:,None]
    old = (logps if old_logps is None else clean(old_logps)).detach()
    log_ratio = logps-old
    ratio = _ratio(log_ratio, mask, level)
    term, stats = LOSSES[loss_type].term(ratio=ratio, log_ratio=log_ratio, A=A, logps=logps, mask=mask,
                                         epsilon=.2, epsilon_high=epsilon_high, delta=delta)
    if token_weights is not None: term = term*token_weights
    if threshold is not None:
        stays = off_policy_mask(logps, old, A, mask, threshold)
        term, stats['off_policy'] = term*stays, ~stays
    stats['ratio'] = ratio
    if beta:
        ref = clean(ref_logps.detach())
        term = term + beta*KL_TERMS[kl](logps, ref, ratio)
        stats['kl'] = kl_estimate(logps, ref, 'k3')
    if entropy_coef: term = term - entropy_coef*clean(entropy)
    loss = average_terms(term.expand(mask.shape), mask, loss_type, None, 7)
    return loss, {name:masked_mean(x.detach().to(logps).expand(mask.shape), mask) for name,x in stats.items()}

def batch(seed):
    g = torch.Generator().manual_seed(seed)
    R = lambda *s: torch.randn(*s, generator=g)
    mask = (torch.arange(7) < torch.tensor([7,3,1,0,5,7])[:,None]).long()
    old = -R(6,7).abs()
    return dict(logps=old+.4*R(6,7), A=R(6), mask=mask, old=old, ref=-R(6,7).abs(), weights=R(6,7).exp(), entropy=R(6,7).abs())

EXTRAS = [{}, dict(delta=1.6), dict(token_weights=True), dict(threshold=.05), dict(entropy_coef=.1), dict(old=None)]

@pytest.mark.parametrize('loss_type', LOSSES)
def test_the_average_of_the_terms_is_the_old_loss_to_the_bit(loss_type):
    for n, (level, kl, beta) in enumerate(2*list(itertools.product(LEVELS, KL_TERMS, (0., .07)))):
        b, extra = batch(n), dict(EXTRAS[n%6])
        if 'old' in extra: b['old'] = extra.pop('old')
        if 'token_weights' in extra: extra['token_weights'] = b['weights']
        if 'entropy_coef' in extra: extra['entropy'] = b['entropy']
        both = dict(loss_type=loss_type, beta=beta, kl=kl, epsilon_high=5. if loss_type=='cispo' else .28)
        ours = {k: v for k, v in extra.items() if k!='threshold'} | dict(off_policy_mask_threshold=extra.get('threshold'))
        x, y = (b['logps'].clone().requires_grad_() for _ in range(2))
        new, stats = grpo_loss(x, b['A'], b['mask'], b['old'], b['ref'], importance_sampling_level=level,
                               max_completion_length=7, **both, **ours)
        was, known = one_piece(y, b['A'], b['mask'], b['old'], b['ref'], level=level, **both, **extra)
        assert torch.equal(new, was) and list(stats)==list(known)
        assert all(torch.equal(stats[k], known[k]) for k in known)
        assert torch.equal(*(torch.autograd.grad(l, z)[0] for l, z in ((new, x), (was, y))))

# Runs -------------------------------------------------------------------------------------------------------------------

import contextlib, json, logging, math, shutil, warnings
from functools import cache
from pathlib import Path
from grpo_lit import GRPOConfig, GRPOTrainer, Rollouts
from grpo_lit.core import four_answers
from grpo_lit.policy import tiny_tokenizer
from grpo_lit.run.past import load_rollouts
from grpo_lit.run.pieces import Pieces
from grpo_lit.run.runs import Run
from grpo_lit.run.tokens import read_tokens
from grpo_lit.seeing.reading import VALUES
from grpo_lit.seeing.readings import readings
from grpo_lit.tasks import addition_task
from scripted import byte_tokenizer, one_thread, scripted, tool, undecided # one_thread is a fixture

task = addition_task()
SMALL = dict(max_steps=3, num_generations=4, per_device_train_batch_size=8, max_completion_length=16, learning_rate=3e-3, seed=0,
             use_cpu=True, gold_check=0, disable_tqdm=True, report_to='none', save_minutes=0, max_grad_norm=1e9, bf16=False)

def lengths(completions, **columns): return [len(text)%5/5 for text in completions]
def digits(completions, **columns): return [None if not text else sum(c.isdigit() for c in text)/9 for text in completions]

def small_policy():
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    ends = dict(pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **shape, **ends)).eval(), tokenizer

def trained(folder, rewards=(lengths, digits), peft=None, **settings):
    model, tokenizer = small_policy()
    args = GRPOConfig(**SMALL | dict(output_dir=None if folder is None else str(folder)) | settings)
    trainer = GRPOTrainer(model, list(rewards), args, task.train, processing_class=tokenizer, peft_config=peft)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        trainer.train()
    return trainer

def lora():
    from peft import LoraConfig
    return LoraConfig(r=4, lora_alpha=8, target_modules=['q_proj', 'v_proj'])

def agree(reading, logged, **tolerance):
    "The loss and its statistics are what was logged"
    near = dict(abs=2e-5, rel=2e-5) | tolerance
    loss, stats = reading.loss()
    assert loss == pytest.approx(logged['policy_loss'] if 'echo_loss' in logged else logged['loss'], **near)
    assert loss == pytest.approx((reading.terms()['loss']*reading.shares()).sum().item(), **near)
    passed = reading.new_logps is None or not reading.new_logps[reading.mask > 0].isnan().any()
    if passed:
        for name, value in stats.items(): assert value == pytest.approx(logged[name], **near), name
        entropy = reading.values('entropy')
        assert entropy[~entropy.isnan()].mean().item() == pytest.approx(logged['entropy'], **near)

KINDS = {
    'as usual': {},
    **{name: dict(loss_type=name, num_iterations=2) for name in LOSSES if name not in ('dapo', 'cispo')},
    'cispo': dict(loss_type='cispo', epsilon_high=5., num_iterations=2),
    'clip higher': dict(num_iterations=3, epsilon=.01, epsilon_high=.02, delta=1.5),
    'a ratio for an answer': dict(importance_sampling_level='sequence', loss_type='grpo', num_iterations=2, epsilon=1e-3),
    'uncertain tokens': dict(top_entropy_quantile=.5),
    'weights': dict(importance_sampling_mode='token_truncate', num_iterations=2),
    'off policy': dict(off_policy_mask_threshold=1e-4, num_iterations=3),
    'cut ones do not count': dict(mask_truncated_completions=True, max_completion_length=6),
    'KL in the reward': dict(kl_in_reward=True, scale_rewards='none'),
    'no leash': dict(beta=0.),
    'k1 in the loss': dict(kl='k1', num_iterations=2),
    'leash that loosens': dict(beta_schedule='linear', beta=.5),
    'a price on certainty': dict(entropy_coef=.05, loss_type='grpo'),
    'small parts': dict(micro_batch_tokens=40, gradient_accumulation_steps=2),
    'parts of a rollout': dict(steps_per_generation=2, num_iterations=2, max_steps=5),
    'half a group each': dict(per_device_train_batch_size=2, steps_per_generation=4, max_steps=5),
    'others for dead ones': dict(dynamic_sampling=2),
    'an adapter': dict(peft=lora),
    'bfloat16': dict(bf16=True, num_iterations=2),
    'whole batch': dict(scale_rewards='batch', baseline='leave_one_out'),
}
ALWAYS = 'as usual', 'sapo', 'a ratio for an answer', 'small parts', 'parts of a rollout', 'half a group each', 'no leash', 'weights'

@pytest.mark.parametrize('kind', [pytest.param(k, marks=[] if k in ALWAYS else pytest.mark.slow) for k in KINDS])
def test_what_was_kept_makes_the_loss_that_was_logged(kind, tmp_path):
    settings = dict(KINDS[kind])
    peft = settings.pop('peft', lambda: None)()
    trainer = trained(tmp_path, peft=peft, **settings)
    run = readings(tmp_path)
    assert run.steps == list(range(1, trainer.args.max_steps+1))
    for reading, logged in zip(run, trainer.history):
        agree(reading, logged)
        size = trainer.args.per_device_train_batch_size*trainer.args.gradient_accumulation_steps
        assert len(reading) == size and reading.note == ''

def test_recording_changes_no_bit_of_a_run(tmp_path):
    bits = lambda t: torch.cat([p.detach().flatten() for p in t.model.parameters()])
    with_it, without = trained(tmp_path/'a', num_iterations=2), trained(tmp_path/'b', num_iterations=2, log_tokens=0)
    assert torch.equal(bits(with_it), bits(without))
    told = [{k: v for k, v in m.items() if 'time' not in k and 'per_second' not in k and 'floor' not in k} for m in with_it.history]
    assert all(m | told_m == m for m, told_m in zip(without.history, told))

# What is kept, and what not ---------------------------------------------------------------------------------------------

def files(folder): return sorted(p.name for p in (folder/'tokens').glob('*'))

@pytest.mark.parametrize('off', [dict(log_tokens=0), dict(log_completions=False)], ids=str)
def test_nothing_is_kept_where_nobody_wants_it(off, tmp_path):
    trained(tmp_path, max_steps=1, **off)
    assert not (tmp_path/'tokens').exists()

def test_whole_groups_that_fit_are_kept(tmp_path):
    full = trained(tmp_path/'full', max_steps=1, per_device_train_batch_size=16)
    sizes = full.last_rollouts.lengths.view(4, 4).sum(1).tolist()
    most = sorted(sizes)[1]+min(sizes)
    trained(tmp_path/'some', max_steps=1, per_device_train_batch_size=16, log_tokens=most)
    some, whole = readings(tmp_path/'some').at(1), readings(tmp_path/'full').at(1)
    kept = [bool(t) for t in some.tokens]
    groups = [kept[i:i+4] for i in range(0, 16, 4)]
    assert all(g in ([True]*4, [False]*4) for g in groups) and 0 < sum(kept) < 16
    assert sum(n for n, g in zip(sizes, groups) if g[0]) <= most
    assert [r['text'] for r in some.rows] == [r['text'] for r in whole.rows] and 'did not fit' in some.note
    rows = torch.tensor(kept)
    width = some.mask.shape[1]
    assert torch.equal(some.gradients()[rows], whole.gradients()[rows][:, :width]) # the divisor is that of all rows
    assert not some.gradients()[~rows].any() and some.values('logp')[~rows].isnan().all()

def test_where_no_group_fits_texts_are_left(tmp_path):
    trained(tmp_path, max_steps=1, log_tokens=3)
    reading = readings(tmp_path).at(1)
    assert reading.tokens is None and reading.rows[0]['text'] and 'log_tokens' in reading.note

def test_a_negative_number_of_tokens_is_refused():
    with pytest.raises(ValueError, match='log_tokens is -1, but must be at least 0'): GRPOConfig(log_tokens=-1)

@contextlib.contextmanager
def memory_for(model, room):
    plain = model.forward
    def forward(*args, **kwargs):
        if torch.is_grad_enabled() and kwargs['input_ids'].numel() > room: raise torch.OutOfMemoryError('pretend')
        return plain(*args, **kwargs)
    model.forward = forward
    try: yield
    finally: model.forward = plain

def test_an_update_that_is_tried_again_is_kept_once(tmp_path):
    model, tokenizer = small_policy()
    trainer = GRPOTrainer(model, [lengths], GRPOConfig(**SMALL | dict(output_dir=str(tmp_path), max_steps=2)), task.train, processing_class=tokenizer)
    with warnings.catch_warnings(), memory_for(model, 60):
        warnings.simplefilter('ignore')
        trainer.train()
    assert trainer.state.memory_divisor > 1
    for reading, logged in zip(readings(tmp_path), trainer.history):
        assert [row['row'] for row in reading.rows] == list(range(8)) and not reading.new_logps[reading.mask > 0].isnan().any()
        agree(reading, logged)

def test_groups_that_an_update_leaves_out_have_no_new_log_probs(tmp_path):
    def half(prompts, completions, **columns): return [1. if p == prompts[0] else float(len(c)%2) for p, c in zip(prompts, completions)]
    trainer = trained(tmp_path, [half], beta=0., max_steps=2)
    for reading, logged in zip(readings(tmp_path), trainer.history):
        assert reading.new_logps[:4].isnan().all() and reading.dead(0) == 'all right'
        assert not reading.gradients()[:4].any() and reading.loss()[0] == pytest.approx(logged['loss'], abs=1e-5)
        assert not reading.values('logp')[:4][reading.mask[:4] > 0].isnan().any() # as they were sampled

def test_a_disk_that_refuses_does_not_end_a_run(tmp_path, caplog):
    (tmp_path/'run').mkdir()
    (tmp_path/'run'/'tokens').write_text('a file where a directory should be')
    with caplog.at_level(logging.WARNING, 'grpo_lit'): trainer = trained(tmp_path/'run', max_steps=2)
    assert len(trainer.history) == 2
    said = [r.getMessage() for r in caplog.records if 'figures of tokens' in r.getMessage()]
    assert len(said) == 1 and 'the run goes on' in said[0]
    assert len(readings(tmp_path/'run')) == 2 and readings(tmp_path/'run').at(2).tokens is None

def test_a_tokenizer_that_fails_does_not_end_a_run(tmp_path):
    model, tokenizer = small_policy()
    trainer = GRPOTrainer(model, [lengths], GRPOConfig(**SMALL | dict(output_dir=str(tmp_path), max_steps=1)), task.train, processing_class=tokenizer)
    def broken(ids): raise KeyError('no such id')
    trainer.pieces = broken
    trainer.train()
    assert len(trainer.history) == 1 and files(tmp_path) == []

def same(a, b):
    "Tables of figures, to the bit"
    (x, about), (y, there) = read_tokens(a), read_tokens(b)
    assert about == there and list(x) == list(y)
    for name in x:
        if isinstance(x[name], torch.Tensor): assert torch.equal(x[name].nan_to_num(7.), y[name].nan_to_num(7.)), name
        else: assert x[name] == y[name], name

@pytest.mark.parametrize('stop', [2, 3])
def test_a_run_that_goes_on_has_what_one_without_a_stop_has(stop, tmp_path):
    more = dict(max_steps=5, num_iterations=2, save_steps=1)
    trained(tmp_path/'whole', **more)
    trained(tmp_path/'parts', **more)
    for p in (tmp_path/'parts').glob('checkpoint-*'):
        if int(p.name.split('-')[1]) > stop: shutil.rmtree(p)
    (tmp_path/'parts/tokens/step-000009.parquet.part').write_text('half')
    model, tokenizer = small_policy()
    again = GRPOTrainer(model, [lengths, digits], GRPOConfig(**SMALL | more | dict(output_dir=str(tmp_path/'parts'))), task.train,
                        processing_class=tokenizer)
    again.load_checkpoint(tmp_path/'parts'/f'checkpoint-{stop}')
    steps = again.steps()
    next(steps)
    assert files(tmp_path/'parts') == [f'step-{s:06d}.parquet' for s in range(1, stop+2)] # later ones are forgotten first
    for _ in steps: pass
    assert files(tmp_path/'parts') == files(tmp_path/'whole')
    for name in files(tmp_path/'whole'): same(tmp_path/'whole/tokens'/name, tmp_path/'parts/tokens'/name)

def test_beginning_anew_removes_what_was_kept(tmp_path):
    trained(tmp_path, max_steps=3)
    trained(tmp_path, max_steps=1, overwrite_output_dir=True)
    assert files(tmp_path) == ['step-000001.parquet']

# Tools ------------------------------------------------------------------------------------------------------------------

def called(key): return f'<tool_call>\n{{"name": "look", "arguments": {{"key": "{key}"}}}}\n</tool_call>'
def says_yes(completions, **columns): return [float(c[-1]['content'] == 'yes') for c in completions]

@pytest.mark.parametrize('more', [{}, dict(observation_coef=.05, num_iterations=2, beta=.04), dict(mask_truncated_completions=True, max_turns=1)], ids=str)
def test_what_a_tool_said_is_there_and_does_not_count(more, tmp_path):
    model, tokenizer = undecided([called('ä'), 'yes', 'no'], 'qwen2_5')
    for p in model.parameters(): p.requires_grad = p is model.lm_head.weight
    usual = dict(max_steps=2, per_device_train_batch_size=8, num_generations=4, max_completion_length=300, max_observation_length=60, beta=0.,
                 learning_rate=.02, use_cpu=True, disable_tqdm=True, seed=0, save_minutes=0, max_turns=3, output_dir=str(tmp_path))
    rows = [dict(prompt=[dict(role='user', content=f'Is it so, {i}?')]) for i in range(8)]
    trainer = GRPOTrainer(model, says_yes, GRPOConfig(**usual | more), rows, processing_class=tokenizer, tools=[tool(lambda key: f'value of {key} 😀')])
    trainer.train()
    for reading, logged in zip(readings(tmp_path), trainer.history): agree(reading, logged)
    seen = 0
    for reading in readings(tmp_path):
        assert not (reading.mask*reading.observed).any() and isinstance(reading.prompts[0], list)
        for b, pieces in enumerate(reading.tokens):
            said = ''.join(p for p, o in zip(pieces, reading.observed[b]) if o)
            seen += 'value of ä 😀' in said
            assert ''.join(pieces) == tokenizer.decode(reading.ids[b, :len(pieces)].tolist())
            assert reading.rows[b]['stop'] in ('ended itself', 'ended itself with <|im_end|>', 'its turns were used up', 'it was as long as it may be')
    assert seen or more.get('max_turns') == 1

# Pieces -----------------------------------------------------------------------------------------------------------------

def word_tokenizer():
    "Words with a sign for the space before them, bytes for what is unknown: the family of SentencePiece"
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast
    names = ['<unk>', '<s>', '</s>', *(f'<0x{i:02X}>' for i in range(256)), '▁', '▁the', '▁cat', 's', 'x', '\n', '▁▁', '\ufffd']
    words = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(names)}, merges=[], byte_fallback=True, unk_token='<unk>'))
    words.decoder = decoders.Sequence([decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(' ', 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token='</s>', bos_token='<s>', unk_token='<unk>')

def wordpiece_tokenizer():
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast
    names = ['[UNK]', '[SEP]', 'a', 'run', '##ning', '##s', 'ä', '.', '##.', '1', '##2']
    words = Tokenizer(models.WordPiece(vocab={c: i for i, c in enumerate(names)}, unk_token='[UNK]'))
    words.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token='[SEP]', unk_token='[UNK]')

TOKENIZERS = dict(bytes=byte_tokenizer, words=word_tokenizer, wordpiece=wordpiece_tokenizer, signs=tiny_tokenizer)

@pytest.mark.parametrize('kind', TOKENIZERS)
def test_pieces_make_up_the_text_whatever_the_ids(kind):
    tokenizer = TOKENIZERS[kind]()
    pieces, g = Pieces(tokenizer), torch.Generator().manual_seed(0)
    rows = [torch.randint(len(tokenizer), (n,), generator=g).tolist() for n in (0, 1, 2, 3, 5, 40, 200)*4]
    rows += [tokenizer(text, add_special_tokens=False).input_ids for text in ('€ 😀👩‍🚀 é', 'ab\ud7ffc', '  two  spaces ', '日本語', '\x00\x1b[31m')]
    for ids in rows:
        found = pieces(ids)
        assert len(found) == len(ids) and ''.join(found) == tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

def test_a_character_stands_at_its_last_token():
    tokenizer = byte_tokenizer()
    assert Pieces(tokenizer)(tokenizer('a😀', add_special_tokens=False).input_ids) == ['a', '', '', '', '😀']
    assert Pieces(word_tokenizer())([3+b for b in '😀'.encode()]) == ['', '', '', '😀']

def test_ids_that_no_tokenizer_knows_are_empty_or_said():
    tokenizer = byte_tokenizer()
    found = Pieces(tokenizer)([len(tokenizer)+5, *tokenizer('a').input_ids])
    assert len(found) == 2 and found[1] == 'a'
