"What a step takes: ours, and what others take for the same work, in the same process on the same card."
import copy, statistics, time
from dataclasses import dataclass, replace
from . import Skipped, check, held, need, need_gpu, peak, wait

@dataclass
class Work:
    "One step: prompts, completions of each, their tokens, and completions in a micro-batch"
    prompts:int
    group:int
    prompt_tokens:int
    completion_tokens:int
    rows:int
    model:str = '0.5B'

    @property
    def completions(self): return self.prompts*self.group

WORKS = {
    '8 x 8, 256 + 256': Work(8, 8, 256, 256, 16),
    '32 x 16, 256 + 512': Work(32, 16, 256, 512, 16)}
TARGETS = dict(generate=.2, continuous=.5, memory=.5, decode=.5, update=.4)
TINY = Work(2, 4, 16, 8, 4, 'tiny')

def size_of(place, work):
    "The work, or a tiny one to try the checks"
    return TINY if place.small else work

def prompts_of(work, times=1):
    "Texts of random words, so many prompts for each of so many steps"
    import torch
    from settings import SHAPES
    g = torch.Generator().manual_seed(0)
    shape = (work.prompts*times, work.prompt_tokens)
    ids = torch.randint(2, SHAPES[work.model]['vocab_size']-1, shape, generator=g)
    return [dict(prompt=' '.join(f't{i}' for i in row)) for row in ids.tolist()]

def reward(prompts, completions, completion_ids, **kw):
    "Some of each value, and no work"
    return [float(sum(ids)%7) for ids in completion_ids]

# --- ours

