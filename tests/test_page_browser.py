"""The page in a real browser, from disk: it asks for nothing, keys work, and what one points at are the figures of the loss."""
import pytest
from browsers import CHROMIUM, needs
from test_page import HOSTILE, loss_gradient, several, update
from grpo_lit.seeing.page import framed, write_page

pytestmark = pytest.mark.browser
needs()
SIZES = [(w, scheme) for w in (1280, 390) for scheme in ('light', 'dark')]

@pytest.fixture(scope='module')
def chromium():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()

class Opened:
    "A page from disk, with all that it said and asked for"
    def __init__(self, browser, file, width=1280, scheme='light'):
        self.context = browser.new_context(viewport=dict(width=width, height=844), color_scheme=scheme, has_touch=width < 500)
        self.page = page = self.context.new_page()
        self.said, self.asked, self.frames = [], [], []
        page.set_default_timeout(10_000)
        page.on('console', lambda m: self.said.append(m.text))
        page.on('pageerror', lambda e: self.said.append(str(e)))
        page.on('dialog', lambda d: (self.said.append(d.message), d.dismiss()))
        page.on('request', lambda r: self.asked.append(r.url))
        page.goto(file.as_uri())
        page.wait_for_selector('#all:not([hidden])')
    def __enter__(self): return self.page
    def __exit__(self, kind, *_):
        asked, said = self.asked, self.said
        self.context.close()
        if kind is None: assert (len(asked), said) == (1, [])

@pytest.fixture(scope='module')
def updates(): return [update(step, P=3) for step in (1, 2, 3)]

@pytest.fixture(scope='module')
def file(updates, tmp_path_factory):
    return write_page(several(*updates), tmp_path_factory.mktemp('pages')/'page.html', title='Three steps')

def chosen(page): return page.locator('.row.chosen').count(), page.locator('.row').evaluate_all('rows => rows.findIndex(r => r.classList.contains("chosen"))')

def figures_shown(page): return dict(zip(*(page.locator(f'#tip {cell}').all_inner_texts() for cell in ('th', 'td'))))

@pytest.mark.parametrize('width, scheme', SIZES)
def test_it_stands_on_any_screen_in_any_light(chromium, file, width, scheme):
    with Opened(chromium, file, width, scheme) as page:
        assert page.evaluate('document.documentElement.scrollWidth') <= width
        ink, paper = (page.evaluate(f'getComputedStyle(document.body).{name}') for name in ('color', 'backgroundColor'))
        light = lambda colour: sum(map(int, colour[4:-1].split(',')))/765
        assert abs(light(ink)-light(paper)) > .7 and (light(paper) > .5) == (scheme == 'light')
        page.locator('.row > .body > .t').first.click()
        assert page.evaluate('document.documentElement.scrollWidth') <= width
        page.keyboard.press('d')
        assert (light(page.evaluate('getComputedStyle(document.body).backgroundColor')) > .5) == (scheme == 'dark')
        page.emulate_media(media='print')
        assert not page.locator('#kinds').is_visible() and page.locator('.row').first.is_visible()

def test_keys_walk_through_it(chromium, file):
    with Opened(chromium, file) as page:
        step = lambda: page.locator('#now b').inner_text()
        press = page.keyboard.press
        assert step() == 'Step 3'
        press('ArrowLeft'); press('ArrowLeft'); press('ArrowLeft')
        assert step() == 'Step 1'
        press('End'); assert step() == 'Step 3'
        press('Home'); press('ArrowRight'); assert step() == 'Step 2'
        press('j'); press('ArrowDown'); assert chosen(page) == (1, 2)
        press('k'); assert chosen(page) == (1, 1)
        press('n'); assert 'Prompt 2 of 3' in page.locator('#question h2').inner_text()
        press('p'); assert 'Prompt 1 of 3' in page.locator('#question h2').inner_text()
        press('.'); press('.'); assert 'Token 2 of' in page.locator('#token h2').inner_text()
        press(','); assert 'Token 1 of' in page.locator('#token h2').inner_text()
        kind = page.locator('#kinds :checked').input_value()
        press('c'); assert page.locator('#kinds :checked').input_value() != kind
        press('b'); assert page.locator('.beside').count() == page.locator('.row').count()
        press('b'); assert page.locator('.beside').count() == 0
        press('?'); assert page.locator('#help').is_visible()
        press('Escape'); assert not page.locator('#help').is_visible()
        press('/'); page.keyboard.type('jk'); assert step() == 'Step 2' and chosen(page)[1] == 0 # letters in the box are letters

