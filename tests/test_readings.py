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

@pytest.mark.slow
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
from dataclasses import replace
from functools import cache
from pathlib import Path
from grpo_lit import GRPOConfig, GRPOTrainer, Rollouts
from grpo_lit.policy import tiny_tokenizer
from grpo_lit.run.past import load_rollouts
from grpo_lit.run.pieces import Pieces
from grpo_lit.run.runs import Run
from grpo_lit.run.tokens import read_tokens
from grpo_lit.seeing.reading import VALUES
from grpo_lit.seeing.readings import OF_ADVANTAGES, readings
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
    counted = reading.mask > 0
    if counted.any() and not reading.new_logps[counted].isnan().any(): # of an update that left something out, only the loss
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
    'cut ones do not count': dict(mask_truncated_completions=True, max_completion_length=14),
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
ALWAYS = 'a ratio for an answer', 'half a group each'

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

@pytest.mark.slow
def test_recording_changes_no_bit_of_a_run(tmp_path):
    bits = lambda t: torch.cat([p.detach().flatten() for p in t.model.parameters()])
    with_it, without = trained(tmp_path/'a', num_iterations=2), trained(tmp_path/'b', num_iterations=2, log_tokens=0)
    assert torch.equal(bits(with_it), bits(without))
    told = [{k: v for k, v in m.items() if 'time' not in k and 'per_second' not in k and 'floor' not in k} for m in with_it.history]
    assert all(m | told_m == m for m, told_m in zip(without.history, told))

# What is kept, and what not ---------------------------------------------------------------------------------------------

def files(folder): return sorted(p.name for p in (folder/'tokens').glob('*'))

@pytest.mark.slow
@pytest.mark.parametrize('off', [dict(log_tokens=0), dict(log_completions=False)], ids=str)
def test_nothing_is_kept_where_nobody_wants_it(off, tmp_path):
    trained(tmp_path, max_steps=1, **off)
    assert not (tmp_path/'tokens').exists()

@pytest.mark.slow
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

@pytest.mark.slow
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

@pytest.mark.slow
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

@pytest.mark.slow
def test_a_disk_that_refuses_does_not_end_a_run(tmp_path, caplog):
    (tmp_path/'run').mkdir()
    (tmp_path/'run'/'tokens').write_text('a file where a directory should be')
    with caplog.at_level(logging.WARNING, 'grpo_lit'): trainer = trained(tmp_path/'run', max_steps=2)
    assert len(trainer.history) == 2
    said = [r.getMessage() for r in caplog.records if 'figures of tokens' in r.getMessage()]
    assert len(said) == 1 and 'the run goes on' in said[0]
    assert len(readings(tmp_path/'run')) == 2 and readings(tmp_path/'run').at(2).tokens is None

@pytest.mark.slow
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

@pytest.mark.slow
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

@pytest.mark.slow
def test_beginning_anew_removes_what_was_kept(tmp_path):
    trained(tmp_path, max_steps=3)
    trained(tmp_path, max_steps=1, overwrite_output_dir=True)
    assert files(tmp_path) == ['step-000001.parquet']

# Tools ------------------------------------------------------------------------------------------------------------------

def called(key): return f'<tool_call>\n{{"name": "look", "arguments": {{"key": "{key}"}}}}\n</tool_call>'
def says_yes(completions, **columns): return [float(c[-1]['content'] == 'yes') for c in completions]

@pytest.mark.slow
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

# What is damaged, missing or old ----------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    trained(folder, num_iterations=2, steps_per_generation=2, max_steps=4)
    return folder

@pytest.fixture
def run(whole_run, tmp_path):
    "A copy to break"
    return Path(shutil.copytree(whole_run, tmp_path/'run'))

