"""The command line of every command but `run`: words, options, help, and which code runs.

Decides how a command is spelled. What it does is imported when it runs, so that `--help` and the
small commands stay quick. Knows no document and no connection.
"""

from __future__ import annotations

import argparse
import os
import pwd
import sys
from typing import TYPE_CHECKING, NoReturn

from limpet import __version__, errors, program
from limpet.cli import CONFIG_FILE
from limpet.clock import Clock
from limpet.controller.context import UsageError
from limpet.controller.terminal import Screen, open_screen
from limpet.errors import EXIT_OK, EXIT_USAGE, LimpetError
from limpet.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from limpet.controller.context import Context
    from limpet.controller.document import Document

    Command = Callable[[Screen, argparse.Namespace], int]

EXIT_INTERRUPTED = 130

OVERVIEW = """\
an edge agent runtime: multi-step tasks over MQTT, under hard deadlines, surviving power cuts

on the device     run, status, tasks, record, explain, logs, doctor, selftest, init,
                    config check, policy show, journal show, replay
on this machine   try, task check, demo, inspect (model files)
for the fleet     submit, retry, cancel, watch, top, devices; all but devices with --local as
                    well: over the agent's own socket, though no broker can be reached

first steps:
  limpet demo                        a broker, an agent and a task, on this machine
  limpet try task.json               one task, no broker
  limpet init; limpet run            the smallest device
  limpet submit task.json -d kitchen --wait
"""
EXITS = "exit codes:\n" + "\n".join(f"  {code:>3}  {text}" for code, text in errors.EXITS.items())