def new_trainer(place, work, steps=3, lora=False, **settings):
    "A trainer for this work on a model with random weights of a real shape"
    from grpo_lit import GRPOConfig, GRPOTrainer
    from settings import random_model
    model, tokenizer = random_model(work.model, 0, place.device)
    size = dict(num_generations=work.group, per_device_train_batch_size=work.rows, max_steps=steps,
                gradient_accumulation_steps=work.completions//work.rows, max_completion_length=work.completion_tokens)
    quiet = dict(disable_tqdm=True, log_completions=False, report_to='none', gold_check=0, save_minutes=0, seed=0)
    args = GRPOConfig(**size, **quiet, learning_rate=1e-6, use_cpu=not place.cuda, **settings)
    adapter = None
    if lora:
        need('peft')
        from peft import LoraConfig
        adapter = LoraConfig(r=16, lora_alpha=32, target_modules='all-linear', task_type='CAUSAL_LM')
    return GRPOTrainer(model, reward, args, prompts_of(work, steps), processing_class=tokenizer, peft_config=adapter)

def trained(place, work, **how):
    "Seconds and peak of the steps after the first, which warms up; floors, and the memory plan"
    from grpo_lit.run.memory import memory_plan
    before = held(place)
    trainer = new_trainer(place, work, **how)
    plan = memory_plan(trainer.model, trainer.args, work.prompt_tokens).total/2**30
    trainer.train()
    most = peak(place)-before
    later = trainer.history[1:]
    assert all(m['completions/mean_length'] == work.completion_tokens for m in later), 'a completion ended early'
    def median(key): return statistics.median(m[key] for m in later)
    phases = {k: median(f'time/{k}') for k in ('sample', 'reference', 'update') if f'time/{k}' in later[0]}
    figures = dict(step=median('step_time')) | phases
    figures['tokens/s'] = work.completions*work.completion_tokens/figures['step']
    figures |= {'decode of floor': median('floor/sample'), 'update MFU': median('floor/update')}
    figures |= dict(first_step=trainer.history[0]['step_time'], mismatch=later[-1].get('mismatch', 0.))
    if place.cuda:
        figures |= dict(memory_gb=most, planned_gb=plan)
    return figures

def with_targets(figures):
    "Beside the figures, what was aimed at"
    aims = {'decode of floor': TARGETS['decode'], 'update MFU': TARGETS['update']}
    missed = [f'{k} {figures[k]:.2g} < {aim}' for k, aim in aims.items() if figures[k] < aim]
    return figures | dict(targets='; '.join(missed) or 'reached')

# --- plain: `generate`, every row by itself, all logits of a micro-batch

def half(place):
    "The 16 bits that the card has"
    import torch
    has = not place.cuda or torch.cuda.get_device_capability() >= (8, 0)
    return torch.bfloat16 if has else torch.float16

def sampled_by(model, work, how):
    "Prompts and completions, (B, Tp+Tc), by `how` of transformers"
    import torch
    from transformers import GenerationConfig
    from settings import SHAPES, word_tokenizer
    last = SHAPES[work.model]['vocab_size']-1
    tokenizer = word_tokenizer(last+1)
    ids = [tokenizer(r['prompt']).input_ids for r in prompts_of(work) for _ in range(work.group)]
    tokens = dict(max_new_tokens=work.completion_tokens, eos_token_id=last, pad_token_id=0)
    asked = GenerationConfig(do_sample=True, top_k=0, **tokens)
    if how == 'generate':
        rows = torch.tensor(ids, device=model.device)
        return model.generate(rows, attention_mask=torch.ones_like(rows), generation_config=asked)
    answers = model.generate_batch(ids, generation_config=asked)
    rows = [p+a.generated_tokens for p, a in zip(ids, answers.values())] # which is whose does not matter here
    return torch.tensor(rows, device=model.device)

def plain_logps(model, ids, T):
    "Log-probs of the last T tokens, from their logits"
    import torch
    logits = model(ids, logits_to_keep=T+1, use_cache=False).logits[:, :-1].float()
    chosen = logits.gather(-1, ids[:, -T:, None])[..., 0]
    return chosen-torch.logsumexp(logits, -1)

def plain_update(place, model, reference, optimizer, ids, work):
    "Seconds of reference and update, in micro-batches of as many rows as ours"
    import torch
    T, parts = work.completion_tokens, ids.split(work.rows)
    advantages = torch.linspace(-1, 1, len(ids), device=ids.device)[:, None].split(work.rows)
    def autocast(): return torch.autocast(place.device, half(place))
    wait(place)
    began = time.perf_counter()
    with torch.no_grad(), autocast():
        known = [plain_logps(reference, part, T) for part in parts]
    wait(place)
    between = time.perf_counter()
    for part, ref, a in zip(parts, known, advantages):
        with autocast():
            logps = plain_logps(model, part, T)
        gap = ref-logps
        loss = -(logps-logps.detach()).exp()*a+.04*(gap.exp()-gap-1)
        (loss.mean()*len(part)/len(ids)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
    optimizer.step()
    optimizer.zero_grad()
    wait(place)
    return dict(reference=between-began, update=time.perf_counter()-between)

def plain_step(place, work):
    "Seconds of the phases of a plain step, once, after a short one that warms up"
    import torch
    from settings import random_model
    before = held(place)
    model, _ = random_model(work.model, 0, place.device)
    reference = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    sampler = copy.deepcopy(reference).to(half(place)).eval()
    seconds = {}
    for w in (replace(work, prompts=1, completion_tokens=8), work):
        wait(place)
        began = time.perf_counter()
        ids = sampled_by(sampler, w, 'generate')
        wait(place)
        seconds = dict(sample=time.perf_counter()-began) | plain_update(place, model, reference, optimizer, ids, w)
        assert ids.shape == (w.completions, w.prompt_tokens+w.completion_tokens), f'generate wrote {tuple(ids.shape)}'
    memory = dict(memory_gb=peak(place)-before) if place.cuda else {}
    return dict(step=sum(seconds.values())) | seconds | memory

# --- beside each other

def before(place, name):
    "Figures of a check that was made before, if it went well"
    result = place.found.get(name, {})
    return result['figures'] if result.get('state') == 'ok' else {}

def beside(place, name, theirs, target):
    "Their figures, and ours over theirs where ours are known"
    ours = before(place, f'step of ours, {name}')
    if 'step' in ours and 'step' in theirs:
        theirs |= {'ours/theirs': ours['step']/theirs['step'], 'target': target}
    if 'memory_gb' in ours and 'memory_gb' in theirs:
        theirs |= {'memory ours/theirs': ours['memory_gb']/theirs['memory_gb'], 'memory target': TARGETS['memory']}
    return theirs

def continuous(place, name, work):
    "The sampling of a plain step by continuous batching; the other phases as they were"
    need_gpu(place)
    from settings import random_model
    plain = before(place, f'step with generate, {name}')
    model, _ = random_model(work.model, 0, place.device)
    model = model.to(half(place)).eval()
    if not hasattr(model, 'generate_batch'):
        raise Skipped('this version of transformers has no continuous batching')
    wait(place)
    began = time.perf_counter()
    ids = sampled_by(model, work, 'generate_batch')
    wait(place)
    sample = time.perf_counter()-began
    assert ids.shape == (work.completions, work.prompt_tokens+work.completion_tokens), f'it wrote {tuple(ids.shape)}'
    known = dict(step=sample+plain['reference']+plain['update']) if plain else {}
    return known | dict(sample=sample)

def room_for(place, work):
    "Skip work that is too large for the card"
    import torch
    if place.cuda and work.completions > 64 and torch.cuda.get_device_properties(0).total_memory < 60*2**30:
        raise Skipped('needs a card of 80 GB')

def register(name, orders, seconds):
    "The checks of one size"
    work = WORKS[name]

    @check(f'step of ours, {name}', orders[0], seconds[0])
    def ours(place):
        room_for(place, work)
        return with_targets(trained(place, size_of(place, work), steps=3 if work.completions < 100 else 2))

    @check(f'step with generate, {name}', orders[1], seconds[1])
    def generate(place):
        room_for(place, work)
        return beside(place, name, plain_step(place, size_of(place, work)), TARGETS['generate'])

    @check(f'step with continuous batching, {name}', orders[2], seconds[2])
    def batching(place):
        room_for(place, work)
        return beside(place, name, continuous(place, name, size_of(place, work)), TARGETS['continuous'])

register('32 x 16, 256 + 512', orders=(30, 31, 45), seconds=(25, 25, 30))
register('8 x 8, 256 + 256', orders=(32, 34, 46), seconds=(10, 12, 20))