def spoil(path, how):
    "Do something bad to a file"
    import pyarrow as pa, pyarrow.parquet as pq
    whole = path.read_bytes()
    if how == 'gone': path.unlink()
    elif how == 'empty': path.write_bytes(b'')
    elif how == 'cut': path.write_bytes(whole[:len(whole)//2])
    elif how == 'zeros': path.write_bytes(bytes(len(whole)))
    elif how == 'text': path.write_text('{"step": 1}')
    elif how == 'flipped': path.write_bytes(whole[:40]+bytes(b^255 for b in whole[40:400])+whole[400:])
    elif how == 'a directory': path.unlink(), path.mkdir()
    elif how == 'of somebody else': pq.write_table(pa.table(dict(x=[1, 2])), path)
    elif how == 'without its metadata': pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    elif how == 'with other metadata': pq.write_table(pq.read_table(path).replace_schema_metadata(dict(grpo_lit='[]')), path)
    elif how == 'without rows': pq.write_table(pq.read_table(path).slice(0, 0), path)

QUICK = 'cut', 'of somebody else'
HOWS = ['gone', 'empty', 'cut', 'zeros', 'text', 'flipped', 'a directory', 'of somebody else', 'without its metadata', 'with other metadata', 'without rows']

@pytest.mark.parametrize('how', [pytest.param(h, marks=[] if h in QUICK else pytest.mark.slow) for h in HOWS])
def test_damaged_figures_leave_the_texts(how, run):
    before = readings(run).at(3)
    spoil(run/'tokens/step-000003.parquet', how)
    reading = readings(run).at(3) if how != 'gone' else readings(run).at(1)
    assert len(readings(run)) == 4-(how == 'gone')
    if how == 'gone': return
    assert reading.tokens is None and reading.note
    with pytest.raises(ValueError, match='texts and rewards only'): reading.gradients()
    assert before.tokens and readings(run).at(2).tokens

@pytest.mark.parametrize('how', [pytest.param(h, marks=[] if h in QUICK else pytest.mark.slow) for h in HOWS])
def test_damaged_texts_leave_what_the_tokens_say(how, run):
    before = readings(run).at(3)
    spoil(run/'rollouts/step-000001.parquet', how)
    reading = readings(run).at(3)
    if how in ('without its metadata', 'with other metadata'): assert [r['text'] for r in reading.rows] == [r['text'] for r in before.rows]
    else:
        assert 'cannot be' in reading.note or 'not known' in reading.note
        assert reading.rows[0]['text'].startswith(before.rows[0]['text']) and reading.rows[0]['reward'] is None
        with pytest.raises(ValueError, match='cannot be judged'): reading.rescored(lengths)
    assert torch.equal(reading.gradients(), before.gradients())

def test_both_damaged_is_one_sentence(run):
    for folder in ('rollouts', 'tokens'): spoil(run/folder/'step-000001.parquet', 'cut')
    with pytest.raises(ValueError, match='step 1'): readings(run).at(1)
    assert readings(run).at(3).note # its rollout is the damaged one
    assert len(list(zip(range(3), (s for s in readings(run).steps)))) == 3

@pytest.mark.parametrize('config', ['{"args": [1]}', '{"args": null}', '{"args"', '[]'])
def test_settings_that_are_none_are_the_usual_ones(config, run):
    (run/'config.json').write_text(config)
    shutil.rmtree(run/'tokens')
    assert readings(run).at(1).advantage_options == OF_ADVANTAGES

def test_an_old_run_has_its_texts(run):
    shutil.rmtree(run/'tokens')
    old = readings(run)
    assert old.steps == [1] and len(old.at(1)) == 16
    reading = old.at(1)
    assert reading.tokens is None and reading.mask is None and 'older version' in reading.note
    assert reading.rows[0]['rewards'].keys() == {'lengths', 'digits'} and reading.rescored(lengths).rows[0]['reward'] is not None
    for ask in (reading.terms, reading.gradients, reading.loss, reading.shares, lambda: reading.values('kl')):
        with pytest.raises(ValueError, match='texts and rewards only'): ask()

def test_a_run_that_is_being_written_has_more_steps_when_asked_again(run, tmp_path):
    new = tmp_path/'new'
    for folder in ('rollouts', 'tokens'): (new/folder).mkdir(parents=True)
    seen = readings(new)
    assert len(seen) == 0 and list(seen) == [] and repr(seen) == 'Readings(nothing yet)'
    (new/'tokens/step-000001.parquet.part').write_text('half')
    with pytest.raises(ValueError, match='there is nothing yet'): seen.at(1)
    shutil.copy(run/'rollouts/step-000001.parquet', new/'rollouts')
    assert seen.steps == [1] and seen.at(1).tokens is None
    shutil.copy(run/'tokens/step-000001.parquet', new/'tokens')
    assert seen.at(1).tokens and seen.at(1).loss()[0] == readings(run).at(1).loss()[0]

@pytest.mark.parametrize('wrong', ['no/such/directory', 'README.md'])
def test_no_run_is_a_sentence(wrong):
    with pytest.raises(ValueError, match='is no run'): readings(wrong)

@pytest.mark.parametrize('wrong', [None, 3, b'x', iter([])], ids=repr)
def test_what_names_no_run_is_a_sentence(wrong):
    with pytest.raises(ValueError, match='a run is given by its directory'): readings(wrong)

def test_later_updates_find_their_rows(whole_run):
    first, second, third = (readings(whole_run).at(s) for s in (1, 2, 3))
    assert [r['row'] for r in first.rows] == list(range(8)) and [r['row'] for r in second.rows] == list(range(8, 16))
    assert [r['text'] for r in third.rows] == [r['text'] for r in first.rows]
    assert second.rows[0]['group'] == 2 and second.prompts != first.prompts
    assert not first.first is False and third.first is False
    together = load_rollouts(whole_run)
    assert [r['text'] for r in second.rows] == together['completion'][8:16]

# Other rules ------------------------------------------------------------------------------------------------------------

def direct(r, **changes):
    "The loss with other rules, without a detour"
    old = r.logps if r.old_logps is None else r.old_logps
    logps = torch.where(r.new_logps.isnan(), old, r.new_logps).requires_grad_()
    options = {k: v for k, v in r.options.items() if k != 'num_items'} | changes
    loss, _ = grpo_loss(logps, r.advantages, r.mask, None if r.first else old, r.ref_logps, sampling_logps=r.logps, **options)
    return loss.item(), torch.autograd.grad(loss, logps)[0]

@pytest.mark.parametrize('changes', [dict(), dict(beta=0.), dict(beta=1.), dict(epsilon=.01), dict(epsilon=.01, epsilon_high=.05, delta=1.1),
    dict(kl='k2'), dict(importance_sampling_level='sequence'), dict(off_policy_mask_threshold=1e-5),
    *(dict(loss_type=t) | (dict(epsilon_high=5.) if t == 'cispo' else {}) for t in LOSSES)], ids=str)
def test_other_rules_are_those_of_the_loss(changes, whole_run):
    for step in (1, 4):
        r = readings(whole_run).at(step)
        loss, gradient = direct(r, **changes)
        assert r.loss(**changes)[0] == pytest.approx(loss, rel=1e-5, abs=1e-7)
        torch.testing.assert_close(r.gradients(**changes), gradient, rtol=1e-5, atol=1e-8)
        total = (r.terms(**changes)['loss']*r.shares(**changes)).sum().item()
        assert total == pytest.approx(loss, rel=1e-4, abs=1e-6)
        assert set(r.terms(**changes)) >= {'policy', 'kl', 'entropy', 'loss', 'ratio', 'clip_low', 'clip_high'}

def test_the_gradient_is_the_slope_of_the_loss(whole_run):
    r = readings(whole_run).at(4)
    g, h = r.gradients(), 1e-3
    for b, t in [(0, 0), (3, 1), (7, 2)]:
        both = []
        for sign in (1, -1):
            new = r.new_logps.clone().double()
            new[b, t] += sign*h
            both.append(type(r)(**vars(r) | dict(new_logps=new)).loss()[0])
        assert (both[0]-both[1])/2/h == pytest.approx(g[b, t].item(), rel=1e-2, abs=1e-4)

def test_rewards_and_advantages_are_two_ways_to_say_it(whole_run):
    r = readings(whole_run).at(2)
    rewards = [1., 0., 0., 0., .5, .5, .5, .5]
    A = r.advantages_of(rewards)
    assert torch.equal(r.gradients(rewards=rewards), r.gradients(advantages=A)) and not A[4:].any()
    assert torch.equal(r.gradients(rewards=torch.tensor(rewards)), r.gradients(rewards=rewards))
    nan = r.advantages_of([1., math.nan, 0., 0., 1., 0., 0., 0.])
    assert nan[1] == 0 and nan[0] > 0
    with pytest.raises(ValueError, match='do not divide'): r.gradients(rewards=[1., 0.])

@pytest.mark.parametrize('wrong, why', [(dict(epsilom=.1), 'epsilom'), (dict(loss_type='drgrpo'), "did you mean 'dr_grpo'"),
    (dict(kl='k4'), 'no KL term'), (dict(entropy_coef=.1, entropy=None), 'entropy is needed'), (dict(advantages=[1.]), 'one per row')], ids=str)
def test_a_rule_that_does_not_exist_is_refused(wrong, why, whole_run):
    for ask in ('terms', 'gradients', 'loss'):
        with pytest.raises((ValueError, TypeError), match=why): getattr(readings(whole_run).at(4), ask)(**wrong)

@pytest.mark.parametrize('kind', VALUES)
def test_values_are_known_exactly_where_a_token_counts(kind, whole_run):
    r = readings(whole_run).at(4)
    if kind == 'weight':
        with pytest.raises(ValueError, match='not known'): r.values(kind)
    else: assert torch.equal(r.values(kind).isnan(), r.mask == 0)

# Another reward ---------------------------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize('more', [{}, dict(scale_rewards='batch'), dict(baseline='leave_one_out', scale_rewards='none'), dict(reward_clip=[0, .3]),
    dict(reward_weights=[.2, 1.]), dict(multi_objective_aggregation='normalize_then_sum')], ids=str)
