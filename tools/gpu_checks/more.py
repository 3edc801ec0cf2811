"Where the time of a step goes, other shapes of work, the memory plan, and TRL."
import tempfile
from contextlib import contextmanager
from pathlib import Path
from . import check, clear, need, need_gpu, wait
from .steps import TARGETS, WORKS, Work, beside, before, new_trainer, size_of, trained

@check('top kernels of a step', order=36, seconds=20)
def kernels(place):
    "The five that take longest, of sampling and of the update: share of the time on the card"
    need_gpu(place)
    from torch.profiler import ProfilerActivity, profile
    trainer = new_trainer(place, size_of(place, Work(8, 8, 256, 64, 32)), steps=2)
    steps = trainer.steps()
    next(steps)
    wait(place)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        next(steps)
        wait(place)
    steps.close()
    taken = sorted(((e.self_device_time_total, e.count, e.key) for e in seen.key_averages()), reverse=True)
    whole = sum(t for t, _, _ in taken)
    figures = {f'{key[:50]} ({count} times)': t/whole for t, count, key in taken[:5]}
    busy = whole/1e6/trainer.history[-1]['step_time']
    return figures | {'kernels': sum(n for _, n, _ in taken), 'card busy': busy}

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

@check('as on a T4: fp16 without flash', order=37, seconds=20)
def t4(place):
    "4 prompts x 8 completions of 256 tokens"
    need_gpu(place)
    with without_flash():
        return trained(place, size_of(place, Work(4, 8, 128, 256, 8)), fp16=True)

@check('as on a T4: fp16 without flash, LoRA', order=37, seconds=20)
def t4_lora(place):
    need_gpu(place)
    with without_flash():
        return trained(place, size_of(place, Work(4, 8, 128, 256, 8)), fp16=True, lora=True)

@check('LoRA, 8 x 8, 256 + 256', order=37, seconds=20)
def lora(place):
    return trained(place, size_of(place, WORKS['8 x 8, 256 + 256']), lora=True)

@check('a prompt of 2048 tokens', order=37, seconds=20)
def long_prompt(place):
    "4 prompts x 8 completions of 128 tokens"
    return trained(place, size_of(place, Work(4, 8, 2048, 128, 32)))

def planned(place, **settings):
    "The plan beside the peak; it must be within a fifth"
    need_gpu(place)
    work = size_of(place, Work(8, 8, 256, 128, 32, '135M'))
    figures = trained(place, work, **settings)
    ratio = figures['planned_gb']/figures['memory_gb']
    assert place.small or .8 < ratio < 1.25, f'planned {figures["planned_gb"]:.2f} GB, measured {figures["memory_gb"]:.2f}'
    return dict(planned_gb=figures['planned_gb'], memory_gb=figures['memory_gb'], ratio=ratio)

@check('memory plan: all weights', order=38, seconds=10)
def plan(place): return planned(place)

@check('memory plan: recomputed activations', order=38, seconds=10)
def plan_recomputed(place): return planned(place, gradient_checkpointing=True)

@check('memory plan: off-loaded', order=38, seconds=10)
def plan_offloaded(place): return planned(place, offload_optimizer=True, offload_reference=True)

# --- TRL

@check('step of TRL, 8 x 8, 256 + 256', order=39, seconds=40)
def trl(place):
    "Its trainer with the same arguments"
    need('trl', 'datasets')
    from bench_speed import theirs_here
    name = '8 x 8, 256 + 256'
    before(place, f'step of ours, {name}')
    return beside(place, name, theirs_here(place, size_of(place, WORKS[name])), 1.)
