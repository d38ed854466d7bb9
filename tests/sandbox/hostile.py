"""Programs that a model might write, by accident or not, and what must hold for each. Standard library only,
so that an ordinary user's bare Python can run them too: `python -m tests.sandbox.hostile TIER MODE ROWS` with
MODE spawn or fork and ROWS all or quick."""

import contextlib
import json
import os
import platform
import resource
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from r1kit.sandbox import Execution, Limits, Sandbox, Verdict, kernel

LIMITS = Limits(cpu_seconds=1, wall_seconds=30, memory_bytes=256 << 20)
SHORT = Limits(cpu_seconds=1, wall_seconds=0.7, memory_bytes=256 << 20)
SECRET = "the-secret-of-the-training"
PRELUDE = """
import ctypes, json, os, resource, signal, socket, sys, threading, time
told = json.loads(sys.stdin.readline())
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, action):
    try:
        result = action()
    except BaseException as error:
        print("refused:", name, repr(error)[:80])
        return False
    print("ESCAPED:", name, result)
    return True
def call(name, *arguments):
    number = told["calls"].get(name)
    if number is None:
        raise OSError("no such call here")
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    if libc.syscall(ctypes.c_long(number), *wide) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
# marker-in-the-source-8471
"""


@dataclass(frozen=True)
class Hostile:
    """A program; `verdicts` are those allowed. It must not print ESCAPED, and must print all of `says`."""

    name: str
    program: str | bytes
    verdicts: str = "ok"
    says: tuple[bytes, ...] = ()
    stdin: bytes | None = None  # None: what PRELUDE reads
    limits: Limits = LIMITS
    exactly: bytes | None = None
    quick: bool = True  # under a tenth of a second
    most: int | None = None  # the last number it prints may not be larger


def with_prelude(name, program, verdicts="ok", **more):
    return Hostile(name, PRELUDE + program, verdicts, **more)