def test_the_same_rewards_give_the_same_advantages(more, tmp_path):
    trained(tmp_path, max_steps=2, steps_per_generation=2, **more)
    for r in readings(tmp_path):
        again = r.rescored([lengths, digits], weights=more.get('reward_weights'))
        torch.testing.assert_close(again.advantages, r.advantages, rtol=1e-5, atol=1e-6)
        assert [row['rewards'] for row in again.rows] == [pytest.approx(row['rewards'], nan_ok=True) for row in r.rows]
        torch.testing.assert_close(again.gradients(), r.gradients(), rtol=1e-4, atol=1e-6)

def fails(completions, **columns): raise RuntimeError('no')
def reads_ids(completion_ids, **columns): return [float(len(ids)) for ids in completion_ids]
def reads_answer(completions, answer, **columns): return [float(a in c) for c, a in zip(completions, answer)]
def silent(completions, **columns): return [None]*len(completions)
async def later(completions, **columns): return [float(len(c)) for c in completions]

def test_rewards_get_what_they_get_in_training(whole_run):
    r = readings(whole_run).at(2)
    by_ids = r.rescored(reads_ids)
    assert [row['reward'] for row in by_ids.rows] == [float(m.sum()) for m in r.mask]
    assert all(row['reward'] in (0., 1.) for row in r.rescored(reads_answer).rows)
    assert [row['reward'] for row in r.rescored(later).rows] == [float(len(row['text'])) for row in r.rows]
    failed = r.rescored([fails, lengths])
    assert failed.errors['fails'] and failed.rows[0]['rewards']['fails'] is None and failed.rows[0]['reward'] is not None
    nothing = r.rescored(silent)
    assert nothing.dead(0) == 'nothing could be judged' and not nothing.advantages.any() and nothing.rows[0]['reward'] is None
    assert r.rows[0]['rewards'].keys() == {'lengths', 'digits'} # the old reading is what it was

