"""What holds up one thread of a real agent, and lets it go again when a test has seen enough.

Each way is a context manager: inside it the thread is held, and nothing else is. No duration is
waited for: whoever holds decides when it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from fleet import AGENT, Device, until
from proxy import Proxy

# From <linux/ptrace.h> and <linux/wait.h>.
PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000

# Once `python-holds` is there, takes the GIL into a C call that ends when somebody opens the FIFO.
HOLDABLE_AGENT = f"""\
import ctypes, os, sys, threading, time
os.chdir(os.path.dirname(sys.argv[1]))
def hold():
    while not os.path.exists("python-holds"):
        time.sleep(0.01)
    os.rename("python-holds", "python-held")
    ctypes.PyDLL(None).open(b"python-fifo", os.O_RDONLY)
threading.Thread(target=hold, daemon=True).start()
{AGENT}"""

# A name service that does not answer, once `lookup-holds` is there, until somebody opens the FIFO.
LOOKUP = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <unistd.h>
typedef int lookup(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                struct addrinfo **found) {
    if (rename("lookup-holds", "lookup-held") == 0)
        close(open("lookup-fifo", O_RDONLY));
    return ((lookup *)dlsym(RTLD_NEXT, "getaddrinfo"))(host, port, hints, found);
}
"""


def make_holdable(device: Device) -> None:
    """Prepare `device` for `gil` and `lookup`; start it with HOLDABLE_AGENT."""
    for name in ("python", "lookup"):
        os.mkfifo(device.directory / f"{name}-fifo")
    library = device.directory / "lookup.so"
    compile_c(LOOKUP, library, "-shared", "-fPIC")
    device.environment["LD_PRELOAD"] = str(library)


def compile_c(source: str, file: Path, *options: str) -> None:
    """Make `file` of a C source, with the compiler that limpet is built with."""
    argv = [os.environ.get("CC", "cc"), *options, "-x", "c", "-", "-o", str(file)]
    subprocess.run(argv, input=source.encode(), check=True)


@contextlib.contextmanager
def gil(device: Device) -> Iterator[None]:
    """A C call holds the GIL: no line of Python runs."""
    with _fifo(device.directory, "python"):
        yield


@contextlib.contextmanager
def lookup(device: Device, proxy: Proxy) -> Iterator[None]:
    """The connection is lost, and the lookup of the broker's name for the next one hangs."""
    with _fifo(device.directory, "lookup", proxy.cut):
        yield


@contextlib.contextmanager
def _fifo(directory: Path, name: str, strike: Callable[[], None] = lambda: None) -> Iterator[None]:
    (directory / f"{name}-holds").touch()
    strike()
    until((directory / f"{name}-held").exists, f"the hold of {name}")
    try:
        yield
    finally:
        # Opened both ways it never blocks; whoever waits in open(2) for a writer goes on.
        os.close(os.open(directory / f"{name}-fifo", os.O_RDWR))


@contextlib.contextmanager
def silence(proxy: Proxy) -> Iterator[None]:
    """The connection is lost; whoever takes the next one for the broker accepts and is silent."""
    broker = proxy.port_behind
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy.port_behind = silent.getsockname()[1]
        proxy.cut()
        connection, _ = silent.accept()
        with connection:
            yield
            proxy.port_behind = broker


def threads(device: Device, name: str) -> list[int]:
    """Return all threads of that name in a device's agent."""
    assert device.process is not None
    every = Path(f"/proc/{device.process.pid}/task").iterdir()
    found = [int(entry.name) for entry in every if (entry / "comm").read_text().strip() == name]
    assert found, f"the agent has no thread {name}"
    return found


@contextlib.contextmanager
def stopped(*tids: int) -> Iterator[None]:
    """Some threads are stopped as by a debugger; all others of their process go on."""
    with contextlib.ExitStack() as stack:
        for tid in tids:
            _ptrace(PTRACE_SEIZE, tid)
            stack.callback(_ptrace, PTRACE_DETACH, tid)
            _ptrace(PTRACE_INTERRUPT, tid)
            _, status = os.waitpid(tid, WALL)
            assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTRAP, status
        yield


def _ptrace(request: int, tid: int) -> None:
    call = ctypes.CDLL(None, use_errno=True).ptrace
    call.argtypes, call.restype = [ctypes.c_long] * 4, ctypes.c_long
    if call(request, tid, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "cannot stop a thread (the test ends)")