P = with_prelude
H = Hostile
TABLE = [
    P("fork bomb", "while True:\n    os.fork()", "error"),
    P("counted fork", "for i in range(200):\n    attempt('fork', lambda: os.fork() or os._exit(0))"),
    P("thread bomb", """
threading.stack_size(65536)
count, stay = 0, threading.Event()
try:
    while count < 3000:
        threading.Thread(target=stay.wait, daemon=True).start()
        count += 1
except RuntimeError:
    pass
print(count, flush=True)
os._exit(0)""", most=LIMITS.processes + 30),
    P("memory bomb", "a = []\nwhile True:\n    a.append(bytearray(1 << 24))", "memory"),
    P("memory through 8 children", """
for i in range(8):
    attempt('fork', lambda: os.fork() or bytearray(200 << 20) and os._exit(0))"""),
    P("memory in files without a name", """
attempt('memfd', lambda: os.memfd_create('x'))
attempt('shmget', lambda: call('shmget', 0, 1 << 28, 0o1600))"""),
    H("a number of a thousand million digits", "print(10**10**9)", "cpu memory timeout", quick=False),
    H("more digits than int to str allows", "print(10**5000)", "error"),
    H("endless stdout", "while True: print('x' * 1000)", "output"),
    H("endless stderr", "import sys\nwhile True: print('x' * 1000, file=sys.stderr)", "output"),
    P("connect to the internet", """
attempt('connect', lambda: socket.create_connection(('1.1.1.1', 80), 1))
attempt('udp', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('1.1.1.1', 53)))"""),
    P("connect to a port of the host",
      "attempt('connect', lambda: socket.create_connection(told['port'], 1))"),
    P("connect to a unix socket of the host", """
for name in (told['abstract'], told['socket']):
    attempt(name, lambda: socket.socket(socket.AF_UNIX).connect(name))"""),
    P("other families of sockets", """
for family in (10, 16, 17, 29, 31, 38, 40, 44):
    attempt(family, lambda: socket.socket(family, socket.SOCK_RAW if family in (16, 17) else 1))
attempt('pair', lambda: socket.socketpair(socket.AF_INET, socket.SOCK_STREAM))"""),
    P("read the host's accounts", """
for path in ('/etc/passwd', '/etc/shadow', '/root', '/home', '/var/log'):
    attempt(path, lambda: os.listdir(path) if os.path.isdir(path) else open(path).read())"""),
    P("read a file of the tests by any path", """
os.chdir('/')
for path in (told['file'], '/proc/1/root' + told['file'], '/proc/self/root' + told['file'],
             '../' * 20 + told['file'], '/proc/self/cwd/../..' + told['file']):
    attempt(path, lambda: open(path).read())"""),
    P("every environment", """
def environments():
    yield repr(os.environ)
    for pid in os.listdir('/proc'):
        if pid.isdigit():
            try:
                yield open(f'/proc/{pid}/environ').read()
            except OSError:
                pass
try:
    for text in environments():
        if 'the-secret' + '-of' in text or 'R1KIT' in text:
            print('ESCAPED', text)
except OSError as error:
    print(error)"""),
    P("every command line", """
try:
    for pid in filter(str.isdigit, os.listdir('/proc')):
        text = open(f'/proc/{pid}/cmdline').read()
        if 'marker-in-the-source-' + str(8471) in text or told['file'] in text:
            print('ESCAPED', text)
except OSError as error:
    print(error)"""),
    P("inherited descriptors", """
for fd in range(3, 5000):
    try:
        print('ESCAPED', fd, os.fstat(fd))
    except OSError:
        pass"""),
    P("write where nothing may be written", """
for path in ('/usr/lib/x', '/usr/x', '/x', '/etc/x', '/dev/x', '/lib/x', '/proc/sys/kernel/core_pattern',
             '/proc/sysrq-trigger', '/proc/sys/vm/drop_caches', told['folder'] + '/x', told['writable']):
    attempt(path, lambda: open(path, 'w').write('b'))
attempt('truncate', lambda: os.truncate(told['writable'], 0))
attempt('mkdir', lambda: os.mkdir(told['folder'] + '/d'))
attempt('unlink', lambda: os.unlink(told['folder'] + '/mine'))
attempt('rename', lambda: os.rename(told['folder'] + '/mine', told['folder'] + '/yours'))"""),
    P("change what writing does not change", """
for path in (told['mine'], told['writable'], told['folder']):
    attempt('chmod', lambda: os.chmod(path, 0))
    attempt('utime', lambda: os.utime(path, (1, 1)))
    attempt('chown', lambda: os.chown(path, os.getuid(), os.getgid()))
    attempt('xattr', lambda: os.setxattr(path, 'user.x', b'x'))"""),
    P("overwrite its own source", """
try:
    open('main.py', 'w').write('print(1)')
except OSError:
    pass
print('still me')""", says=(b"still me",)),
    P("fill every disk", """
total = 0
for folder in ('/tmp', '/dev/shm', '/box', '.', told['folder'], '/dev', '/run', '/var/tmp'):
    try:
        for i in range(100):
            with open(f'{folder}/{i}{folder[1:3]}', 'wb', buffering=0) as file:
                for _ in range(100):
                    total += file.write(bytes(1 << 20))
    except OSError:
        pass
print(total)""", most=LIMITS.scratch_bytes + (1 << 20)),
    P("fill every disk with small files", """
count = 0
for folder in ('/tmp', '/dev/shm', '/box', '/'):
    try:
        for count in range(count, 300_000):
            open(f'{folder}/{count}', 'wb').close()
    except OSError:
        pass
print(count)""", "ok output", most=LIMITS.scratch_files, quick=False),
    P("signal its parent, init and everybody", """
for pid in (os.getppid(), 1, -1, -told['victim'], told['victim'], told['owner']):
    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
        try:
            os.kill(pid, number)
        except OSError:
            pass
print('alive')""", says=(b"alive",)),
    P("signal its own group", "try:\n    os.kill(0, signal.SIGKILL)\nexcept OSError:\n    pass", "ok signal"),
    P("signal every number", """
for pid in range(1, 40_000):
    if pid != os.getpid():
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
print('alive')""", says=(b"alive",)),
    P("other ways to hurt a process", """
for pid in (told['victim'], told['owner']):
    attempt('prlimit', lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1)))
    attempt('priority', lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
    attempt('affinity', lambda: os.sched_setaffinity(pid, {0}))
    attempt('scheduler', lambda: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)))
    attempt('pidfd', lambda: os.pidfd_open(pid))
    attempt('queue', lambda: call('rt_sigqueueinfo', pid, 9, bytes(128)))
    attempt('tkill', lambda: call('tkill', pid, 9))
    attempt('read memory', lambda: call('process_vm_readv', pid, bytes(16), 1, bytes(16), 1, 0))
import fcntl
a, b = socket.socketpair()
def own():
    fcntl.fcntl(a, fcntl.F_SETOWN, told['victim'])
    fcntl.fcntl(a, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC)
    b.send(b'x')
attempt('own', own)"""),
    H("exit with 0", "import sys; sys.exit(0)"),
    H("exit at once", "import os; print('unseen', end=''); os._exit(0)", exactly=b""),
    H("sleep", "import time; time.sleep(60)", "timeout", limits=SHORT, quick=False),
    H("busy loop", "while True: pass", "cpu", quick=False),
    P("ignore all signals and stay busy", """
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True: pass""", "cpu", quick=False),
    P("handle the signal of the time limit",
      "signal.signal(signal.SIGXCPU, print)\nwhile True: pass", "cpu", quick=False),
    H("recursion without end", """
import sys
sys.setrecursionlimit(10**9)
def f(x): return f(x + 1) + 1
f(0)""", "signal memory cpu error", quick=False),
    H("recursion in C",
      "import sys\nsys.setrecursionlimit(10**9)\na = []\nfor _ in range(10**6): a = [a]\nrepr(a)",
      "signal memory error cpu", quick=False),
    H("a null pointer", "import ctypes; ctypes.string_at(0)", "signal"),
    H("abort", "import os; os.abort()", "signal"),
    P("become a daemon",
      "attempt('daemon', lambda: os.fork() or (os.setsid(), os.fork() or time.sleep(60)))"),
    P("a child that holds the pipes",
      "attempt('child', lambda: os.fork() or time.sleep(60))\nprint('done')", says=(b"done",)),
    P("zombies", "for i in range(50):\n    attempt('zombie', lambda: os.fork() or os._exit(0))"),
    P("trace other processes", """
for pid in (1, os.getppid(), told['victim'], told['owner']):
    attempt(pid, lambda: call('ptrace', 16, pid, 0, 0))"""),
    P("new namespaces", """
for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000):
    attempt('unshare', lambda: call('unshare', flag))
    attempt('clone', lambda: call('clone', flag | 17, 0, 0, 0, 0))
    attempt('clone3', lambda: call('clone3', bytes(88), 88))"""),
    P("mount", """
for name in (b'proc', b'tmpfs'):
    attempt('mount', lambda: call('mount', name, b'/tmp', name, 0, 0))
attempt('umount', lambda: call('umount2', b'/usr/lib', 2))
attempt('chroot', lambda: os.chroot('/'))
attempt('fsopen', lambda: call('fsopen', b'tmpfs', 0))"""),
    P("raise its limits", """
for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):
    attempt(kind, lambda: resource.setrlimit(kind, (resource.RLIM_INFINITY,) * 2))
    attempt(kind, lambda: resource.prlimit(0, kind, (1 << 40, 1 << 40)))"""),
    P("limits hold for its init too", """
try:
    for line in open('/proc/1/limits'):
        if line.startswith(('Max address space', 'Max cpu time')) and 'unlimited' in line:
            print('ESCAPED', line)
except OSError as error:
    print(error)"""),
    P("become root", """
for action in (os.setuid, os.setgid, os.seteuid):
    attempt(action.__name__, lambda: action(0))
attempt('groups', lambda: os.setgroups([0]))
try:
    print([line for line in open('/proc/self/status') if line.startswith('Cap') and int(line[8:], 16)])
except OSError:
    print([])""", says=(b"[]",)),
    P("print from an exit function",
      "import atexit; atexit.register(print, 'late')\nprint('early')", exactly=b"early\nlate\n"),
    P("read more than there is",
      "print(repr(sys.stdin.read()), repr(sys.stdin.read(5)))", exactly=b"'' ''\n"),
    H("never read five megabytes", "print('done')", stdin=b"x" * 5_000_000, exactly=b"done\n"),
    H("read five megabytes",
      "import sys; print(len(sys.stdin.read()))", stdin=b"x" * 5_000_000, exactly=b"5000000\n"),
    H("any letters", "print(input()[::-1] + 'ü漢😀')", stdin="é漢\n".encode(), exactly="漢éü漢😀\n".encode()),
    H("a lone surrogate in the source", "print('\udc80')", "refused"),
    H("NUL in the source", "print(1)\0", "refused"),
    H("invalid UTF-8 in the source", b"print('\xff')", "error"),
    H("invalid UTF-8 in the output",
      "import sys; sys.stdout.buffer.write(b'\\xff\\xfe')", exactly=b"\xff\xfe"),
    H("escape codes and carriage returns", "print('no\\ryes\\x1b[2J')", exactly=b"no\ryes\x1b[2J\n"),
    P("symlinks out of its folder", """
for i, path in enumerate(('/', '/etc/shadow', told['file'], told['folder'])):
    try:
        os.symlink(path, f'link{i}')
    except OSError:
        pass
for path in ('link0/etc/shadow', 'link0' + told['file'], 'link1', 'link2'):
    attempt(path, lambda: open(path).read())
attempt('write', lambda: open('link3/x', 'w'))"""),
    P("search memory for what was expected", """
import gc
found = [x for x in gc.get_objects() if 'the-secret' + '-of' in str(getattr(x, '__dict__', ''))[:10000]]
frame = sys._getframe()
while frame:
    found += [v for v in frame.f_locals.values() if 'the-secret' + '-of' in str(v)[:10000]]
    frame = frame.f_back
print('ESCAPED' if found else 'nothing')"""),
    H("patch what is built in", """
import builtins, os, sys
class Everything:
    def __eq__(self, other): return True
builtins.len = builtins.print = lambda *a, **k: Everything()
sys.exit = os._exit = lambda code: None
sys.excepthook = None
1 / 0""", "error"),
    P("close everything and sleep",
      "os.closerange(0, 300)\ntime.sleep(60)", "timeout", limits=SHORT, quick=False),
    P("stop itself", "os.kill(os.getpid(), signal.SIGSTOP)", "timeout", limits=SHORT, quick=False),
    H("a regular expression without end",
      "import re; re.match(r'(a+)+$', 'a' * 40 + 'b')", "cpu", quick=False),
    P("a module of its own that shadows the library's", """
try:
    open('colorsys.py', 'w').write('print("ESCAPED")')
except OSError:
    pass
import colorsys
print(colorsys.rgb_to_hsv(0, 0, 0))""", says=(b"(0.0, 0.0, 0)",)),
    P("rare system calls", """
for name in ('keyctl', 'add_key', 'request_key', 'bpf', 'perf_event_open', 'io_uring_setup', 'userfaultfd',
             'open_by_handle_at', 'name_to_handle_at', 'kcmp', 'pidfd_getfd', 'init_module', 'mq_open',
             'fanotify_init', 'inotify_init1', 'msgget', 'semget', 'personality', 'migrate_pages', 'setns'):
    attempt(name, lambda: call(name, 0, 0, 0, 0, 0))
told['calls']['later'] = 463
attempt('a call newer than the filter', lambda: call('later', 0, 0, 0, 0, 0))"""),
    P("programs of the system", """
import subprocess
attempt('run', lambda: subprocess.run(['/bin/true'], check=True))
attempt('python', lambda: subprocess.run([sys.executable, '-c', 'print(1)'], check=True))
attempt('spawn', lambda: os.posix_spawn('/usr/bin/python3', ['python3'], {}))
attempt('system', lambda: os.system('true') == 0 or 1 / 0)"""),
    P("multiprocessing", """
import multiprocessing
attempt('pool', lambda: multiprocessing.Process(target=print).start())"""),
    P("legal threads and memory", """
import mmap, queue
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    total = sum(pool.map(lambda n: sum(range(n)), range(100)))
memory = mmap.mmap(-1, 1 << 20)
memory[:5] = b'hello'
a, b = socket.socketpair()
a.send(bytes(memory[:5]))
print(total, b.recv(5), os.urandom(4) != os.urandom(4), time.time() > 1e9)""",
      exactly=b"161700 b'hello' True True\n"),
    P("legal event loop", """
import asyncio
async def main():
    await asyncio.sleep(0)
    return await asyncio.to_thread(lambda: 41) + 1
print(asyncio.run(main()))""", exactly=b"42\n"),
    P("legal classes in __main__", """
import dataclasses, pickle, typing
@dataclasses.dataclass
class Point:
    x: int
print(pickle.loads(pickle.dumps(Point(3))), typing.get_type_hints(Point), __name__, sys.argv)""",
      exactly=b"Point(x=3) {'x': <class 'int'>} __main__ ['main.py']\n"),
    H("output just inside the limit",
      "import sys; sys.stdout.write('x' * (65536 - 1))", exactly=b"x" * 65535),
    H("output at the limit", "import sys; sys.stdout.write('x' * 65536)", exactly=b"x" * 65536),
    H("output over the limit", "import sys; sys.stdout.write('x' * (65536 + 1))", "output"),
    H("an exit code of a signal", "import sys; sys.exit(139)", "error signal"),
    H("a text as exit code", "import sys; sys.exit('sorry')", "error"),
]  # fmt: skip


