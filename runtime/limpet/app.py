"""The composition root: builds every part of the agent, in order, and ends them in reverse.

Decides what is built from which part of the configuration, and the exit code. Modules that drag
paho or orjson in are imported after `slim` has taken their weight away.
"""

from __future__ import annotations

import os
import sys

from limpet import __version__, program, slim
from limpet.errors import EXIT_OK, EXIT_SOFTWARE, ConfigError, LimpetError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from limpet.agent import Agent
    from limpet.config import Config
    from limpet.link import Link
    from limpet.log import Log
    from limpet.native.core import Core
    from limpet.policy import Policy, Site

LOOPBACK = ("localhost", "127.", "::1")
DIRECTORY_MODE = 0o700
# What opening found that is too long for a line of the log; `limpet doctor` shows it.
UNTOLD = ("arithmetic", "budget")


def run(config_file: str) -> int:
    """Run the agent by the configuration in `config_file` until SIGTERM; return its exit code."""
    slim.install()
    from limpet import config, policy, toml
    from limpet.clock import Clock
    from limpet.log import stderr_log

    try:
        settings = config.load(config_file)
        rules = policy.load(settings.policy.file, settings.policy.tools_directory, site(settings))
    except ConfigError as error:
        sys.stderr.write(f"{error}\ncannot start the agent: see above (it ends)\n")
        return error.exit_code
    toml.let_go()
    log = stderr_log(Clock().wall_ms, settings.log.level, settings.log.format)
    try:
        restart = _serve(settings, rules, log)
    except LimpetError as error:
        log.error("agent.failed", detail=str(error), exit_code=error.exit_code)
        return error.exit_code
    except Exception as error:
        log.error("agent.failed", detail=f"a bug: {error!r}", exit_code=EXIT_SOFTWARE)
        sys.excepthook(*sys.exc_info())
        return EXIT_SOFTWARE
    log.info("agent.ended", restart=restart)
    if restart:
        # In the same process: whoever supervises it notices nothing but a pause.
        os.execv(sys.executable, program.again())
    return EXIT_OK


def site(settings: Config) -> Site:
    """Return what the policy needs to know of this device and this build."""
    from limpet.policy import Site

    host = settings.broker.host
    return Site(
        device=settings.device.name,
        task_root=os.path.join(settings.device.state_directory, "tasks"),
        directory_bytes=settings.limits.directory_bytes,
        loopback=host in LOOPBACK or host.startswith(LOOPBACK[1]),
        worker=program.words("worker"),
        native=program.native(),
    )


def _serve(settings: Config, rules: Policy, log: Log) -> bool:
    """Build everything, turn the loop, and end everything; whether to start anew."""
    from limpet import looks, topics
    from limpet.agent import Agent, Identity
    from limpet.backoff import Backoff
    from limpet.clock import Clock
    from limpet.health import Health
    from limpet.link import Link
    from limpet.local import Local
    from limpet.loop import Loop, Signals
    from limpet.memory import Memory, Pressure, used_bytes
    from limpet.native.core import Core, frame

    health = Health(os.environ)
    signals = Signals()
    with Core(_core_settings(settings, rules)) as core:
        opened = core.stats()["opened"]
        budget = opened["budget"]
        told = {name: value for name, value in opened.items() if name not in UNTOLD}
        log.info("core.open", version=__version__, **told, pool_bytes=budget["pool_bytes"])
        device = settings.device
        identity = Identity(device.prefix, device.name, _facts(settings, opened))

        def memory_now() -> dict[str, object]:
            rows = core.memory()
            return looks.picture(device.name, opened, rows, used_bytes(), agent.full)

        shown = looks.Looks(rules, memory_now)
        agent = Agent(identity, rules, frame, lambda: os.urandom(8).hex(), shown, log)
        link = Link(
            settings.broker,
            topics.device_filters(device.prefix, device.name),
            core.connect,
            core.disconnect,
            agent.greet,
            Backoff(int.from_bytes(os.urandom(8), "little")),
        )
        answers: dict[str, Callable[[], dict[str, object]]] = {
            "status": lambda: _status(device.name, link, agent, core),
            "memory": memory_now,
            "record": lambda: _record(core, device.state_directory),
        }
        with Local(settings.socket, answers) as local:
            pressure = Pressure(budget["agent_group"])
            clock = Clock()
            memory = Memory(budget["agent_bytes"], clock.boot_ms(), used_bytes, pressure)
            loop = Loop(
                core,
                link,
                agent,
                health,
                memory,
                local,
                signals,
                clock,
                log,
                settings.drain.timeout_ms,
                settings.device.reboot,
            )
            health.ready(f"device {device.name}, {opened['tasks']} live tasks")
            loop.run()
            return loop.restart


def _status(device: str, link: Link, agent: Agent, core: Core) -> dict[str, object]:
    """Return how the agent is."""
    return {
        "version": __version__,
        "device": device,
        "link": link.phase,
        "protocol": link.protocol,
        "outbox": len(agent.outbox),
        "tasks": list(agent.tasks.values()),
        "core": core.stats(),
    }


def _record(core: Core, directory: str) -> dict[str, object]:
    """Have the core write down its machine's last inputs; return where."""
    from limpet.native.records import RECORD, Item

    (refused,) = core.submit([Item(RECORD)])
    if refused is not None:
        return {"error": f"{refused} (ask again)"}
    return {"directory": os.path.join(directory, "recordings")}


def _core_settings(settings: Config, rules: Policy) -> dict[str, object]:
    """Return what the core is opened with; makes the directories that it expects."""
    directory = settings.device.state_directory
    try:
        os.makedirs(os.path.join(directory, "tasks"), DIRECTORY_MODE, exist_ok=True)
    except OSError as error:
        fault = f"cannot make {error.filename}: {error.strerror} (the agent does not start)"
        raise ConfigError([fault]) from error
    limits = settings.limits
    return {
        "state_directory": directory,
        "boot_id_file": settings.device.boot_id_file,
        "realtime": settings.device.realtime,
        "clock": "synchronised",
        **room(settings),
        "require": limits.require._asdict(),
        "segment_bytes": limits.segment_bytes,
        "table": rules.table,
    }


def room(settings: Config) -> dict[str, object]:
    """Return what the core reserves at start, and what it divides."""
    limits = settings.limits
    return {
        "limits": {
            "tasks": limits.tasks,
            "steps": limits.steps,
            "attempts": limits.attempts,
            "ids": limits.ids,
        },
        "memory": limits.memory._asdict(),
    }


def _facts(settings: Config, opened: dict[str, Any]) -> dict[str, object]:
    """Return what presence tells of this agent."""
    limits = settings.limits
    return {
        "version": __version__,
        "protocol": 1,
        "containment": opened["containment"],
        "memory": opened["memory"],
        "limits": {
            "tasks": limits.tasks,
            "steps": limits.steps,
            "attempts": limits.attempts,
            "pool_bytes": opened["budget"]["pool_bytes"],
            "step_bytes": opened["budget"]["step_bytes"],
        },
    }
