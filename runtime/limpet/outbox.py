"""What waits for the broker's acknowledgement: bounded, in order, sent again after a reconnect.

Decides what may be dropped (a state that a newer one or the result replaces, a picture of memory)
and what never is (answers, results, what the `publish` tool sends). When it is full it says so and
the core, which has everything in its journal, offers again later. Knows no MQTT client.
"""

from __future__ import annotations

from typing import NamedTuple

# These go, oldest first, when there is no room for anything else.
DROPPED = ("state", "memory")
# Only the newest of these counts, per task; a result makes its task's states pointless.
REPLACED = (*DROPPED, "presence")


class Publication(NamedTuple):
    """One message to the broker, QoS 1. `task` is `source/id`, or empty for none; of a picture of
    memory, which is about no task, it is the source that looks.

    `token` says to whoever put it what has arrived.
    """

    kind: str
    task: str
    topic: str
    payload: bytes
    retain: bool = False
    token: int = 0


class Outbox:
    """Publications by ticket, an integer that grows; the order of tickets is the order of sending.

    Bounds: `count_max` publications of `bytes_max` payload and topic bytes together, of which
    `in_flight_max` are sent and unacknowledged at a time.
    """

    __slots__ = (
        "_bytes",
        "_bytes_max",
        "_count_max",
        "_epoch",
        "_in_flight",
        "_in_flight_max",
        "_publications",
        "_replaceable",
        "_ticket",
        "_unsent",
    )

    def __init__(self, count_max: int, bytes_max: int, in_flight_max: int = 32) -> None:
        """Start empty and unconnected."""
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._in_flight_max = in_flight_max
        self._publications: dict[int, Publication] = {}
        # Tickets that were not sent on this connection, oldest first (a dict keeps its order).
        self._unsent: dict[int, None] = {}
        # Unsent and replaceable: (kind, task) to ticket.
        self._replaceable: dict[tuple[str, str], int] = {}
        self._in_flight: dict[int, int] = {}
        self._epoch = 0
        self._ticket = 0
        self._bytes = 0

    def __len__(self) -> int:
        """How many publications there are, sent ones included."""
        return len(self._publications)

    @property
    def size_bytes(self) -> int:
        """How many bytes the publications have together."""
        return self._bytes

    def put(self, publication: Publication) -> bool:
        """Take a publication; False if there is no room for it, and nothing has changed then.

        A newer state takes the place of an older one that was not sent; anything that is never
        dropped may push out what is, oldest first.
        """
        size_bytes = _size(publication)
        replaced = self._replaced_by(publication) if self._replaceable else None
        room = replaced is None and self._fits(1, size_bytes)
        if not room and not self._make_room(publication, size_bytes, replaced):
            return False
        self._ticket += 1
        self._publications[self._ticket] = publication
        self._bytes += size_bytes
        self._wait(self._ticket, publication)
        return True

    def connected(self, epoch: int) -> None:
        """Begin a new connection: what was sent and not acknowledged is to be sent again."""
        self._epoch = epoch
        self._in_flight.clear()
        self._unsent.clear()
        self._replaceable.clear()
        for ticket, publication in list(self._publications.items()):
            self._wait(ticket, publication)

    def next(self) -> tuple[int, Publication] | None:
        """Return the oldest unsent publication and its ticket, or None if none may be sent now."""
        if not self._unsent or len(self._in_flight) >= self._in_flight_max:
            return None
        ticket = next(iter(self._unsent))
        return ticket, self._publications[ticket]

    def sent(self, ticket: int, message_id: int) -> None:
        """Note that `next` was handed to the broker under the MQTT message id."""
        self._in_flight[message_id] = ticket
        self._wait_no_more(ticket, self._publications[ticket])

    def acknowledged(self, epoch: int, message_id: int) -> Publication | None:
        """Note a PUBACK and return what it was for; one of an older connection is ignored."""
        if epoch != self._epoch:
            return None
        ticket = self._in_flight.pop(message_id, None)
        return None if ticket is None else self._remove(ticket)

    def refused(self, epoch: int, message_id: int) -> Publication | None:
        """Note that the broker took no publication and return it; a result waits for its next try.

        That is the next connection: what an access list denies now may be allowed then.
        """
        ticket = self._in_flight.get(message_id) if epoch == self._epoch else None
        if ticket is None or self._publications[ticket].kind == "result":
            return None
        del self._in_flight[message_id]
        return self._remove(ticket)

    def _replaced_by(self, publication: Publication) -> int | None:
        kind = "state" if publication.kind == "result" else publication.kind
        return self._replaceable.get((kind, publication.task))

    def _make_room(self, publication: Publication, size_bytes: int, replaced: int | None) -> bool:
        """Remove what may go for `publication`, `replaced` in any case; False if that is not
        enough, and nothing has changed then.
        """
        victims = self._victims(publication, replaced)
        freed_bytes = sum(_size(self._publications[ticket]) for ticket in victims)
        if not self._fits(1 - len(victims), size_bytes - freed_bytes):
            return False
        for ticket in victims:
            if ticket != replaced and self._fits(1, size_bytes):
                break
            self._remove(ticket)
        return True

    def _victims(self, publication: Publication, replaced: int | None) -> list[int]:
        """Return the tickets that may go for `publication`: the replaced one first."""
        victims = [] if replaced is None else [replaced]
        if publication.kind not in DROPPED:
            victims += [
                ticket
                for ticket in self._unsent
                if self._publications[ticket].kind in DROPPED and ticket != replaced
            ]
        return victims

    def _fits(self, count: int, size_bytes: int) -> bool:
        """Say whether there is room for so many more publications, of so many bytes together."""
        fits = self._bytes + size_bytes <= self._bytes_max
        return fits and len(self._publications) + count <= self._count_max

    def _wait(self, ticket: int, publication: Publication) -> None:
        self._unsent[ticket] = None
        if publication.kind in REPLACED:
            key = publication.kind, publication.task
            if key in self._replaceable:
                self._remove(self._replaceable[key])
            self._replaceable[key] = ticket

    def _remove(self, ticket: int) -> Publication:
        publication = self._publications.pop(ticket)
        self._bytes -= _size(publication)
        if ticket in self._unsent:
            self._wait_no_more(ticket, publication)
        return publication

    def _wait_no_more(self, ticket: int, publication: Publication) -> None:
        del self._unsent[ticket]
        if self._replaceable:
            self._replaceable.pop((publication.kind, publication.task), None)


def _size(publication: Publication) -> int:
    return len(publication.payload) + len(publication.topic)
