"""Programs that try to get out: each prints ESCAPED if it did, or TOOK and a number of megabytes (or of things) that it got.

Run as a script, it prints what became of each as JSON, so that other users, interpreters and weaker machines can be tried."""
import contextlib, ctypes, json, os, shutil, socket, subprocess, sys, tempfile, time
from pathlib import Path

MEMORY, DISK = 64, 64                      # megabytes; the second is the package's own limit
SLACK = 64                                 # what may be taken between two looks

HEAD = '''
import ctypes, errno, fcntl, json, mmap, os, resource, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
t = json.loads(input())
def call(n, *a):
    got = libc.syscall(n, *[ctypes.c_long(x) if isinstance(x, int) else x for x in a])
    if got<0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return got
def c(name, *a):
    got = getattr(libc, name)(*a)
    if got==-1: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return got
def escaped(): print('ESCAPED', flush=True)
def took(n): print('TOOK', n, flush=True)
kept = []
'''

MB = 'bytes(2**20)'
# name: program; in `t`: pid of a victim, path of a file and a home, numbers of its System V objects
MEMORY_ROUTES = dict(
    objects='while True: kept.append(bytearray(2**20)); took(len(kept))',
    one_block='kept.append(bytearray(2**28)); took(256)',
    anonymous_map='while True: kept.append(mmap.mmap(-1, 2**20)); kept[-1][:] = bytes(2**20); took(len(kept))',
    private_map='''while True:
    m = mmap.mmap(-1, 2**20, flags=mmap.MAP_PRIVATE|mmap.MAP_ANONYMOUS); m[:] = bytes(2**20); kept.append(m); took(len(kept))''',
    ctypes_block='''while True:
    p = libc.malloc(2**20)
    if not p: break
    ctypes.memset(p & 0xffffffff if 0 else ctypes.c_void_p(p), 1, 0); kept.append((ctypes.c_char*2**20)()); took(len(kept))''',
    memfd='''for i in range(40):
    fd = os.memfd_create('x'); kept.append(fd)
    os.write(fd, bytes(15*2**20)); took(15*len(kept))''',
    memfd_by_number='''for i in range(40):
    fd = call(319, b'x', 0); kept.append(fd)
    os.write(fd, bytes(15*2**20)); took(15*len(kept))''',
    memfd_secret='fd = call(447, 0); os.ftruncate(fd, 2**27); took(128)',
    dev_shm='''for i in range(40):
    with open(f'/dev/shm/grpo_lit_test{i}', 'wb') as f: f.write(bytes(15*2**20))
    took(15*(i+1))''',
    shared_memory='from multiprocessing.shared_memory import SharedMemory as S\nfor i in range(20): kept.append(S(create=True, size=2**24)); took(16*len(kept))',
    shmget='''for i in range(20):
    n = c('shmget', 0, 2**24, 0o1600); kept.append(n); took(16*len(kept))''',
    shmget_huge='c("shmget", 0, 2**27, 0o1600 | 0o4000); took(128)',
    hidden_files='''for i in range(50):
    f = open('x', 'wb', buffering=0); os.unlink('x'); kept.append(f)
    f.write(bytes(15*2**20)); took(15*len(kept)); time.sleep(.03)''',
    tmpfile_files='''for i in range(50):
    fd = os.open('.', os.O_TMPFILE | os.O_RDWR, 0o600); kept.append(fd)
    os.write(fd, bytes(15*2**20)); took(15*len(kept)); time.sleep(.03)''',
    replaced_files='''for i in range(50):
    f = open('y', 'wb', buffering=0); kept.append(f)
    f.write(bytes(15*2**20)); os.rename('y', 'x'); took(15*len(kept)); time.sleep(.03)''',
    pipe_size='''for i in range(25):
    r, w = os.pipe(); kept.append((r, w))
    fcntl.fcntl(w, 1031, 2**22); took(4*len(kept))''',
    socket_buffers='''for i in range(25):
    a, b = socket.socketpair(); kept.append((a, b))
    a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUFFORCE, 2**24); took(16*len(kept))''',
    huge_pages='m = mmap.mmap(-1, 2**28, flags=mmap.MAP_PRIVATE|mmap.MAP_ANONYMOUS|0x40000); took(256)',
    lock_memory='m = mmap.mmap(-1, 2**24); c("mlockall", 3); took(999)',
    raise_limit='resource.setrlimit(resource.RLIMIT_AS, (-1, -1)); kept.append(bytearray(2**28)); took(256)',
    raise_limit_prlimit='resource.prlimit(0, resource.RLIMIT_AS, (-1, -1)); kept.append(bytearray(2**28)); took(256)',
    message_queue='''for i in range(20):
    q = c('mq_open', b'/grpo_lit_test%d' % i, 0o102, 0o600, None); took(99)''',
    pass_files='''a, b = socket.socketpair()
for i in range(20):
    fds = [os.open('.', os.O_RDONLY) for _ in range(20)]
    socket.send_fds(a, [b'x'], fds); [os.close(f) for f in fds]; took(10*(i+1))''',
    processes='''for i in range(8):
    if not os.fork(): x = bytearray(2**25); time.sleep(3); os._exit(0)
    took(32*(i+1))''')

