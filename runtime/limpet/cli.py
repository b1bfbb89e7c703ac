"""The first word of the command line: the agent, or one of the commands for people.

The agent must stay small, so `run` is read by hand and nothing else is imported for it; `worker` is
what the core starts for a tool that is written in Python. `inspect` is Rust alone, so this process
becomes it at once. All other commands stand in `controller/arguments.py`.
"""

from __future__ import annotations

import os
import sys

from limpet import program
from limpet.errors import EXIT_OK, EXIT_USAGE, EXITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

CONFIG_FILE = "/etc/limpet/limpet.toml"
RUN_HELP = f"""\
usage: limpet run [--config FILE]

Run the agent in the foreground until SIGTERM or SIGINT.

  --config FILE  its configuration (default: {CONFIG_FILE})

`limpet init` writes a first configuration, `limpet config check FILE` reads it strictly.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code, one of `errors.EXITS`."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["run"]:
        return _run(words[1:])
    if words[:1] == ["worker"] and len(words) > 1:
        return _work(words[1:])
    if words[:1] == ["inspect"]:
        return _inspect(words[1:])
    from limpet.controller.arguments import run_command

    return run_command(words)


def read_run(words: list[str]) -> str | None:
    """Return the configuration file that the words after `run` name; ValueError says what not.

    None stands for a question for help.
    """
    if words in (["--help"], ["-h"]):
        return None
    if not words:
        return CONFIG_FILE
    name, equals, file = words[0].partition("=")
    if name != "--config":
        raise ValueError(f'there is no option "{words[0]}"')
    rest = words[1:]
    if not equals:
        file, rest = (rest[0], rest[1:]) if rest else ("", [])
    if not file or rest:
        raise ValueError("--config takes exactly one file")
    return file


def _run(words: list[str]) -> int:
    try:
        file = read_run(words)
    except ValueError as error:
        sys.stderr.write(f"cannot run the agent: {error} ({EXITS[EXIT_USAGE]})\n{RUN_HELP}")
        return EXIT_USAGE
    if file is None:
        sys.stdout.write(RUN_HELP)
        return EXIT_OK
    from limpet.app import run

    return run(file)


def _inspect(words: list[str]) -> NoReturn:
    """Become the program that looks at model files; the single executable does so before Python."""
    command = [*program.inspect(), *words]
    os.execv(command[0], command)


def _work(words: list[str]) -> int:
    """Run the Python tool in the file `words[0]` as a program of its own, with its arguments."""
    import runpy

    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
    return EXIT_OK
