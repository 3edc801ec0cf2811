"""A run with a server that writes its answers: what is sent, and what happens when the server breaks, lies, hangs, forgets or is another.

The server is `grpo_lit.run.fake_vllm`; `test_vllm_server.py` asks the real one.
"""
import asyncio, contextlib, copy, ctypes, gc, itertools, math, random, threading, time
from dataclasses import replace
from types import SimpleNamespace
import pytest, torch
from accelerate import Accelerator
from grpo_lit import GRPOConfig, GRPOTrainer
from grpo_lit.fast.batches import all_logps, token_portions
from grpo_lit.policy import add_lora, load_policy
from grpo_lit.rewards.client import Pace
from grpo_lit.rewards.comparing import accuracy_reward
from grpo_lit.rewards.shape import think_format_reward
from grpo_lit.run.asking import Server, ServerError
from grpo_lit.run import deliveries, transfer, vllm_server
from grpo_lit.run.checkpoints import RunState
from grpo_lit.run.cli import complaint
from grpo_lit.run.deliveries import WrongWeights
from grpo_lit.run.delivery import digest
from grpo_lit.run.drifting import rounding
from grpo_lit.run.experiment import model_to_ask
from grpo_lit.run.fake_vllm import Engine, FakeServer
from grpo_lit.run.lock import RunLock
from grpo_lit.run.versions import new_sampler
from grpo_lit.run.vllm_server import ServerSampler
from grpo_lit.tasks import addition_task
from two_processes import together

torch.set_num_threads(1)
WRITE, RELOAD, CHECK, VERSION, STAMP = '/v1/completions', '/collective_rpc', '/weight_checker', '/weight_info', '/update_weight_version'
MODELS, INFO = '/v1/models', '/server_info'
task = addition_task(seed=0)
rows = task.train[:2]

def policy(): return load_policy('tiny', device='cpu')

def settings(address, **more):
    how = dict(use_cpu=True, max_completion_length=32, vllm_server_timeout=30., report_to='none', disable_tqdm=True)
    return GRPOConfig(**how | dict(use_vllm=True, vllm_mode='server', vllm_server_base_url=address) | more)

def quick(sample):
    "With short pauses between two tries"
    sample.server.pace = Pace(backoff=.01, max_wait=.1)
    return sample

def sampler(fake, model, tokenizer, **more):
    return quick(ServerSampler(RunState(model, None, None), tokenizer, settings(fake.address, **more), Accelerator(cpu=True)))

@pytest.fixture
def there():
    "A server, a sampler that asks it, and the model that both began with"
    model, tokenizer = policy()
    with FakeServer(model, tokenizer) as fake:
        yield fake, sampler(fake, model, tokenizer), model

def step(model, by=.01):
    "As if an update had been made"
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters(): p.add_(torch.randn(p.shape, generator=generator)*by*p.std() if p.numel() > 1 else by)

def is_of(model, rollouts, tolerance=1e-4):
    "Are these the log-probs of this model?"
    mine = all_logps(model, rollouts, token_portions(model, rollouts, 4096), 1.)
    return (mine-rollouts.logps).abs().max() < tolerance

def trainer(fake, steps=3, model=None, **more):
    tokenizer = policy()[1]
    args = settings(fake.address, max_steps=steps, num_generations=4, per_device_train_batch_size=8, learning_rate=1e-3, seed=0, **more)
    made = GRPOTrainer(model or policy()[0], [accuracy_reward, think_format_reward], args, task.train, processing_class=tokenizer)
    quick(made.collector.sample.sampler)
    return made

# --- what goes over the wire

def test_a_run_learns_with_a_server(tmp_path):
    model, tokenizer = policy()
    with FakeServer(model, tokenizer) as fake:
        run = trainer(fake, output_dir=str(tmp_path/'run'))
        metrics = list(run.steps())
        assert [m['staleness'] for m in metrics] == [0., 0., 0.] and all(m['mismatch'] < 1e-4 for m in metrics)
        assert 'token_weight' in metrics[0] # the correction is on by itself
        assert fake.calls.count(RELOAD) == 3 and fake.calls.count(WRITE) == 6
        assert fake.engine.version.endswith(':2') # what wrote the third rollout has two updates behind it
        kept = [p.name for p in (tmp_path/"run"/"vllm").rglob("v*")]
        assert kept == ['v2']
        del run
    first, last = policy()[0].model.norm.weight, fake.engine.model.model.norm.weight
    assert not torch.equal(first, last)

def test_a_run_one_step_ahead():
    with FakeServer(*policy()) as fake:
        metrics = list(trainer(fake, max_staleness=1).steps())
    assert [m['staleness'] for m in metrics] == [0., 1., 1.] and metrics[-1]['mismatch'] < .5

def test_rollouts_carry_the_version_that_wrote_them():
    model, tokenizer = policy()
    with FakeServer(model, tokenizer) as fake:
        state = RunState(model, None, None)
        sample = new_sampler(state, tokenizer, settings(fake.address), Accelerator(cpu=True))
        assert state.remote and sample(rows, 2, seed=0).versions.tolist() == [0]*4
        state.step = 5
        step(model)
        ro = sample(rows, 2, seed=0)
    assert ro.versions.tolist() == [5]*4 and is_of(model, ro)