THINGS = dict(                             # kernel memory: how many of a thing
    threads='''threading.stack_size(2**15)
for i in range(20000):
    threading.Thread(target=time.sleep, args=(9,), daemon=True).start(); i%100 or took(i)''',
    locks='''f = open('x', 'w'); f.truncate(2**20)
for i in range(2*10**6, 0, -2): fcntl.lockf(f, fcntl.LOCK_EX, 1, i); i%1000 or took(10**6-i//2)''',
    owned_locks='''f = open('x', 'w')
for i in range(10**5): fcntl.fcntl(f, 37, struct.pack('hhqqi', 1, 0, 2*i, 1, 0)); took(i)''',
    timers='''x = ctypes.c_void_p()
for i in range(100000): c('timer_create', 1, None, ctypes.byref(x)); i%1000 or took(i)''',
    queued_signals='''signal.pthread_sigmask(signal.SIG_BLOCK, [40])
for i in range(100000): call(129, os.getpid(), 40, ctypes.create_string_buffer(struct.pack('iii', 40, 0, -1)+bytes(116))); i%1000 or took(i)''',
    inotify='fd = c("inotify_init")\nfor i in range(100000): os.mkdir(f"{i}"); c("inotify_add_watch", fd, b"%d" % i, 0xfff); took(i)',
    open_files='for i in range(10**5): kept.append(os.open(".", 0)); took(i)',
    keys='for i in range(10**5): call(248, b"user", b"k%d" % i, b"x"*1000, 1000, -2); took(i)',
    aio='x = ctypes.c_long()\nfor i in range(1000): call(206, 10000, ctypes.byref(x)); took(1000*i)',
    epolls='for i in range(10**5): kept.append(__import__("select").epoll()); took(i)')

IPC = dict(
    shm_read='a = libc.shmat; a.restype = ctypes.c_void_p\np = a(t["shm"], None, 0o10000)\nif p not in (None, 2**64-1): escaped()',
    shm_remove='c("shmctl", t["shm"], 0, None); escaped()',
    shm_stat='c("shmctl", t["shm"], 2, ctypes.create_string_buffer(500)); escaped()',
    shm_lock='c("shmctl", t["shm"], 11, None); escaped()',
    shm_find='c("shmget", t["key"], 1, 0); escaped()',
    sem_read='c("semctl", t["sem"], 0, 12); escaped()',
    sem_remove='c("semctl", t["sem"], 0, 0); escaped()',
    sem_set='c("semctl", t["sem"], 0, 16, 7); escaped()',
    sem_take='c("semop", t["sem"], struct.pack("HhH", 0, 1, 0), 1); escaped()',
    sem_timed='call(220, t["sem"], struct.pack("HhH", 0, 1, 0), 1, 0); escaped()',
    msg_read='c("msgrcv", t["msg"], ctypes.create_string_buffer(100), 50, 0, 0o4000); escaped()',
    msg_remove='c("msgctl", t["msg"], 0, None); escaped()',
    msg_send='c("msgsnd", t["msg"], struct.pack("l", 1)+b"x", 1, 0o4000); escaped()',
    msg_copy='c("msgrcv", t["msg"], ctypes.create_string_buffer(100), 50, 0, 0o44000); escaped()',
    queue_open='c("mq_open", b"/x", 0o102, 0o600, None); escaped()',
    queue_unlink='call(241, b"grpo_lit_test"); escaped()')

