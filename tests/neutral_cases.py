"""What other projects' implementations and tests say, asked of ours: one function for each kind of case.

`loss`, `kl`, `advantage`, `asserted`, and below them the functions for rewards, take a case as a dict and return our value. A case that follows another convention raises
`NotImplementedError`, after its reason was printed. The case files are not part of this project; GRPO_LIT_CASES names the folder that holds them.
"""
import functools, json, os, re, sys
from pathlib import Path
import torch
from grpo_lit.advantages import group_advantages
from grpo_lit.tensors import masked_mean
from grpo_lit.leash import kl_penalized_rewards
from grpo_lit.logprobs import high_entropy_mask, kl_estimate
from grpo_lit.loss import average_terms, clipped_term, grpo_loss
from grpo_lit.fast.offpolicy import off_policy_mask
from grpo_lit.run.sft import sft_loss
from grpo_lit import answers
from grpo_lit.rewards import comparing, programs, reading, sandbox, shape, words

vectors = Path(os.environ.get('GRPO_LIT_CASES', 'not set'))/'vectors'
@functools.cache
def inputs(name): return json.loads((vectors/name).read_text())

def skip(why): print(f'skipped: {why}', file=sys.stderr); raise NotImplementedError(why)
def tensor(x): return torch.tensor(x, dtype=torch.float64)
LONGEST = 5 # Tokens of the longest answer in the inputs
VERL_AVERAGES = {'token-mean':'dapo', 'seq-mean-token-sum':'luspo', 'seq-mean-token-mean':'grpo', 'seq-mean-token-sum-norm':'dr_grpo'}

def trl_options(c):
    o = dict(loss_type=c['loss_type'], beta=c['beta'], epsilon=c['el'], epsilon_high=c['eh'], delta=c.get('delta'), off_policy_mask_threshold=c.get('opmt'))
    return o | dict(kl='k3_unbiased' if c.get('bias') else 'k3', importance_sampling_level=c.get('level', 'token'))

def verl_options(f, c):
    o, low = dict(loss_type=VERL_AVERAGES[c['loss_agg_mode']], beta=0.), c.get('clip_ratio_low', c.get('clip_ratio'))
    clip = dict(epsilon=low, epsilon_high=c.get('clip_ratio_high', low))
    if c['loss_agg_mode']=='seq-mean-token-sum-norm': o['num_items'] = LONGEST                      # theirs leaves the number of answers out
    if f=='compute_policy_loss_vanilla': return o | clip | dict(delta=c['clip_ratio_c'])           # for A<0 dual clip is the two-sided clip
    if f=='compute_policy_loss_gspo': return o | clip | dict(importance_sampling_level='sequence')
    if f=='compute_policy_loss_sapo': return o | dict(loss_type='sapo')
    if f=='compute_policy_loss_gpg': return o | dict(loss_type='cispo', old_logps=None)            # no ratio: REINFORCE
    if f=='compute_policy_loss_cispo': skip('weights are also kept above 1-clip_ratio_low; ours have a cap and no floor, as in the paper')
    skip(f'{f} is not a member of this family')

def openrlhf_options(c):
    o = dict(loss_type='dapo' if c.get('token_level_loss', True) else 'grpo', beta=0., epsilon=c['clip_eps_low'], epsilon_high=c['clip_eps_high'], delta=c.get('dual_clip'))
    return o | (dict(importance_sampling_level='sequence', loss_type='grpo') if c.get('policy_loss_type')=='gspo' else {})

def loss_options(case):
    f, c, who = case['function'], case['config'], case['impl']
    if 'trl' in who: return trl_options(c)
    if 'verl' in who: return verl_options(f, c)
    if 'Liger' in who: return dict(loss_type=c['loss_type'], beta=c['beta'], epsilon=c['epsilon_low'], epsilon_high=c['epsilon_high'], delta=c['delta'], importance_sampling_level=c['importance_sampling_level'], kl='k3')
    if 'OpenRLHF' in who: return openrlhf_options(c)
    if 'torchtune' in who: return dict(loss_type='dapo', beta=c['kl_coeff'], epsilon=c['epsilon'], kl='k3')
    skip(f'{who} is unknown')

