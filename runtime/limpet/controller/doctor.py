"""What this machine lends to the agent, each point with what to do about it.

Decides what is asked and what counts as ok, warn or fail. A point never changes anything: the core
is opened in a directory of its own.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple

from limpet import __version__, app, config, policy
from limpet.controller import site
from limpet.controller.device import SYNCHRONISED
from limpet.controller.terminal import plain
from limpet.errors import EXIT_CONFIG, EXIT_OK, LimpetError
from limpet.native.core import Core
from limpet.units import format_size

if TYPE_CHECKING:
    from limpet.controller.terminal import Screen

KERNEL_MIN = (6, 1)
SEGMENT_BYTES = 1 << 20
ALLOW_NOTHING = "allow = []\n"
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


class Finding(NamedTuple):
    """One point: `verdict` is ok, warn or fail; `advice` is empty when there is nothing to do."""

    verdict: str
    name: str
    found: str
    advice: str = ""


def examine(screen: Screen, file: str) -> int:
    """Print every finding; EXIT_CONFIG if one failed."""
    findings = [
        Finding("ok", "limpet", f"{__version__}, Python {platform.python_version()}"),
        kernel(platform.release()),
        clock(os.path.exists(SYNCHRONISED)),
        *_configuration(file),
        *examine_core(_room(file)),
        native_tools(site.trial("/").native[0]),
    ]
    for each in findings:
        show(screen, each)
    return EXIT_CONFIG if any(each.verdict == "fail" for each in findings) else EXIT_OK


def show(screen: Screen, finding: Finding) -> None:
    """Write one finding."""
    screen.record({"kind": "finding", **finding._asdict()})
    verdict = screen.paint(f"{finding.verdict:<4}", COLOURS[finding.verdict])
    screen.say(f"{verdict}  {finding.name:<14}  {finding.found}")
    if finding.advice:
        screen.say(f"{'':22}{finding.advice}")


def kernel(release: str) -> Finding:
    """Judge the kernel by its release, such as `6.1.0-18-arm64`."""
    digits = [part.partition("-")[0] for part in release.split(".")[:2]]
    version = tuple(int(part) if part.isdecimal() else 0 for part in digits)
    least = ".".join(map(str, KERNEL_MIN))
    if version >= KERNEL_MIN:
        return Finding("ok", "kernel", release)
    return Finding("warn", "kernel", release, f"limpet is made for Linux {least} and later")


def clock(synchronised: bool) -> Finding:
    """Judge whether somebody has confirmed the wall clock since start."""
    if synchronised:
        return Finding("ok", "clock", "confirmed by a time service since start")
    advice = 'run a time service, or set [clock] untrusted = "accept" in the policy'
    return Finding("warn", "clock", "nobody has confirmed it: tasks may be refused", advice)


def containment(tier: str, adopts_orphans: bool) -> Finding:
    """Judge what finds and ends every descendant of a step."""
    if tier.startswith("cgroup"):
        return Finding("ok", "containment", tier)
    advice = "descendants are found by a marker; a writable cgroup makes it certain"
    if not adopts_orphans:
        advice += "; the kernel gives orphans to others: one that drops the marker is not found"
    return Finding("warn", "containment", tier, advice)


def memory(tier: str, obstacle: str | None) -> Finding:
    """Judge what keeps every step within its memory limit, and what keeps a better tier away."""
    if tier.startswith("cgroup"):
        return Finding("ok", "memory", tier)
    advice = obstacle or (
        "for the kernel to keep it run as root or with Delegate=yes; on a Raspberry Pi add "
        "cgroup_enable=memory to /boot/firmware/cmdline.txt and restart"
    )
    advice = (
        "a step is ended soon after it passes its memory limit, and its files on a tmpfs are not "
        f"counted; {advice}"
    )
    return Finding("warn", "memory", tier, advice)


def budget(division: dict[str, Any]) -> list[Finding]:
    """Show how memory divides: what there is, and who may take what of it."""
    place = division["cap_group"] or "this device"
    shares = {
        "agent": (division["agent_bytes"], "above 80% of it, tasks are refused"),
        "reserve": (division["reserve_bytes"], "for the system, or what a limit notices late"),
        "pool": (division["pool_bytes"], "the limits of all steps that run at one time"),
        "step": (division["step_bytes"], "of the pool, where neither step nor tool says"),
    }
    told = [
        Finding("ok", f"  {name}", f"{format_size(size >> 20 << 20)}: {reason}")
        for name, (size, reason) in shares.items()
    ]
    total = format_size(division["cap_bytes"] >> 20 << 20)
    return [Finding("ok", "budget", f"{total} of {place}"), *told]


def disk(directory: str, free_bytes: int, needed_bytes: int) -> Finding:
    """Judge the room for the journal's two segments, which are filled in advance."""
    found = f"{directory}: {format_size(free_bytes >> 20 << 20)} free"
    if free_bytes >= 2 * needed_bytes:
        return Finding("ok", "disk", found)
    if free_bytes >= needed_bytes:
        return Finding("warn", "disk", found, "little is left for the files of tasks")
    advice = f"the journal alone needs {format_size(needed_bytes)}"
    return Finding("fail", "disk", found, advice)


