"""Runs with tools on a pretended GPU, in a process of their own: a device has its name for as long as a process lives"""
import subprocess, sys
from pathlib import Path
import pytest

RUNS = Path(__file__).with_name('pretended_agents.py')

@pytest.mark.slow
@pytest.mark.parametrize('marks', ['not slow', 'slow'])
def test_runs_with_tools_on_a_gpu_that_is_not_there(marks):
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-m', marks, str(RUNS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=RUNS.parent.parent)
    assert done.returncode == 0, done.stdout[-4000:]+done.stderr[-2000:]
