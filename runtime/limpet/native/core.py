"""The handle of the Rust core: the only user of cffi's `ffi`.

Decides how batches travel: one array of items, one of events and one blob, made once. Knows what
no text means. A poisoned core is a CoreError; the agent ends with its exit code and starts anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from limpet.errors import CoreError, LimpetError, check
from limpet.native import status
from limpet.native._core import ffi, lib
from limpet.native.records import EVENT, ITEM, KINDS, Event, Item

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

ABI_MAJOR = 1
BATCH_MAX = 64
# The longest text of an event is 240 KiB, the longest of an item 128 KiB.
BLOB_BYTES = 256 * 1024
ERROR_BYTES = 2048
STATS_BYTES = 16 * 1024
# At most 1024 rows.
MEMORY_BYTES = 512 * 1024

# What `frame` writes to, made once: it is called for every message.
_OFFSET, _DIGEST = ffi.new("uint32_t *"), ffi.new("uint8_t[32]")
_DIGEST_BYTES = ffi.buffer(_DIGEST)


class Core:
    """An open core. Use it from one thread; `close` it, or let a `with` do so."""

    __slots__ = (
        "_blob",
        "_count",
        "_event_records",
        "_events",
        "_handle",
        "_item_records",
        "_items",
        "_results",
        "_view",
    )

    def __init__(self, settings: dict[str, Any]) -> None:
        """Open with `settings`, as the driver's settings.rs lists them; CoreError says what fails.

        Reads the journal, ends processes that an earlier run left, and starts the threads: this
        may take seconds, everything later does not block.
        """
        _check_version()
        self._handle = ffi.NULL
        self._items = ffi.new("LimpetItem[]", BATCH_MAX)
        self._events = ffi.new("LimpetEvent[]", BATCH_MAX)
        self._results = ffi.new("uint32_t[]", BATCH_MAX)
        self._blob = ffi.new("uint8_t[]", BLOB_BYTES)
        self._view = memoryview(ffi.buffer(self._blob))
        self._item_records = memoryview(ffi.buffer(self._items))
        self._event_records = memoryview(ffi.buffer(self._events))
        self._count = ffi.new("uint32_t *")
        text = orjson.dumps(settings)
        handle_out = ffi.new("LimpetCore **")
        _done(self._open(ffi.from_buffer(text), len(text), handle_out))
        self._handle = handle_out[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill what runs, commit what is written, end the threads; a second close does nothing."""
        handle, self._handle = self._handle, ffi.NULL
        _done(lib.limpet_close(handle))

    def event_fd(self) -> int:
        """Return the descriptor that is readable while there is something to poll."""
        fd_out = ffi.new("int32_t *")
        _done(lib.limpet_event_fd(self._handle, fd_out))
        return int(fd_out[0])

    def submit(self, items: list[Item]) -> list[LimpetError | None]:
        """Hand in up to `BATCH_MAX` items; return per item None, or why the core did not take it.

        A TaskError refuses it for good; a CoreError with `exit_code` EXIT_TEMPORARY means busy:
        poll, then try again.
        """
        if not items:
            return []
        alone = len(items) == 1
        return [
            None if number == status.OK else self._why(item, number, alone)
            for item, number in zip(items, self._cross(items), strict=True)
        ]

    def poll(self) -> list[Event]:
        """Take what the core has to tell, at most `BATCH_MAX` events; the event fd says if more."""
        _done(
            lib.limpet_poll(
                self._handle, self._events, BATCH_MAX, self._blob, BLOB_BYTES, self._count
            )
        )
        records = self._event_records[: self._count[0] * EVENT.size]
        return [self._event(*record) for record in EVENT.iter_unpack(records)]

    def _event(
        self, kind: int, code: int, token: int, target: int, value: int, start: int, length: int
    ) -> Event:
        view = self._view[start : start + length]
        if KINDS[kind] == "result":
            head, history = orjson.loads(view[:value]), bytes(view[value:])
            return Event("result", code, token, target, value, head, history)
        text = orjson.loads(view) if length else {}
        return Event(KINDS[kind], code, token, target, value, text)

    def connect(self, target: dict[str, Any]) -> int:
        """Ask for a broker connection and return its epoch; what comes of it are `link` events."""
        text = orjson.dumps(target)
        epoch_out = ffi.new("uint64_t *")
        _done(lib.limpet_connect(self._handle, ffi.from_buffer(text), len(text), epoch_out))
        return int(epoch_out[0])

    def disconnect(self, epoch: int) -> None:
        """End the connection `epoch`, if it is the newest."""
        _done(lib.limpet_disconnect(self._handle, epoch))

    def stats(self) -> dict[str, Any]:
        """Return counters and what opening found."""
        return self._text(lib.limpet_stats, STATS_BYTES)

    def memory(self) -> dict[str, Any]:
        """Return the memory of every attempt that runs a process: `{"age_ms", "attempts"}`.

        `age_ms` is None before the first rows, which come a moment after the first call; they are
        renewed about once a second while this is called at least every 5 s. A row has `attempt`
        and, of its task, `task` (sequence number) and `directory` (`source.id`, `+` for each `.`
        of the source), `step` (index), `name` (of the step), `number`, `processes`, and in bytes
        `bytes`, `peak_bytes`, `limit_bytes` (None without one).
        """
        return self._text(lib.limpet_memory, MEMORY_BYTES)

    def _text(self, function: Any, size: int) -> dict[str, Any]:
        """Return the document that `function` of the core writes, of at most `size` bytes."""
        text_out = ffi.new("uint8_t[]", size)
        length_out = ffi.new("size_t *")
        _done(function(self._handle, text_out, size, length_out))
        told: dict[str, Any] = orjson.loads(bytes(ffi.buffer(text_out, length_out[0])))
        return told

    def _open(self, settings: Any, length: int, handle_out: Any) -> int:
        """Return the status of opening; tests open a core whose clock they move."""
        return int(lib.limpet_open(settings, length, handle_out))

    def _cross(self, items: list[Item]) -> list[int]:
        """Lay the items out and hand them over; one crossing."""
        check(len(items) <= BATCH_MAX, "a batch fits the array of items")
        texts = b"".join([item.text for item in items])
        check(len(texts) <= BLOB_BYTES, "the texts of a batch fit the blob")
        self._view[: len(texts)] = texts
        records, place, start = self._item_records, 0, 0
        for op, token, target, value, flags, text, digest in items:
            length = len(text)
            ITEM.pack_into(records, place, op, flags, token, target, value, start, length, digest)
            place += ITEM.size
            start += length
        _done(
            lib.limpet_submit(
                self._handle, self._items, len(items), self._blob, len(texts), self._results
            )
        )
        statuses: list[int] = ffi.unpack(self._results, len(items))
        return statuses

    def _why(self, item: Item, number: int, alone: bool) -> LimpetError | None:
        """Return why `item` was not taken. The core keeps only its last error, so an item of a
        batch is handed in again by itself: what it refuses, it refuses by form and policy alone.
        """
        if number == status.BUSY:
            return status.exception(number, "")
        if not alone:
            number = self._cross([item])[0]
        return None if number == status.OK else status.exception(number, _last_error())


def frame(message: bytes, body_bytes_max: int) -> tuple[int, bytes]:
    """Return where the body of a framed message begins and its SHA-256; TaskError refuses it."""
    _done(lib.limpet_frame(message, len(message), body_bytes_max, _OFFSET, _DIGEST))
    return _OFFSET[0], bytes(_DIGEST_BYTES)


def _check_version() -> None:
    version_out = ffi.new("uint32_t *")
    _done(lib.limpet_abi_version(version_out))
    major = version_out[0] >> 16
    if major != ABI_MAJOR:
        raise CoreError(
            f"cannot use the core: its ABI is {major}, this agent speaks {ABI_MAJOR} (it ends)"
        )


def _done(number: int) -> None:
    if number != status.OK:
        raise status.exception(number, _last_error())


def _last_error() -> str:
    text_out, length_out = ffi.new("uint8_t[]", ERROR_BYTES), ffi.new("size_t *")
    if lib.limpet_last_error(text_out, ERROR_BYTES, length_out) != status.OK:
        return ""
    return bytes(ffi.buffer(text_out, length_out[0])).decode("utf-8", "replace")
