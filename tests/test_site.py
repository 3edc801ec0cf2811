"""The site as a reader has it: served from a folder, on a desk and on a phone, by day and by night, with nothing from elsewhere."""
import functools, http.server, json, os, re, shutil, subprocess, sys, threading
from pathlib import Path
import pytest
from browsers import CHROMIUM

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
from build_docs import inspectors # noqa: E402
from site_versions import assemble, newest_first, pages, write_versions # noqa: E402

# --- versions, without a browser

def small_site(folder, *names):
    for name in names:
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).write_text(name)
    return folder

def told(site):
    "What a site says about versions"
    text = (site/'assets/versions.js').read_text()
    return json.loads(text.partition('=')[2])

def archive(folder, name, *files):
    import tarfile
    site = small_site(folder/name, *files)
    with tarfile.open(folder/f'site-{name}.tar.gz', 'w:gz') as tar: tar.add(site, '.')
    return folder/f'site-{name}.tar.gz'

def test_versions_in_the_order_of_their_numbers():
    assert newest_first(['v0.9', 'main', 'v0.10', 'v1.0.1', 'v1.0']) == ['main', 'v1.0.1', 'v1.0', 'v0.10', 'v0.9']

def test_releases_lie_beside_the_main_branch(tmp_path):
    site = small_site(tmp_path/'site', 'index.html', '1_line/loss.html', '1_line/new.html', '404.html')
    old = archive(tmp_path, 'v0.1', 'index.html', '1_line/loss.html', '1_line/gone.html')
    older = archive(tmp_path, 'v0.0.9', 'index.html')
    assemble(site, [older, old])
    assert (site/'v0.1/1_line/gone.html').read_text() == '1_line/gone.html'
    main, v01 = told(site), told(site/'v0.1')
    assert (main['here'], v01['here']) == ('main', 'v0.1')
    assert [v['name'] for v in main['versions']] == ['main', 'v0.1', 'v0.0.9'] == [v['name'] for v in v01['versions']]
    assert [v['missing'] for v in main['versions']] == [[], ['1_line/new.html'], ['1_line/loss.html', '1_line/new.html']]
    assert [v['missing'] for v in v01['versions']] == [['1_line/gone.html'], [], ['1_line/gone.html', '1_line/loss.html']]
    assert pages(site) == ['1_line/loss.html', '1_line/new.html', 'index.html']

def test_an_archive_with_another_name_is_refused(tmp_path):
    with pytest.raises(SystemExit, match='site-vX.Y.tar.gz'): assemble(small_site(tmp_path/'site', 'index.html'), ['pages.tar.gz'])

# --- the first page

def test_the_first_page_says_what_was_measured():
    done = subprocess.run([sys.executable, 'tools/front.py', '--check'], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')

def test_its_inspector_pages_are_small_and_alone(tmp_path):
    shutil.copytree(root/'docs_assets/inspect', tmp_path/'inspect')
    inspectors(tmp_path/'inspect')
    for name in ('demo', 'searcher', 'hacked'):
        text = (tmp_path/f'inspect/{name}.html').read_text(encoding='utf-8')
        assert len(text.encode()) < 500_000 and "default-src 'none'" in text and not re.search(r'\bsrc=|<link', text), name

# --- the site in a browser

@pytest.fixture(scope='module')
def site():
    "The built site: GRPO_LIT_SITE, or _docs, which is built where it is missing (minutes)"
    folder = Path(os.environ.get('GRPO_LIT_SITE') or root/'_docs')
    if not (folder/'index.html').exists():
        subprocess.run([sys.executable, 'tools/build_docs.py'], cwd=root, check=True)
    return folder

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): pass

def served(folder):
    "A server of this folder, at work in a thread"
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server

@pytest.fixture(scope='module')
def address(site):
    server = served(site)
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()

@pytest.fixture(scope='module')
def browser():
    sync_api = pytest.importorskip('playwright.sync_api')
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()

