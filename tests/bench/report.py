"""BENCHMARKS.md and its plots from what a run has written: `python tests/bench/report.py`.

Decides what is told in which order. A test holds page and plots against `tests/results/bench.json`.
`--quick` writes those of a quick run into `build/bench`, for whoever has just run it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import bars
import plots
from plots import Axis

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "tests" / "results" / "bench.json"
PAGE = ROOT / "BENCHMARKS.md"
PLOTS = ROOT / "tests" / "results" / "plots"
QUICK = ROOT / "build" / "bench"

Facts = dict[str, Any]
PERCENTILES = ("p50", "p95", "p99", "p99.9", "max")

HEAD = """\
# Benchmarks

Written by `python tests/bench/report.py` from `tests/results/bench.json`, which `{command}` wrote
at commit {commit}{changed} on {date} in {seconds} s: {machine}, Python {python}, {mosquitto}, Node
{node}. A test fails when this page and that file differ. The load of the machine was {before:.2f}
before the run and {after:.2f} after it; {stolen} of the processors' time was stolen by others.

Everybody is sent the same commands by the same load (`native/bench`: one thread, MQTT by hand, so
that it is not what is measured) through a mosquitto of their own, on the same processors and the
same disk, in turns. limpet makes every task durable before it starts it and every result before it
reports it; **none of the others makes anything durable**. `naive` is paho, json and
`subprocess.run`; `asyncio` is aiomqtt, orjson and asyncio's subprocesses; `node-red` is MQTT in,
exec, MQTT out. The broker sends small packets at once (`set_tcp_nodelay`), and
the load acknowledges at once; 40 ms where they remain are a client that holds its own back (Nagle).

## What must hold

Each ratio is the median of those of {turns} turns.

| Promise | Bound | Measured | |
| --- | --- | --- | --- |
"""


def number(value: float) -> str:
    """Return a number in four digits, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def percentiles(first: str, rows: dict[str, Facts]) -> str:
    """Return a table of summaries."""
    body = [
        [name, row["unit"], str(row["samples"]), *(number(row[share]) for share in PERCENTILES)]
        for name, row in rows.items()
    ]
    return table([first, "unit", "samples", *PERCENTILES], body)


def head(told: Facts) -> str:
    """Return the beginning of the page."""
    run = told["measured"]
    before, after = (run["noise"][when] for when in ("before", "after"))
    ticks = {name: after["ticks"][name] - before["ticks"][name] for name in after["ticks"]}
    stolen = f"{100 * ticks['steal'] / max(1, sum(ticks.values())):.1f}%"
    said = {key: told[key] for key in ("command", "commit", "date", "machine", "python")}
    return HEAD.format(
        **said,
        changed=" with changes" if told["modified"] else "",
        seconds=run["seconds"],
        mosquitto=run["versions"]["mosquitto"].replace(" version", ""),
        node=run["versions"]["node"],
        before=before["load"],
        after=after["load"],
        stolen=stolen,
        turns=run["counts"]["repetitions"],
    )


def promises(run: Facts) -> str:
    """Return the rows of the bars."""
    rows = ""
    for bar in bars.BARS:
        value, holds = bar.figure(run), bar.holds(run)
        sign = "at most" if bar.at_most else "at least"
        said = "not measured" if value is None else f"{number(value)} {bar.unit}"
        verdict = {True: "holds", False: "**does not hold**", None: ""}[holds]
        rows += f"| {bar.promise} | {sign} {bar.bound:g} {bar.unit} | {said} | {verdict} |\n"
    return rows