SIGNALS = dict(
    kill='os.kill(t["pid"], 9)',
    kill_parent='os.kill(os.getppid(), 9)',
    kill_everybody='os.kill(-1, 9)',
    kill_group='os.killpg(t["pid"], 9)',
    kill_zero='os.kill(t["pid"], 0); escaped()',
    tkill='call(200, t["pid"], 9)',
    tgkill='call(234, t["pid"], t["pid"], 9)',
    queue='call(129, t["pid"], 9, ctypes.create_string_buffer(struct.pack("iii", 9, 0, -1)+bytes(116)))',
    queue_thread='call(297, t["pid"], t["pid"], 9, ctypes.create_string_buffer(128))',
    pidfd='fd = os.pidfd_open(t["pid"]); signal.pidfd_send_signal(fd, 9)',
    pidfd_of_peer='s = socket.socket(fileno=3) if 0 else socket.socketpair()[0]\nfd = struct.unpack("i", s.getsockopt(1, 77, 4))[0]; signal.pidfd_send_signal(fd, 0); escaped()',
    setown='''a, b = socket.socketpair()
fcntl.fcntl(a, fcntl.F_SETOWN, t["pid"]); fcntl.fcntl(a, 10, 9); fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC); b.send(b"x")''',
    setown_sigio='''a, b = socket.socketpair()
fcntl.fcntl(a, fcntl.F_SETOWN, t["pid"]); fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC); b.send(b"x")''',
    setown_ex='''r, w = os.pipe()
fcntl.fcntl(r, 15, struct.pack("ii", 1, t["pid"])); fcntl.fcntl(r, 10, 9); fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC); os.write(w, b"x")''',
    setown_group='''a, b = socket.socketpair()
fcntl.fcntl(a, fcntl.F_SETOWN, -t["pid"]); fcntl.fcntl(a, 10, 9); fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC); b.send(b"x")''',
    fioasync='''a, b = socket.socketpair()
fcntl.ioctl(a, 0x8901, struct.pack("i", t["pid"])); fcntl.ioctl(a, 0x5452, struct.pack("i", 1)); b.send(b"x")''',
    siocspgrp='''a, b = socket.socketpair()
fcntl.ioctl(a, 0x8902, struct.pack("i", t["pid"])); fcntl.ioctl(a, 0x5452, struct.pack("i", 1)); b.send(b"x")''',
    raw_fcntl='''a, b = socket.socketpair()
call(72, a.fileno(), 8, t["pid"]); call(72, a.fileno(), 10, 9); call(72, a.fileno(), 4, 0x2000); b.send(b"x")''',
    high_bits='''a, b = socket.socketpair()
call(72, a.fileno(), 8 | 1<<32, t["pid"]); call(72, a.fileno(), 10 | 1<<32, 9); call(72, a.fileno(), 4, 0x2000 | 1<<32); b.send(b"x")''',
    lease='open("x", "w").close(); f = open("x"); fcntl.fcntl(f, 10, 9); fcntl.fcntl(f, 8, t["pid"]); fcntl.fcntl(f, 1024, 0); open("x", "r+")',
    notify='d = os.open(".", 0); fcntl.fcntl(d, 10, 9); fcntl.fcntl(d, 8, t["pid"]); fcntl.fcntl(d, 1026, 4); open("y", "w")',
    timer_to_thread='''x = ctypes.c_void_p()
c("timer_create", 1, ctypes.create_string_buffer(struct.pack("qiii", 0, 9, 4, t["pid"])+bytes(44)), ctypes.byref(x))
c("timer_settime", x, 0, ctypes.create_string_buffer(struct.pack("qqqq", 0, 0, 0, 1000)), None)''',
    untie='c("prctl", 1, 0, 0, 0, 0); escaped()',
    new_session='os.setsid(); escaped()',
    new_group='os.setpgid(0, 0); escaped()',
    dumpable='c("prctl", 4, 1, 0, 0, 0); escaped()',
    tracer='c("prctl", 0x59616d61, -1, 0, 0, 0); escaped()',
    trace='c("ptrace", 16, t["pid"], 0, 0); escaped()',
    read_memory='''b = ctypes.create_string_buffer(8)
iov = struct.pack("PN", ctypes.addressof(b), 8)
call(310, os.getppid(), iov, 1, iov, 1, 0); escaped()''',
    niceness='os.setpriority(os.PRIO_PROCESS, t["pid"], 19); escaped()',
    affinity='os.sched_setaffinity(t["pid"], {0}); escaped()',
    limits_of_others='resource.prlimit(t["pid"], resource.RLIMIT_NOFILE, (5, 5)); escaped()',
    limits_seen='resource.prlimit(t["pid"], resource.RLIMIT_NOFILE); escaped()',
    io_priority='call(251, 1, t["pid"], 3<<13); escaped()',
    compare='call(312, os.getpid(), t["pid"], 0, 0, 0); escaped()',
    reap='call(448, 3, 0); escaped()')

