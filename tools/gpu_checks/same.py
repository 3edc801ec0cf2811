"What must not depend on the device: log-probs, gradients, tokens; replayed steps, and attention of odd lengths."
from contextlib import contextmanager
from . import check, need_gpu

QUESTIONS = ['47+85=?', '123+456=?', '9+1=?', '38+7=?', '500+12=?', '66+77=?', '1+1=?', '90+909=?']

def tiny(device):
    from grpo_lit import load_policy
    return load_policy('tiny', device=device)

def on_both(place, f):
    "The same of both devices, on the CPU"
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
def counted():
    "How many graphs are recorded, and how often one is replayed"
    import torch
    counts, graph = dict(recorded=0, replayed=0), torch.cuda.CUDAGraph
    begin, replay = graph.capture_begin, graph.replay
    def recorded(self, *a, **k):
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

def rows_leave(place, static):
    "Logits of 150 steps; some rows leave on the way, others come"
    import torch
    from grpo_lit.fast.decoding import Decoding
    from grpo_lit.fast.sharing import share_prefix
    model, _ = tiny(place.device)
    assert share_prefix(model), 'sharing is refused'
    g, state = torch.Generator().manual_seed(0), Decoding(model, 200, static=static)
    seen = [state.enter([[5, 6, 7], [8]*9, [4]*50], 4)]
    for t in range(150):
        if t == 20:
            state.leave(torch.tensor([0, 2, 3, 5, 9], device=model.device))
        if t == 90:
            state.leave(torch.tensor([0, 1], device=model.device))
        rows = len(state.seats.ages)
        seen.append(state.step(torch.randint(4, 30, (rows,), generator=g).to(model.device)).clone())
    return torch.cat(seen)

@check('graphs against eager', order=11, seconds=6)
def graphs(place):
    "The same logits, whether a step is replayed or not"
    need_gpu(place)
    from .runs import no_warnings
    with counted() as counts, no_warnings():
        a = rows_leave(place, True)
    b = rows_leave(place, False)
    gap = float((a-b).abs().max())
    assert gap < 1e-2, f'logits differ by {gap:.1e}'
    assert counts['replayed'], 'nothing was replayed'
    return dict(counts, steps=150) | {'logits differ by': gap}

@check('graphs of a whole rollout', order=11, seconds=6)
def rollout_graphs(place):
    "How often a rollout of 64 rows records anew, the second time too"
    need_gpu(place)
    from grpo_lit import sample_groups
    model, tokenizer = tiny(place.device)
    figures = {}
    for nth in ('first', 'second'):
        with counted() as counts:
            ro = sample_groups(model, tokenizer, QUESTIONS, 8, 64, seed=1)
        figures |= {f'{nth} rollout {k}': v for k, v in counts.items()}
    return figures | dict(steps=int(ro.lengths.max()))

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

@check('attention: gradients over odd lengths', order=12, seconds=8)
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