def deadlines(run: Facts) -> str:
    """Tell who was how late."""
    text = """
## Deadlines while Python suffers

In the target's own process a heap of 400,000 cyclic objects is collected over and over and a C call
holds the GIL for 200 ms of each 500; outside, broken messages come in. A child that ignores SIGTERM
is killed between 1 and 50 ms later. Lateness is from that deadline to the return of the signal
call. Beside each runs a C loop (timerfd, `pidfd_send_signal`) in each scheduling class, in the
same seconds.

![Lateness](tests/results/plots/lateness.svg)

"""
    rows = {}
    for subject, told in run["lateness"].items():
        rows[subject] = told["subject"]
        for name in told:
            if name != "subject":
                rows[f"{name}, beside {subject}"] = told[name]
    return text + percentiles("who", rows)


def turns(run: Facts) -> str:
    """Tell of the machine, of dispatch and of throughput."""
    machine, by_target = run["turns"]["machine"], run["turns"]["targets"]
    text = "\n## What the machine can do\n\n"
    text += percentiles("what", {**machine, "cyclictest, fifo": run["machine's own loop"]})
    text += "\n## Dispatch\n\nFrom publishing a task to its child's first instruction, and to its "
    text += "result.\n\n![Dispatch](tests/results/plots/dispatch.svg)\n\n"
    rows = {
        f"{target}: {name}": row
        for target, figures in by_target.items()
        for name, row in figures.items()
        if name.endswith("at once")
    }
    text += percentiles("who", rows)
    text += "\n## Throughput\n\nTasks a second, medians of the turns. A process runs "
    text += "`/bin/true`.\n\n"
    text += "![Throughput](tests/results/plots/throughput.svg)\n\n"
    body = []
    for target, figures in by_target.items():
        found = (figures.get(f"{kind}, tasks/s") for kind in ("exec", "three", "noop"))
        durable = "yes" if target.startswith("limpet") else "no"
        body.append([target, durable, *(number(row["p50"]) if row else "none" for row in found)])
    text += table(["who", "durable", "one process", "three processes", "no-op"], body)
    growth = {name: row for name, row in run["growth"].items() if name != "waiting"}
    text += "\nA no-op task of limpet while others are live (each waits for its next attempt):\n\n"
    text += percentiles("live tasks", growth)
    waiting = run["growth"]["waiting"]
    rate = number(waiting["tasks/s"])
    return text + f"\nWith {waiting['tasks']} waiting at the broker: {rate} no-op tasks a second.\n"


def memory(run: Facts) -> str:
    """Tell who has how much."""
    text = """
## Memory

Of all processes of a target, in MB of a million bytes. PSS divides a page among all who map it, and
the benchmark is itself a Python: alone on a device an agent has between PSS and RSS.

![Memory](tests/results/plots/memory.svg)

"""
    body = []
    for name, row in run["memory"]["idle"].items():
        sizes = [f"{bars.mb(row[kind]):.1f}" for kind in ("PSS", "RSS", "USS")]
        body.append([name, f"at rest, {row['seconds']:.3g} s", str(row["processes"]), *sizes])
    for name, life in run["memory"]["life"].items():
        flood = life["flood"]
        moments = {
            f"after {life['tasks'] // 10} {life['kind']} tasks": life["after a tenth"],
            f"after {life['tasks']}": life["after all"],
            f"at most under {flood['messages']} messages": flood["peak"],
            "after them": flood["after"],
        }
        for moment, row in moments.items():
            sizes = [f"{bars.mb(row[kind]):.1f}" for kind in ("PSS", "RSS", "USS")]
            body.append([name, moment, "", *sizes])
    return text + table(["who", "when", "processes", "PSS", "RSS", "USS"], body)


