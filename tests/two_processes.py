"""Several processes for a test: N ranks over gloo on the CPU, one thread each; what they return, what they said, how they ended.

They are forked from a server that has imported the package once, so that a second one costs nothing.
A function for them stands at the top of a test module, and takes and returns what `torch.save` can hold.

    def work(rank, steps): ...
    values = together(work, 3)           # of rank 0, 1; an error of one of them is an error here
    team = Team(work, 3)                 # for those that are to be killed
"""
import os, shutil, signal, socket, sys, tempfile, time, traceback
from multiprocessing import connection, get_context
from pathlib import Path
import torch

PATIENCE = 300. # Seconds for all of it: only something that hangs takes so long
context = get_context('forkserver')
context.set_forkserver_preload(['torch', 'transformers', 'accelerate', 'grpo_lit.run.trainer', 'grpo_lit.tasks'])

def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def surroundings(rank:int, n:int, port:int) -> dict:
    "What a launcher tells a rank"
    return dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=n, LOCAL_WORLD_SIZE=n, MASTER_ADDR='127.0.0.1', MASTER_PORT=port,
                GLOO_SOCKET_IFNAME='lo', ACCELERATE_USE_CPU='true', OMP_NUM_THREADS=1, OMP_WAIT_POLICY='passive',
                HF_DEACTIVATE_ASYNC_LOAD=1)

def _rank(work, args, rank, told, folder):
    "One of the processes: what it says goes to a file, what it returns to another"
    said = os.open(folder/f'{rank}.txt', os.O_WRONLY|os.O_CREAT|os.O_APPEND)
    for fd in (1, 2): os.dup2(said, fd)
    os.environ.update({name: str(value) for name, value in told.items() if value is not None})
    torch.set_num_threads(1)
    code = 1
    try:
        value = work(rank, *args)
        torch.save(value, folder/f'{rank}.part')
        os.replace(folder/f'{rank}.part', folder/f'{rank}.pt')
        code = 0
    except SystemExit as e: code = e.code if isinstance(e.code, int) else 1
    except BaseException: traceback.print_exc()
    for stream in (sys.stdout, sys.stderr): stream.flush()
    os._exit(code) # groups of processes that are not destroyed have no say in it

class Team:
    "N ranks at work"
    def __init__(self, work, *args, n:int=2, env:dict|None=None):
        self.folder, port = Path(tempfile.mkdtemp()), free_port()
        for name in ('OMP_NUM_THREADS', 'OMP_WAIT_POLICY'): os.environ.setdefault(name, {'OMP_NUM_THREADS': '1'}.get(name, 'passive'))
        self.ranks = [context.Process(target=_rank, args=(
            work, args, rank, surroundings(rank, n, port) | (env or {}), self.folder)) for rank in range(n)]
        for p in self.ranks: p.start()

    def __enter__(self): return self
    def __exit__(self, *error):
        "Kill what is left"
        for p in self.ranks:
            if p.is_alive(): p.kill()
            p.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def signal(self, rank:int, signum:int=signal.SIGKILL): os.kill(self.ranks[rank].pid, signum)
    def text(self, rank:int) -> str:
        file = self.folder/f'{rank}.txt'
        return file.read_text(errors='replace') if file.exists() else ''
    def texts(self) -> str: return '\n'.join(f'--- rank {i}\n{self.text(i)}' for i in range(len(self.ranks)))

    def until(self, happens, seconds:float=PATIENCE):
        "Wait for an event: `happens()` is true"
        end = time.monotonic()+seconds
        while not happens():
            if time.monotonic() > end or not any(p.is_alive() for p in self.ranks):
                raise AssertionError(f'it did not happen\n{self.texts()}')
            time.sleep(.05)

    def wait(self, seconds:float=PATIENCE, grace:float|None=None) -> list:
        "Exit codes, below 0 for signals; `grace`: kill the others so many seconds after one has failed"
        end = time.monotonic()+seconds
        while any(p.is_alive() for p in self.ranks):
            if grace is not None and any(p.exitcode for p in self.ranks):
                end, grace = min(end, time.monotonic()+grace), None
            if time.monotonic() > end:
                alive = [i for i, p in enumerate(self.ranks) if p.is_alive()]
                raise AssertionError(f'ranks {alive} do not end; codes {[p.exitcode for p in self.ranks]}\n{self.texts()}')
            connection.wait([p.sentinel for p in self.ranks if p.is_alive()], .5)
        return [p.exitcode for p in self.ranks]

    def values(self) -> list:
        "What each rank has returned"
        codes = self.wait(grace=15.)
        assert not any(codes), f'codes {codes}\n{self.texts()}'
        return [torch.load(self.folder/f'{i}.pt', weights_only=False) for i in range(len(self.ranks))]

def together(work, *args, n:int=2, env:dict|None=None) -> list:
    "What `work(rank, *args)` returns in each of `n` processes that form one world"
    with Team(work, *args, n=n, env=env) as team: return team.values()
