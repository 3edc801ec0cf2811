"What a notebook shows stays readable where scripts, style sheets, frames and widgets are taken away: in notebooks not trusted, on Kaggle, on a page of GitHub"
import re
from html.parser import HTMLParser
import pytest
from grpo_lit.policy import load_policy
from grpo_lit.run.figures import Figures
from grpo_lit.run.livepage import html_page
from grpo_lit.seeing.control import Control
from grpo_lit.seeing.desk import desk_bundle
from grpo_lit.seeing.walk import four_figures
from test_control import new_trainer
from test_inspector import given

KEPT = set('b i a br code dd details div dl dt em h1 h2 h3 h4 hr img li mark ol p pre s small span strong sub summary sup table tbody td th thead tr ul'.split())
MATH = set('math mrow mi mn mo ms mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover mtable mtr mtd mstyle mpadded'.split()) # where it is taken away its letters stay

class Plain(HTMLParser):
    "What is left: the text, and what would be taken away"
    def __init__(self, page):
        super().__init__()
        self.words, self.tags, self.acts, self.asks, self.quiet = [], set(), [], [], 0
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.quiet += tag in ('style', 'script')
        for name, value in attributes:
            if name.startswith('on'): self.acts.append((tag, name))
            if name in ('src', 'href', 'srcset', 'action', 'data') and not (value or '').startswith(('data:image/', '#')): self.asks.append((tag, value))
            if name == 'style' and re.search(r'url\(|expression|@import|position\s*:\s*fixed', value or ''): self.acts.append((tag, value))

    def handle_endtag(self, tag): self.quiet -= tag in ('style', 'script')
    def handle_data(self, data): self.words += [] if self.quiet else [data]
    def text(self): return ' '.join(' '.join(self.words).split())

def live():
    rows = [dict(step=k, total=9, reward=k/9, kl=.01*k, entropy=.5, step_time=.2) for k in range(1, 6)]
    return html_page(Figures(rows, 5, 9)), ['step 5/9', 'reward', '0.556', 'KL', '0.0500']

def steered():
    control = Control(new_trainer())
    control.set(beta=.25)
    control.step()
    return desk_bundle(control)['text/html'], ['step 1/', 'reward', 'beta', '0.25']

def inspected():
    look = given(four_figures(*load_policy('tiny', device='cpu')))
    return look._repr_mimebundle_()['text/html'], ['47+85', 'advantage', '<answer>']

def one_token():
    look = given(four_figures(*load_policy('tiny', device='cpu')))
    reading, found = look.at(1), look.token(0, 2)
    return found._repr_html_(), ['ratio', f'{abs(reading.gradients()[0,2].item()):.4g}']

@pytest.mark.parametrize('view', [live, steered, inspected, one_token])
def test_words_and_numbers_stay(view):
    page, words = view()
    plain = Plain(page)
    assert not plain.acts and not plain.asks and 'script' not in plain.tags
    assert plain.tags-{'style'} <= KEPT | MATH
    for word in words: assert word in plain.text(), word
    assert len(page.encode()) < 200_000
