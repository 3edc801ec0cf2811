"""A GPU that is not there: tensors that compute on the CPU, say that they are on a device `gpu:0`, refuse what CUDA refuses, and count

`pretended_gpu()` is a block in which that device exists. It yields a `Ledger` of what would cost time on a real one: kernels, waits of
Python for the device, and copies to it, each by name and by the line of the package that asked. Behind the block everything is as it was,
but for the name of the device, which a process keeps.
"""
import contextlib, functools, sys, threading
from collections import Counter
from unittest.mock import patch
import torch
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = 'gpu'
aten = torch.ops.aten


# What is counted ----------------------------------------------------------------------------------------------------

def line_of_package():
    "File and number of the innermost line of the package that is at work"
    frame = sys._getframe(1)
    while frame is not None and '/grpo_lit/' not in frame.f_code.co_filename: frame = frame.f_back
    return f'{frame.f_code.co_filename.split("/grpo_lit/")[-1]}:{frame.f_lineno}' if frame else ''


class Account:
    "Counts of a part of a run"
    def __init__(self): self.kernels, self.waits, self.uploads, self.times = Counter(), Counter(), Counter(), 0

    def __repr__(self):
        lines = [f'{self.times} times: {self.kernels.total()} kernels, {self.waits.total()} waits, {self.uploads.total()} uploads']
        for kind in ('waits', 'uploads'):
            lines += [f'  {kind} {n}: {" ".join(key)}' for key, n in getattr(self, kind).most_common(12)]
        return '\n'.join(lines+[f'  kernels {self.kernels.most_common(20)}'])

    def each(self, kind:str) -> float:
        "So many on average"
        return getattr(self, kind).total()/max(self.times, 1)


class Ledger:
    "Accounts of the parts of a run; what is done within several belongs to each"
    def __init__(self): self.accounts, self.open = {}, []

    def __getitem__(self, part) -> Account: return self.accounts.setdefault(part, Account())

    def note(self, kind, name):
        key = name if kind == 'kernels' else (name, line_of_package()) if self.open else None
        for account in self.open: getattr(account, kind)[key] += 1

    @contextlib.contextmanager
    def part(self, name):
        account = self[name]
        account.times += 1
        self.open.append(account)
        try: yield account
        finally: self.open.remove(account)

    def around(self, name, f):
        "The same function, with an account"
        @functools.wraps(f)
        def counted(*args, **kwargs):
            with self.part(name): return f(*args, **kwargs)
        return counted


LEDGER = Ledger() # Of the block that is open


# Tensors ------------------------------------------------------------------------------------------------------------

class GpuTensor(torch.Tensor):
    "A tensor that says it is on the pretended device; `inner` is what it is made of"
    @staticmethod
    def __new__(cls, inner, requires_grad=False):
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=torch.device(NAME, 0), requires_grad=requires_grad)
        made.inner = inner
        return made

    def __repr__(self): return f'GpuTensor({self.inner})'

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None): return execute(op, args, kwargs or {})

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copied = GpuTensor(self.inner.detach().clone())
            if isinstance(self, torch.nn.Parameter): copied = torch.nn.Parameter(copied, self.requires_grad)
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol): return self.inner.detach().__reduce_ex__(protocol) # a file is read on any machine

    def tolist(self):
        LEDGER.note('waits', 'tolist')
        return self.inner.tolist()

    def numpy(self, **options): raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy: use Tensor.cpu() first")
    def __array__(self, *options): return self.numpy()
    def data_ptr(self): return self.inner.data_ptr()
    def untyped_storage(self): return self.inner.untyped_storage()

    @property
    def data(self): return self.detach()

    @data.setter
    def data(self, value):
        if not isinstance(value, GpuTensor): raise RuntimeError('a pretended tensor cannot move in place: see `lent_anew`')
        torch._C.TensorBase.data.__set__(self, value)
        self.inner = value.inner


def is_gpu(x): return isinstance(x, GpuTensor)
def inner(x): return x.inner if is_gpu(x) else x


# Rules --------------------------------------------------------------------------------------------------------------

INDEXING = {'index', 'index_put', 'index_put_', '_index_put_impl_', '_unsafe_index', '_unsafe_index_put'}
COPIES = {'copy_', '_to_copy', 'copy', '_copy_from', 'set_data'}
STRICT = {'index_select', 'gather', 'scatter', 'scatter_', 'scatter_add', 'embedding', 'mm', 'bmm', 'addmm', 'baddbmm', 'cat', 'stack',
          'searchsorted', 'isin', 'masked_scatter'} # also of a number on the CPU
WAITS = {'_local_scalar_dense', 'item', 'nonzero', 'masked_select', 'is_nonzero', 'equal', '_unique', '_unique2', 'unique_dim',
         'unique_consecutive', 'bincount'}
NO_KERNEL = {'_unsafe_view', '_reshape_alias', 'empty', 'empty_like', 'empty_strided', 'new_empty', 'new_empty_strided', 'lift_fresh',
             'is_same_size', '_has_compatible_shallow_copy_type', 'resize_', 'set_', '_local_scalar_dense'}


