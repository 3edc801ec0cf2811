"What must not depend on the device: log-probs, gradients, tokens; replayed steps, and attention of odd lengths."
from contextlib import contextmanager
from . import check, need_gpu

QUESTIONS = ['47+85=?', '123+456=?', '9+1=?', '38+7=?', '500+12=?', '66+77=?', '1+1=?', '90+909=?']

def tiny(device):
    from grpo_lit import load_policy
    return load_policy('tiny', device=device)

def on_both(place, f):
    "The same of both devices, on the CPU"
    if not place.small:
        need_gpu(place)
    return [f(*tiny(d)) for d in ('cpu', place.device)]

def share_alike(a, b):
    "Of tokens in the same place, as far as the CPU has them"
    import torch
    from torch.nn.functional import pad
    T = max(a.completion_ids.shape[1], b.completion_ids.shape[1])
    wide = [pad(o.completion_ids.cpu(), (0, T-o.completion_ids.shape[1])) for o in (a, b)]
    return float((torch.eq(*wide)|(wide[0] == 0)).float().mean())

@check('same as on the CPU: log-probs and gradients', order=10, seconds=3)
def logps_and_gradients(place):
    "Of the tiny policy in float32"
    import torch
    from grpo_lit import sample_groups, token_logps
    cpu, tokenizer = tiny('cpu')
    rollouts = sample_groups(cpu, tokenizer, QUESTIONS, 4, 48, seed=0)
    def measured(model, _):
        logps = token_logps(model, rollouts.to(model.device))
        (logps*torch.linspace(-1, 1, len(logps), device=logps.device)[:,None]).sum().backward()
        return logps.detach().cpu(), torch.cat([p.grad.cpu().flatten() for p in model.parameters()])
    (a, ga), (b, gb) = on_both(place, measured)
    gap, slope = float((a-b).abs().max()), float((ga-gb).norm()/ga.norm())
    assert gap < 1e-3, f'log-probs differ by {gap:.1e}'
    assert slope < 1e-3, f'gradients differ by {slope:.1e} of their length'
    return {'log-probs differ by': gap, 'gradients, relative': slope}

@check('same as on the CPU: tokens', order=10, seconds=3)
def tokens(place):
    "Greedy, and drawn with one seed"
    from grpo_lit import sample_groups
    def drawn(temperature): return on_both(place, lambda model, tokenizer: sample_groups(
        model, tokenizer, QUESTIONS, 4, 48, temperature=temperature, seed=0))
    figures = {name: share_alike(*drawn(t)) for name, t in (('greedy', 0.), ('drawn', 1.))}
    assert min(figures.values()) > .9, f'too few tokens are the same: {figures}'
    return figures

# --- steps that are recorded once and replayed

@contextmanager
def watched(refuse=False):
    "How many steps are recorded, and how often one is replayed; or no recording succeeds"
    import torch
    counts, graph = dict(recorded=0, replayed=0), torch.cuda.CUDAGraph
    begin, replay = graph.capture_begin, graph.replay
    def recorded(self, *a, **k):
        if refuse:
            raise RuntimeError('recording is refused by the check')
        counts['recorded'] += 1
        return begin(self, *a, **k)
    def replayed(self):
        counts['replayed'] += 1
        return replay(self)
    graph.capture_begin, graph.replay = recorded, replayed
    try:
        yield counts
    finally:
        graph.capture_begin, graph.replay = begin, replay

def rollout(model, tokenizer, seed):
    "64 rows that end one after the other"
    from grpo_lit import sample_groups
    return sample_groups(model, tokenizer, QUESTIONS, 8, 64, seed=seed)

@check('graphs against eager', order=11, seconds=3)
def graphs(place):
    "Two rollouts replayed, and the same with every recording refused: the tokens, and how often is recorded"
    need_gpu(place)
    from grpo_lit.tensors import clock
    from .runs import no_warnings
    model, tokenizer = tiny(place.device)
    figures, replayed, seeds = {}, [], (1, 2, 1, 1)
    for n, seed in enumerate(seeds, 1):
        began = clock(place.device)
        with watched() as counts, no_warnings():
            replayed.append(rollout(model, tokenizer, seed))
        seconds = clock(place.device)-began
        figures[f'rollout {n}'] = f'{counts["recorded"]} recorded, {counts["replayed"]} replayed'
    assert counts['replayed'], f'nothing was replayed: {figures}'
    assert not counts['recorded'], f'what was recorded before is recorded again: {figures}'
    other, _ = tiny(place.device)
    with watched(refuse=True):
        eager = [rollout(other, tokenizer, seed) for seed in seeds[:2]]
        began = clock(place.device)
        rollout(other, tokenizer, 1)
    figures['replayed over eager'] = seconds/(clock(place.device)-began)
    again = rollout(model, tokenizer, 1) # the card works on after a recording that failed
    same = [share_alike(a, b) for a, b in zip((*replayed[:2], again), (*eager, eager[0]))]
    assert min(same) > .98, f'too few tokens are the same: {same}'
    return figures | dict(steps=int(again.lengths.max()), same=min(same))

# --- attention whose keys have an odd length

def gradients(model, tokenizer, length, place):
    "Of log-probs behind prompts of so many tokens, in bfloat16"
    import torch
    from grpo_lit import token_logps
    from grpo_lit.core import Rollouts
    word = tokenizer.convert_ids_to_tokens(5)
    texts = [' '.join([word]*n) for n in (length, length//2)]
    answers = [' '.join([word]*n) for n in (3, length//3+1, 9, 2)]
    ro = Rollouts.from_text(tokenizer, texts, answers).to(place.device)
    model.zero_grad()
    with torch.autocast(place.device, torch.bfloat16):
        token_logps(model, ro).sum().backward()
    return sum(p.grad.float().norm()**2 for p in model.parameters() if p.grad is not None)**.5

@check('attention: gradients over odd lengths', order=12, seconds=3)
def odd_lengths(place):
    "cuDNN's kernel gives NaN for some lengths of keys with a mask (pytorch issue 196678); ours must not take it"
    import math
    from settings import random_model
    from .runs import tiny_trainer
    tiny_trainer(place) # construction is where it is switched off
    model, tokenizer = random_model('tiny' if place.small else '17M', 0)
    model.to(place.device)
    lengths = [7, 17] if place.small else [7, 17, 33, 63, 65, 95, 127, 129, 191, 255, 257, 300, 383, 511, 513, 777]
    norms = {n: float(gradients(model, tokenizer, n, place)) for n in lengths}
    bad = [n for n, norm in norms.items() if not math.isfinite(norm)]
    assert not bad, f'gradients are not finite for prompts of {bad} tokens'
    return dict(lengths=len(lengths), largest=max(norms.values()))