FILES = dict(
    read='print(open(t["file"]).read()); escaped()',
    read_home='os.listdir(t["home"]); escaped()',
    list_root='print(os.listdir("/home") if t.get("root") else open("/etc/hostname").read()); escaped()',
    passwd='open("/etc/passwd"); escaped()',
    write='open(t["file"], "w").write("x"); escaped()',
    create='open(t["home"]+"/new", "w"); escaped()',
    truncate='os.truncate(t["file"], 0); escaped()',
    truncate_by_open='os.open(t["file"], os.O_RDONLY | os.O_TRUNC); escaped()',
    truncate_library='os.open(os.__file__, os.O_RDONLY | os.O_TRUNC); escaped()',
    unlink='os.unlink(t["file"]); escaped()',
    rename_in='os.rename(t["file"], "mine"); escaped()',
    rename_over='open("x", "w").close(); os.rename("x", t["file"]); escaped()',
    hard_link='os.link(t["file"], "mine"); open("mine").read(); escaped()',
    soft_link='os.symlink(t["file"], "mine"); open("mine").read(); escaped()',
    soft_link_dir='os.symlink(t["home"], "d"); os.listdir("d"); escaped()',
    dotdot='open(os.path.relpath(t["file"])).read(); escaped()',
    chdir='os.chdir(t["home"]); os.listdir("."); escaped()',
    path_fd='fd = os.open(t["file"], os.O_PATH); open(f"/proc/self/fd/{fd}").read(); escaped()',
    mode='os.chmod(t["file"], 0); escaped()',
    mode_fd='os.fchmod(0, 0); escaped()',
    owner='os.chown(t["file"], os.getuid(), os.getgid()); escaped()',
    times='os.utime(t["file"], (0, 0)); escaped()',
    label='os.setxattr(t["file"], "user.x", b"x"); escaped()',
    fifo='os.mkfifo(t["home"]+"/fifo"); escaped()',
    device='os.mknod("d", 0o20600, os.makedev(1, 1)); open("d", "rb").read(1); escaped()',
    make_dir='os.mkdir(t["home"]+"/new"); escaped()',
    remove_dir='os.rmdir(t["home"]+"/empty"); escaped()',
    sibling='d = os.path.dirname(os.getcwd()); [os.listdir(d+"/"+x) for x in os.listdir(d) if d+"/"+x!=os.getcwd()]; len(os.listdir(d))>1 and escaped()',
    environment='open(f"/proc/{t[\'pid\']}/environ", "rb").read(); escaped()',
    parent_environment='open(f"/proc/{os.getppid()}/environ", "rb").read(); escaped()',
    memory='open(f"/proc/{t[\'pid\']}/mem", "rb"); escaped()',
    parent_memory='open(f"/proc/{os.getppid()}/maps").read(); escaped()',
    own_memory='open("/proc/self/mem", "r+b"); escaped()',
    root_of_other='os.listdir(f"/proc/{t[\'pid\']}/root"); escaped()',
    cwd_of_other='os.listdir(f"/proc/{t[\'pid\']}/cwd/"); escaped()',
    files_of_other='os.listdir(f"/proc/{os.getppid()}/fd"); escaped()',
    command_lines='open(f"/proc/{t[\'pid\']}/cmdline").read(); escaped()',
    adjust='open("/proc/self/oom_score_adj", "w").write("-1000"); escaped()',
    sysctl='open("/proc/sys/kernel/hostname", "w").write("x"); escaped()',
    cgroup='os.listdir("/sys/fs/cgroup"); escaped()',
    handle='call(303, -100, t["file"].encode(), ctypes.create_string_buffer(struct.pack("Ii", 128, 0)+bytes(128)), ctypes.byref(ctypes.c_int()), 0); escaped()',
    watch='fd = c("inotify_init"); c("inotify_add_watch", fd, t["home"].encode(), 0xfff); escaped()',
    fanotify='call(300, 0, 0); escaped()',
    mount='c("mount", b"none", b".", b"tmpfs", 0, None); escaped()',
    chroot='os.chroot("."); escaped()',
    namespaces='c("unshare", 0x10000000); escaped()',
    join='call(308, 0, 0); escaped()',
    open_tree='call(428, -100, b"/", 1); escaped()',
    openat2='call(437, -100, t["file"].encode(), struct.pack("QQQ", 0, 0, 0), 24); escaped()',
    shell='os.system("true")==0 and escaped()',
    spawn='import subprocess; subprocess.run(["true"]); escaped()',
    exec_self='os.execv(sys.executable, ["python", "-c", "print(\'ESCAPED\')"])')

