"""What a Python process suffers while its deadlines are measured: started inside of it.

`brew` begins at once: a heap of 400,000 cyclic objects is collected over and over, and every half
second a C call holds the GIL for 200 ms. Imports nothing that the agent has a stand-in for.
"""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Callable

OBJECTS = 400_000
HELD_S = 0.2
PAUSE_S = 0.3


def collect() -> None:
    """Keep a large heap and collect it for ever."""
    heap: list[list[object]] = [[] for _ in range(OBJECTS)]
    for one in heap:
        one.append(one)
    while True:
        gc.collect()
        time.sleep(0.001)


def hold() -> None:
    """Hold the GIL in a C call for two fifths of the time."""
    library = ctypes.PyDLL(None)
    while True:
        library.usleep(int(HELD_S * 1e6))
        time.sleep(PAUSE_S)


def brew() -> None:
    """Begin."""
    kinds: list[Callable[[], None]] = [collect, hold]
    for kind in kinds:
        threading.Thread(target=kind, daemon=True).start()


if __name__ == "__main__":
    brew()
    threading.Event().wait()