def test_the_same_seed_writes_the_same(there):
    fake, sample, model = there
    one, two, other = (sample.generate(rows, 4, seed=s) for s in (1, 1, 2))
    assert one.completions == two.completions != other.completions
    assert all(torch.equal(getattr(one, n), getattr(two, n)) for n in ('completion_ids', 'logps', 'completion_mask', 'finished'))

def test_every_setting_is_sent(there):
    fake, sample, model = there
    seen = []
    fake.engine.completions = lambda body, go=fake.engine.completions: (seen.append(body), go(body))[1]
    sample.generate(rows[:1], 4, seed=1, temperature=.5, top_p=.9, top_k=5, min_p=.01, stop=('</answer>',), max_completion_length=9)
    body = seen[0]
    assert (body['temperature'], body['top_p'], body['top_k'], body['min_p'], body['stop'], body['max_tokens'], body['n']) == (.5, .9, 5, .01, ['</answer>'], 9, 4)
    assert body['ignore_eos'] and body['stop_token_ids'] and body['return_token_ids'] and body['repetition_penalty'] == 1

def test_log_probs_are_those_behind_filters(there):
    "As vLLM's: of the two tokens that are left, and not of all"
    fake, sample, model = there
    ro = sample.generate(rows, 4, seed=1, top_k=2)
    mine = all_logps(model, ro, token_portions(model, ro, 4096), 1.)
    more = (ro.logps-mine)[ro.completion_mask.bool()]
    assert more.min() > -1e-4 and more.max() > .01 # what the others had is shared out
    assert (sample.generate(rows, 4, seed=1, top_k=1).logps == 0).all()

def test_a_kl_of_another_distribution_is_refused():
    paid = dict(kl_in_reward=True, scale_rewards='none', top_p=.9)
    assert GRPOConfig(use_cpu=True, **paid)
    with pytest.raises(ValueError, match='behind top_p'): settings(None, **paid)

def test_a_stop_string_and_a_cut(there):
    fake, sample, model = there
    ro = sample.generate(rows, 8, seed=1, stop=('</think>',))
    assert all(text.endswith('</think>') == bool(done) for text, done in zip(ro.completions, ro.finished) if '</think>' in text)
    short = sample.generate(rows, 2, seed=1, max_completion_length=3)
    assert short.completion_ids.shape[1] == 3 and not short.finished.any()

def test_the_most_probable_tokens_are_asked_for_once(there):
    fake, sample, model = there
    ro = sample.generate(rows[:1], 4, seed=1, temperature=0)
    assert len(set(ro.completions)) == 1 and len(ro) == 4

def test_groups_are_told_as_they_come(there):
    fake, sample, model = there
    told = {}
    ro = sample.generate(rows, 4, seed=0, on_group=lambda i, group: told.update({i: group}))
    for i in range(2):
        assert told[i].completions == ro.completions[i*4:i*4+4] and told[i].columns['answer'] == [rows[i]['answer']]

def test_an_adapter_goes_under_a_new_name_each_time():
    base, tokenizer = policy()
    with FakeServer(base, tokenizer, lora=True, dev=False) as fake:
        model = add_lora(policy()[0])
        with torch.no_grad():
            for n, p in model.named_parameters():
                if 'lora_B' in n: p.normal_(std=.05, generator=torch.Generator().manual_seed(0))
        sample = sampler(fake, model, tokenizer)
        sample.sync(1)
        sample.sync(2)
        assert list(fake.engine.adapters) == [f'{sample.run}:2']
        assert is_of(model, sample.generate(rows, 4, seed=0))
        fake.engine.restart()
        assert is_of(model, sample.generate(rows, 4, seed=0)) and list(fake.engine.adapters) == [f'{sample.run}:2']
        fake.faults = [(WRITE, 'restart')]*2
        assert is_of(model, sample.generate(rows, 4, seed=0))

def test_the_same_version_again_is_another_delivery():
    "After a rewind: an adapter of the same name would be taken for it"
    with FakeServer(*policy(), lora=True, dev=False) as fake:
        model = add_lora(policy()[0])
        sample = sampler(fake, model, policy()[1])
        sample.sync(1)
        with torch.no_grad():
            for n, p in model.named_parameters():
                if 'lora_B' in n: p.normal_(std=.05, generator=torch.Generator().manual_seed(0))
        sample.sync(1)
        assert is_of(model, sample.generate(rows[:1], 4, seed=0)) and list(fake.engine.adapters) == [f'{sample.run}:1']

def test_an_adapter_folded_into_a_file():
    model, tokenizer = add_lora(policy()[0]), policy()[1]
    with torch.no_grad():
        for n, p in model.named_parameters():
            if 'lora_B' in n: p.normal_(std=.05, generator=torch.Generator().manual_seed(0))
    with FakeServer(*policy()) as fake:
        ro = sampler(fake, model, tokenizer, vllm_sync='file').generate(rows, 4, seed=0)
    assert is_of(model, ro)

def test_weights_are_rounded_as_the_server_has_them():
    model, tokenizer = policy()
    with FakeServer(copy.deepcopy(model).bfloat16(), tokenizer) as fake:
        sample = sampler(fake, model, tokenizer)
        step(model)
        sample.sync(1)
        assert fake.engine.model.dtype == torch.bfloat16
        assert digest(fake.engine.model.model.norm.weight) == digest(model.model.norm.weight.bfloat16())
        assert not is_of(model, sample.generate(rows, 4, seed=0)) # 16 bits compute something else: so the correction