MACHINE = dict(
    network='socket.socket(); escaped()',
    network6='socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); escaped()',
    unix_socket='socket.socket(socket.AF_UNIX); escaped()',
    netlink='socket.socket(socket.AF_NETLINK, socket.SOCK_RAW); escaped()',
    packet='socket.socket(17, 3); escaped()',
    pair_of_others='socket.socketpair(socket.AF_INET); escaped()',
    abstract='s = socket.socketpair()[0]; s.sendto(b"x", "\\0grpo_lit_test"); escaped()',
    host_name='socket.sethostname("x"); escaped()',
    domain_name='c("setdomainname", b"x", 1); escaped()',
    clock='time.clock_settime(time.CLOCK_REALTIME, time.time()); escaped()',
    adjust_clock='call(305, 0, ctypes.create_string_buffer(400)); escaped()',
    adjtimex='call(159, ctypes.create_string_buffer(400)); escaped()',
    time_of_day='call(164, 0, 0); escaped()',
    kernel_log='call(103, 10, 0, 0); escaped()',
    kernel_log_read='call(103, 3, ctypes.create_string_buffer(1000), 1000); escaped()',
    reboot='call(169, 0xfee1dead, 672274793, 0, 0); escaped()',
    module='call(175, 0, 0, b""); escaped()',
    bpf='call(321, 0, 0, 0); escaped()',
    perf='call(298, ctypes.create_string_buffer(200), 0, -1, -1, 0); escaped()',
    ring='call(425, 4, ctypes.create_string_buffer(200)); escaped()',
    userfault='call(323, 1); escaped()',
    personality='call(135, 0x40000); escaped()',
    ports='call(173, 0, 1, 1); escaped()',
    io_level='call(172, 3); escaped()',
    user='os.setuid(0); os.getuid()==0 and os.setgid(0); escaped()',
    user_back='os.setresuid(0, 0, 0); escaped()',
    groups='os.setgroups([0]); escaped()',
    rights='c("capset", struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[2**32-1]*6)); escaped()',
    rights_left='d = ctypes.create_string_buffer(24); c("capget", struct.pack("Ii", 0x20080522, 0), d); any(d.raw) and escaped()',
    scheduler='os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)); escaped()',
    nice='os.nice(-5); escaped()',
    swap='c("swapoff", b"/x"); escaped()',
    accounts='call(163, 0); escaped()',
    quota='call(179, 0x80000700, 0, 0, 0); escaped()',
    hang_up='call(153); escaped()',
    dcookie='call(212, 0, ctypes.create_string_buffer(99), 99); escaped()',
    nfs='call(180, 0, 0, 0); escaped()',
    move_memory='call(279, t["pid"], 0, 0, 0, 0, 0); escaped()',
    migrate='call(256, t["pid"], 0, 0, 0); escaped()',
    filter='call(317, 2, 0, 0); escaped()',
    mode_32='call(0x40000000 | 57); escaped()',
    next_kernel='call(600); escaped()',
    sync_all='call(162); escaped()')