@dataclass
class Surroundings:
    """What a program may try to reach: files, sockets, processes and secrets of the host."""

    told: dict = field(default_factory=dict)

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        folder = self.folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        os.chmod(folder, 0o777)
        for name in ("file", "writable", "mine"):
            with open(f"{folder}/{name}", "w") as file:
                file.write(SECRET)
            os.chmod(f"{folder}/{name}", 0o666)
        self.before = self._files()
        self.tcp = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.listeners = [self.tcp]
        for name in ("\0r1kit-test-" + os.path.basename(folder), folder + "-socket"):
            listener = self.stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(name)
            listener.listen()
            self.listeners.append(listener)
        os.chmod(folder + "-socket", 0o777)
        self.stack.callback(os.unlink, folder + "-socket")
        self.victim = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(1000)"])
        self.stack.callback(self.victim.wait)
        self.stack.callback(self.victim.kill)
        inherited = os.open(f"{folder}/file", os.O_RDONLY)
        os.set_inheritable(inherited, True)
        self.stack.callback(os.close, inherited)
        for _ in range(300):  # a training has many files open, so the sandbox's own have large numbers
            self.stack.callback(os.close, os.dup(inherited))
        os.environ["R1KIT_SECRET"] = SECRET
        self.stack.callback(os.environ.pop, "R1KIT_SECRET", None)
        column = kernel.ARCHITECTURES[platform.machine()][1]
        self.told = {name: f"{folder}/{name}" for name in ("file", "writable", "mine")}
        self.told |= {"folder": folder, "socket": folder + "-socket"}
        self.told |= {"port": self.tcp.getsockname(), "abstract": "\0r1kit-test-" + os.path.basename(folder)}
        self.told |= {"victim": self.victim.pid, "owner": os.getpid(), "calls": kernel._numbers(column)}
        return self

    def __exit__(self, *exception):
        self.stack.close()

    def damage(self):
        """What is no longer as it was, in words."""
        found = []
        if self._files() != self.before:
            found.append(f"files changed: {self._files()}")
        for listener in self.listeners:
            listener.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                listener.accept()
                found.append(f"somebody connected to {listener.getsockname()!r}")
        if self.victim.poll() is not None:
            found.append("the victim was killed")
        for pid in (self.victim.pid, os.getpid()):
            with open(f"/proc/{pid}/stat") as file:
                state = file.read().rpartition(")")[2].split()[0]
            if state == "T":
                found.append(f"{pid} was stopped")
            if (
                resource.prlimit(pid, resource.RLIMIT_CPU)[0] != resource.RLIM_INFINITY
                or os.sched_getaffinity(pid) != os.sched_getaffinity(0)
                or os.getpriority(os.PRIO_PROCESS, pid) != os.getpriority(os.PRIO_PROCESS, 0)
            ):
                found.append(f"limits or priority of {pid} changed")
        return found

    def _files(self):
        found = {}
        for name in sorted(os.listdir(self.folder)):
            entry = os.stat(f"{self.folder}/{name}")
            found[name] = entry.st_mode, entry.st_size, entry.st_mtime_ns, entry.st_uid
        folder = os.stat(self.folder)
        return found, folder.st_mode, folder.st_uid


