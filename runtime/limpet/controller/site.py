"""How a trial on this machine starts its tools: as the agent of this very build would.

Knows no task and no person.
"""

from __future__ import annotations

import os

from limpet import app, config
from limpet.policy import Site

DEVICE = "trial"


def trial(directory: str) -> Site:
    """Return the site of a trial whose state is in `directory`: a device with its own broker."""
    settings = config.parse("a trial", "", DEVICE)
    return app.site(settings)._replace(task_root=os.path.join(directory, "tasks"))