DISK_ROUTES = dict(
    many_files='for i in range(10**5): open(f"{i}", "wb").write(bytes(15*2**20)); took(15*(i+1)); time.sleep(.03)',
    unreadable='''os.mkdir("d", 0o300)
for i in range(40):
    open(f"d/{i}", "wb").write(bytes(15*2**20)); took(15*(i+1)); time.sleep(.03)''',
    unreadable_deep='''p = "."
for i in range(40):
    p += "/d"; os.mkdir(p, 0o300); open(f"{p}/f", "wb").write(bytes(15*2**20)); took(15*(i+1)); time.sleep(.03)''',
    masked='''os.umask(0o777); os.mkdir("e"); os.umask(0o477)
for i in range(40):
    os.mkdir(f"d{i}"); open(f"d{i}/f", "wb").write(bytes(15*2**20)); took(15*(i+1)); time.sleep(.03)''',
    too_deep='''for i in range(40):
    os.mkdir("d"*250); os.chdir("d"*250)
    open("f", "wb").write(bytes(15*2**20)) if i>20 else None; took(15*(i-20)); time.sleep(.03)''',
    moving='''os.mkdir("a"); names = "ab"; until = time.time()
for i in range(40):
    open(f"{names[i%2]}/{i}", "wb").write(bytes(15*2**20)); took(15*(i+1))
    os.rename(names[i%2], names[1-i%2]); time.sleep(.03)''',
    odd_names='''for i in range(40):
    open(b"\\xff\\n" + bytes([i+48]), "wb").write(bytes(15*2**20)); took(15*(i+1)); time.sleep(.03)''',
    dotted='''for i in range(40):
    open(f".{i}", "wb").write(bytes(15*2**20)); took(15*(i+1)); time.sleep(.03)''',
    allocated='f = open("x", "wb"); c("fallocate", f.fileno(), 1, ctypes.c_long(0), ctypes.c_long(2**28)); took(256)',
    allocated_posix='f = open("x", "wb"); os.posix_fallocate(f.fileno(), 0, 2**28); took(256)',
    large='open("x", "wb").write(bytes(2**25)); took(300)',
    at_the_end='f = open("x", "wb"); f.seek(2**30); f.write(b"x"); f.flush(); took(300)',
    copied='''open("x", "wb").write(bytes(15*2**20))
for i in range(40):
    f, g = open("x", "rb"), open(f"y{i}", "wb"); os.copy_file_range(f.fileno(), g.fileno(), 15*2**20); took(15*(i+1)); time.sleep(.03)''',
    mapped='''for i in range(40):
    f = open(f"{i}", "wb+"); f.truncate(15*2**20); m = mmap.mmap(f.fileno(), 0); m[:] = bytes(15*2**20); m.close(); took(15*(i+1)); time.sleep(.03)''')

FLOODS = dict(                             # how many names
    empty_files='for i in range(10**6): open(f"{i}", "w").close(); i%100 or took(i)',
    links='for i in range(10**6): os.symlink(".", f"{i}"); i%100 or took(i)',
    hard_links='open("x", "w").close()\nfor i in range(10**6): os.link("x", f"{i}"); i%100 or took(i)',
    directories='for i in range(10**6): os.mkdir(f"{i}"); i%100 or took(i)',
    closed_directories='for i in range(10**6): os.mkdir(f"{i}", 0); i%100 or took(i)')

CLASSES = dict(memory=MEMORY_ROUTES, things=THINGS, ipc=IPC, signals=SIGNALS, files=FILES, machine=MACHINE,
               disk=DISK_ROUTES, floods=FLOODS)
# class: what may have been taken when the limit ends it
MOST = dict(memory=MEMORY+SLACK, disk=DISK+SLACK, things=20_000, floods=20_000)
EASY = dict(pass_files=999, epolls=64, open_files=64)

libc = ctypes.CDLL(None, use_errno=True)