# --- what goes wrong, and is got over

FAULTS = dict(
    errors=[(WRITE, 500), (WRITE, 503), (WRITE, 429), (WRITE, 502)],
    cut=[(WRITE, 'cut')]*3,
    restart=[(WRITE, 'restart')],
    restart_after_an_error=[(WRITE, 'cut'), (WRITE, 'restart')],
    reload_breaks=[(RELOAD, 'cut'), (RELOAD, 500)],
    check_breaks=[(CHECK, 500), (CHECK, 'cut')],
    version_breaks=[(VERSION, 500), (VERSION, 'cut')],
    stamp_breaks=[(STAMP, 500), (STAMP, 'cut')],
    restart_while_loading=[(CHECK, 'restart')],
    restart_before_the_mark=[(STAMP, 'restart')],
    restart_after_the_mark=[(RELOAD, 'restart')],
    restart_before_the_seal=[(VERSION, 'restart')],
    restart_under_the_seal=[(STAMP, lambda a: a), (STAMP, 'restart')],
    no_seal=[(STAMP, lambda a: a), (STAMP, 'cut')],
    two_restarts=[(WRITE, 'cut'), (WRITE, 'restart'), (WRITE, 'cut'), (WRITE, 'restart')],
    odd=[(WRITE, lambda a: a | dict(choices=[])), (WRITE, lambda a: dict(choices=a['choices']*2)), ],
    no_cache_yet=[('/reset_prefix_cache', lambda a: dict(success=False))]*2)

@pytest.mark.parametrize('name', FAULTS)
def test_a_run_goes_on(name):
    "With the log-probs of the policy as it is: nothing of another version has slipped in"
    weak, tokenizer = policy()
    with torch.no_grad(): weak.model.norm.weight.mul_(.5) # what a restarted server writes with
    with FakeServer(weak, tokenizer) as fake:
        model = policy()[0]
        sample = sampler(fake, model, tokenizer)
        sample.sync(0)
        step(model)
        fake.faults = list(FAULTS[name])
        sample.sync(1)
        told = []
        ro = sample.generate(rows, 4, seed=0, on_group=lambda i, group: told.append(group))
        assert not fake.faults and is_of(model, ro) and len(told) == 2 and all(is_of(model, g) for g in told)
        assert fake.engine.version == f'{sample.run}:1'

def test_weights_of_somebody_else_are_sent_over(there, caplog):
    fake, sample, model = there
    sample.sync(1)
    fake.engine.version = 'another run:9'
    with torch.no_grad(): fake.engine.model.model.norm.weight.mul_(.5)
    assert is_of(model, sample.generate(rows, 4, seed=0)) and fake.engine.version == f'{sample.run}:1'
    assert 'gets version 1 again' in caplog.text

def test_two_runs_that_fight_over_a_server(there):
    fake, sample, model = there
    sample.sync(1)
    def steal(answer):
        fake.engine.version = 'another run'
        return answer
    fake.faults = [(WRITE, steal)]*9
    with pytest.raises(ServerError, match='again and again'): sample.generate(rows[:1], 2, seed=0)

@pytest.mark.parametrize('stamped', [True, False])
def test_one_that_is_busy_is_asked_until_it_is_not(there, stamped):
    "A failure is not a loss: the answer behind it counts"
    fake, sample, model = there
    if not stamped: fake.faults = [(STAMP, 404)]
    sample.sync(1)
    assert sample.deliveries.sent.stamped == stamped
    fake.faults = [(WRITE, status) for _ in range(4) for status in (503, 429)]
    assert is_of(model, sample.generate(rows[:1], 4, seed=0))
    assert fake.calls.count(WRITE) == 9 and (fake.calls.count(RELOAD) == 1) == stamped

def test_without_a_stamp_it_comes_to_an_end(there):
    "Behind each answer there was a failure, so none is believed"
    fake, sample, model = there
    doors = fake.engine.doors()
    del doors[STAMP]
    fake.engine.doors = lambda: doors
    sample.sync(1)
    sample.server.timeout = .5
    def behind(answer):
        sample.server.failures += 1 # of another question
        return answer
    fake.faults = [f for _ in range(2000) for f in [(WRITE, 503), (WRITE, behind)]]
    with pytest.raises(ServerError, match='no usable answer'): sample.generate(rows[:1], 2, seed=0)
    assert fake.faults

def test_one_that_refuses_every_other_question(there, caplog):
    "It is said once, and not at each of its refusals"
    fake, sample, model = there
    sample.sync(1)
    fake.faults = [f for _ in range(6) for f in [(WRITE, 503), (WRITE, lambda a: a)]]
    assert len(sample.generate(rows[:1]*6, 2, seed=0)) == 12 and fake.calls.count(RELOAD) == 1
    assert caplog.text.count('has trouble') == 1 == caplog.text.count('answers again')

