"""A kernel from elsewhere fails or lies: it is left out with one word, and the numbers are ours."""
import warnings
import pytest, torch
from grpo_lit.fast import tiles
from grpo_lit.fast.tiles import COLUMNS, head_logps

@pytest.fixture(autouse=True)
def untried(monkeypatch):
    monkeypatch.setattr(tiles, '_trials', tiles.Trials("TRL's kernel for log-probs", 'tiles of torch do it'))

def call(dtype=torch.float32, V=70, entropy=True, bias=True, **how):
    "Results and gradients of a call, and what was warned of"
    g = torch.Generator().manual_seed(1)
    h, W, b = (torch.randn(*s, generator=g).to(dtype).requires_grad_() for s in ((9, 16), (V, 16), (V,)))
    ids = torch.randint(V, (9,), generator=g)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        logps, H = head_logps(h, W, b if bias else None, ids, return_entropy=entropy, **how)
        grads = torch.autograd.grad(logps.sum()+(H.sum() if entropy else 0), [h, W]+[b]*bias)
    return [logps.detach(), *grads], [str(w.message) for w in said]

def pretend(monkeypatch, kernel): monkeypatch.setattr(tiles, 'kernel_of_trl', lambda device: kernel)

class OutOfResources(Exception): "As Triton has it, which is no `RuntimeError`"

def raises(error):
    def kernel(*args): raise error
    return kernel

def on_the_way_back(error):
    class Late(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x): return x.clone()
        @staticmethod
        def backward(ctx, g): raise error
    def kernel(*args):
        logps, H = tiles._ours(*args)
        return Late.apply(logps), H
    return kernel

def changed(f):
    def kernel(*args): return f(*tiles._ours(*args))
    return kernel

class Scaled(torch.autograd.Function):
    "Right on the way there, wrong on the way back"
    @staticmethod
    def forward(ctx, x): return x.clone()
    @staticmethod
    def backward(ctx, g): return g*1.2

WRONG = dict(
    shared_memory=raises(OutOfResources('out of resource: shared memory, Required: 131072, Hardware limit: 65536')),
    compiler=raises(RuntimeError('Internal Triton PTX codegen error: ptxas fatal')),
    other_signature=lambda hidden, weight: None,
    no_symbol=raises(AttributeError("module 'triton' has no attribute 'jit'")),
    late=on_the_way_back(OutOfResources('out of resource: shared memory')),
    shifted=changed(lambda logps, H: (logps+.3, H)),
    nan=changed(lambda logps, H: (logps*float('nan'), H)),
    entropy=changed(lambda logps, H: (logps, H if H is None else H*1.5)),
    wrong_slope=changed(lambda logps, H: (Scaled.apply(logps), H)),
    fewer=changed(lambda logps, H: (logps[:-1], H)))

@pytest.mark.parametrize('name', WRONG)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_kernel_that_fails_or_lies(monkeypatch, name, dtype):
    plain, _ = call(dtype)
    tried = []
    pretend(monkeypatch, lambda *args: (tried.append(1), WRONG[name](*args))[1])
    found, said = call(dtype)
    assert all(torch.equal(a, b) for a, b in zip(plain, found))
    assert len(said) == 1 and "TRL's kernel for log-probs is not used on cpu" in said[0] and len(tried) == 1
    for how in (dict(), dict(entropy=False), dict(bias=False), dict(softcap=3.)): # for good, whatever the call
        _, said = call(dtype, **how)
        assert not said and len(tried) == 1

@pytest.mark.parametrize('how', [dict(), dict(dtype=torch.bfloat16), dict(softcap=5., scale=.5, temperature=.7), dict(V=COLUMNS+50, bias=False)])
def test_a_good_kernel_is_used_and_tried_once(monkeypatch, how):
    from trl.kernels import ChunkedLogProbFunction
    plain, _ = call(**how)
    sizes = []
    def kernel(h, *args):
        sizes.append(len(h))
        return ChunkedLogProbFunction.apply(h, *args)
    pretend(monkeypatch, kernel)
    for _ in range(3):
        found, said = call(**how)
        assert not said
        for a, b in zip(plain, found): assert (a-b).abs().max() <= (.05 if how.get('dtype') else 1e-4)*b.abs().max()
    assert sizes == [40, 9, 9, 9]

def test_under_autocast_it_is_another_call(monkeypatch):
    sizes = []
    def kernel(h, *args):
        sizes.append(len(h))
        return tiles._ours(h, *args)
    pretend(monkeypatch, kernel)
    call()
    with torch.autocast('cpu', torch.bfloat16): call()
    call()
    assert sizes == [40, 9]*2+[9]

def test_a_shortage_is_no_fault_of_the_kernel(monkeypatch):
    left = [torch.OutOfMemoryError('CUDA out of memory')]
    def kernel(*args):
        if left: raise left.pop()
        return tiles._ours(*args)
    pretend(monkeypatch, kernel)
    with pytest.raises(torch.OutOfMemoryError): call()
    _, said = call()
    assert not said and not tiles._trials.out