def tensors(name): return {k:tensor(v) for k,v in (inputs('loss_inputs.json').get(name) or skip(f'the input {name} is not among the files')).items()}

def loss_and_grad(case):
    o, x = loss_options(case), tensors(case['input'])
    new = x['logps'].requires_grad_()
    value, _ = grpo_loss(new, x['advantages'], x['mask'], ref_logps=x['ref_logps'], max_completion_length=LONGEST, **dict(old_logps=x['old_logps']) | o)
    return value, torch.autograd.grad(value, new)[0]

def loss(case): return loss_and_grad(case)[0].item()

def kl_and_grad(case):
    kind = {**{k:k for k in ('k1','k2','k3')}, 'kl':'k1', 'mse':'k2', 'low_var_kl':'k3'}.get(next(iter(case['config'].values()))) or skip('|k1| is no estimate of the KL')
    x = tensors(case['input']); new = x['logps'].requires_grad_(); value = kl_estimate(new, x['ref_logps'], kind)
    return value, torch.autograd.grad((value*x['mask']).sum(), new)[0]

def kl(case): return kl_and_grad(case)[0].tolist()

def advantage(case):
    f, c, x = case['function'], case['config'], inputs('advantage_inputs.json')[case['case']]
    sizes = {x['group'].count(g) for g in x['group']}
    if len(sizes)>1 or x['group']!=sorted(x['group']): skip('groups of different sizes: ours are all of G, in order')
    G, r = sizes.pop(), tensor(x['rewards'])
    ours = {'compute_grpo_outcome_advantage':dict(eps=1e-6, scale_rewards='group' if c.get('norm_adv_by_std_in_grpo') else 'none'), 'compute_rloo_outcome_advantage':dict(baseline='leave_one_out', scale_rewards='none'),
            'GRPOTrainer._generate_and_score_completions (formula)':dict(scale_rewards=c.get('scale_rewards')), 'mean only':dict(scale_rewards='none'), 'std ddof=1, eps 1e-8':dict(eps=1e-8), 'std ddof=1, eps 1e-9':dict(eps=1e-9),
            'compute_grpo_vectorized_outcome_advantage':dict(eps=1e-6)}.get(f) or skip(f'{f}: another formula')
    if f=='compute_grpo_vectorized_outcome_advantage' and (r.abs().max()>100 or case['case']=='tiny_spread'): skip('its one-pass variance in float32 has lost the digits')
    if G==1 and ('verl' in case['impl'] or 'eps' in f): skip('a group of one: theirs keeps its reward, or is NaN; ours is 0')
    return group_advantages(r, G, **ours).tolist()