class Visit:
    "A page with all that it asked for and complained of; leaving it fails where that is not as promised"
    def __init__(self, browser, address, path, width=1280, scheme='light'):
        self.address, self.asked, self.said = address, [], []
        self.context = browser.new_context(viewport=dict(width=width, height=844), color_scheme=scheme)
        self.page = page = self.context.new_page()
        page.set_default_timeout(20_000)
        page.on('request', lambda r: self.asked.append(r.url))
        page.on('console', lambda m: m.type in ('error', 'warning') and self.said.append(m.text))
        page.on('pageerror', lambda e: self.said.append(str(e)))
        page.on('response', lambda r: r.status >= 400 and self.said.append(f'{r.status} {r.url}'))
        page.goto(address+path)
        page.wait_for_load_state('networkidle')
    def __enter__(self): return self.page
    def __exit__(self, kind, *_):
        outside = [u for u in self.asked if not u.startswith((self.address, 'data:', 'blob:'))]
        said = self.said
        self.context.close()
        if kind is None: assert (outside, said) == ([], [])

PAGES = ('index.html', '1_line/advantages.html', '1_line/loss.html', '5_run/watch.html', '5_run/index.html', '6_seeing/page.html',
         '6_seeing/index.html', '7_studies/beta.html', '8_scale/launched.html',
         '9_doctor/diagnosing.html', 'cases/speed.html', 'cases/mistakes.html', 'guides/claims.html')
SIZES = [(w, scheme) for w in (1280, 390) for scheme in ('light', 'dark')]

def light(colour):
    "0 to 1 of rgb(...) or rgba(...); None where nothing is painted"
    r, g, b, *a = map(float, re.findall(r'[\d.]+', colour))
    return (r+g+b)/765 if not a or a[0] else None

@pytest.mark.browser
@pytest.mark.parametrize('width, scheme', SIZES)
@pytest.mark.parametrize('path', PAGES)
def test_a_page_on_any_screen_in_any_light(browser, address, path, width, scheme):
    with Visit(browser, address, path, width, scheme) as page:
        assert page.evaluate('document.documentElement.scrollWidth') <= width
        page.evaluate('window.scrollTo(500, 0)')
        assert page.evaluate('window.scrollX') == 0
        paper = light(page.evaluate('getComputedStyle(document.body).backgroundColor'))
        assert (paper > .5) == (scheme == 'light')
        broken = page.evaluate('''[...document.images].filter(i => getComputedStyle(i).display !== "none" && i.complete && !i.naturalWidth).map(i => i.src)''')
        assert broken == []
        assert page.locator('.katex-error').count() == 0

@pytest.mark.browser
def test_no_page_is_wider_than_a_phone(browser, address, site):
    "All pages, quickly: each in the same tab"
    wide = []
    context = browser.new_context(viewport=dict(width=390, height=844))
    page = context.new_page()
    for path in pages(site):
        page.goto(address+path, wait_until='load')
        if page.evaluate('document.documentElement.scrollWidth') > 390: wide.append(path)
    context.close()
    assert wide == []

@pytest.mark.browser
def test_no_link_and_no_anchor_leads_nowhere(site):
    from site_faults import faults
    assert sorted(set(faults(site.resolve()))) == []

# is there a link to a page among the results, wherever in a shadow tree they are?
RESULT = '''expected => {
    const all = root => [...root.querySelectorAll("*")].flatMap(e => [e, ...(e.shadowRoot ? all(e.shadowRoot) : [])])
    const results = all(document).filter(e => e.localName === "a" && !e.closest(".md-nav, .md-content, .md-footer, .md-header__title"))
    return results.some(e => e.href.includes(expected)) }'''

@pytest.mark.browser
@pytest.mark.parametrize('words, expected', [('group_advantages', '1_line/advantages.html'), ('dead group', '1_line/'), ('write_page', '6_seeing/')])
def test_search_finds(browser, address, words, expected):
    with Visit(browser, address, 'index.html') as page:
        page.keyboard.press('Control+k')
        page.keyboard.type(words)
        page.wait_for_function(RESULT, arg=expected)