# Answers in memory ------------------------------------------------------------------------------------------------------

def test_a_trainer_without_a_directory_shows_its_last_update():
    trainer = trained(None, max_steps=3, num_iterations=2)
    run = readings(trainer)
    assert run.steps == [3] and run.path is None
    agree(run.at(3), trainer.history[-1])
    assert ''.join(run.at(3).tokens[0]).startswith(run.at(3).rows[0]['text'])
    off = readings(trained(None, max_steps=1, log_tokens=0)).at(1)
    assert off.tokens and off.new_logps is None and off.gradients().any()

def test_a_trainer_that_has_not_begun_is_a_sentence():
    model, tokenizer = small_policy()
    trainer = GRPOTrainer(model, [lengths], GRPOConfig(**SMALL), task.train, processing_class=tokenizer)
    with pytest.raises(ValueError, match='no step yet'): readings(trainer)

@pytest.mark.slow
def test_a_trainer_a_run_and_a_path_are_the_same(tmp_path):
    trainer = trained(tmp_path, max_steps=2)
    for source in (trainer, trainer.run, Run(tmp_path), str(tmp_path), tmp_path, readings(tmp_path)):
        assert readings(source).at(2).loss() == readings(tmp_path).at(2).loss()

HOSTILE = ['<script>alert(1)</script>', '\x1b[31m', '$x$', '\u202e', '\x00', '\ud800', 'x'*10**5, '']

def test_texts_that_were_never_in_a_run():
    tokenizer = tiny_tokenizer()
    ro = Rollouts.from_text(tokenizer, ['a', 'b'], [*'1234']*2, finished=[True, False]*4, answer=['1', '2'])
    ro.completions, ro.prompts = HOSTILE, ['<b>', [dict(role='user', content='\ud800')]]
    r = readings(ro, tokenizer=tokenizer).at(1)
    assert [row['text'] for row in r.rows] == HOSTILE and r.rows[1]['stop'] == 'cut at 1 tokens' and r.prompts[0] == '<b>'
    with pytest.raises(ValueError, match='not sampled'): r.gradients(rewards=[1., 0.]*4)
    ro.logps = -torch.ones(8, ro.completion_ids.shape[1])
    g = readings(ro).at(1).gradients(rewards=[1., 0.]*4)
    assert (g[:, 0] < 0).tolist() == [True, False]*4
    assert readings(ro, loss_type='grpo', epsilon=.1).at(1).options['loss_type'] == 'grpo'
    assert readings([ro, ro]).steps == [1, 2] and readings({5: ro}).steps == [5]
    with pytest.raises(ValueError, match='no loss option'): readings(ro, epsilom=1).at(1).gradients(rewards=[1., 0.]*4)
    scored = readings(ro).at(1).rescored(lengths)
    assert scored.rows[2]['reward'] == pytest.approx(lengths(['$x$'])[0])