def asserted(case):
    f, x = case['function'], case['inputs']; t = {k:tensor(v) for k,v in x.items() if isinstance(v, list) and not isinstance(v[0], dict)}
    if f=='high_entropy_mask': return high_entropy_mask(t['entropies'], t['mask'], 1-x['threshold']).long().tolist()
    if f=='off_policy_mask': return off_policy_mask(t['logps'], t['sampling_logps'], t['advantages'], t['mask'], x['threshold'])[:,0].long().tolist()
    if f=='weighted_nll': return sft_loss(t['logps'][None], t['weights'][None], x['scale']).item()
    if f=='grpo_advantage_mean_only': return group_advantages(t['rewards'], len(t['rewards']), scale_rewards='none').tolist()
    if f=='broadcast_advantage':                                                                  # what each token's log-prob is multiplied with
        lp = torch.zeros(1, len(x['mask']), requires_grad=True, dtype=torch.float64)
        return (-torch.autograd.grad(grpo_loss(lp, tensor([x['advantage']]), t['mask'][None], beta=0, num_items=1)[0], lp)[0][0]).tolist()
    if f=='agg_token_mean': return average_terms(t['loss'], t['mask'], 'dapo').item()
    if f=='agg_seq_mean_token_mean':
        if (t['mask'].sum(1)==0).any(): skip('a fully masked answer counts as an answer, as in TRL')
        return average_terms(t['loss'], t['mask'], 'grpo').item()
    if f=='agg_token_mean_over_microbatches':
        items = sum(tensor(m['mask']).sum() for m in x['micro'])
        return sum(average_terms(tensor(m['loss']), tensor(m['mask']), 'dapo', items) for m in x['micro']).item()
    if f=='kl_metric_k1':
        k1 = lambda a, b: kl_estimate(t[a], t[b], 'k1').mean().item()
        return {'ppo_kl':k1('old_logps','logps')} | ({'vllm_kl':k1('rollout_logps','old_logps')} if 'rollout_logps' in t else {})
    if f=='kl_penalised_rewards': return kl_penalized_rewards(t['scores'], t['logps'], t['ref_logps'], torch.ones_like(t['logps']), x['kl_coeff']).tolist()
    if f=='masked_mean': return masked_mean(t['x'], t['mask']).item()
    if f=='masked_mean_dim1': return masked_mean(t['x'], t['mask'], 1).tolist()
    if f=='ppo_clip_loss': return clipped_term((t['new']-t['old']).exp()[None], t['adv'][None], x['eps'])[0].mean().item()
    skip({'maxrl_advantage':'divides by the mean: another method', 'masked_var_unbiased':'no function of ours', 'gae_returns':'belongs to the critic, which lives in a case page'}.get(f, f'{f}: unknown'))

def math_equivalence(case):
    why = {'math_equivalence-0006':'a comma begins the decimals only where the gold has it', 'math_equivalence-0141':'2.6667 is not 8/3: only from six places on may a decimal be rounded',
           'math_equivalence-0174':'a box is the answer, whatever is said after it', 'math_equivalence-0272':'a bare list is a set of solutions', 'math_equivalence-0279':'a bare list is a set of solutions', 'math_equivalence-0189':'an inequality and its interval are the same set', 'math_equivalence-0193':'boxes with +++ between them are not one answer'}.get(case['id'])
    if why: skip(why)
    gold, given, whole = case['gold'], case['prediction'], lambda t: re.fullmatch(r'\$?\$[^$]+\$\$?', t) or '$' not in t and 'boxed' not in t and not re.search(r'(?<!\\)\b[A-Za-z]{3}', t)
    if case['form']=='text-with-delimiters': gold, given = (t if whole(t) else answers.extract_answer(t) for t in (gold, given))
    if case['form']=='boxed-completion': given = answers.extract_answer(given)
    return comparing.math_equal(gold, given)

def extraction(case):
    kind, text = case['kind'], case['text']
    if case['id']=='extraction-0021': skip('spaces around an answer are not part of it')
    if kind=='split_tuple': return reading.answer_parts(text)
    if kind=='gsm8k_hash': return (a := answers.extract_answer(text, 'hash')) and a.replace(',','')
    if kind=='last_int': return (a := answers.extract_answer(text, 'number')) and int(a)
    return answers.extract_answer(text, 'boxed' if kind=='boxed' else 'auto')

def choice_extraction(case):
    letters = re.findall(r"'(\w)'", re.search(r'strings=\((.*?)\)', case['config'])[1]); a = words.extract_choice(case['text'], letters)
    return [] if a is None else [a.lower() if 'lowercase=True' in case['config'] else a, a]