def native_tools(program: str) -> Finding:
    """Judge whether the program that holds fetch, http, hash and others is there."""
    if os.access(program, os.X_OK):
        return Finding("ok", "native tools", program)
    advice = "built-in file and network tools will not start: build again"
    return Finding("warn", "native tools", f"{program} is not there", advice)


def _configuration(file: str) -> list[Finding]:
    """Read the configuration and its policy, and look at the disk it names."""
    if not os.path.exists(file):
        return [Finding("warn", "configuration", f"{file} is not there", "limpet init writes one")]
    try:
        read = config.load(file)
        policy.load(read.policy.file, read.policy.tools_directory, app.site(read))
    except LimpetError as error:
        lines = str(error).splitlines()
        found = f"{file}: mistakes: {len(lines)}"
        return [Finding("fail", "configuration", found, f"first: {lines[0]}")]
    findings = [Finding("ok", "configuration", f"{file}, device {read.device.name}")]
    directory = read.device.state_directory
    try:
        free_bytes = shutil.disk_usage(directory).free
    except OSError as error:
        found = f"{directory}: {error.strerror}"
        return [*findings, Finding("fail", "disk", found, "make the state directory")]
    # The journal may be there already; then its space is no longer in what is free.
    made = os.path.isdir(os.path.join(directory, "journal"))
    needed_bytes = 0 if made else 2 * read.limits.segment_bytes
    return [*findings, disk(directory, free_bytes, needed_bytes)]


def _room(file: str) -> dict[str, object]:
    """Return what the configuration has the core reserve; of the shipped one if it has mistakes."""
    try:
        return app.room(config.load(file))
    except LimpetError:
        return app.room(config.parse(file, "", "device"))


def examine_core(room: dict[str, object]) -> list[Finding]:
    """Open a core in a directory of its own and ask it what it found."""
    with tempfile.TemporaryDirectory(prefix="limpet-") as directory:
        rules = os.path.join(directory, "policy.toml")
        with open(rules, "w", encoding="utf-8") as stream:
            stream.write(ALLOW_NOTHING)
        table = policy.load(rules, f"{directory}/no-tools", site.trial(directory)).table
        settings = {
            **room,
            "state_directory": directory,
            "clock": "always",
            "segment_bytes": SEGMENT_BYTES,
            "table": table,
        }
        try:
            with Core(settings) as core:
                opened: dict[str, Any] = core.stats()["opened"]
        except LimpetError as error:
            return [Finding("fail", "core", "does not open", plain(str(error)))]
    return [
        *arena(opened["arena_bytes"], opened["arithmetic"]),
        containment(opened["containment"], opened["adopts_orphans"]),
        memory(opened["memory"], opened["obstacle"]),
        *budget(opened["budget"]),
    ]


def arena(total_bytes: int, terms: list[list[Any]]) -> list[Finding]:
    """Show the arithmetic of the machine's memory: its terms, each with its reason, and the sum."""
    shown = [
        Finding("ok", f"  {name}", f"{count} x {size} B: {reason}")
        for name, count, size, reason in terms
    ]
    return [Finding("ok", "core", f"arena of {total_bytes} B, touched at start"), *shown]
