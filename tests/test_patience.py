"""A limit that was too small for a busy machine is no failure, and a defect is one at every limit."""
import pytest
from patience import patient, patiently

def test_noise_passes_at_a_larger_limit():
    tried = []
    def check(limit):
        tried.append(limit)
        assert limit > 1
        return limit
    assert patiently(check) == 2. and tried == [.4, 2.]

def test_a_defect_passes_at_none():
    tried = []
    def check(limit):
        tried.append(limit)
        assert False, 'wrong'
    with pytest.raises(AssertionError, match='wrong'): patiently(check, (1, 2, 3))
    assert tried == [1, 2, 3]

def test_other_errors_are_not_tried_again():
    tried = []
    def check(limit): tried.append(limit) or 1/0
    with pytest.raises(ZeroDivisionError): patiently(check)
    assert tried == [.4]

@pytest.mark.parametrize('name', ['a', 'b'])
@patient(1, 2)
def test_beside_what_pytest_gives(name, limit, tmp_path):
    (tmp_path/f'{limit}').touch()
    assert limit == 2 and name in 'ab' and len(list(tmp_path.iterdir())) == 2
