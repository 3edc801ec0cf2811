"""Everything that only a GPU can answer, in one command of less than ten minutes: a table, and JSON to keep.

    python tools/gpu_check.py                            # all checks, the most telling first
    python tools/gpu_check.py --seconds 150              # those that fit into this time
    python tools/gpu_check.py --only environment learning       # checks whose names begin so
    python tools/gpu_check.py --list
    python tools/gpu_check.py --table FILE.json          # the table of a run that is stored
    python tools/gpu_check.py --small                    # tiny sizes: tries the checks themselves; always so without a GPU

Needs torch, transformers, accelerate and numpy, and nothing to be installed: the package is taken from this clone.
The checks are made in a process of their own; one that crashes, hangs or leaves the card broken costs its own row only.
"""
import argparse, json, math, os, select, signal, subprocess, sys, threading, time, traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from gpu_checks import Place, Skipped, all_checks, clear, peak, root

MARGIN, PATIENCE = 6, 60 # A check may take so many times as long as expected, and so many seconds, before it is ended
QUIET = dict(TOKENIZERS_PARALLELISM='false', HF_HUB_OFFLINE='1', HF_HUB_DISABLE_PROGRESS_BARS='1', TQDM_DISABLE='1',
             TRANSFORMERS_VERBOSITY='error')
GRACE = 20 # Seconds after the time given in which the last check may end

# --- the process that makes the checks

def made(check, place):
    "One check, and how it went"
    import torch
    clear(place)
    began = time.perf_counter()
    try:
        result = dict(state='ok', figures=check.function(place) or {})
    except Skipped as e:
        result = dict(state='skipped', why=str(e))
    except Exception as e:
        result = dict(state='FAILED', why=f'{type(e).__name__}: {e}'[:600], trace=traceback.format_exc()[-3000:])
    if place.cuda and result['state'] != 'skipped':
        try:
            torch.cuda.synchronize()
            result['peak_gb'] = round(peak(place), 2)
        except Exception as e:
            result |= dict(state='FAILED', why=f'the card is left broken: {e}'[:600], broken=True)
    return result | dict(seconds=round(time.perf_counter()-began, 1))

def leave_with(parent):
    "End this process, and those that it has started, when the one that survives checks has not survived"
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(os.getpgrp(), signal.SIGKILL)

def work(a):
    "Make the named checks and write a line of JSON about each to the pipe"
    threading.Thread(target=leave_with, args=(a.parent,), daemon=True).start()
    import torch
    cuda = torch.cuda.is_available() and not a.cpu
    found = json.loads(a.out.read_text())['checks'] if a.out.exists() else {}
    if not (cuda or a.small):
        print('there is no GPU to check: the checks are tried with tiny sizes, as by --small', file=sys.stderr, flush=True)
    place = Place('cuda' if cuda else 'cpu', a.small or not cuda, found)
    by_name = {c.name: c for c in all_checks()}
    with os.fdopen(a.pipe, 'w', buffering=1) as pipe:
        def tell(**line): pipe.write(json.dumps(line, default=str)+'\n')
        for name in a.names:
            check, left = by_name[name], a.until-time.time()
            if check.seconds > left:
                why = f'out of time: takes about {check.seconds:.0f} s, {max(left, 0):.0f} s are left'
                tell(name=name, state='skipped', why=why)
                continue
            tell(begins=name, seconds=check.seconds)
            result = made(check, place)
            place.found[name] = result
            tell(name=name, **result)
            if result.get('broken'):
                return

# --- the process that survives them

def started(a, names):
    "A process for these checks, and the end of the pipe that it writes to"
    here, there = os.pipe()
    command = [sys.executable, __file__, '--pipe', str(there), '--parent', str(os.getpid()),
               '--until', str(a.until), '--out', str(a.out)]
    command += ['--names', *names] + ['--small']*a.small + ['--cpu']*a.cpu
    environment = os.environ | dict(PYTHONPATH=os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')]),
                                    PYTHONWARNINGS='ignore::FutureWarning,ignore::DeprecationWarning', **QUIET)
    process = subprocess.Popen(command, pass_fds=[there], env=environment, stdout=sys.stderr, start_new_session=True)
    os.close(there)
    return process, here

def ended(process):
    "End a process and those that it has started"
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

def lines_of(process, pipe, until):
    "What the process says, line by line; a dictionary `ended` is the last"
    waiting, text, deadline = None, b'', until+GRACE
    while True:
        ready, _, _ = select.select([pipe], [], [], max(0, deadline-time.time()))
        piece = os.read(pipe, 2**16) if ready else b''
        if not piece:
            if not ready:
                ended(process)
            code = process.wait()
            why = f'the process died (exit code {code})' if ready else 'took too long and was ended'
            yield dict(ended=waiting, why=why)
            return
        *lines, text = (text+piece).split(b'\n')
        for line in map(json.loads, lines):
            waiting = line.get('begins')
            patience = PATIENCE+MARGIN*line['seconds'] if waiting else math.inf
            deadline = min(time.time()+patience, until+GRACE)
            yield line