def test_a_curve_leads_to_its_step(chromium, tmp_path):
    file = write_page(several(*[update(step) for step in range(1, 11)]), tmp_path/'page.html')
    with Opened(chromium, file) as page:
        box = page.locator('.curve svg').first.bounding_box()
        page.mouse.click(box['x']+2, box['y']+20)
        assert page.locator('#now b').inner_text() == 'Step 1'

def test_pointing_at_a_token_shows_the_figures_of_the_loss(chromium, file, updates):
    r = updates[-1]
    known = {'log π': r.new_logps, 'log π of the reference': r.ref_logps, 'ratio ρ': (r.new_logps-r.logps).exp(),
             'entropy': r.entropy, 'gradient': loss_gradient(r), 'KL': r.terms()['kl']}
    with Opened(chromium, file) as page:
        page.evaluate('document.querySelectorAll("#prompts button")[0].click()')
        for b in range(4):
            for t in (0, int(r.mask[b].sum())-1):
                page.locator('.row').nth(b).locator('.body > .t').nth(t).hover()
                shown = figures_shown(page)
                for name, x in known.items():
                    assert float(shown[name]) == pytest.approx(x[b,t].item(), rel=2e-3, abs=1e-4), (b, t, name)

def test_a_token_adds_up(chromium, file, updates):
    terms = updates[-1].terms()
    with Opened(chromium, file) as page:
        page.evaluate('document.querySelectorAll("#prompts button")[0].click()')
        page.locator('.row').nth(1).locator('.body > .t').first.click()
        loss, policy, beta, kl = [float(x) for x in page.locator('.sum b').all_inner_texts()]
        assert loss == pytest.approx(policy+beta*kl, abs=2e-3)
        assert [loss, policy, kl] == pytest.approx([terms[n][1,0].item() for n in ('loss', 'policy', 'kl')], rel=2e-3, abs=1e-4)

@pytest.mark.parametrize('change', [dict(epsilon=.05), dict(beta=.3), dict(beta=0.), dict(loss_type='grpo'), dict(epsilon=.4, beta=1.)])
def test_another_rule_is_the_loss_asked_again(chromium, file, updates, change):
    r = updates[-1]
    expected = loss_gradient(r, **change)
    with Opened(chromium, file) as page:
        page.evaluate('document.querySelectorAll("#prompts button")[0].click()')
        for name, value in change.items():
            if name == 'loss_type': page.locator('#rule-loss').select_option(value)
            else:
                stops = page.locator(f'#rule-{name}')
                for i in range(int(stops.get_attribute('max'))+1):
                    stops.fill(str(i))
                    if float(stops.get_attribute('aria-valuetext')) == pytest.approx(value): break
                else: raise AssertionError(f'no stop for {name}={value}')
        for t in range(int(r.mask[2].sum())):
            page.locator('.row').nth(2).locator('.body > .t').nth(t).hover()
            assert float(figures_shown(page)['gradient']) == pytest.approx(expected[2,t].item(), rel=3e-3, abs=1e-4*expected.abs().max().item()), t
        if 'epsilon' in change:
            terms = r.terms(**change)
            n = int((terms['clip_low'] | terms['clip_high']).sum())
            assert f'{n} of {int(r.mask.sum())} tokens' in page.locator('#said').inner_text()
        page.locator('#reset').click()
        page.locator('.row').nth(2).locator('.body > .t').first.hover()
        assert float(figures_shown(page)['gradient']) == pytest.approx(loss_gradient(r)[2,0].item(), rel=3e-3, abs=1e-5)