def math_completion_rewards(case):
    c, o, i = case['completion'], case['config'], int(case['id'][-4:])
    if o.get('has_toolcall'): skip('a bonus for tool calls is a reward of its own')
    if o.get('method') and c.startswith('####') and i in (42,43,45,47,48,49,50): skip('what follows #### is read as a number: commas, $, a full stop and .00 do not matter')
    if i==62: skip('only the last 300 characters count there')
    if i==70: skip('"the answer is" states an answer as well as "Answer:"')
    if i==75: skip('0.5 is 1/2')
    style = {'strict':'hash','flexible':'number'}.get(o.get('method')) or ('number' if o.get('extract') else 'stated' if o.get('scorer') else 'boxed')
    given = answers.extract_answer(c, style); got = comparing.accuracy_reward([], [c], [], answer=[case['gold']], answer_style=[style])[0]
    wrong = o.get('incorrect_reward', -1. if o.get('scorer') else 0.)
    return o.get('unk_error_reward', 0.) if got is None else o.get('correct_reward', 1.) if got else o.get('format_error_reward', wrong) if given is None else wrong

def qa_match(case):
    if case['id'] in ('qa_match-0065','qa_match-0067'): skip('stray tags cost something in a reward for the format, not here')
    f = words.word_match({'normalized_exact_match':'exact','token_f1':'f1','search_r1_em':'exact','search_r1_sub_em':'contains'}[case['metric']], 'tag' if 'search' in case['metric'] else None)
    return f([], [case['completion']], [], answer=[case['gold']])[0]

def reward_functions(case):
    f, o = case['function'], dict(case['config']); c, ids = case.get('completions', [case.get('completion') or '']), case.get('completion_ids')
    gold = case['gold'] if case.get('batch') else [case.get('gold')]*len(c); ids = None if ids is None else [ids]; many = lambda v: v if case.get('batch') else v[0]
    if f in ('accuracy_reward','reasoning_accuracy_reward'):
        if 'reasoning_delimiters' in o: c = [t.replace(o['reasoning_delimiters'][0], '</think>') for t in c]
        return comparing.accuracy_reward([], c, [], answer=gold, answer_style=['boxed'] if f.startswith('reasoning') else None)[0]
    if f=='think_format_reward': return shape.think_format_reward(completions=c)[0]
    if f=='get_soft_overlong_punishment': return shape.soft_overlong(o['max_completion_len'], o['soft_punish_cache'])(completion_ids=ids)[0]
    if f=='get_repetition_penalty_reward':
        if o.get('language')=='zh': skip('words of Chinese need a dictionary; by tokens any language works')
        return shape.repetition(o['ngram_size'], o['max_penalty'], 'words' if ids is None else 'tokens')(completions=c, completion_ids=ids)[0]
    if f=='get_cosine_scaled_reward':
        lo = dict(correct=(o.get('max_value_correct', 1.), o.get('min_value_correct', .5)), wrong=(o.get('min_value_wrong', -1.), o.get('max_value_wrong', -.5)))
        return shape.cosine_length(comparing.accuracy_reward, o['max_len'], **lo)(completions=c, completion_ids=ids, answer=gold)[0]
    if f=='len_reward':
        if 'unparseable_latex' in gold: skip('a word is a gold that can be judged')
        return shape.group_length(comparing.accuracy_reward)(completions=c, answer=gold)
    if f=='format_reward': return shape.tag_format()(completions=c)[0]
    if f=='tag_count_reward': return shape.tag_count()(completions=c)[0]
    if f=='get_code_format_reward': return shape.tag_format(block=o['language'])(completions=c)[0]
    skip({'reasoning_steps_reward':'paying for the words "First" and "Finally" teaches to write them'}.get(f, f'{f}: unknown'))

def code_rewards(case):
    "One truth value a test"
    program, tests = programs.extract_code(case['completion']), case['tests']
    if case['style']=='script':
        if program in ("import os; os.system('echo pwned')",): skip('a call that does nothing in a cage is no error')
        return [sandbox.run_code(program, timeout=case.get('timeout_s') or 3, memory_mb=256).status=='ok']
    if program is None: return [False]
    kind, items = programs.as_tests(tests)
    one = lambda t: programs.try_tests(program, dict(asserts=[t]) if kind=='python' else [dict(input=t[0], output=t[1])], timeout=3)
    return [(r := one(t))[0]==r[1] for t in (items if isinstance(items, list) else [items])]
