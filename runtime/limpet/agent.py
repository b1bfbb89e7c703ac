"""The coordinator: messages, events and time in, actions out. It performs no I/O.

Decides what is answered, what is acknowledged and when, and what waits for room. Tasks are judged
elsewhere (`task`, and the core); how anything travels is the loop's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from limpet import codec, report, task, topics
from limpet.errors import EXIT_TEMPORARY, REASONS, CoreError, LimpetError, TaskError
from limpet.link import Acknowledged, Arrived, Greeting, Lost, Ready
from limpet.native.records import (
    ANY_CLOCK,
    ANY_SOURCE,
    CANCEL,
    DELIVERED,
    EXTEND,
    HOST_DONE,
    SUBMIT,
    VERDICTS,
    Item,
)
from limpet.outbox import Outbox, Publication
from limpet.topics import Address

if TYPE_CHECKING:
    from collections.abc import Callable

    from limpet.link import Note
    from limpet.log import Log
    from limpet.looks import Looks
    from limpet.native.records import Event
    from limpet.policy import Policy

# Messages between arrival and acknowledgement. MQTT 5 brokers keep to our receive maximum of 32,
# others to limits of their own (and some to none once they were acknowledged something); beyond
# this one the message is left to come again, with a new connection when the others are served.
ARRIVALS_MAX = 256
# Compiled texts that wait for the core, which has room for a moment's worth itself.
ITEMS_BYTES_MAX = 512 * 1024
# One crossing: at most the core's array, and half its blob unless one item alone is longer.
BATCH_MAX = 32
BATCH_BYTES_MAX = 128 * 1024
# A second device of the same name would answer each of our presences with its own.
PRESENCE_INTERVAL_MS = 5_000
# The core offers at most 32 results at a time and 1 MiB of them, so these and their answers always
# find a place.
OUTBOX_COUNT_MAX = 512
OUTBOX_BYTES_MAX = 2 << 20

# Local results whose delivery the core may not have seen when it says that their task lives; it
# offers fewer at a time.
LOCAL_ENDS_MAX = 64

# Phases of a task whose result is all that is left to say.
OVER = ("closing", "reporting")
# Where a task is that reports its result alone: nobody here knows.
UNTOLD: dict[str, object] = {"state": None, "step": None, "attempt": None}
# Verdict of the core -> what a controller is told.
ANSWERS = {
    "accepted": "accepted",
    "alive": "known",
    "ended": "known",
    "refused": "refused",
    "cancelling": "accepted",
    "remembered": "accepted",
}


class Identity(NamedTuple):
    """Who this device is, and what it tells of itself; `facts` goes into its presence."""

    prefix: str
    device: str
    facts: dict[str, object]


class Told(NamedTuple):
    """What the clients of the local socket are told of `task`, which is `source/id`.

    `client` is whose request is answered, None for a report to whoever follows the task; `last`
    says that nothing more will come of it.
    """

    task: str
    payload: bytes
    last: bool
    client: int | None = None


class _Arrival:
    """A message whose acknowledgement is owed, and later its answer's way.

    One of the local socket has a `client` and no acknowledgement.
    """

    __slots__ = ("answered", "client", "epoch", "number", "quiet", "request", "source", "task_id")

    def __init__(
        self,
        request: str,
        source: str,
        epoch: int = 0,
        number: int = 0,
        client: int | None = None,
        answered: bool = False,
    ) -> None:
        self.request = request
        self.source = source
        self.epoch = epoch
        self.number = number
        self.client = client
        self.task_id: str | None = None
        # Whether its sender wants to hear of a task that is accepted only how it ends.
        self.quiet = False
        self.answered = answered


class Agent:
    """What the agent knows while it runs; everything that must outlive it is the core's."""

    def __init__(
        self,
        identity: Identity,
        policy: Policy,
        frame: Callable[[bytes, int], tuple[int, bytes]],
        nonce: Callable[[], str],
        looks: Looks,
        log: Log,
    ) -> None:
        """`frame` checks a message's frame as the core does; `nonce` returns random text; `looks`
        is asked what to show of the memory, and to whom.
        """
        self._identity = identity
        self._policy = policy
        self._frame = frame
        self._make_nonce = nonce
        self._looks = looks
        self._log = log
        self.outbox = Outbox(OUTBOX_COUNT_MAX, OUTBOX_BYTES_MAX)
        # Acknowledgements that are due: epoch and number of the message.
        self.acknowledgements: list[tuple[int, int]] = []
        # Whether the machine is to be restarted now: the attempts that ask for it.
        self.reboots: list[int] = []
        self.drained = False
        # Why no task is taken now: there is no memory for it.
        self.full: str | None = None
        # What the core told last of each live task, for whoever asks on the device.
        self.tasks: dict[int, dict[str, Any]] = {}
        # What the local socket's clients are to be told, in order.
        self.told: list[Told] = []
        self._arrivals: dict[int, _Arrival] = {}
        # Some message of this connection was left.
        self._left = False
        # Requests of the local socket, by token as well: these keep no acknowledgement waiting.
        self._asked: dict[int, _Arrival] = {}
        self._local_ends: dict[int, str] = {}
        self._extensions: dict[int, tuple[int, bool]] = {}
        self._token = 0
        self._items: list[Item] = []
        self._items_bytes = 0
        self._waiting: list[Publication] = []
        self._nonce = ""
        self._presence_due_ms: int | None = None
        self._presence_ms = -PRESENCE_INTERVAL_MS

    # --- from the link --------------------------------------------------------------------------

    def greet(self, epoch: int) -> Greeting:
        """Return the will of the connection `epoch`."""
        self._nonce = self._make_nonce()
        payload = report.build_presence(False, self._nonce, {})
        return Greeting(self._topic("presence", ""), payload)

    def noted(self, note: Note, now_ms: int, wall_ms: int) -> None:
        """Take what the link noted."""
        if isinstance(note, Arrived):
            self._arrived(note, now_ms, wall_ms)
        elif isinstance(note, Acknowledged):
            self._acknowledged(note)
        elif isinstance(note, Ready):
            self.outbox.connected(note.epoch)
            self._presence_due_ms = now_ms
            self._log.info("link.ready", epoch=note.epoch)
        elif isinstance(note, Lost):
            # Acknowledgements of an ended connection are void; its messages come again.
            for arrival in self._arrivals.values():
                arrival.number = 0
            self.acknowledgements.clear()
            self._left = False
            self._presence_due_ms = None
            self._log.warning(
                "link.lost", code=note.code, detail=note.detail, again_in_ms=note.delay_ms
            )

    def _arrived(self, arrived: Arrived, now_ms: int, wall_ms: int) -> None:
        try:
            address = topics.parse(self._identity.prefix, arrived.topic)
        except TaskError:
            address = Address("", "", "")
        ours = address.device == self._identity.device
        if not ours or address.kind not in topics.TO_DEVICE or arrived.retained:
            if ours and address.kind == "presence":
                self._saw_presence(arrived, now_ms)
            else:
                self._log.debug("message.ignored", topic=arrived.topic, retained=arrived.retained)
            self._owe(_Arrival("none", "", arrived.epoch, arrived.number, answered=True))
            self._release()
            return
        if len(self._arrivals) >= ARRIVALS_MAX:
            self._log.warning("message.left", topic=arrived.topic)
            self._left = True
            return
        arrival = _Arrival(address.kind, address.name, arrived.epoch, arrived.number)
        token = self._owe(arrival)
        if arrival.request == "look":
            self._look(arrival, token, arrived.payload, now_ms)
        else:
            self._take(arrival, token, arrived.payload, wall_ms)

    def _look(self, arrival: _Arrival, token: int, message: bytes, now_ms: int) -> None:
        """Show who asks what memory there is, for a while, or refuse it."""
        try:
            document, _ = self._read(message)
            self._looks.begin(arrival.source, document, now_ms)
            self._answer(token, "accepted")
        except TaskError as refusal:
            self._answer(token, "refused", refusal.code, refusal.detail)

    def _take(self, arrival: _Arrival, token: int, message: bytes, wall_ms: int) -> None:
        """Ask the core for what a message wants, or refuse it."""
        try:
            if arrival.source == topics.LOCAL and arrival.client is None:
                raise TaskError("not_allowed", f"source: {topics.LOCAL} is the device's own socket")
            self._ask(self._compile(arrival, token, message, wall_ms))
        except TaskError as refusal:
            self._answer(token, "refused", refusal.code, refusal.detail)

    def _owe(self, arrival: _Arrival) -> int:
        self._token += 1
        self._arrivals[self._token] = arrival
        return self._token

    def _read(self, message: bytes) -> tuple[object, bytes]:
        """Return the document of a framed message, and its digest."""
        offset, digest = self._frame(message, codec.MESSAGE_BYTES_MAX)
        return codec.decode(message[offset:]), digest

    def _compile(self, arrival: _Arrival, token: int, payload: bytes, wall_ms: int) -> Item:
        """Return what the core is asked for by a message; TaskError refuses it."""
        document, digest = self._read(payload)
        if isinstance(document, dict) and topics.is_name(document.get("id")):
            arrival.task_id = document["id"]
        # Not before: a refusal without the id would tell nobody what to send again.
        if self._items_bytes >= ITEMS_BYTES_MAX:
            raise TaskError("busy_memory", "too many messages wait for the core")
        if arrival.request == "task":
            if self.full is not None:
                raise TaskError("busy_memory", self.full)
            plan = task.compile(document, arrival.source, wall_ms)
            arrival.quiet = plan["report"] == "result"
            flags = ANY_CLOCK if self._policy.trust_any_clock else 0
            text = codec.encode(plan)
            return Item(SUBMIT, token=token, flags=flags, text=text, digest=digest)
        cancel = task.compile_cancel(document, arrival.source, wall_ms)
        operator = arrival.source in self._policy.operators
        if cancel["source"] != arrival.source and not operator:
            raise TaskError("not_owner", f"source: {arrival.source} is no operator here")
        asked = {"id": cancel["id"], "source": cancel["source"], "by": arrival.source}
        return Item(
            CANCEL,
            token=token,
            flags=ANY_SOURCE if operator else 0,
            value=int(str(cancel["expires_at_ms"])),
            text=codec.encode(asked),
        )

    def _saw_presence(self, arrived: Arrived, now_ms: int) -> None:
        """Say again that we are here, if the will of an older connection says we are not."""
        if arrived.retained or self._presence_due_ms is not None:
            return
        try:
            document = codec.decode(arrived.payload)
        except TaskError:
            document = None
        nonce = document.get("nonce") if isinstance(document, dict) else None
        if nonce != self._nonce:
            self._presence_due_ms = max(now_ms, self._presence_ms + PRESENCE_INTERVAL_MS)

    def _acknowledged(self, note: Acknowledged) -> None:
        if note.refused is None:
            publication = self.outbox.acknowledged(note.epoch, note.number)
        else:
            publication = self.outbox.refused(note.epoch, note.number)
            self._log.warning("publish.refused", reason=note.refused)
        if publication is None:
            return
        if publication.kind == "answer":
            arrival = self._arrivals.get(publication.token)
            if arrival is not None:
                arrival.answered = True
                self._release()
        elif publication.kind == "result":
            self.tasks.pop(publication.token, None)
            self._ask(Item(DELIVERED, target=publication.token))
        elif publication.kind == "publish":
            self._host_done(publication.token, note.refused)

    def _release(self) -> None:
        """Acknowledge what is answered, in the order of arrival: none overtakes an earlier one."""
        while self._arrivals:
            token, arrival = next(iter(self._arrivals.items()))
            if not arrival.answered:
                return
            del self._arrivals[token]
            if arrival.number:
                self.acknowledgements.append((arrival.epoch, arrival.number))

    @property
    def must_reconnect(self) -> bool:
        """Whether only what was left is still to be served: a connection brings it but once."""
        return self._left and not self._arrivals

    # --- from the local socket ------------------------------------------------------------------

    def asked(self, client: int, uid: int, request: str, message: bytes, wall_ms: int) -> None:
        """Take a task or a cancel of `client`, whom the user `uid` has started."""
        self._token += 1
        arrival = self._asked[self._token] = _Arrival(request, topics.LOCAL, client=client)
        self._log.info("local.asked", request=request, uid=uid)
        self._take(arrival, self._token, message, wall_ms)

    # --- from the core --------------------------------------------------------------------------

    def heard(self, event: Event) -> None:
        """Take what the core tells; `link` events are the link's."""
        if event.kind == "answer":
            self._answered(event)
        elif event.kind == "changed":
            self._changed(event)
        elif event.kind == "result":
            self._ended(event)
        elif event.kind == "work":
            self._work(event)
        elif event.kind == "continue":
            self._continue(event)
        elif event.kind == "drained":
            self.drained = True
        elif event.kind == "recorded":
            self._log.info("core.recorded", **event.text)
        elif event.kind == "trouble":
            self._log.error("core.trouble", **event.text)
            # What cannot be written cannot be promised: a restart reads what was.
            error = CoreError(f"cannot go on: {event.text.get('detail')} (the agent ends)")
            error.exit_code = EXIT_TEMPORARY
            raise error

    def _answered(self, event: Event) -> None:
        verdict, code = VERDICTS[event.code], event.text.get("code")
        if event.token in self._extensions:
            target, refusable = self._extensions.pop(event.token)
            if verdict == "refused":
                self._log.warning("task.next_refused", code=code)
                if refusable:
                    self._refuse_extension(target)
            return
        detail = REASONS.get(code) if code else None
        outcome = event.text.get("outcome")
        if verdict == "alive":
            outcome = self._local_ends.get(event.target)
        elif verdict == "accepted":
            self._lives(event)
        self._answer(event.token, ANSWERS[verdict], code, detail, outcome)

    def _lives(self, event: Event) -> None:
        """Know of a task before its first state, which may never be told."""
        arrival = self._arrivals.get(event.token) or self._asked.get(event.token)
        if arrival is not None:
            row = {"source": arrival.source, "id": arrival.task_id, **UNTOLD}
            self.tasks.setdefault(event.target, row)

    def _answer(
        self,
        token: int,
        answer: str,
        code: str | None = None,
        detail: str | None = None,
        outcome: str | None = None,
    ) -> None:
        arrival = self._arrivals.get(token) or self._asked.pop(token, None)
        if arrival is None:
            return
        source, task_id = arrival.source, arrival.task_id
        self._log.info(
            f"{arrival.request}.{answer}", source=source, id=task_id, code=code, detail=detail
        )
        if answer == "accepted" and arrival.quiet and arrival.client is None:
            arrival.answered = True
            self._release()
            return
        payload = report.build_answer(
            source, task_id, answer, arrival.request, code, detail, outcome
        )
        if arrival.client is None:
            self._put("answer", source, task_id or "", payload, token)
            return
        last = arrival.request != "task" or answer == "refused" or outcome is not None
        self.told.append(Told(f"{source}/{task_id}", payload, last, arrival.client))

    def _changed(self, event: Event) -> None:
        text = event.text
        if text["report"] == "result":
            # One that was read back from the journal: told once, that it lives.
            self.tasks[event.target] = {**text, **UNTOLD}
            return
        self.tasks[event.target] = text
        state = report.build_state(
            text["source"],
            text["id"],
            text["sequence"],
            text["state"],
            text["step"],
            text["attempt"] or None,
            text["progress"],
        )
        name = f"{text['source']}/{text['id']}"
        self.told.append(Told(name, state, last=False))
        if text["state"] in OVER or text["source"] == topics.LOCAL:
            return
        self.outbox.put(Publication("state", name, self._topic("state", text["source"]), state))

    def _ended(self, event: Event) -> None:
        source, task_id, outcome = event.text["source"], event.text["id"], event.text["outcome"]
        self._log.info("task.ended", source=source, id=task_id, outcome=outcome)
        payload = report.build_result(event.history)
        self.told.append(Told(f"{source}/{task_id}", payload, last=True))
        self.tasks.pop(event.target, None)
        if source == topics.LOCAL:
            # It must not take the place of a result that waits for the broker: whoever follows
            # the task has it now, whoever comes later asks for its outcome by the task again.
            self._ask(Item(DELIVERED, target=event.target))
            self._local_ends[event.target] = outcome
            if len(self._local_ends) > LOCAL_ENDS_MAX:
                del self._local_ends[next(iter(self._local_ends))]
            return
        self._put("result", source, task_id, payload, event.target)

    def _work(self, event: Event) -> None:
        asked = event.text.get("publish")
        if asked is None:
            self.reboots.append(event.target)
            return
        try:
            topic = self._topic("publish", asked["topic"])
        except TaskError as error:
            self._host_done(event.target, error.detail)
            return
        payload = asked["payload"].encode()
        publication = Publication("publish", "", topic, payload, asked["retain"], event.target)
        if not self.outbox.put(publication):
            self._host_done(event.target, "the outbox is full")

    def _host_done(self, target: int, fault: str | None) -> None:
        text = (fault or "").encode()
        self._ask(Item(HOST_DONE, target=target, value=1 if fault else 0, text=text))

    def reboot_failed(self, target: int, fault: str) -> None:
        """Tell the core that attempt `target` cannot restart the machine."""
        self._host_done(target, fault)

    def _continue(self, event: Event) -> None:
        """Compile the steps that a result asks for into its task."""
        plan, extensions = event.text["plan"], event.text["extensions"]
        try:
            grown = {**plan, "steps": list(plan["steps"])}
            for extension in extensions:
                grown["steps"] += extension["steps"]
                grown["ceilings"] = extension["ceilings"]
            added = task.extend(grown, event.code, event.text["next"])
        except TaskError as refusal:
            self._log.warning("task.next_refused", id=plan["id"], detail=refusal.detail)
            self._refuse_extension(event.target)
            return
        self._extend(event.target, {"plan": plan, "extensions": extensions, "next": added}, True)

    def _refuse_extension(self, target: int) -> None:
        self._extend(target, {"plan": {}, "extensions": [], "next": None}, False)

    def _extend(self, target: int, asked: dict[str, object], refusable: bool) -> None:
        self._token += 1
        self._extensions[self._token] = (target, refusable)
        self._ask(Item(EXTEND, token=self._token, target=target, text=codec.encode(asked)))

    # --- to the core ----------------------------------------------------------------------------

    def items(self) -> list[Item]:
        """Return what to hand to the core next; `submitted` says what came of it."""
        if self._items_bytes <= BATCH_BYTES_MAX:
            return self._items[:BATCH_MAX]
        batch: list[Item] = []
        size_bytes = 0
        for item in self._items[:BATCH_MAX]:
            size_bytes += len(item.text)
            if batch and size_bytes > BATCH_BYTES_MAX:
                break
            batch.append(item)
        return batch

    def submitted(self, items: list[Item], answers: list[LimpetError | None]) -> bool:
        """Take the core's word on each of `items`; True if it was busy and they must wait."""
        busy: list[Item] = []
        for item, answer in zip(items, answers, strict=True):
            if answer is not None and answer.exit_code == EXIT_TEMPORARY:
                busy.append(item)
                continue
            self._items_bytes -= len(item.text)
            if isinstance(answer, TaskError):
                self._refused(item, answer)
            elif answer is not None:
                raise answer
        self._items[: len(items)] = busy
        return bool(busy)

    def _ask(self, item: Item) -> None:
        self._items.append(item)
        self._items_bytes += len(item.text)

    def _refused(self, item: Item, refusal: TaskError) -> None:
        if item.op != EXTEND:
            self._answer(item.token, "refused", refusal.code, refusal.detail)
            return
        target, refusable = self._extensions.pop(item.token)
        self._log.warning("task.next_refused", code=refusal.code, detail=refusal.detail)
        if refusable:
            self._refuse_extension(target)

    # --- to the broker --------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Move what waits into the outbox, as far as it has room."""
        if self._waiting:
            self._waiting = [one for one in self._waiting if not self.outbox.put(one)]
        for source, payload in self._looks.take(now_ms):
            topic = self._topic("memory", source)
            self.outbox.put(Publication("memory", source, topic, payload))
        if self._presence_due_ms is not None and now_ms >= self._presence_due_ms:
            payload = report.build_presence(True, self._nonce, self._identity.facts)
            topic = self._topic("presence", "")
            if self.outbox.put(Publication("presence", "", topic, payload, retain=True)):
                self._presence_due_ms, self._presence_ms = None, now_ms

    def leave(self) -> None:
        """Say that we leave on purpose: a connection that ends in order publishes no will."""
        payload = report.build_presence(False, self._nonce, {})
        topic = self._topic("presence", "")
        self._presence_due_ms = None
        self._looks.end()
        self.outbox.put(Publication("presence", "", topic, payload, retain=True))

    @property
    def deadline_ms(self) -> int | None:
        """When `tick` is due besides after every turn."""
        presence_ms, look_ms = self._presence_due_ms, self._looks.deadline_ms
        if presence_ms is None or look_ms is None:
            return look_ms if presence_ms is None else presence_ms
        return min(presence_ms, look_ms)

    def _put(self, kind: str, source: str, task_id: str, payload: bytes, token: int) -> None:
        """Have a publication that is never dropped take its place, now or when there is room."""
        topic = self._topic(kind, source)
        publication = Publication(kind, f"{source}/{task_id}", topic, payload, False, token)
        # What waits already goes first, so that reports of one task keep their order.
        if self._waiting or not self.outbox.put(publication):
            self._waiting.append(publication)

    def _topic(self, kind: str, name: str) -> str:
        identity = self._identity
        return topics.build(identity.prefix, identity.device, kind, name)