INSPECT_FLAGS = (
    "--json", "--no-hash", "--tensors", "--absolute", "--require-trusted", "--idle", "--rules",
)  # fmt: skip
INSPECT_OPTIONS = (
    "--output", "--trusted", "--keys", "--context", "--memory", "--hf-title", "--hf-app-file",
    "--hf-app-port", "--hf-short-description",
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """Errors in our own words, with our own exit code."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        raise UsageError(f"cannot read the command line: {message} (see {self.prog} --help)")


def run_command(words: list[str]) -> int:
    """Run the command that `words` spell; every expected failure becomes a line and a code."""
    screen = open_screen("--json" in words)
    try:
        parsed = build_parser().parse_args(words)
        command: Command = parsed.command
        return command(screen, parsed)
    except LimpetError as error:
        screen.fail(str(error), error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough; the interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_USAGE


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets `command`."""
    parser = _Parser(
        prog="limpet",
        description=OVERVIEW,
        epilog=EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"limpet {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("run", help="run the agent (see limpet run --help)")
    _add_local(commands)
    _add_fleet(commands)
    _add_checks(commands)
    return parser


def _add(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    command: Command,
    summary: str,
    *examples: str,
    parents: tuple[_Parser, ...] = (),
) -> argparse.ArgumentParser:
    """Add one command with `--json`, and its examples below its help."""
    epilog = "examples:\n" + "\n".join(f"  {line}" for line in examples) if examples else None
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=epilog,
        parents=parents,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="JSON Lines instead of text")
    parser.set_defaults(command=command)
    return parser


def _add_local(commands: argparse._SubParsersAction[_Parser]) -> None:
    trial = _add(
        commands,
        "try",
        _try,
        "run one task on this machine, with the device's own core and limits and without a broker",
        "limpet try task.json",
        "limpet try task.json --policy /etc/limpet/policy.toml --tools /etc/limpet/tools.d",
        "limpet try task.json --state ./state     # kept: after a kill -9, the same again goes on",
    )
    trial.add_argument("task", metavar="TASK.json", help='the task; "-" is standard input')
    trial.add_argument("--policy", metavar="FILE", help="default: everything that is declared")
    trial.add_argument("--tools", metavar="DIR", help="declared tools (default: built-in ones)")
    trial.add_argument("--state", metavar="DIR", help="keep journal and files here")
    trial.add_argument("--allow-reboot", action="store_true", help="let the task reboot us")
    _add(commands, "demo", _demo, "show what limpet does: a broker, an agent, a task; a minute")
    init = _add(
        commands,
        "init",
        _init,
        "write a first configuration; nothing is overwritten",
        "limpet init device            # to try it: a tool and a task that we may send",
        "limpet init --system          # for a service: in /etc/limpet, and nothing is allowed yet",
    )
    init.add_argument("directory", nargs="?", metavar="DIR", help="default: limpet")
    init.add_argument("--system", action="store_true", help="a policy that allows nothing")


def _add_fleet(commands: argparse._SubParsersAction[_Parser]) -> None:
    fleet = _fleet_options()
    submit = _add(
        commands,
        "submit",
        _submit,
        "send a task to a device; id and expires_at (24 hours) may be left out of the file",
        "limpet submit task.json -d kitchen --wait",
        "limpet submit task.json -d kitchen --wait --timeout 10m --json | jq .outcome",
        "limpet submit task.json --local --wait    # this machine's agent, no broker",
        parents=(fleet,),
    )
    retry = _add(
        commands,
        "retry",
        _retry,
        "send the steps of a task from one on as a new task; its id begins with the old one",
        "limpet retry task.json --from install -d kitchen --wait",
        parents=(fleet,),
    )
    retry.add_argument("--from", dest="step", required=True, metavar="STEP", help="first step")
    for parser in (submit, retry):
        parser.add_argument("task", metavar="TASK.json", help='the task; "-" is standard input')
        parser.add_argument("--wait", action="store_true", help="follow it to its result")
        parser.add_argument("--timeout", type=_seconds, metavar="TIME", help="such as 30s or 10m")
    cancel = _add(
        commands, "cancel", _cancel, "cancel a task", "limpet cancel app-1 -d kitchen",
        parents=(fleet,),
    )  # fmt: skip
    cancel.add_argument("id", metavar="ID")
    cancel.add_argument("--owner", metavar="NAME", help="the task's source, if it is not ours")
    watch = _add(
        commands,
        "watch",
        _watch,
        "show states, results and presence as they come; Ctrl-C ends",
        "limpet watch              # every device",
        "limpet watch -d kitchen --json",
        "limpet watch --local      # every source's tasks on this machine",
        parents=(fleet,),
    )
    top = _add(
        commands,
        "top",
        _top,
        "show the memory of a device's agent and steps against their limits; Ctrl-C ends",
        "limpet top -d kitchen",
        "limpet top --local --interval 2s",
        "limpet top -d kitchen --once --json | jq .pool",
        parents=(fleet,),
    )
    top.add_argument("--interval", type=_interval, default=1.0, metavar="TIME", help="default: 1s")
    times = top.add_mutually_exclusive_group()
    times.add_argument("--count", type=_count, metavar="N", help="so many times, then end")
    times.add_argument("--once", dest="count", action="store_const", const=1, help="as --count 1")
    for parser in (submit, retry, cancel, watch, top):
        way = parser.add_argument_group("without a broker")
        way.add_argument("--local", action="store_true", help="to this machine's agent, as `local`")
        way.add_argument("--config", metavar="FILE", help="which agent; says --local too")
    _add(commands, "devices", _devices, "list devices by their presence", parents=(fleet,))


def _fleet_options() -> _Parser:
    options = _Parser(add_help=False)
    options.add_argument("-d", "--device", metavar="DEVICE")
    options.add_argument("--context", metavar="NAME", help="one of ~/.config/limpet/contexts.toml")
    options.add_argument("--source", metavar="NAME", help="our name (default: the login)")
    options.add_argument("--host", metavar="HOST", help="the broker (default: localhost)")
    options.add_argument("--port", type=int, metavar="PORT", help="default: 1883, with TLS 8883")
    options.add_argument("--prefix", metavar="PREFIX", help="of all topics (default: limpet)")
    return options


def _add_checks(commands: argparse._SubParsersAction[_Parser]) -> None:
    task = commands.add_parser("task", help="check: compile a task without sending it")
    inner = task.add_subparsers(metavar="COMMAND", required=True)
    check = _add(inner, "check", _task_check, "compile a task; a mistake is told with its place")
    check.add_argument("task", metavar="FILE")
    config = commands.add_parser("config", help="check: read a configuration strictly")
    inner = config.add_subparsers(metavar="COMMAND", required=True)
    check = _add(inner, "check", _config_check, "read the configuration, its policy and its tools")
    check.add_argument("file", nargs="?", default=CONFIG_FILE, metavar="FILE")
    journal = commands.add_parser("journal", help="show: what the device has written down")
    inner = journal.add_subparsers(metavar="COMMAND", required=True)
    show = _add(inner, "show", _journal_show, "show a journal's records; nothing is changed")
    show.add_argument("directory", metavar="DIR", help="a state directory, or its journal")
    replay = _add(
        commands, "replay", _replay, "feed a recorded machine again and compare its decisions"
    )
    replay.add_argument("path", metavar="DIR", help="a state directory, or one recording")
    policy = commands.add_parser("policy", help="show: who may run what on this device")
    inner = policy.add_subparsers(metavar="COMMAND", required=True)
    show = _add(inner, "show", _policy_show, "show who may run what, and which line says so")
    doctor = _add(commands, "doctor", _doctor, "say what this machine lends, and what to do")
    selftest = _add(
        commands,
        "selftest",
        _selftest,
        "prove on this machine, without a broker, that this executable works here; a few seconds",
        "limpet selftest",
        "limpet selftest --state /var/lib/limpet    # on the disk that the agent will use",
    )
    selftest.add_argument("--state", metavar="DIR", help="make the files below DIR for a while")
    status = _add(commands, "status", _status, "ask the agent of this machine how it is")
    tasks = _add(
        commands,
        "tasks",
        _tasks,
        "list the live tasks of this machine's agent, whoever sent them, over its own socket"
        " (of other devices, limpet watch tells)",
    )
    record = _add(
        commands, "record", _record, "have the agent write down its machine's last inputs"
    )
    explain = _add(
        commands, "explain", _explain, "tell what happened to a task, and why", "limpet explain app"
    )
    explain.add_argument("task", metavar="TASK", help="its id, or SOURCE/ID")
    logs = _add(
        commands,
        "logs",
        _logs,
        "show what the steps of a task have written",
        "limpet logs app-2.4.1",
        "limpet logs ops/app-2.4.1 install --stream stderr",
    )
    logs.add_argument("task", metavar="TASK", help="its id, or SOURCE/ID")
    logs.add_argument("step", nargs="?", metavar="STEP")
    logs.add_argument("--stream", choices=("stdout", "stderr"), help="only this one")
    for parser in (show, doctor, status, tasks, record, explain, logs):
        parser.add_argument("--config", default=CONFIG_FILE, metavar="FILE")
    _add_inspect(commands)
    version = _add(commands, "version", _version, "print the version", "limpet version --sbom")
    version.add_argument(
        "--sbom", action="store_true", help="the bill of materials of this file (CycloneDX 1.6)"
    )


def _add_inspect(commands: argparse._SubParsersAction[_Parser]) -> None:
    """Spell `inspect` for help and completion; what reads its words is Rust (`cli._inspect`)."""
    parser = commands.add_parser(
        "inspect", help="what model files are, whether they are sound, trusted and fit this device"
    )
    parser.add_argument("path", nargs="+", metavar="PATH")
    formats = ("table", "json", "cyclonedx", "spdx", "spdx-json", "hf-readme")
    parser.add_argument("--format", choices=formats)
    for flag in INSPECT_FLAGS:
        parser.add_argument(flag, action="store_true")
    for option in INSPECT_OPTIONS:
        parser.add_argument(option)
    parser.add_argument("--hf-sdk", choices=("gradio", "docker", "static"))


def _seconds(text: str) -> float:
    try:
        return parse_duration(text) / 1000
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _interval(text: str) -> float:
    seconds = _seconds(text)
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("must be 1s to 1h: a device looks once a second")
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or not int(text):
        raise argparse.ArgumentTypeError("must be a whole number from 1 on")
    return int(text)


def _context(parsed: argparse.Namespace) -> Context:
    from limpet.controller import context

    if getattr(parsed, "local", False) or getattr(parsed, "config", None):
        return _local(parsed)
    given = {name: getattr(parsed, name) for name in ("host", "port", "prefix", "source", "device")}
    file = context.contexts_file(dict(os.environ))
    return context.load(file, parsed.context, given, _login())


def _local(parsed: argparse.Namespace) -> Context:
    from limpet.controller import local

    for name in ("device", "context", "source", "host", "port", "prefix"):
        if getattr(parsed, name) is not None:
            raise UsageError(f"cannot use --{name} with --local: that is this machine's agent")
    return local.context(parsed.config or CONFIG_FILE)


def _login() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _load(parsed: argparse.Namespace, source: str) -> Document:
    from limpet.controller import document

    return document.load(parsed.task, source, Clock().wall_ms())


def _try(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import trial

    document = _load(parsed, trial.SOURCE)
    return trial.run(
        screen, document, parsed.policy, parsed.tools, parsed.state, parsed.allow_reboot
    )


def _submit(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import fleet

    context = _context(parsed)
    task = _load(parsed, context.source)
    return fleet.submit(screen, context, task, parsed.wait, parsed.timeout)


def _retry(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import fleet

    context = _context(parsed)
    task = fleet.repeat(parsed.task, parsed.step, context.source, Clock().wall_ms())
    return fleet.submit(screen, context, task, parsed.wait, parsed.timeout)


def _cancel(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import fleet

    return fleet.cancel(screen, _context(parsed), parsed.id, parsed.owner)


def _watch(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import fleet

    everyone = parsed.device in (None, fleet.EVERYONE)
    device, parsed.device = parsed.device, None if everyone else parsed.device
    return fleet.watch(screen, _context(parsed), fleet.EVERYONE if everyone else device)


def _top(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import top

    return top.show(screen, _context(parsed), parsed.interval, parsed.count)


def _devices(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import fleet

    return fleet.devices(screen, _context(parsed))


def _task_check(screen: Screen, parsed: argparse.Namespace) -> int:
    task = _load(parsed, "check")
    steps = task.plan["steps"]
    screen.record({"kind": "check", "ok": True, "id": task.id, "steps": len(steps)})
    last = sum(step["finally"] for step in steps)
    screen.say(f"{parsed.task}: ok, steps: {len(steps) - last}, finally: {last}")
    return EXIT_OK


def _config_check(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import device

    return device.check(screen, parsed.file)


def _journal_show(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import history

    return history.show(screen, parsed.directory)


def _replay(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import replay

    return replay.show(screen, parsed.path)


def _policy_show(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import device

    return device.show_policy(screen, parsed.config)


def _doctor(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import doctor

    return doctor.examine(screen, parsed.config)


def _selftest(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import selftest

    return selftest.run(screen, parsed.state)


def _explain(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import explain

    return explain.show(screen, parsed.config, parsed.task)


def _logs(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import logs

    return logs.show(screen, parsed.config, parsed.task, parsed.step, parsed.stream)


def _status(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import status

    return status.ask(screen, parsed.config)


def _tasks(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import status

    return status.tasks(screen, parsed.config)


def _record(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import status

    return status.record(screen, parsed.config)


def _init(screen: Screen, parsed: argparse.Namespace) -> int:
    from limpet.controller import device

    if parsed.system:
        return device.init_system(screen, parsed.directory or os.path.dirname(CONFIG_FILE))
    return device.init(screen, parsed.directory or "limpet", _login())


def _demo(screen: Screen, parsed: argparse.Namespace) -> int:
    if program.FROZEN:
        why = "its broker is no part of the single executable (`make demo` in the source tree does)"
        raise UsageError(f"cannot show the demonstration: {why}")
    from limpet.controller import demo

    return demo.run(screen)


def _version(screen: Screen, parsed: argparse.Namespace) -> int:
    if parsed.sbom:
        text = program.materials()
        if text is None:
            why = "only the single executable holds one (nothing is printed)"
            raise UsageError(f"cannot print the bill of materials: {why}")
        sys.stdout.write(f"{text}\n")
        return EXIT_OK
    python = ".".join(map(str, sys.version_info[:3]))
    screen.record(
        {
            "kind": "version",
            "limpet": __version__,
            "protocol": 1,
            "python": python,
            "frozen": program.FROZEN,
        }
    )
    screen.say(f"limpet {__version__}")
    return EXIT_OK