def costs(run: Facts) -> str:
    """Tell of the boundary, the flash and the start."""
    text = "\n## The boundary\n\nBetween Python and Rust, for no-op tasks.\n\n"
    body, sizes = [], {}
    for row in run["boundary"].values():
        names = ("at once", "crossings per task", "ns per task", "bytes in per task")
        body.append([number(row[name]) for name in (*names, "bytes out per task")])
        for kind, by_size in row["by batch"].items():
            for size, one in by_size.items():
                sizes[int(size), kind] = [kind, size, str(one["calls"]), str(one["ns per item"])]
    text += table(["tasks at once", "crossings", "ns", "bytes in", "bytes out"], body)
    text += "\n" + table(["call", "items, from", "calls", "ns per item"],
                         [sizes[key] for key in sorted(sizes)])  # fmt: skip
    text += "\n## Flash\n\nOf a block device that holds only the state.\n\n"
    body = []
    for name, rows in run["flash"].items():
        rest = rows["at rest"]
        body += [
            [name, what, number(row["bytes per task"]), number(row["flushes per task"])]
            for what, row in rows.items()
            if what != "at rest"
        ]
        hour = 3600 / rest["seconds"]
        idle = [f"at rest for {rest['seconds']:g} s, per hour", number(rest["bytes"] * hour)]
        body.append([name, *idle, number(rest["flushes"] * hour)])
    text += table(["who", "what", "bytes per task", "flushes per task"], body)
    start = run["start"]
    text += "\n## Start\n\nFrom exec to the subscription.\n\n"
    rows = {f"{name}, warm": row for name, row in start["warm"].items()}
    rows |= {f"{name}, cold": row for name, row in start["cold"].items() if row}
    recovery = start["recovery"]
    rows[f"limpet, killed with {recovery['live tasks']} live tasks"] = recovery
    text += percentiles("who", rows) + "\nWhat the agent's imports take (`-X importtime`):\n\n"
    return text + table(
        ["module", "µs by itself"], [[f"`{row['module']}`", str(row["µs"])] for row in
                                     start["imports"]])  # fmt: skip


def page(told: Facts) -> str:
    """Return the whole page."""
    run = told["measured"]
    return (
        head(told) + promises(run) + deadlines(run) + turns(run) + memory(run) + costs(run)
    )  # fmt: skip


def drawn(run: Facts) -> dict[str, str]:
    """Return the plots by the names of their files."""
    late = {name: told["subject"]["histogram"] for name, told in run["lateness"].items()}
    first = run["lateness"][bars.STORM]
    late |= {name: first[name]["histogram"] for name in first if name != "subject"}
    by_target = run["turns"]["targets"]
    dispatch = {
        name: figures["first instruction, 1 at once"]["histogram"]
        for name, figures in by_target.items()
    }
    kinds = {"exec": "one process", "three": "three processes", "noop": "no-op"}
    rates = {
        title: {
            name: figures[f"{kind}, tasks/s"]["p50"]
            for name, figures in by_target.items()
            if f"{kind}, tasks/s" in figures
        }
        for kind, title in kinds.items()
    }
    most = max(rate for group in rates.values() for rate in group.values())
    lives = {
        name: [(at, bars.mb(kib)) for at, kib in life["over time"]]
        for name, life in run["memory"]["life"].items()
    }
    longest = max(at for points in lives.values() for at, _ in points)
    return {
        "lateness": plots.distributions("Lateness of deadlines under the storm", "µs", late),
        "dispatch": plots.distributions(
            "Publish to first instruction, one task at a time", "µs", dispatch
        ),
        "throughput": plots.bars("Throughput", Axis("tasks/s", 0, most * 1.1), rates),
        "memory": plots.lines(
            "Resident memory: at rest, tasks, a flood",
            Axis("seconds", 0, longest),
            Axis("MB, logarithmic", 10, 1000, True),
            lives,
        ),
    }


def main() -> int:
    """Write page and plots."""
    quick = "--quick" in sys.argv[1:]
    told = json.loads((QUICK / "bench.json" if quick else RESULT).read_text())
    place = QUICK if quick else PLOTS
    place.mkdir(exist_ok=True)
    (QUICK / "BENCHMARKS.md" if quick else PAGE).write_text(page(told))
    for name, picture in drawn(told["measured"]).items():
        (place / f"{name}.svg").write_text(picture)
    if quick:
        print(promises(told["measured"]), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