def name_of(op): return op._schema.name.split('::')[1]


class MixedDevices(RuntimeError):
    "Tensors of two devices in one operation"


def check_devices(name, args, tensors):
    "Raise `MixedDevices` for what CUDA refuses"
    here = [t for t in tensors if not is_gpu(t)]
    if not here or len(here) == len(tensors): return
    if name in COPIES: return
    if name in INDEXING: allowed = is_gpu(args[0]) and (len(args) < 3 or is_gpu(args[2]) or args[2].ndim == 0)
    else: allowed = name not in STRICT and all(t.ndim == 0 for t in here)
    if allowed: return
    shown = ', '.join(f'{"gpu" if is_gpu(t) else "cpu"}{list(t.shape)}' for t in tensors)
    raise MixedDevices(f'{name}({shown}) at {line_of_package()}')


def why_wait(name, args, kwargs):
    "Why Python waits for the device here; None: it does not"
    device = kwargs.get('device')
    if name in WAITS: return name
    if name == 'repeat_interleave' and kwargs.get('output_size') is None: return 'repeat_interleave of a tensor'
    if name == '_to_copy' and device is not None and torch.device(device).type == 'cpu':
        return None if kwargs.get('non_blocking') else 'copy to the CPU'
    if name == 'copy_' and not is_gpu(args[0]):
        return None if (args[2:] and args[2]) or kwargs.get('non_blocking') else 'copy to the CPU'
    if name not in INDEXING: return None
    at = [i for i in args[1] if i is not None]
    if any(not is_gpu(i) for i in at): return 'index on the CPU'
    filling = 'put' in name and not args[2].ndim # a masked fill
    if any(i.dtype in (torch.bool, torch.uint8) for i in at) and not filling: return 'index by a mask'


def is_upload(name, args, kwargs):
    "Is something copied to the device?"
    if name == '_to_copy': return not is_gpu(args[0])
    return name == 'copy_' and is_gpu(args[0]) and not is_gpu(args[1])


def is_view(op):
    "Does it give another look at memory that is there?"
    return any(r.alias_info is not None and not r.alias_info.is_write for r in op._schema.returns)


def execute(op, args, kwargs):
    "An operation on the pretended device: checked, counted and computed on the CPU"
    name = name_of(op)
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    device = kwargs.get('device')
    home = device is not None and torch.device(device).type
    there = any(map(is_gpu, tensors))
    if not there and home != NAME: return op(*args, **kwargs)
    check_devices(name, args, tensors)
    if there and (why := why_wait(name, args, kwargs)): LEDGER.note('waits', why)
    if (home == NAME or there) and is_upload(name, args, kwargs): LEDGER.note('uploads', name)
    elif name not in NO_KERNEL and not is_view(op) and home != 'cpu': LEDGER.note('kernels', name)
    options = dict(kwargs)
    if home == NAME: options['device'] = 'cpu'
    if options.get('pin_memory'): options['pin_memory'] = False
    found = op(*tree_map(inner, args), **tree_map(inner, options))
    known = {id(t.inner): t for t in tensors if is_gpu(t)}
    for t in tensors: known.setdefault(id(t), t)
    def wrapped(x):
        if not isinstance(x, torch.Tensor): return x
        if id(x) in known: return known[id(x)]
        return x if home == 'cpu' else GpuTensor(x)
    return tree_map(wrapped, found)


class Operations(TorchDispatchMode):
    "Also operations whose arguments do not show where their result is to be"
    def __torch_dispatch__(self, op, types, args=(), kwargs=None): return execute(op, args, kwargs or {})


# Autocast -----------------------------------------------------------------------------------------------------------

IN_HALF = {'linear', 'matmul', '__matmul__', '__rmatmul__', 'mm', 'bmm', 'addmm', 'baddbmm', 'einsum', 'scaled_dot_product_attention'}
IN_FLOAT = {'exp', 'log', 'log1p', 'expm1', 'pow', '__pow__', '__rpow__', 'rsqrt', 'reciprocal', 'softmax', 'log_softmax', 'cumsum',
            'cumprod', 'norm', 'prod', 'sum', 'logsumexp', 'layer_norm', 'cross_entropy', 'nll_loss'}


class Precision(threading.local):
    enabled, dtype = False, torch.float16

PRECISION = Precision()
_autocast, _is_enabled, _dtype = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype


class Autocast(TorchFunctionMode):
    "What autocast does to functions, above autograd: their arguments are converted first"
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, '__name__', '')
        if PRECISION.enabled and name in IN_HALF | IN_FLOAT:
            dtype = PRECISION.dtype if name in IN_HALF else torch.float32
            def cast(x):
                lower = is_gpu(x) and x.is_floating_point() and x.dtype not in (torch.float64, dtype)
                return x.to(dtype) if lower and (name in IN_HALF or 'dtype' not in kwargs) else x
            args, kwargs = tree_map(cast, args), tree_map(cast, kwargs)
        return func(*args, **kwargs)