def test_one_that_is_slow_is_not_asked_twice(there):
    "Longer than its time, and well all along"
    fake, sample, model = there
    sample.sync(1)
    well, go = threading.Event(), fake.answer
    def slow(path, body):
        if path == '/health': well.set()
        if path == WRITE: assert well.wait(60)
        return go(path, body)
    fake.answer, sample.server.timeout = slow, 3.
    assert is_of(model, sample.generate(rows[:1], 4, seed=0)) and fake.calls.count(WRITE) == 1

def test_one_that_hangs_is_asked_again(monkeypatch):
    monkeypatch.setattr(vllm_server, 'WRITING', 1)
    with FakeServer(*policy()) as fake:
        sample = sampler(fake, *policy(), vllm_server_timeout=3.)
        sample.sync(0)
        fake.faults = [(WRITE, 'hang')]
        assert len(sample.generate(rows, 2, seed=0)) == 4
        sample.server.timeout = .2
        fake.faults = [(WRITE, 'hang')]*2
        with pytest.raises(ServerError, match='server at http.*within vllm_server_timeout=0.2 seconds'): sample.generate(rows[:1], 2, seed=0)

def test_a_run_goes_through_a_restart(caplog):
    weak, tokenizer = policy()
    with torch.no_grad(): weak.model.norm.weight.mul_(.5)
    with FakeServer(weak, tokenizer) as fake:
        run, found = trainer(fake, steps=4), []
        for metrics in run.steps():
            found.append(metrics)
            fake.faults += [(WRITE, 'cut'), (WRITE, 'restart')]
    assert len(found) == 4 and all(m['mismatch'] < 1e-4 for m in found)
    assert 'has trouble' in caplog.text and 'answers again' in caplog.text

def test_a_resumed_run_sends_its_weights(tmp_path):
    with FakeServer(*policy()) as fake:
        first = trainer(fake, steps=1, output_dir=str(tmp_path/'run'))
        first.train(live=False)
        first.save_checkpoint()
    with FakeServer(*policy()) as fake:
        again = trainer(fake, steps=2, output_dir=str(tmp_path/'run'))
        again.train(resume_from_checkpoint=True, live=False)
        assert fake.engine.version.endswith(':1') and again.history[-1]['mismatch'] < 1e-4

# --- what goes wrong, and is said

def test_nobody_is_there():
    model, tokenizer = policy()
    args = settings('http://127.0.0.1:9', vllm_server_timeout=.5)
    sample = ServerSampler(RunState(model, None, None), tokenizer, args, Accelerator(cpu=True))
    with pytest.raises(ServerError, match='no usable answer'): sample.sync(0)

def test_it_is_waited_for():
    "A server that is up later"
    model, tokenizer = policy()
    fake = FakeServer(model, tokenizer)
    with FakeServer(model, tokenizer) as first: address = first.address # its port is free now
    port = int(address.rpartition(':')[2])
    sample = ServerSampler(RunState(model, None, None), tokenizer, settings(address, vllm_server_timeout=60.), Accelerator(cpu=True))
    failed = threading.Event()
    waiting = threading.Thread(target=lambda: (sample.sync(3), failed.set()), daemon=True)
    waiting.start()
    while not sample.server.failures: time.sleep(.05)
    with fake.at(port):
        waiting.join(60)
        assert failed.is_set() and fake.engine.version == f'{sample.run}:3'

@pytest.mark.parametrize('how,path,said', [
    (dict(dev=False), None, 'VLLM_SERVER_DEV_MODE=1'),
    (dict(), [(RELOAD, 500)]*9, 'Does it see that directory'),
    (dict(), [(RELOAD, 400)], 'Does it see that directory'),
    (dict(), [(CHECK, lambda a: dict(checksums={k: 'x' for k in a['checksums']}))]*9, 'is another'),
    (dict(), [(CHECK, lambda a: dict(checksums={}))]*9, 'is another'),
    (dict(), [('/v1/models', lambda a: dict(data=[]))]*9, 'names no model'),
    (dict(), [('/server_info', lambda a: dict(vllm_config=dict(model_config=dict(logprobs_mode='raw_logits'))))], 'gives logits')], ids=str)
def test_what_is_wrong_is_said(how, path, said):
    model, tokenizer = policy()
    with FakeServer(model, tokenizer, **how) as fake:
        fake.faults = path or []
        with pytest.raises(ServerError, match=said): sampler(fake, model, tokenizer).sync(0)

def test_one_that_takes_no_adapters():
    with FakeServer(*policy()) as fake:
        with pytest.raises(ServerError, match='--enable-lora'): sampler(fake, add_lora(policy()[0]), policy()[1]).sync(0)

def test_a_reload_that_did_nothing():
    "The server says yes, and has the weights of before"
    model, tokenizer = policy()
    with FakeServer(model, tokenizer) as fake:
        sample = sampler(fake, model, tokenizer)
        sample.sync(0)
        fake.engine.rpc = lambda body: dict(results=[None])
        sample.sync(1) # nothing has changed, so nothing is missing
        step(model)
        with pytest.raises(WrongWeights, match='is another'): sample.sync(2)

