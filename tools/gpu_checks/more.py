"Where the time of a step goes, other shapes of work, the memory plan, and TRL."
import statistics, tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from . import check, held, need, need_gpu, peak, wait
from .steps import TARGETS, WORKS, Work, beside, new_trainer, size_of, trained

def short(kernel):
    "Its name without what all names have"
    for noise in ('void ', 'at::native::', '(anonymous namespace)::', 'at::cuda::', 'cutlass::'):
        kernel = kernel.replace(noise, '')
    return kernel[:60]

@check('top kernels of a step', order=35, seconds=11)
def kernels(place):
    "The five that take longest, with their share of the time on the card; and how long it is busy"
    from torch.profiler import ProfilerActivity, profile
    trainer = new_trainer(place, size_of(place, Work(8, 8, 256, 64, 32)), steps=2)
    steps = trainer.steps()
    next(steps)
    wait(place)
    where = ProfilerActivity.CUDA if place.cuda else ProfilerActivity.CPU
    with profile(activities=[where]) as seen:
        next(steps)
        wait(place)
    steps.close()
    def microseconds(e): return e.self_device_time_total if place.cuda else e.self_cpu_time_total
    taken = sorted(((microseconds(e), e.count, e.key) for e in seen.key_averages()), reverse=True)
    whole = sum(t for t, _, _ in taken)
    figures = {f'{short(key)} ({count} times)': t/whole for t, count, key in taken[:5]}
    return figures | dict(kernels=sum(n for _, n, _ in taken), busy=whole/1e6/trainer.history[-1]['step_time'])

@contextmanager
def without_flash():
    "As on a card before Ampere: the memory-efficient kernel and the plain one"
    from torch.backends import cuda
    kept = cuda.flash_sdp_enabled()
    cuda.enable_flash_sdp(False)
    try:
        yield
    finally:
        cuda.enable_flash_sdp(kept)

@check('as on a T4: fp16 without flash', order=47, seconds=20)
def t4(place):
    "4 prompts x 8 completions of 256 tokens"
    need_gpu(place)
    with without_flash():
        return trained(place, size_of(place, Work(4, 8, 128, 256, 8)), fp16=True)

@check('as on a T4: fp16 without flash, LoRA', order=47, seconds=20)
def t4_lora(place):
    need_gpu(place)
    with without_flash():
        return trained(place, size_of(place, Work(4, 8, 128, 256, 8)), fp16=True, lora=True)

@check('LoRA, 8 x 8, 256 + 256', order=47, seconds=20)
def lora(place):
    return trained(place, size_of(place, WORKS['8 x 8, 256 + 256']), lora=True)

@check('a prompt of 2048 tokens', order=47, seconds=20)
def long_prompt(place):
    "4 prompts x 8 completions of 128 tokens"
    return trained(place, size_of(place, Work(4, 8, 2048, 128, 32)))

def planned(place, **settings):
    "The plan beside the peak; it must be within a fifth"
    need_gpu(place)
    work = size_of(place, Work(8, 8, 256, 128, 32, '135M'))
    figures = trained(place, work, **settings)
    ratio = figures['planned_gb']/figures['memory_gb']
    said = f'planned {figures["planned_gb"]:.2f} GB, measured {figures["memory_gb"]:.2f}'
    assert place.small or .8 < ratio < 1.25, said
    return dict(planned_gb=figures['planned_gb'], memory_gb=figures['memory_gb'], ratio=ratio)

@check('memory plan: all weights', order=48, seconds=10)
def plan(place): return planned(place)

@check('memory plan: recomputed activations', order=48, seconds=10)
def plan_recomputed(place): return planned(place, gradient_checkpointing=True)

@check('memory plan: off-loaded', order=48, seconds=10)
def plan_offloaded(place): return planned(place, offload_optimizer=True, offload_reference=True)

# --- TRL

def arguments_for(place, work):
    "As `bench/speed.py` has them"
    return SimpleNamespace(**vars(work), micro_batch=work.rows, steps=2, seed=0, cuda=place.cuda, only='trl')

def trl_step(place, work):
    "Medians of the steps after the first"
    from settings import random_model
    from speed import random_prompts, theirs
    held_before, a = held(place), arguments_for(place, work)
    model, tokenizer = random_model(work.model, 0, place.device)
    with tempfile.TemporaryDirectory() as out:
        steps = theirs(a, model, tokenizer, random_prompts(a), Path(out))[1:]
    figures = {k: statistics.median(s[k] for s in steps) for k in steps[0]}
    return figures | (dict(memory_gb=peak(place)-held_before) if place.cuda else {})

@check('step of TRL, 8 x 8, 256 + 256', order=49, seconds=45)
def trl(place):
    "Its trainer with the same arguments"
    need('trl', 'datasets')
    name = '8 x 8, 256 + 256'
    return beside(place, name, trl_step(place, size_of(place, WORKS[name])), TARGETS['generate'])