class autocast_there(_autocast):
    "`torch.autocast`, which knows the pretended device as well"
    def __new__(cls, device_type, *args, **kwargs):
        return precision_there(*args, **kwargs) if device_type == NAME else _autocast(device_type, *args, **kwargs)


@contextlib.contextmanager
def precision_there(dtype=None, enabled=True, cache_enabled=None):
    before = PRECISION.enabled, PRECISION.dtype
    PRECISION.enabled, PRECISION.dtype = enabled, dtype or PRECISION.dtype
    try: yield
    finally: PRECISION.enabled, PRECISION.dtype = before


def is_enabled_there(device_type=NAME): return PRECISION.enabled if device_type == NAME else _is_enabled(device_type)
def dtype_there(device_type): return PRECISION.dtype if device_type == NAME else _dtype(device_type)


# What Python asks ---------------------------------------------------------------------------------------------------

_attention = torch.nn.functional.scaled_dot_product_attention

class OneKernel(torch.autograd.Function):
    "Attention is one kernel there, and one on the way back"
    @staticmethod
    def forward(ctx, q, k, v, mask, options):
        LEDGER.note('kernels', 'attention')
        with torch.enable_grad():
            ctx.inputs = [x.inner.detach().requires_grad_() for x in (q, k, v)]
            ctx.output = _attention(*ctx.inputs, attn_mask=inner(mask), **options)
        return GpuTensor(ctx.output.detach())

    @staticmethod
    def backward(ctx, g):
        LEDGER.note('kernels', 'attention backward')
        return *(GpuTensor(x) for x in torch.autograd.grad(ctx.output, ctx.inputs, inner(g))), None, None


def attention_there(query, key, value, attn_mask=None, dropout_p=0., is_causal=False, scale=None, enable_gqa=False):
    options = dict(is_causal=is_causal, scale=scale, enable_gqa=enable_gqa)
    given = [x for x in (query, key, value, attn_mask) if x is not None]
    if not any(map(is_gpu, given)): return _attention(query, key, value, attn_mask, dropout_p, **options)
    check_devices('attention', given, given)
    if PRECISION.enabled: query, key, value = (x.to(PRECISION.dtype) for x in (query, key, value))
    return OneKernel.apply(query, key, value, attn_mask, options)


_tensor, _as_tensor, _new_tensor = torch.tensor, torch.as_tensor, torch.Tensor.new_tensor

def is_there(device): return device is not None and torch.device(device).type == NAME

def tensor_there(data, *, device=None, **options):
    if not is_there(device): return _tensor(data, device=device, **options)
    return _tensor(data, **options).to(device)

def as_tensor_there(data, dtype=None, device=None):
    if not is_there(device): return _as_tensor(data, dtype=dtype, device=device)
    return _as_tensor(data, dtype=dtype).to(device)

def new_tensor_there(self, data, dtype=None, device=None, **options):
    if not is_gpu(self) and not is_there(device): return _new_tensor(self, data, dtype=dtype, device=device, **options)
    return _tensor(data, dtype=dtype or self.dtype, **options).to(device or self.device)


@contextlib.contextmanager
def lent_anew(model, device):
    "`policy.lent`: a pretended tensor cannot change its device in place, so modules get other parameters for a while"
    homes = [(m, dict(m._parameters), dict(m._buffers)) for m in model.modules()]
    try:
        yield model.to(device)
    finally:
        for m, parameters, buffers in homes:
            m._parameters.update(parameters)
            m._buffers.update(buffers)


_run = threading.Thread.run

def run_there(thread):
    with Operations(), Autocast(): _run(thread)


class Hook(backend_registration._DummyPrivateUse1Hook):
    "The device is there within the block only"
    def is_available(self): return HERE.open


class Presence:
    open = registered = False

HERE = Presence()


def register():
    "Give the device its name, once in a process"
    if not HERE.registered: backend_registration._setup_privateuseone_for_python_backend(NAME, hook=Hook())
    HERE.registered = True


@contextlib.contextmanager
def pretended_gpu():
    "A block in which the device is there; yields the `Ledger`"
    register()
    LEDGER.__init__()
    changes = [(torch, 'autocast', autocast_there), (torch.amp, 'autocast', autocast_there),
               (torch, 'is_autocast_enabled', is_enabled_there), (torch, 'get_autocast_dtype', dtype_there),
               (torch, 'tensor', tensor_there), (torch, 'as_tensor', as_tensor_there), (torch.Tensor, 'new_tensor', new_tensor_there),
               (torch.nn.functional, 'scaled_dot_product_attention', attention_there),
               (threading.Thread, 'run', run_there), ('grpo_lit.policy', 'lent', lent_anew)]
    with contextlib.ExitStack() as stack:
        for place, name, new in changes:
            target = f'{place}.{name}' if isinstance(place, str) else None
            stack.enter_context(patch(target, new) if target else patch.object(place, name, new))
        stack.enter_context(torch.autograd.set_multithreading_enabled(False)) # modes belong to threads
        stack.enter_context(Operations())
        stack.enter_context(Autocast())
        HERE.open = True
        try: yield LEDGER
        finally: HERE.open = False
