"""How this very program starts its tools, for the policy table of a trial.

Knows where the build puts the native tools, and nothing of a task.
"""

from __future__ import annotations

import os
import sys

import limpet
from limpet.policy import Site

NATIVE_TOOL = "limpet-tool"


def native_tool() -> str:
    """Return the path of the program that holds the native tools; it need not be there."""
    return os.path.join(os.path.dirname(limpet.__file__), "native", NATIVE_TOOL)


def trial(directory: str) -> Site:
    """Return the site of a trial whose state is in `directory`: a device with its own broker."""
    return Site(
        device="trial",
        task_root=os.path.join(directory, "tasks"),
        loopback=True,
        worker=[sys.executable],
        native=[native_tool()],
    )