def follow(a, names, keep):
    "Have the checks made, in as many processes as it takes"
    while names:
        process, pipe = started(a, names)
        try:
            for line in lines_of(process, pipe, a.until):
                if 'name' in line:
                    keep(line.pop('name'), line)
                elif line.get('ended'):
                    keep(line['ended'], dict(state='FAILED', why=line['why']))
        finally:
            ended(process) # also where Ctrl-C comes here: nothing is left on the card
            os.close(pipe)
        done = json.loads(a.out.read_text())['checks']
        rest = [n for n in names if n not in done]
        if len(rest) == len(names): # it does not even begin
            for n in rest:
                keep(n, dict(state='FAILED', why='the process that makes the checks does not start: see above'))
            return
        names = rest

# --- what is shown

def figures_text(figures):
    "Figures in a cell of the table"
    def shown(v): return f'{v:.3g}' if isinstance(v, float) else str(v)
    return ', '.join(f'{k} {shown(v)}' for k, v in figures.items() if k != 'title')

def cell(result):
    text = figures_text(result.get('figures', {})) or result.get('why', '')
    return ' '.join(text.split()).replace('|', '/')[:700]

def table(found):
    "A run as a table in Markdown"
    lines = [f'{found["title"]}, {found["date"]}', '', '| check | | seconds | peak GB | |', '| --- '*5+'|']
    for name, r in found['checks'].items():
        lines.append(f'| {name} | {r["state"]} | {r.get("seconds", "")} | {r.get("peak_gb", "")} | {cell(r)} |')
    states = [r['state'] for r in found['checks'].values()]
    counted = ', '.join(f'{states.count(s)} {s}' for s in ('ok', 'FAILED', 'skipped'))
    return '\n'.join([*lines, '', f'{counted}; {found.get("seconds", 0):.0f} seconds'])

def chosen(a):
    "Names of the checks to make"
    checks = all_checks()
    if not a.only:
        return [c.name for c in checks]
    nothing = [o for o in a.only if not any(c.name.startswith(o) for c in checks)]
    if nothing:
        sys.exit(f'no check begins with {", ".join(nothing)}; --list names them all')
    return [c.name for c in checks if any(c.name.startswith(o) for o in a.only)]

def seconds(text):
    "What is given as a time"
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError('a number of seconds above 0')
    return number

def flags():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seconds', type=seconds, default=580, help='make only what fits into this time')
    p.add_argument('--only', nargs='+', help='checks whose names begin so')
    p.add_argument('--list', action='store_true', help='name the checks and the seconds they take')
    p.add_argument('--small', action='store_true', help='tiny sizes, to try the checks themselves; always so without a GPU')
    p.add_argument('--cpu', action='store_true', help='leave a GPU alone')
    p.add_argument('--out', type=Path, default=Path('gpu_check.json'), help='where the results go')
    p.add_argument('--table', type=Path, help='print the table of stored results')
    for hidden, kind in (('--pipe', int), ('--parent', int), ('--until', float)):
        p.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    p.add_argument('--names', nargs='+', help=argparse.SUPPRESS)
    return p.parse_args()

def stored(file):
    "Results as they were written down"
    try:
        found = json.loads(file.read_text())
        table(found)
        return found
    except OSError as e:
        sys.exit(f'--table: {file} cannot be read ({e.strerror})')
    except (ValueError, KeyError, TypeError, AttributeError):
        sys.exit(f'--table: {file} is no result of these checks, or an older one: make it anew')

def put(file, found):
    "Write down what was found, all of it or not at all"
    part = file.with_name(f'{file.name}.part')
    part.write_text(json.dumps(found, indent=1))
    part.replace(file)

def begun(file, found):
    "See to it that results can be kept, before any is there"
    try:
        if file.is_dir():
            raise IsADirectoryError(0, 'it is a folder')
        put(file, found)
    except OSError as e:
        sys.exit(f'--out: {file} cannot be written ({e.strerror})')

def run(a):
    "Make the checks, and write down each as soon as it is made"
    began = time.time()
    a.out, a.until = a.out.absolute(), began+a.seconds
    found = dict(title='small sizes' if a.small else 'a GPU', date=time.strftime('%Y-%m-%d'), checks={})
    def keep(name, result):
        trace = result.pop('trace', '') # it names folders of this machine: shown, not kept
        found['checks'][name] = result
        found['seconds'] = round(time.time()-began, 1)
        found['title'] = result.get('figures', {}).get('title', found['title'])
        put(a.out, found)
        print(f'{found["seconds"]:6.1f} s  {result["state"]:8} {name}: {cell(result)}', flush=True)
        if trace:
            print(trace, file=sys.stderr, flush=True)
    names = chosen(a)
    begun(a.out, found)
    try:
        follow(a, names, keep)
    except KeyboardInterrupt:
        left = [n for n in names if n not in found['checks']]
        for n in left:
            found['checks'][n] = dict(state='skipped', why='interrupted')
        put(a.out, found)
        sys.exit(f'\n{table(found)}\ninterrupted: {len(left)} checks were not made; the others are in {a.out}')
    print('\n'+table(found), flush=True)
    return sum(r['state'] == 'FAILED' for r in found['checks'].values())

def main():
    a = flags()
    if a.pipe:
        return work(a)
    if a.table:
        return print(table(stored(a.table)))
    if a.list:
        return print('\n'.join(f'{c.seconds:5.0f} s  {c.name}' for c in all_checks()))
    for s in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, signal.default_int_handler) # as Ctrl-C
    sys.exit(bool(run(a)))

if __name__ == '__main__':
    main()