class Victims:
    "A process, files and System V objects that a program must not reach; all of them open to everybody"
    def __enter__(self):
        self.key = 0x6770+os.getpid()
        self.home = Path(tempfile.mkdtemp(prefix='victim-'))
        self.home.chmod(0o777)
        self.file = self.home/'secret'
        self.file.write_text('secret')
        self.file.chmod(0o666)
        (self.home/'empty').mkdir()
        self.process = subprocess.Popen(['sleep', '300'], start_new_session=True)
        self.shm = libc.shmget(self.key, 4096, 0o1666)
        self.sem = libc.semget(self.key, 1, 0o1666)
        self.msg = libc.msgget(self.key, 0o1666)
        libc.msgsnd(self.msg, b'\1'+bytes(7)+b'hello', 5, 0)
        return self

    def known(self):
        return dict(pid=self.process.pid, file=str(self.file), home=str(self.home), shm=self.shm, sem=self.sem,
                    msg=self.msg, key=self.key)

    def harm(self):
        "What happened to them"
        found = []
        if self.process.poll() is not None: found.append('the process is dead')
        try: same = self.file.read_text()=='secret' and self.file.stat().st_mode&0o777==0o666
        except OSError: same = False
        if not same: found.append('the file was changed')
        if sorted(p.name for p in self.home.iterdir())!=['empty','secret']: found.append('the directory was changed')
        if libc.shmget(self.key, 1, 0)<0: found.append('the shared memory is gone')
        if libc.semctl(self.sem, 0, 12)!=0: found.append('the semaphore was changed')
        if libc.msgget(self.key, 0)<0: found.append('the queue is gone')
        return found

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)
        libc.shmctl(self.shm, 0, None)
        libc.semctl(self.sem, 0, 0)
        libc.msgctl(self.msg, 0, None)

def outcome(kind, name, v, harm):
    "What was wrong with a run; empty if nothing"
    lines = v.stdout.splitlines()
    taken = [int(line.split()[1]) for line in lines if line.startswith('TOOK')]
    most = EASY.get(name, MOST.get(kind, 0))
    if 'ESCAPED' in lines: return 'escaped'
    if max(taken, default=0)>most: return f'took {max(taken)}'
    if harm: return ', '.join(harm)
    return f'{v.seconds:.1f} s' if v.seconds>4 else ''

def attack(kinds=None, allow_weak=None, every=1):
    "What was wrong with each program: {class: {name: text}}"
    from grpo_lit.rewards.sandbox import run_code
    extra = {} if allow_weak is None else dict(allow_weak=allow_weak)
    found = {}
    for kind in kinds or CLASSES:
        found[kind] = {}
        for name, program in list(CLASSES[kind].items())[::every]:
            with Victims() as victims:
                v = run_code(HEAD+program, stdin=json.dumps(victims.known()), timeout=2, memory_mb=MEMORY, **extra)
                found[kind][name] = outcome(kind, name, v, victims.harm())
    return found

if __name__=='__main__':
    from grpo_lit.rewards.workers import fork_server
    kinds = sys.argv[1:] or None
    found = attack(kinds)
    left = os.listdir(fork_server().scratch)
    print(json.dumps(dict(walls=fork_server().walls, left=left, found=found)))

# --- processes, where no filter for system calls holds them

FORKS = dict(                              # without a filter for system calls: status, and what it does
    bomb=('killed', 'import os\nwhile True:\n    try: os.fork()\n    except OSError: pass'),
    daemon=('ok', 'import os, time\nif not os.fork():\n    os.setsid()\n    if not os.fork(): time.sleep(60)\n    os._exit(0)'),
    chain=('ok', 'import os, time\nfor i in range(9):\n    if os.fork(): os._exit(0)\ntime.sleep(60)'),
    family=('memory', 'import os, time\nfor i in range(6):\n    if not os.fork(): break\nx = bytearray(60*2**20)\ntime.sleep(5)'))

def processes_of(scratch):
    "Processes of a fork server: their command line has its scratch directory"
    found = []
    for p in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            if scratch.encode() in (p/'cmdline').read_bytes() and (p/'stat').read_text().rpartition(')')[2].split()[0]!='Z':
                found.append(int(p.name))
    return found

def wait_until(f, seconds=60):
    until = time.monotonic()+seconds
    while not f() and time.monotonic()<until: time.sleep(.02)
    return f()
