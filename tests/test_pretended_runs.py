"""Training runs of every kind on a pretended GPU, in a process of their own: a device has its name for as long as a process lives"""
import subprocess, sys
from pathlib import Path
import pytest

RUNS = Path(__file__).with_name('pretended_runs.py')


@pytest.mark.slow
@pytest.mark.parametrize('marks', ['not slow', 'slow'])
def test_every_kind_of_run(marks):
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-m', marks, str(RUNS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=RUNS.parent.parent)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:]+done.stderr[-2000:]