def test_it_is_not_believed_the_second_time_either(there):
    "One tensor has changed, the server loads nothing, and whoever is patient tries once more"
    fake, sample, model = there
    sample.sync(0)
    load, fake.engine.rpc = fake.engine.rpc, lambda body: dict(results=[None])
    with torch.no_grad(): model.model.embed_tokens.weight[5] += .1
    for _ in range(2):
        with pytest.raises(WrongWeights, match='embed_tokens'): sample.sync(1)
    fake.engine.rpc = load
    sample.sync(1)
    assert is_of(model, sample.generate(rows[:1], 2, seed=0))

def test_what_could_not_be_brought_back_is_not_there(there):
    "Nor is its stamp, by which other processes go"
    fake, sample, model = there
    step(model)
    sample.sync(1)
    fake.engine.restart()
    load, fake.engine.rpc = fake.engine.rpc, lambda body: dict(results=[None])
    with pytest.raises(WrongWeights): sample.generate(rows[:1], 2, seed=0)
    assert fake.engine.version == f'{sample.run}:1'+deliveries.COMING
    with pytest.raises(WrongWeights): sample.generate(rows[:1], 2, seed=0)
    fake.engine.rpc = load
    assert is_of(model, sample.generate(rows[:1], 2, seed=0))

def test_raw_log_probs_at_another_temperature():
    model, tokenizer = policy()
    with FakeServer(model, tokenizer) as fake:
        raw = lambda a: dict(vllm_config=dict(model_config=dict(dtype='torch.float32', logprobs_mode='raw_logprobs')))
        fake.faults = [('/server_info', raw)]
        sample = sampler(fake, model, tokenizer)
        sample.sync(0)
        with pytest.raises(ValueError, match='--logprobs-mode processed_logprobs'): sample.generate(rows, 2, seed=0, temperature=.7)
        assert len(sample.generate(rows, 2, seed=0)) == 4
        for zero in (False, True): # one that does not say it is asked by what it does
            sample.deliveries.facts.processed = None
            def after_filters(answer):
                answer['choices'][0]['logprobs']['token_logprobs'] = [0. if zero else -.5]
                return answer
            fake.faults = [(WRITE, after_filters)]
            try: sample.generate(rows, 2, seed=0, temperature=.7)
            except ValueError as e: assert not zero and 'processed_logprobs' in str(e)
            assert sample.deliveries.facts.processed == zero

def test_a_server_with_a_shorter_context(there):
    fake, sample, model = there
    short = lambda a: dict(data=[dict(id='policy', parent=None, max_model_len=20)])
    fake.faults = [('/v1/models', short)]
    with pytest.raises(ValueError, match='--max-model-len'): sample.generate(rows, 2, seed=0)

LIES = dict(
    nan=lambda c: c['logprobs']['token_logprobs'].__setitem__(0, math.nan),
    infinite=lambda c: c['logprobs']['token_logprobs'].__setitem__(0, -math.inf),
    above_0=lambda c: c['logprobs']['token_logprobs'].__setitem__(0, .5),
    unknown_token=lambda c: c['token_ids'].__setitem__(0, 10**6),
    negative_token=lambda c: c['token_ids'].__setitem__(0, -1),
    no_number=lambda c: c['token_ids'].__setitem__(0, '5'),
    too_short=lambda c: c['logprobs']['token_logprobs'].pop(),
    nothing=lambda c: (c['token_ids'].clear(), c['logprobs']['token_logprobs'].clear()),
    too_long=lambda c: (c['token_ids'].extend([5]*99), c['logprobs']['token_logprobs'].extend([-1.]*99)),
    aborted=lambda c: c.update(finish_reason='abort'),
    other_prompt=lambda c: c.update(prompt_token_ids=[5]),
    twice=lambda c: c.update(index=0),
    no_ids=lambda c: c.pop('token_ids'),
    no_log_probs=lambda c: c.update(logprobs=None))

def test_nothing_of_this_is_believed(there):
    fake, sample, model = there
    sample.sync(0)
    for name in LIES:
        def lie(answer):
            LIES[name](answer['choices'][1])
            return answer
        fake.faults = [(WRITE, lie)]*3
        with pytest.raises(ServerError, match='does not fit'): sample.generate(rows[:1], 2, seed=0, max_completion_length=8)
    fake.faults = [(WRITE, lie)]*2
    assert is_of(model, sample.generate(rows[:1], 2, seed=0))

def of_all(bend):
    "A fault: each completion is bent"
    def bent(answer):
        for c in answer['choices']: bend(c)
        return answer
    return bent

PAGE, FULL = b'<html>Please\r\nlog in \x1b[31m', b'{"object": "error", "message": "KV cache is full"}'
no_end = of_all(lambda c: c.update(finish_reason='stop'))

ODD = [ # before anything is written, and while it is
    (MODELS, PAGE, 'no JSON: <html>Please'), (MODELS, b'{"error": "no such tenant"}', 'no such tenant'),
    (MODELS, 401, 'VLLM_API_KEY'), (CHECK, b'{"error": "busy"}', "no 'checksums': {\"error\": \"busy\"}"), (CHECK, b'{"checksums": {"norm": {}}}', 'one text for each'),
    (VERSION, b'{"weight_version": 5}', 'it has 5'), (VERSION, b'{"weight_version": "old:0"}', 'somebody else sends'), (STAMP, 403, 'VLLM_API_KEY'),
    (WRITE, FULL, 'KV cache is full'), (WRITE, PAGE, 'no JSON'), (WRITE, b'', "no 'choices'"), (WRITE, b'['*10**5, 'no JSON'),
    (WRITE, 'half', 'asked'), (WRITE, no_end, 'without an end'), (WRITE, 413, '413')]

