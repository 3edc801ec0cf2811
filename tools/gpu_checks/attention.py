"Attention in two pieces: which kernel is trusted, and what it saves against masks."
import time
from contextlib import contextmanager
from unittest import mock
from . import check, clear, need_gpu, peak, wait

def errors_of(q, key_heads):
    "Kernel -> how far it is from the plain form, or what it said"
    from grpo_lit.fast import kernels
    found = {}
    for kernel in kernels._candidates(q):
        try: found[kernel.name] = kernels._error(kernel, q, key_heads)
        except RuntimeError as e: found[kernel.name] = str(e).splitlines()[0]
    return found

@check('attention in two pieces: kernels', order=10, seconds=5)
def errors(place):
    "Output and gradients against the plain form in float64, as a share of the largest number"
    need_gpu(place)
    import torch
    from grpo_lit.fast.kernels import TOLERANCES
    figures, wrong = {}, {}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for H, Hkv, D in ((14,2,64), (8,8,128), (4,1,80)):
            found = errors_of(torch.empty(1, H, D, dtype=dtype, device='cuda'), Hkv)
            name = f'{str(dtype)[6:]}, {H} heads over {Hkv} of {D}'
            figures |= {f'{kernel}, {name}': error for kernel, error in found.items()}
            bad = {k:e for k, e in found.items() if isinstance(e, str) or not e <= TOLERANCES[dtype]}
            if bad: wrong[name] = bad
    assert not wrong, f'refused: {wrong}'
    return figures

@contextmanager
def masked():
    "Attention with masks, as without these kernels"
    with mock.patch('grpo_lit.fast.prefix.best_kernel', lambda *a: None): yield

def rollouts(P, G, T, C, V, device):
    "Random tokens; completions of a quarter of C to C"
    import torch
    from grpo_lit.core import Rollouts
    g = torch.Generator().manual_seed(0)
    draw = lambda *n: torch.randint(V-1, n, generator=g)
    written = torch.randint(C//4, C+1, (P*G,1), generator=g)
    counts, finished = (torch.arange(C) < written).long(), torch.ones(P*G, dtype=torch.bool)
    return Rollouts(draw(P,T), torch.ones(P,T,dtype=torch.long), draw(P*G,C), counts, None, G, finished).to(device)

def cost(place, model, batch, half):
    "ms of forward and backward, peak GB, and log-probs"
    import torch
    from grpo_lit import token_logps
    def once():
        model.zero_grad(set_to_none=True)
        with torch.autocast(place.device, half): logps = token_logps(model, batch)
        logps.sum().backward()
        return logps.detach()
    logps = once()
    clear(place)
    wait(place)
    begin = time.perf_counter()
    for _ in range(3): once()
    wait(place)
    return (time.perf_counter()-begin)/3*1e3, peak(place), logps

@check('attention in two pieces: against masks', order=15, seconds=15)
def against_masks(place):
    "Log-probs and gradients of 4 prompts x 8 completions, 256 + 512 and 2048 + 128, 0.5B"
    if not place.small: need_gpu(place)
    import torch
    from settings import random_model
    model, _ = random_model('tiny' if place.small else '0.5B', 0, place.device)
    half = torch.bfloat16 if not place.cuda or torch.cuda.is_bf16_supported(False) else torch.float16
    figures = {}
    for T, C in ((160,8),) if place.small else ((256,512), (2048,128)):
        batch = rollouts(2 if place.small else 4, 8, T, C, model.config.vocab_size, place.device)
        ours = cost(place, model, batch, half)
        with masked(): theirs = cost(place, model, batch, half)
        gap = float((ours[2]-theirs[2]).abs().max())
        name = f'{T} + {C}: '
        figures |= {name+'ms': ours[0], name+'ms with masks': theirs[0], name+'log-probs differ by': gap}
        if place.cuda: figures |= {name+'GB': ours[1], name+'GB with masks': theirs[1]}
        assert gap < .5, f'log-probs differ by {gap:.2g}'
    return figures
