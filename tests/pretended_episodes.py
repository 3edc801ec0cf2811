"""Episodes on a pretended GPU: no tensors of two devices meet, and Python waits at looks and waves alone"""
import functools
import pytest, torch
from grpo_lit import sampling
from grpo_lit.fast.static import StaticDecoding
from grpo_lit.logprobs import token_logps
from scripted import undecided
from test_episodes import PROMPTS, TEXTS, assert_same, gap, sampled
from pretended import NAME, pretended_gpu

@pytest.mark.parametrize('static', [False, True])
@pytest.mark.parametrize('places', [None, 6])
def test_episodes_on_a_gpu(static, places, monkeypatch):
    plain = sampled(undecided(TEXTS, None))
    monkeypatch.setattr(sampling.Batch.__init__, '__defaults__', (None, 8, None))
    if static: monkeypatch.setattr(sampling, 'decoder', StaticDecoding)
    model, tokenizer = undecided(TEXTS, None)
    with pretended_gpu():
        model.to(NAME)
        ro = sampled((model, tokenizer), max_rows=places, generation_kwargs=dict(min_new_tokens=1), on_group=lambda i, group: group.to('cpu'))
        assert ro.completion_ids.device.type == ro.observation_mask.device.type == ro.finished.device.type == NAME
        with torch.no_grad(): again = token_logps(model, ro).cpu()
        there = ro.to('cpu')
        part = ro.take([1, 2]).to('cpu')
    assert_same(there, plain, 1e-4)
    assert ((again-there.logps)*there.completion_mask).abs().max() <= 1e-4
    assert part.reach.tolist() == plain.reach[[1, 2]].tolist()

def test_waits(monkeypatch):
    "A look waits for the device once; turns that have ended, rows that leave, and a wave cost a few waits more"
    monkeypatch.setattr(sampling.Batch.__init__, '__defaults__', (None, 8, None))
    texts = ['<look>a</look>', 'It is b.', *['abcdefgh '*20]*2]
    model, tokenizer = undecided(texts, None)
    from grpo_lit.agents import waves
    with pretended_gpu() as ledger:
        model.to(NAME)
        sampled((model, tokenizer)) # what is asked of a model once
        for name in ('look', 'leave', 'come_back'): monkeypatch.setattr(waves.Turns, name, ledger.around(name, getattr(waves.Turns, name)))
        monkeypatch.setattr(sampling.Batch, 'look', ledger.around('glance', sampling.Batch.look))
        sampled((model, tokenizer))
    assert ledger['glance'].each('waits') <= 1.2 and ledger['come_back'].times
    assert ledger['look'].each('waits') <= 6 and ledger['leave'].each('waits') <= 20 and ledger['come_back'].each('waits') <= 20, ledger.accounts
