"""Log-probs without the logits: peak memory against the plain form, each in a process of its own."""
import json, subprocess, sys
import pytest

program = """
import json, resource, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
from grpo_lit.core import Rollouts
from grpo_lit.logprobs import token_logps

torch.set_num_threads(2)
torch.manual_seed(0)
how, T, V = sys.argv[1], int(sys.argv[2]), 151_936
sizes = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
ids = torch.randint(V, (8,T))
ones = torch.ones_like(ids)
model = LlamaForCausalLM(LlamaConfig(vocab_size=V, tie_word_embeddings=True, **sizes))
ro = Rollouts(ids[:,:4], ones[:,:4], ids, ones, None, 1, torch.ones(8, dtype=torch.bool))

def peak(): # GB of this process; what `resource` says, a child inherits from its parent on Linux
    try: return int(next(o for o in open('/proc/self/status') if o.startswith('VmHWM')).split()[1])/2**20
    except FileNotFoundError: return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**30

def plain():
    x, m = ro.sequences()
    logits = model(input_ids=x, attention_mask=m, logits_to_keep=T+1).logits[:,:-1]
    return logits.log_softmax(-1).gather(2, ids[...,None])[...,0]

base = peak()
logps = plain() if how=='plain' else token_logps(model, ro)
logps.sum().backward()
grad = model.lm_head.weight.grad[ids.flatten()[:50],0]
print(json.dumps(dict(peak=peak()-base, logps=logps.flatten()[::7].tolist(), grad=grad.tolist())))
"""

def measured(how, T):
    try: import resource
    except ImportError: pytest.skip('peak memory is read with the resource module, which this system does not have')
    run = subprocess.run([sys.executable, '-c', program, how, str(T)], capture_output=True, text=True)
    assert run.returncode==0, run.stderr
    return json.loads(run.stdout)

@pytest.mark.parametrize('T', [128, pytest.param(512, marks=pytest.mark.slow)])      # 512: the plain form needs 8 GB
def test_peak_is_a_quarter_of_the_plain_form(T):
    plain, tiled = measured('plain', T), measured('tiled', T)
    print(f"T={T}: plain {plain['peak']:.2f} GB, tiled {tiled['peak']:.2f} GB")
    assert plain['peak'] > 8*T*151_936*4/2**30                                     # the logits were there
    assert tiled['peak'] <= .25*plain['peak']
    for key in ('logps','grad'):
        for a,b in zip(plain[key], tiled[key]): assert abs(a-b) <= 1e-5*max(1, abs(a))