@pytest.mark.slow
def test_advantages_of_single_tokens(tmp_path):
    trainer = trained(None, max_steps=1)
    ro = trainer.last_rollouts
    ro.advantages = torch.randn(ro.completion_ids.shape, generator=torch.Generator().manual_seed(0))
    figures = trainer.updater.figures
    figures.rollouts.advantages = ro.advantages
    from grpo_lit.run.tokens import write_tokens
    write_tokens(tmp_path/'tokens/step-000001.parquet', figures, trainer.pieces, step=1)
    r = readings(tmp_path).at(1)
    inside = r.mask > 0
    assert r.advantages.shape == r.mask.shape and torch.equal(r.advantages[inside], ro.advantages[:, :r.mask.shape[1]][inside])
    expected = masked_mean(ro.advantages, ro.completion_mask, 1).tolist()
    assert [row['advantage'] for row in r.rows] == pytest.approx(expected, abs=1e-6) and r.gradients().any()

@pytest.mark.parametrize('level', ['token', 'sequence'])
@pytest.mark.parametrize('name', ['token_weights', 'advantages'])
def test_padding_that_is_nan_reaches_no_token(name, level):
    from test_page import update
    r = update(importance_sampling_level=level)
    figures = torch.rand(r.mask.shape, generator=torch.Generator().manual_seed(0))
    plain, padded = (replace(r, **{name: x}) for x in (figures, figures.masked_fill(r.mask == 0, torch.nan)))
    assert torch.equal(plain.gradients(), padded.gradients()) and padded.gradients().any() and plain.loss() == padded.loss()

# Groups that teach nothing ----------------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize('reward, why', [(lambda t: 1., 'all right'), (lambda t: 0., 'all wrong'), (lambda t: .25, 'equal rewards, 0.25 each'),
    (lambda t: None, 'nothing could be judged'), (lambda t: math.nan, 'nothing could be judged')], ids=['right', 'wrong', 'equal', 'none', 'nan'])
def test_why_a_group_is_dead(reward, why, tmp_path):
    def judge(completions, **columns): return [reward(c) for c in completions]
    trained(tmp_path, [judge], max_steps=1)
    r = readings(tmp_path).at(1)
    assert [r.dead(i) for i in range(2)] == [why]*2

# Tables that somebody else has written ------------------------------------------------------------------------------------

def table_changed(path, change):
    import pyarrow.parquet as pq
    table = pq.ParquetFile(path).read()
    pq.write_table(change(table), path)

def column_of(name, value):
    import pyarrow as pa
    return lambda t: t.set_column(t.column_names.index(name), name, pa.array([value]*len(t)))

ODD_TEXTS = [column_of('prompt', None), column_of('completion', 10**15), column_of('tokens', 'x'), column_of('group', None),
             lambda t: t.drop_columns(['finished']), lambda t: t.drop_columns(['group']), lambda t: t.slice(0, 1), lambda t: t.slice(0, 0)]

@pytest.mark.parametrize('change', ODD_TEXTS)
def test_odd_tables_of_texts_leave_the_tokens(change, run):
    found = readings(run)
    table_changed(found.source.record.rollout_file(1), change)
    assert 'texts of step 1' in found.at(1).note and found.at(1).tokens

@pytest.mark.parametrize('value', [{'a': 1}, 'good', [1]])
def test_a_reward_that_is_no_number_is_not_known(value, run):
    found = readings(run)
    table_changed(found.source.record.rollout_file(1), column_of('lengths', value))
    assert found.at(1).rows[0]['rewards']['lengths'] is None

ODD_TOKENS = [lambda t: t.drop_columns(['group']), lambda t: t.drop_columns(['ids']), column_of('row', 10**6),
              column_of('finished', None), column_of('ids', [1])]

@pytest.mark.parametrize('change', ODD_TOKENS)
def test_odd_tables_of_tokens_leave_the_texts(change, run):
    found = readings(run)
    def kept(t): return change(t).replace_schema_metadata(t.schema.metadata)
    table_changed(found.source.record.token_file(1), kept)
    assert 'damaged' in found.at(1).note and found.at(1).rows[0]['text'] is not None
