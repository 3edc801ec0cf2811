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