def complaint(row: Hostile, execution: Execution) -> str:
    """What did not hold, in words; empty if all did."""
    said = execution.stdout[-1500:]
    wrong = []
    if execution.verdict not in row.verdicts.split():
        wrong.append(f"verdict {execution.verdict} ({execution.detail}), expected {row.verdicts}")
    if b"ESCAPED" in execution.stdout:
        line = execution.stdout.index(b"ESCAPED")
        wrong.append(f"it could: {execution.stdout[line : line + 200]!r}")
    wrong += [f"did not print {text!r}" for text in row.says if text not in execution.stdout]
    if row.exactly is not None and execution.stdout != row.exactly:
        wrong.append(f"printed {said!r}, not {row.exactly[-200:]!r}")
    reached = int((execution.stdout.split() or [b"0"])[-1]) if row.most is not None else 0
    if row.most is not None and reached > row.most:
        wrong.append(f"reached {reached}, allowed are {row.most}")
    return f"{row.name}: {'; '.join(wrong)} {execution.stderr[-300:]!r}" if wrong else ""


def run(sandbox: Sandbox, surroundings: Surroundings, row: Hostile) -> str:
    """Run one program; returns what did not hold."""
    stdin = json.dumps(surroundings.told).encode() + b"\n" if row.stdin is None else row.stdin
    return complaint(row, sandbox.run(row.program, stdin, limits=row.limits))


def run_all(tier: str, fork_server: bool, workers: int = 6, rows: list[Hostile] = TABLE) -> list[str]:
    """Run the rows in one tier, several at once; returns what did not hold."""
    with Surroundings() as surroundings, Sandbox(workers, tier=tier, fork_server=fork_server) as sandbox:
        with ThreadPoolExecutor(workers) as pool:
            complaints = list(pool.map(lambda row: run(sandbox, surroundings, row), rows))
        leaks = [f"{sandbox.counts['leaked']} processes left over"] if sandbox.counts["leaked"] else []
        after = sandbox.run("print(1)")
        alive = [] if after.verdict is Verdict.OK else [f"no run possible afterwards: {after}"]
        return [text for text in complaints if text] + surroundings.damage() + leaks + alive


if __name__ == "__main__":
    threading.stack_size(1 << 20)
    chosen = [row for row in TABLE if row.quick or sys.argv[3] == "all"]
    print(json.dumps(run_all(sys.argv[1], sys.argv[2] == "fork", rows=chosen)))
