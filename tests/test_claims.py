"""The page of claims: every row says what measured it, or that nothing did, and its figures are those of the page it leads to."""
import json, re
from pathlib import Path
import pytest

guides = Path(__file__).resolve().parent.parent/'nbs'/'guides'

def rows():
    "Claim, measured, field: the cells of every table"
    cells = json.loads((guides/'claims.ipynb').read_text(encoding='utf-8'))['cells']
    lines = ''.join(''.join(c['source'])+'\n' for c in cells if c['cell_type'] == 'markdown').splitlines()
    found = [re.split(r'(?<!\\) \| ', line.strip('| ')) for line in lines if line.startswith('| ')]
    return [r for r in found if r[0] != 'the article says']

def page(link):
    "All that stands in a notebook, outputs included"
    nb = json.loads((guides/link).resolve().read_text(encoding='utf-8'))
    return json.dumps(nb, ensure_ascii=False)

def test_the_page_has_its_rows():
    assert len(rows()) >= 15 and {len(r) for r in rows()} == {3}

@pytest.mark.parametrize('row', rows(), ids=lambda r: r[0][:40])
def test_a_row_is_measured_or_says_that_it_is_not(row):
    _, measured, field = row
    links = re.findall(r'\]\(([^)#]+\.ipynb)\)', measured)
    assert links or 'Not measured' in measured
    assert field.strip()
    pages = ''.join(map(page, links))
    for figure in re.findall(r'`([^`]*±[^`]*)`', measured):
        assert figure in pages, f'{figure} does not stand in {links}'