def test_search_finds_and_counts(chromium, file, updates):
    expected = sum('07 ' in row['text'] for r in updates for row in r.rows)
    with Opened(chromium, file) as page:
        page.locator('#query').fill('07 ')
        page.wait_for_selector('#hits:not([hidden])')
        assert f'{expected} of 36 completions' in page.locator('#hits').inner_text() and expected
        page.locator('#hits button').first.click()
        assert '07 ' in page.locator('.row.chosen .body').inner_text()
        page.locator('#query').fill('<b>not there</b>')
        page.get_by_text('0 of 36 completions').wait_for()
        page.keyboard.press('Escape')
        assert not page.locator('#hits').is_visible()

def test_another_step_beside(chromium, file):
    with Opened(chromium, file) as page:
        page.locator('#beside').select_option(label='the same prompt, step 1')
        assert page.locator('.beside').count() == 4 and 'step 1:' in page.locator('.from').first.inner_text()

def test_hostile_texts_are_texts(chromium, tmp_path):
    r = update(P=1, G=len(HOSTILE), texts=[[text, 'X'] for text in HOSTILE])
    for row, text in zip(r.rows, HOSTILE): row |= dict(stop=text, columns={text: text})
    r.prompts = ['\n'.join(HOSTILE)]
    file = write_page(several(r), tmp_path/'page.html', title=HOSTILE[1])
    with Opened(chromium, file) as page:
        tags = set(page.evaluate('[...document.querySelectorAll("#all *")].map(o => o.localName)'))
        assert not tags & {'script', 'img', 'iframe', 'textarea', 'style'} and page.evaluate('document.scripts.length') == 2
        assert page.evaluate('window.pwned') is None
        shown = page.locator('.row .body').all_inner_texts()
        assert shown[0] == HOSTILE[0]+'X' and shown[1] == HOSTILE[1]+'X' and shown[5] == r'left \u202erightX' and shown[6] == r'nul\x00nulX'
        assert HOSTILE[1] in page.locator('h1').inner_text() and HOSTILE[2] in page.locator('#question').inner_text()
        page.locator('.row').nth(2).locator('.t').first.hover()
        assert HOSTILE[2] in page.locator('#tip').inner_text()

def test_long_words_break_on_a_small_screen(chromium, tmp_path):
    r, word = update(P=1, texts=[['W'*900, 'X']]*4), 'W'*300
    for row in r.rows: row |= dict(stop=word, columns={word: word}, rewards={word: 1., 'b'+word: 2.}, reward=1e300)
    r.prompts = [word]
    file = write_page(several(r, update(2, P=1)), tmp_path/'page.html', title=word)
    with Opened(chromium, file, 390) as page:
        for key in ('Home', '.', 'b', 'n'):
            page.keyboard.press(key)
            assert page.evaluate('document.documentElement.scrollWidth') <= 390, key

def test_ten_thousand_tokens_are_no_trouble(chromium, tmp_path):
    file = write_page(several(update(P=1, G=2, texts=[['word ']*10_000, ['a']])), tmp_path/'page.html')
    with Opened(chromium, file) as page:
        page.get_by_text('7000 more tokens').click()
        assert page.locator('.row.chosen .body > .t').count() == 10_000
        took = page.evaluate('''() => { const began = performance.now(); for (const key of ['c', 'c', '.', '.']) document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
            document.body.offsetHeight; return performance.now()-began }''')
        assert took < 5000
        assert page.locator('.t.here').inner_text().strip() == 'word'

def test_in_a_frame_that_may_do_nothing_else(chromium, file, tmp_path):
    outer = tmp_path/'outer.html'
    outer.write_text(f'<!doctype html><div id="all">{framed(file.read_text(encoding="utf-8"))}</div>', encoding='utf-8')
    with Opened(chromium, outer) as page:
        inner = page.frame_locator('iframe')
        inner.locator('.row > .body > .t').first.click()
        assert 'Token 1' in inner.locator('#token h2').inner_text()

def test_nothing_yet_is_said(chromium, tmp_path):
    file = write_page(several(), tmp_path/'page.html')
    page = chromium.new_page()
    page.goto(file.as_uri())
    page.get_by_text('There is nothing to look at').wait_for()
    page.close()