@pytest.mark.browser
@pytest.mark.parametrize('width, scheme', SIZES)
def test_the_inspector_works_inside_the_first_page(browser, address, width, scheme):
    with Visit(browser, address, 'index.html', width, scheme) as page:
        page.locator('.nb-frame').scroll_into_view_if_needed()
        inner = page.frame_locator('.nb-frame')
        inner.locator('.row > .body > .t').first.click()
        assert 'Token 1' in inner.locator('#token h2').inner_text()
        frame = next(f for f in page.frames if 'inspect/' in f.url)
        assert frame.evaluate('document.documentElement.scrollWidth <= innerWidth')
        paper = lambda: light(frame.evaluate('getComputedStyle(document.body).backgroundColor'))
        assert (paper() > .5) == (scheme == 'light')
        page.evaluate('scrollTo(0, 0)')
        page.locator('[data-md-component=palette] label:visible').click() # the site's own switch
        frame.wait_for_function('dark => (document.documentElement.dataset.theme === "dark") === dark', arg=scheme == 'light')
        assert (paper() > .5) == (scheme == 'dark')

@pytest.mark.browser
@pytest.mark.parametrize('name', ['demo', 'searcher', 'hacked'])
def test_each_inspector_page_alone(browser, address, name):
    with Visit(browser, address, f'assets/inspect/{name}.html') as page:
        page.wait_for_selector('#all:not([hidden])')
        assert page.locator('.row > .body > .t').count() # of a group whose tokens have figures
        page.keyboard.press('End')
        last = page.locator('#now b').inner_text()
        page.keyboard.press('Home')
        assert last != page.locator('#now b').inner_text() == 'Step 1'

@pytest.mark.browser
def test_on_paper_it_is_light_and_whole(browser, address):
    with Visit(browser, address, '1_line/advantages.html', scheme='dark') as page:
        page.emulate_media(media='print', color_scheme='dark')
        assert not page.locator('.md-sidebar').first.is_visible() and not page.locator('.nb-links').is_visible()
        assert light(page.evaluate('getComputedStyle(document.querySelector(".md-typeset")).color')) < .3
        cut = page.evaluate('[...document.querySelectorAll("pre.nb-out")].filter(e => e.scrollHeight > e.clientHeight+2).length')
        assert cut == 0

@pytest.mark.browser
def test_a_switch_leads_to_the_same_page_of_a_release(browser, site, tmp_path):
    whole = tmp_path/'site'
    keep = shutil.ignore_patterns('2_*', '3_*', '4_*', '5_*', '6_*', '7_*', '8_*', '9_*', 'cases', 'guides')
    shutil.copytree(site, whole, ignore=keep)
    for name in ('v0.1', 'v0.2'): shutil.copytree(site, whole/name, ignore=keep)
    sites = dict(main=whole) | {name: whole/name for name in ('v0.1', 'v0.2')}
    for name, folder in sites.items(): write_versions(folder, sites, name)
    server = served(whole)
    address = f'http://127.0.0.1:{server.server_port}/'
    with Visit(browser, address, '1_line/advantages.html') as page:
        assert page.locator('.nb-version option').all_inner_texts() == ['main', 'v0.2', 'v0.1'] and page.locator('.nb-older').count() == 0
        page.locator('.nb-version select').select_option(label='v0.1')
        page.wait_for_url(address+'v0.1/1_line/advantages.html')
        assert 'v0.1' in page.locator('.nb-older').inner_text()
        page.locator('.nb-older a').click()
        page.wait_for_url(address+'v0.2/1_line/advantages.html')
        assert page.locator('.nb-older').count() == 0
        page.locator('.nb-version select').select_option(label='main')
        page.wait_for_url(address+'1_line/advantages.html')
    server.shutdown()
