"What is here: versions, the card and its ceilings, and which kernels serve attention."
import importlib.metadata, sys, time
from . import check, need_gpu

LIBRARIES = 'torch', 'triton', 'transformers', 'accelerate', 'peft', 'trl', 'datasets', 'fastcore', 'bitsandbytes'

def versions():
    "Library -> version, of those that are here"
    def version(name):
        try: return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError: return None
    known = {name: version(name) for name in LIBRARIES}
    return {name: v for name, v in known.items() if v}

@check('environment', order=0, seconds=8)
def environment(place):
    "Versions and ceilings; the first line of the table"
    import torch
    from grpo_lit.fast.speed import machine
    began = time.perf_counter()
    import transformers, accelerate # noqa: what every check pays once
    figures = dict(python=sys.version.split()[0], **versions(), imports_s=time.perf_counter()-began)
    if place.cuda:
        card = torch.cuda.get_device_properties(0)
        major, minor = torch.cuda.get_device_capability()
        figures |= dict(card=card.name, sm=f'{major}{minor}', cuda=torch.version.cuda)
        figures['memory_gb'] = card.total_memory/2**30
    for dtype in (torch.float32, torch.bfloat16, torch.float16) if place.cuda else (torch.float32,):
        here = machine(place.device, dtype)
        figures[f'{str(dtype)[6:]} TFLOP/s'] = here.flops/1e12
    figures['GB/s'] = here.bandwidth/1e9
    title = f'{figures.get("card", "CPU")}, torch {torch.__version__}, transformers {transformers.__version__}'
    return dict(title=title+', tiny sizes'*place.small) | figures

# --- attention

def backends():
    "The kernels that may serve `scaled_dot_product_attention`"
    from torch.nn.attention import SDPBackend
    return [getattr(SDPBackend, n) for n in ('FLASH_ATTENTION', 'EFFICIENT_ATTENTION', 'CUDNN_ATTENTION', 'MATH')]

def serves(dtype, masked, key_heads):
    "Which of them take 14 heads of 64 with so many of keys, alone"
    import torch, warnings
    from torch.nn.attention import sdpa_kernel
    shape = dict(device='cuda', dtype=dtype)
    q, k = torch.randn(2, 14, 128, 64, **shape), torch.randn(2, key_heads, 128, 64, **shape)
    mask = torch.ones(2, 1, 128, 128, dtype=torch.bool, device='cuda').tril() if masked else None
    good = []
    for backend in backends():
        with sdpa_kernel(backend), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            how = dict(is_causal=not masked, enable_gqa=key_heads < 14)
            try: torch.nn.functional.scaled_dot_product_attention(q, k, k, mask, **how)
            except RuntimeError: continue
        good.append(backend.name.split('_')[0].lower())
    return ' '.join(good)

@check('environment: attention kernels', order=1, seconds=12)
def attention_kernels(place):
    "What can serve, with and without a mask; and whether a trainer has switched cuDNN's off"
    need_gpu(place)
    import torch
    from .runs import tiny_trainer
    figures = {}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for masked in (False, True):
            grouped, each = (serves(dtype, masked, heads) for heads in (2, 14))
            figures[f'{str(dtype)[6:]}{" masked"*masked}'] = f'{grouped} (heads of keys repeated: {each})'
    tiny_trainer(place)
    cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    return figures | {'cuDNN attention after a trainer was made': 'on' if cudnn else 'off'}