def test_what_is_odd_is_said_in_one_line():
    base, tokenizer = policy()
    with FakeServer(base, tokenizer) as fake:
        for path, fault, said in ODD:
            sample = sampler(fake, base, tokenizer, vllm_server_timeout=.5, max_completion_length=8)
            if path == WRITE: sample.sync(0)
            fake.faults = [(path, fault)]*99
            with pytest.raises(ServerError) as error: sample.generate(rows[:1], 2, seed=1)
            text = str(error.value)
            assert said in text and len(text) < 500 and text.isprintable(), text
            fake.faults = []
        assert is_of(base, sample.generate(rows[:1], 2, seed=1)) # and the next time nothing is left of it

def test_what_is_odd_for_once_is_got_over(there):
    fake, sample, model = there
    sample.sync(0)
    step(model)
    fake.faults = [(CHECK, b'{"error": "busy"}'), (CHECK, 'half'), (STAMP, 'half'), (VERSION, b'{"weight_version": "old:0"}')]
    sample.sync(1)
    for faults in ([FULL, FULL], ['half', PAGE], [no_end], [of_all(lambda c: c.update(finish_reason='abort'))]):
        fake.faults = [(WRITE, f) for f in faults]
        assert is_of(model, sample.generate(rows[:1], 2, seed=0)) and not fake.faults
    fake.faults = [(VERSION, b'{"weight_version": "old:0"}')]
    assert is_of(model, sample.generate(rows, 2, seed=0)) and not fake.faults

def test_what_a_server_says_of_itself_may_be_a_text():
    "As that of older ones"
    base, tokenizer = policy()
    with FakeServer(base, tokenizer) as fake:
        for said in (b'{"vllm_config": "dtype=bfloat16"}', b'{"vllm_config": null}', b'{"vllm_config": {"model_config": [1]}}'):
            fake.faults = [(INFO, said)]
            assert is_of(base, sampler(fake, base, tokenizer).generate(rows[:1], 2, seed=0))

def test_an_end_in_the_last_place_is_an_end(there):
    "Also where the server calls it a cut"
    fake, sample, model = there
    ro = sample.generate(rows, 8, seed=1)
    fake.faults = [(WRITE, of_all(lambda c: c.update(finish_reason='length')))]*2
    assert ro.finished.any() and torch.equal(sample.generate(rows, 8, seed=1).finished, ro.finished)

@pytest.mark.parametrize('seed', [None, 0])
def test_two_servers_behind_one_address(seed):
    "Weights reach one of them, the other one writes: taken in turns, or as a coin falls"
    base, tokenizer = policy()
    with FakeServer(base, tokenizer) as fake:
        answer, turns, coin = fake.answer, itertools.count(), random.Random(seed)
        both = fake.engine, Engine(base, tokenizer)
        def one_of_them(path, body):
            fake.engine = both[next(turns)%2 if seed is None else coin.randrange(2)]
            return answer(path, body)
        fake.answer = one_of_them
        with pytest.raises(ServerError, match='give the address of one'): sampler(fake, base, tokenizer).sync(0)

def test_one_server_that_is_restarted_while_it_is_looked_at(there):
    "Some of the first looks find the mark and some do not; but it is one server"
    fake, sample, model = there
    fake.faults = [(VERSION, lambda a: a)]*3+[(VERSION, 'restart')]
    sample.sync(0)
    assert fake.calls.count(RELOAD) == 2 and not fake.faults and fake.engine.version == f'{sample.run}:0'

def test_another_model_behind_the_port(there):
    "Of another shape, of another dtype, of another name: the run stops, and says so"
    fake, sample, model = there
    sample.sync(0)
    first = fake.engine.first
    fake.engine.first = copy.deepcopy(model).bfloat16()
    fake.engine.restart()
    with pytest.raises(WrongWeights, match='still in torch.float32'): sample.generate(rows[:1], 2, seed=0)
    fake.engine.first = torch.nn.Linear(2, 2)
    fake.engine.restart()
    with pytest.raises(ServerError, match='has it the same model'): sample.generate(rows[:1], 2, seed=0)
    fake.engine.first = first
    fake.engine.restart()
    fake.faults = [(WRITE, 404)]
    with pytest.raises(ServerError, match='404 to /v1/completions'): sample.generate(rows[:1], 2, seed=0)
    assert is_of(model, sample.generate(rows[:1], 2, seed=0))

def test_the_command_line_says_it_in_a_line():
    assert complaint(ServerError('the vLLM server\nis gone', 500)) == 'the vLLM server is gone'

def test_an_answer_without_end(there):
    fake, sample, model = there
    fake.faults = [(WRITE, lambda a: a | dict(filling='x'*10**7))]*3
    with pytest.raises(ServerError, match='longer than'): sample.generate(rows[:1], 2, seed=0)

@pytest.mark.parametrize('given,said', [
    (dict(vllm_server_base_url='gpu7:8000'), 'must be like http://'),
    (dict(vllm_server_base_url='http://me:secret@gpu7'), 'password'),
    (dict(vllm_server_base_url='http://gpu7:8000'), 'vllm_sync_dir'),
    (dict(vllm_sync='lora'), 'has no adapter'),
    (dict(generation_kwargs=dict(typical_p=.5)), 'typical_p')], ids=str)
