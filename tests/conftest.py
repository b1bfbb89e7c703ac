"""What several test files share: the documents and vectors, a site, and how hypothesis runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from limpet.policy import Site

ROOT = Path(__file__).parent.parent
VECTORS = Path(__file__).parent / "vectors"
NOW_MS = 1_795_000_000_000

# Shared machines stall: a deadline would turn load into failures. A failure prints its blob, and
# `@reproduce_failure` with it replays the very same input.
settings.register_profile(
    "limpet", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("limpet")


def read_vectors(name: str) -> Any:
    """Return the vectors in the file `name`."""
    return json.loads((VECTORS / name).read_text())


@pytest.fixture
def site() -> Site:
    """A device whose broker is its own."""
    return Site(
        device="kitchen",
        task_root="/var/lib/limpet/tasks",
        loopback=True,
        worker=["/usr/bin/limpet", "worker"],
        native=["/usr/bin/limpet", "native"],
    )
