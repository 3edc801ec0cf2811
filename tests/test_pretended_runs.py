"""Runs on a pretended GPU, plain ones and with tools, in processes of their own: a device has its name for as long as a process lives"""
import subprocess, sys
from pathlib import Path
import pytest

here = Path(__file__).parent
FILES = ['pretended_runs.py', 'pretended_agents.py', 'pretended_episodes.py']
SOME = 'plain or scaler or kernels or rules or autocast_there or (few and static) or test_waits'

def passes(names, *flags):
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *flags, *(str(here/name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=here.parent)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:]+done.stderr[-2000:]

def test_some_kinds_of_run():
    passes(FILES, '-m', 'not slow', '-k', SOME)

@pytest.mark.slow
@pytest.mark.parametrize('marks', ['not slow', 'slow'])
@pytest.mark.parametrize('name', FILES)
def test_every_kind_of_run(name, marks):
    passes([name], '-m', marks)
