"""A task's way through a target: to the child's first instruction, to its result, and how many.

Dispatch is measured with a few tasks under way, throughput with as many as keep it busy.
"""

from __future__ import annotations

from typing import Any

import harness
import machine
import targets
from harness import Facts, Scene

AT_ONCE = (1, 10, 100)
BUSY = {targets.EXEC: 64, targets.THREE: 64, targets.NOOP: 128}
LIVE = (1, 16, 128, 512, 1000)
WAITING = 4000

Samples = dict[str, list[float]]


def checked(figures: Facts, tasks: int) -> Facts:
    """Return the figures of a load whose tasks all went well."""
    assert figures["succeeded"] == tasks, figures["refused"]
    return figures


def dispatch(scene: Scene, tasks: int, at_once: int) -> Samples:
    """Return µs from publishing to the child's first instruction, and to the result."""
    file = machine.blank(scene.directory, tasks)
    argv = [str(harness.probe("child")), str(file), "@N@"]
    command = scene.target.command(targets.EXEC, argv)
    figures = checked(harness.load(scene.broker.port, command, tasks, at_once), tasks)
    began, ended = figures["sent_ns"], figures["latency_ns"]
    first = machine.readings(file, tasks)
    assert all(first), "a child did not write down its start"
    return {
        f"first instruction, {at_once} at once": [
            (read - sent) / 1e3 for read, sent in zip(first, began, strict=True)
        ],
        f"result, {at_once} at once": [ns / 1e3 for ns in ended],
    }


def throughput(scene: Scene, kind: str, tasks: int) -> float:
    """Return tasks a second."""
    command = scene.target.command(kind, [targets.PROGRAM])
    figures = checked(harness.load(scene.broker.port, command, tasks, BUSY[kind]), tasks)
    return float(figures["results"] / figures["seconds"])


def repetition(scene: Scene, counts: Facts) -> Samples:
    """Measure what has processes once with a target that has just started."""
    told = {"start to subscribed, ms": [scene.start_s * 1e3]}
    # The first tasks are those of a cold cache; who starts is measured elsewhere.
    dispatch(scene, counts["warm"], 1)
    for at_once in AT_ONCE:
        told |= dispatch(scene, counts["dispatch"] * (1 if at_once == 1 else 2), at_once)
    return told | rates(scene, [targets.EXEC, targets.THREE], counts)


def rates(scene: Scene, kinds: list[str], counts: Facts) -> Samples:
    """Return tasks a second of each of `kinds`, each with as many at once as keep it busy."""
    return {f"{kind}, tasks/s": [throughput(scene, kind, counts[kind])] for kind in kinds}


def growth(kind: Any, counts: Facts) -> Facts:
    """Return µs per no-op task of limpet while ever more others are live; and with many waiting."""
    told: Facts = {}
    with harness.running(kind) as scene:
        live = 0
        for wanted in (number for number in LIVE if number <= counts["live"]):
            left_alone(scene, wanted - 1 - live)
            live = wanted - 1
            figures = noop(scene, counts["grown"], 1)
            per_task = [ns / 1e3 for ns in figures["latency_ns"]]
            told[f"{wanted} live"] = harness.summary(per_task, "µs")
    with harness.running(kind) as scene:
        waiting = min(WAITING, counts["waiting"])
        figures = noop(scene, waiting, waiting)
        told["waiting"] = {"tasks": waiting, "tasks/s": figures["results"] / figures["seconds"]}
    return told


def left_alone(scene: Scene, tasks: int) -> None:
    """Give limpet tasks that stay; return when they wait for their next attempt.

    Their step fails, and is tried again in an hour.
    """
    if tasks > 0:
        again = {"maximum_attempts": 2, "initial_interval": "1h", "maximum_interval": "1h"}
        fails = {"name": "s", "tool": "exec", "input": {"argv": ["/bin/false"]}}
        steps = [{**fails, "on_interruption": "rerun", "retry": again}]
        failing = scene.target.of_steps(steps, report="all")
        # No result comes for an hour. The answer is all that is heard of each; that its attempt
        # has failed is asked for, because states may be dropped.
        answers = "limpet/kitchen/answer/"
        taken = failing._replace(hear=[f"{answers}bench"], result=answers, success='"accepted"')
        before = scene.target.waiting()
        checked(harness.load(scene.broker.port, taken, tasks, 32, expires_s=3600), tasks)
        harness.await_so(lambda: scene.target.waiting() == before + tasks)
        harness.settle(scene.target.pid)


def noop(scene: Scene, tasks: int, at_once: int) -> Facts:
    """Run tasks that do nothing."""
    command = scene.target.command(targets.NOOP, [])
    return checked(harness.load(scene.broker.port, command, tasks, at_once), tasks)