def test_settings_that_do_not_fit_are_said_at_once(given, said):
    with pytest.raises(ValueError, match=said):
        GRPOTrainer(policy()[0], accuracy_reward, settings(None, **given), task.train, processing_class=policy()[1])

def test_a_server_alone_is_a_second_policy():
    "vLLM in the same process is not, and may not differ by more"
    served, colocated = (GRPOConfig(use_cpu=True, use_vllm=True, vllm_mode=mode) for mode in ('server', 'colocate'))
    assert rounding(colocated) == rounding(GRPOConfig(use_cpu=True)) < rounding(served)

def test_tools_are_played_here():
    def double(a: int) -> int:
        """Double.

        Args:
            a: a number
        """
        return 2*a
    with pytest.raises(ValueError, match='episodes with tools'):
        GRPOTrainer(policy()[0], accuracy_reward, settings(None), task.train, processing_class=policy()[1], tools=[double])

def test_the_key_is_sent_and_not_shown(monkeypatch, caplog):
    monkeypatch.setenv('VLLM_API_KEY', 'secret-key')
    server = Server('http://127.0.0.1:9', .3)
    assert server.session().headers['authorization'] == 'Bearer secret-key'
    with pytest.raises(ServerError) as error: server.ask('/x')
    assert 'secret' not in str(error.value)+caplog.text

def test_an_interrupt_closes_what_is_under_way(there):
    "Whoever waits may be interrupted; nothing is left behind that waits on"
    fake, sample, model = there
    sample.sync(0)
    fake.faults = [(WRITE, 'hang')]
    def enough(i, group): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): sample.generate(rows, 2, seed=0, on_group=enough)
    assert len(sample.generate(rows, 2, seed=0)) == 4

def test_files_go_with_the_sampler(tmp_path):
    model, tokenizer = policy()
    with FakeServer(model, tokenizer) as fake:
        sample = sampler(fake, model, tokenizer, vllm_sync_dir=str(tmp_path/'w'))
        sample.sync(0)
        assert [f.name for f in (tmp_path/'w').glob('*/*')] == ['v0']
        del sample
    gc.collect()
    assert not [*(tmp_path/'w').glob('*')]

def test_files_of_a_killed_run_go_when_the_next_one_begins(tmp_path):
    "Where its directory is ours; a directory that was given is left as it is"
    model, tokenizer = policy()
    out, given = tmp_path/'run', tmp_path/'given'
    for folder in (out/'vllm', given): (folder/'weights-dead'/'v3').mkdir(parents=True)
    def found(held, **more):
        "What is there while it writes, and behind it"
        with FakeServer(model, tokenizer) as fake, RunLock(out) if held else contextlib.nullcontext():
            sample = sampler(fake, model, tokenizer, output_dir=str(out), **more)
            sample.sync(0)
            there = {p.name for p in sample.place.parent.glob('weights-*')}-{sample.place.name}
            del sample
        gc.collect()
        return there
    assert found(False) == {'weights-dead'} == found(True, vllm_sync_dir=str(given))
    assert found(True) == set() and not (out/'vllm').exists()
    (given/'weights-dead'/'v3').rmdir()
    (given/'weights-dead').rmdir()
    assert found(True, vllm_sync_dir=str(given)) == set() and given.exists()

def test_one_thread_for_all_servers():
    "However many runs a notebook begins"
    def ask():
        with pytest.raises(ServerError): Server('http://127.0.0.1:9', .01).ask('/x')
    ask()
    before = threading.active_count()
    for _ in range(5): ask()
    assert threading.active_count() <= before

def test_a_group_is_left_once():
    "When it fails, and with whatever it belonged to; nobody waits for it"
    begun, left, ended = threading.Event(), [], threading.Event()
    def abort(comm):
        left.append(comm)
        begun.set()
        ended.wait(60)
    group = object.__new__(transfer.Group)
    group.library, group.comm = SimpleNamespace(ncclCommAbort=abort), ctypes.c_void_p(7)
    group.text, group.join = lambda: '', lambda size: None
    there = deliveries.Deliveries(Server('http://127.0.0.1:9'), None)
    async def yes(session, question): return question.read(dict(world_size=1))
    there.server.answer = yes
    there.server.each([lambda session: there.begin_group(session, lambda timeout: group)])
    assert there.group is group and not left
    del there
    gc.collect()
    assert begun.wait(60) and left[0].value == 7
    group.leave()
    ended.set()
    assert len(left) == 1

def test_a_thread_that_waits_for_ever_holds_up_nobody():
    "A server that never joins the group: Python ends all the same"
    begun, threads = threading.Event(), []
    def join(*args):
        threads.append(threading.current_thread())
        begun.set()
        threading.Event().wait()
    async def refused():
        while not begun.is_set(): await asyncio.sleep(.01)
        raise ServerError('no', 500)
    with pytest.raises(ServerError): asyncio.run(transfer.together(refused(), join))
    assert threads[0].is_alive() and threads[0].daemon
    async def value(): return 3
    def broken(): raise ServerError('NCCL')
    with pytest.raises(ServerError, match='NCCL'): asyncio.run(transfer.together(value(), broken))

