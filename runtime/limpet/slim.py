"""Stand-ins for modules that paho and orjson import and this agent never reaches; with reasons.

Together they save about 10 MB resident. Decides only what is left out: a real module that is
already there stays. Must be called before anything imports paho or orjson, by the agent's own
process; a controller that is one file takes those of the modules that are no part of it.
"""

from __future__ import annotations

import _socket
import _thread
import sys
from collections import namedtuple
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Error(OSError):
    """Stands for exceptions that are named in `except` clauses and never raised."""


class _ValueError(ValueError):
    """The same, for those that must be values' errors."""


class _Socket(_socket.socket):
    """What the agent uses of `socket.socket`, whose module enumerates every constant."""

    __slots__ = ("__weakref__",)

    def accept(self) -> tuple[_Socket, Any]:
        """Return a connection and whose it is."""
        fd, address = self._accept()  # type: ignore[attr-defined]
        return _Socket(fileno=fd), address


class _Condition:
    """Is told of each publication that has gone; nobody waits for that."""

    __slots__ = ()

    def __enter__(self) -> None:
        """Take no lock: the agent's Python is one thread."""

    def __exit__(self, *_: object) -> None:
        """Give none back."""

    def notify(self) -> None:
        """Wake nobody."""


class _Annotation:
    """Stands for whatever an annotation is made of: nobody looks into one that runs."""

    __slots__ = ()

    def __call__(self, *_: object) -> _Annotation:
        """Name a variable of types."""
        return self

    def __getitem__(self, _: object) -> _Annotation:
        """Take parameters."""
        return self


class _Fields(type):
    """Makes a named tuple of a class with annotated fields, as `typing` does."""

    def __new__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> Any:
        """Return the class itself for the base only."""
        if not bases:
            return super().__new__(cls, name, bases, space)
        notes = space.pop("__annotations__", {})
        defaults = [space.pop(field) for field in [*notes] if field in space]
        more = {"defaults": defaults, "module": space.pop("__module__")}
        made = namedtuple(name, notes, **more)  # type: ignore[misc]  # no literals here
        for key, member in space.items():
            setattr(made, key, member)
        return made


class _NamedTuple(metaclass=_Fields):
    pass


def _same(value: object) -> object:
    return value


# Name -> what is looked up in it at import; the reason stands before each.
STAND_INS: dict[str, dict[str, Any]] = {
    # paho: finding a proxy, which only its own connect does; ours comes from the uplink.
    "urllib": {"__path__": []},
    "urllib.parse": {},
    "urllib.request": {},
    # paho: the websocket handshake. OpenSSL comes with it.
    "hashlib": {},
    "base64": {},
    # paho: TLS is the uplink's; the names stand in `except` clauses that every read evaluates.
    "ssl": {"SSLWantReadError": _Error, "SSLWantWriteError": _Error, "SSLContext": object},
    # paho: asks once whether this is Windows.
    "platform": {"system": lambda: "Linux"},
    # paho: client ids that nobody chose. orjson: serialising UUIDs, which no report holds.
    "uuid": {"UUID": type("UUID", (), {"__slots__": ("int",)})},
    # paho: the alphabet of such client ids.
    "string": {
        "digits": "0123456789",
        "ascii_letters": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "hexdigits": "0123456789abcdefABCDEF",
        "octdigits": "01234567",
        "Formatter": object,
        "Template": object,
    },
    # paho: `enable_logger`, which nobody calls; it looks the levels up.
    "logging": {
        "DEBUG": 10,
        "INFO": 20,
        "WARNING": 30,
        "ERROR": 40,
        "Logger": object,
        "getLogger": lambda *_: None,
    },
    # orjson: serialising dataclasses. The real one brings inspect, ast and dis.
    "dataclasses": {
        "_FIELD": object(),
        "_FIELDS": "__dataclass_fields__",
        "MISSING": object(),
    },
    # paho: its own thread, and locks between that and others. The interpreter asks for the threads
    # that it is to wait for.
    "threading": {
        "Condition": _Condition,
        "Lock": _thread.allocate_lock,
        "RLock": _thread.RLock,
        "Thread": object,
        "_shutdown": lambda: None,
    },
    # paho: a connect of its own. Ours: sockets, by the same names.
    "socket": {
        **{name: found for name, found in vars(_socket).items() if not name.startswith("_")},
        "socket": _Socket,
    },
    # paho, tomli and ours: annotations. The real one brings contextlib and regular expressions.
    "typing": {
        **dict.fromkeys(("Any", "Callable", "Final", "IO", "Literal"), _Annotation()),
        **dict.fromkeys(("Tuple", "TypeVar", "Union"), _Annotation()),
        **{"Protocol": object, "TypedDict": dict, "NamedTuple": _NamedTuple},
        **{"TYPE_CHECKING": False, "overload": _same, "cast": lambda _, value: value},
    },
    # orjson: the parent class of its own error.
    "json": {"JSONDecodeError": _ValueError},
}


def install(*names: str) -> None:
    """Put the stand-ins of these names, or all, where `import` finds them."""
    for name, members in STAND_INS.items():
        if name in sys.modules or (names and name not in names):
            continue
        module = sys.modules[name] = ModuleType(name)
        vars(module).update(members)
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], child, module)
