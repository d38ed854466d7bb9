"""The first code that runs inside the sandbox: sets the limits, then becomes the program. Not imported.

The broker passes this text to `python -S -c`, with these arguments: python, binary or compile; the folders
of packages joined by colons, the limits as `name=soft:hard`, and a compiler's command after `--`.
The payload is descriptor 3, and a compiler's product goes to descriptor 4. The program sees nothing of this
code except a frame at the bottom of a traceback. Reading the payload moves its offset, which tells the broker
that everything before worked: an earlier failure is the sandbox's and not the program's.
"""

import builtins
import os
import resource
import sys

PAYLOAD, PRODUCT = 3, 4


def set_limits(limits):
    """Apply `name=soft:hard` limits, never above the present ones."""
    for limit in limits:
        name, _, values = limit.partition("=")
        kind = getattr(resource, "RLIMIT_" + name)
        ceiling = resource.getrlimit(kind)[1]
        soft, hard = (
            int(value) if ceiling == resource.RLIM_INFINITY else min(int(value), ceiling)
            for value in values.split(":")
        )
        resource.setrlimit(kind, (soft, hard))


def complete(packages):
    """Do what the module `site` would do; importing it makes a start 40% slower."""
    import _sitebuiltins

    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)")
    builtins.help = _sitebuiltins._Helper()
    sys.path += filter(None, packages.split(":"))


def read_payload():
    """Return the whole payload and close its descriptor."""
    with open(PAYLOAD, "rb") as file:
        return file.read()


def write(path, data):
    """Write the source to a file, for tracebacks and compilers."""
    with open(path, "wb") as file:
        file.write(data)


def compiled(command):
    """Run a compiler on the payload and copy what it made into the product's descriptor."""
    os.set_inheritable(PRODUCT, False)
    write(command[-1], read_payload())
    pid = os.posix_spawn(command[0], command, os.environ)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 0:
        with open("program", "rb") as file:
            while os.sendfile(PRODUCT, file.fileno(), None, 1 << 20):
                pass
    elif code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


def start(kind, packages, limits, command):
    """Return the program's code object; for a binary or a compiler, never return."""
    set_limits(limits)
    if kind == "binary":
        os.lseek(PAYLOAD, 1, os.SEEK_SET)
        os.set_inheritable(PAYLOAD, False)
        os.execve(PAYLOAD, ["program"], os.environ)
    if kind == "compile":
        compiled(command)
    complete(packages)
    source = read_payload()
    try:  # noqa: SIM105 (contextlib takes 2 ms to import)
        write("main.py", source)
    except OSError:
        pass  # no scratch folder: tracebacks show no source lines then
    return compile(source, "main.py", "exec", dont_inherit=True)


at = sys.argv.index("--")
program = start(sys.argv[1], sys.argv[2], sys.argv[3:at], sys.argv[at + 1 :])
sys.argv[:] = ["main.py"]
__file__ = "main.py"
for name in [name for name in globals() if not name.startswith("__") and name != "program"]:
    del globals()[name]
del name
exec(globals().pop("program"))