# --- several processes

def test_the_copy_with_all_weights_follows_also_beside_a_server():
    "What is asked after training is the policy as it is now"
    state = SimpleNamespace(whole=policy()[0].requires_grad_(False), model=policy()[0])
    step(state.model)
    sampler = SimpleNamespace(sample=SimpleNamespace(keep_up=lambda: None))
    asked = model_to_ask(SimpleNamespace(state=state, model=state.model, collector=sampler))
    assert asked is state.whole and all(map(torch.equal, asked.parameters(), state.model.parameters()))

def test_a_restart_that_another_process_has_mended(there):
    "A restarted server has written, and another process has brought the weights back before anybody asks for the stamp"
    fake, sample, model = there
    sample.sync(1)
    right, stamp, go = fake.engine.model, fake.engine.version, fake.answer
    weak = copy.deepcopy(right)
    with torch.no_grad(): weak.model.norm.weight.mul_(.5)
    def restarted(path, body):
        if path != WRITE: return go(path, body)
        fake.answer = mended
        fake.engine.model, fake.engine.version = weak, 'default' # and the connection breaks
    def mended(path, body):
        if path != WRITE: return go(path, body)
        fake.answer = go
        try: return go(path, body)
        finally: fake.engine.model, fake.engine.version = right, stamp
    fake.answer = restarted
    assert is_of(model, sample.generate(rows[:1], 4, seed=0)) and fake.answer == go

def test_another_process_brings_it_back(there, monkeypatch):
    "The first one does; the next one looks on, and then does it itself"
    fake, sample, model = there
    sample.sync(1)
    stamp, sample.deliveries.rank = fake.engine.version, 1
    def others(answer):
        fake.engine.version = stamp
        return answer
    for found in ('default', stamp+deliveries.COMING):
        fake.engine.version, fake.faults = found, [(VERSION, lambda a: a), (VERSION, lambda a: a), (VERSION, others)]
        assert is_of(model, sample.generate(rows[:1], 2, seed=0)) and fake.calls.count(RELOAD) == 1
    monkeypatch.setattr(deliveries, 'IN_TURN', 0.)
    fake.engine.version = 'default'
    assert is_of(model, sample.generate(rows[:1], 2, seed=0)) and fake.calls.count(RELOAD) == 2
    sample.deliveries.sent = replace(sample.deliveries.sent, way='nccl', folder=None)
    fake.engine.version = 'default'
    with pytest.raises(ServerError, match='only the first process'): sample.generate(rows[:1], 2, seed=0)

def test_nothing_is_sent_before_all_are_there(there):
    "Another process may still have something written by the weights of before"
    fake, sample, model = there
    asked = []
    sample.accelerator.wait_for_everyone = lambda: asked.append(list(fake.calls))
    sample.sync(0)
    assert asked == [[]] and RELOAD in fake.calls

def ranks(rank, address, **more):
    "A served run, as each process sees it: mismatch by step, the first prompts, the error"
    torch.set_num_threads(1)
    model, tokenizer = policy()
    args = settings(address, max_steps=2, num_generations=4, per_device_train_batch_size=8, learning_rate=1e-3, seed=0, gold_check=0, **more)
    run = GRPOTrainer(model, [accuracy_reward, think_format_reward], args, task.train, processing_class=tokenizer)
    quick(run.collector.sample.sampler)
    try: found = [(m['mismatch'], m['staleness']) for m in run.steps()]
    except ServerError as e: return str(e)
    return found, run.last_rollouts.prompts, run.last_rollouts.versions.tolist()

SHARDED = dict(ACCELERATE_USE_FSDP='true', FSDP_VERSION='2', FSDP_AUTO_WRAP_POLICY='TRANSFORMER_BASED_WRAP', FSDP_STATE_DICT_TYPE='FULL_STATE_DICT')

def test_all_gather_and_one_sends():
    "Sharded weights, which are whole only where both processes take part"
    with FakeServer(*policy()) as fake:
        one, two = together(ranks, fake.address, env=SHARDED)
        assert fake.calls.count(RELOAD) == 2 and fake.calls.count(WRITE) == 8
    assert one[0] == two[0] and all(m < 1e-4 for m, _ in one[0])
    assert len(set(one[1])) == 4 and set(one[2]) == set(two[2]) == {1}

def test_what_fails_for_one_fails_for_all():
    with FakeServer(*policy(), dev=False) as fake:
        one, two = together(ranks, fake.address)
    assert 'VLLM_SERVER_DEV_MODE=1' in one and one == two

@pytest.mark.slow
def test_two_processes_and_a_server_that_is_restarted():
    "Whichever of them it happens to: what is learned from was written by the weights that were sent"
    weak, tokenizer = policy()
    with torch.no_grad(): weak.model.norm.weight.mul_(.5)
    with FakeServer(weak, tokenizer) as fake:
        fake.faults = [(WRITE, 'cut'), (WRITE, 'restart')]
        one, two = together(ranks, fake.address)
        assert not fake.faults and fake.calls.count(RELOAD) >= 3
    assert one[0] == two[0] and len(one[0]) == 2 and all(m < 1e-4 for m, _ in one[0])
