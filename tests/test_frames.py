"Pages in frames, as saved notebooks hold them and as the site shows them: a script runs only if its hash is the one that is named"
import base64, hashlib, html, json, re
from pathlib import Path
import pytest
from grpo_lit.seeing.page import shell

root = Path(__file__).resolve().parent.parent

def source_hash(text):
    return 'sha256-'+base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

def wrong_sources(page):
    "Styles and scripts of a page that its policy does not name"
    policy = re.search(r'Content-Security-Policy.*?>', page, re.S)[0]
    found = re.findall(r'<(?:style|script)>(.*?)</(?:style|script)>', page, re.S)
    assert len(found) >= 2
    return [s[:80] for s in found if source_hash(s) not in html.unescape(policy)]

def frames():
    for path in sorted((root/'nbs').rglob('*.ipynb')):
        text = path.read_text(encoding='utf-8')
        if 'srcdoc' not in text: continue
        for cell in json.loads(text)['cells']:
            for o in cell.get('outputs', []):
                said = ''.join(o.get('data', {}).get('text/html', ''))
                for page in re.findall(r'srcdoc="([^"]*)"', said):
                    if 'Content-Security-Policy' in html.unescape(page): yield path.name, page

def test_framed_pages_can_run():
    found = list(frames())
    assert found
    for name, page in found:
        assert '\n' not in page, name # the site takes indentation off
        assert not wrong_sources(html.unescape(page)), name

@pytest.mark.parametrize('path', sorted((root/'docs_assets/inspect').glob('*.json')), ids=lambda p: p.stem)
def test_pages_of_the_front_can_run(path):
    assert not wrong_sources(shell(*json.loads(path.read_text(encoding='utf-8'))))
