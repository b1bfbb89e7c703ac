"""What every test file runs under: a site for policies, and how hypothesis searches."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from limpet.policy import Site

# Shared machines stall: a deadline would turn load into failures. A failure prints its blob, and
# `@reproduce_failure` with it replays the very same input.
settings.register_profile(
    "limpet", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("limpet")


@pytest.fixture
def site() -> Site:
    """A device whose broker is its own."""
    return Site(
        device="kitchen",
        task_root="/var/lib/limpet/tasks",
        directory_bytes=1 << 28,
        loopback=True,
        worker=["/usr/bin/limpet", "worker"],
        native=["/usr/bin/limpet", "native"],
    )
