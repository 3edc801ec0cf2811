"""Episodes on a pretended GPU, in a process of their own: a device has its name for as long as a process lives"""
import subprocess, sys
from pathlib import Path
import pytest

EPISODES = Path(__file__).with_name('pretended_episodes.py')

@pytest.mark.slow
def test_episodes_on_a_gpu_that_is_not_there():
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(EPISODES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=EPISODES.parent.parent)
    assert done.returncode == 0, done.stdout[-4000:]+done.stderr[-2000:]
