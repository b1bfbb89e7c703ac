"""The real core on a clock that the test moves, with a world that answers what the test says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from limpet import codec
from limpet import task as tasks
from limpet.native._core import ffi, lib
from limpet.native.core import Core, frame
from limpet.native.records import ANY_CLOCK, SUBMIT, Event, Item
from limpet.native.status import OK
from limpet.policy import Site
from limpet.policy import compile as compile_policy
from limpet.toml import Source
from samples import NOW_MS

BOOT_NS = 60_000_000_000
POLICY = """\
[[allow]]
source = "ops"
tools = ["exec", "shell", "sleep", "publish", "reboot"]

[[operator]]
source = "admin"

[clock]
untrusted = "accept"
"""


def policy(site: Site) -> Any:
    """Return the policy of a device whose broker is its own."""
    mistakes: list[str] = []
    return compile_policy(Source("policy.toml", POLICY, mistakes), [], site, mistakes)


def settings(directory: Path, table: dict[str, Any]) -> dict[str, Any]:
    """Return what a small core in `directory` is opened with."""
    boot_id = directory / "boot_id"
    if not boot_id.exists():
        boot_id.write_text("5f0e\n")
    (directory / "tasks").mkdir(exist_ok=True)
    return {
        "state_directory": str(directory),
        "boot_id_file": str(boot_id),
        "clock": "synchronised",
        "limits": {"tasks": 4, "steps": 16, "attempts": 2, "ids": 16},
        "segment_bytes": 1 << 20,
        "table": table,
    }


class ManualCore(Core):
    """A core without threads and processes."""

    __slots__ = ("_opened_ns", "_seed")

    def __init__(self, settings: dict[str, Any], at_ns: int = BOOT_NS, seed: int = 7) -> None:
        """Open at the instant `at_ns` after the boot, with another `seed` at each opening."""
        self._opened_ns, self._seed = at_ns, seed
        super().__init__(settings)

    def _open(self, settings: Any, length: int, handle_out: Any) -> int:
        return int(
            lib.limpet_open_manual(settings, length, self._seed, self._opened_ns, handle_out)
        )

    def advance(self, to_ns: int) -> None:
        """Move the clock to `to_ns` after the boot; an earlier instant only lets things settle."""
        assert lib.limpet_advance(self._handle, to_ns) == OK

    def inject(self, **answer: Any) -> None:
        """Say how the world answers."""
        text = orjson.dumps(answer)
        assert lib.limpet_inject(self._handle, ffi.from_buffer(text), len(text)) == OK

    def effects(self) -> list[dict[str, Any]]:
        """Return what the world was asked to do since the last call."""
        effects: list[dict[str, Any]] = self.told()["effects"]
        return effects

    def told(self) -> dict[str, Any]:
        """Return that with `next_deadline`, in ns after the boot, or None for never."""
        text_out, length_out = ffi.new("uint8_t[]", 1 << 16), ffi.new("size_t *")
        assert lib.limpet_effects(self._handle, text_out, 1 << 16, length_out) == OK
        told: dict[str, Any] = orjson.loads(bytes(ffi.buffer(text_out, length_out[0])))
        return told


def finish_attempts(core: ManualCore, code: int = 0) -> list[list[str]]:
    """Let every process that was asked for start and end; return their argvs."""
    ran = []
    while effects := core.effects():
        for effect in effects:
            if "spawn" in effect:
                ran.append(effect["argv"])
                core.inject(spawned=effect["spawn"])
                core.inject(exited={"attempt": effect["spawn"], "code": code, "signal": None})
            elif "sweep" in effect:
                core.inject(swept=effect["sweep"])
    core.advance(0)
    return ran


def document(task_id: str, **more: Any) -> dict[str, Any]:
    """Return a task of one step that runs `true`."""
    step = {"name": "a", "tool": "exec", "input": {"argv": ["/bin/true"]}}
    expires_at = "2027-11-24T05:00:00Z"
    return {"limpet": 1, "id": task_id, "expires_at": expires_at, "steps": [step], **more}


def item(body: dict[str, Any], token: int = 1, source: str = "ops") -> Item:
    """Return the submission of a task."""
    plan = codec.encode(tasks.compile(body, source, NOW_MS))
    _, digest = frame(codec.frame(codec.encode(body)), codec.MESSAGE_BYTES_MAX)
    return Item(SUBMIT, token=token, flags=ANY_CLOCK, text=plan, digest=digest)


def polled(core: Core, kind: str) -> list[Event]:
    """Return the events of one kind that there are now."""
    return [event for event in core.poll() if event.kind == kind]
