"""Which peers are known, and in what state: `PeerBook` is the one owner of that.

1. A contact is a suggestion (an mDNS instance, a configured URL) until a hello at one of its
   addresses proves it; only then is it ready. mDNS alone makes nobody ready.
2. At most KNOWN_LIMIT contacts. Of those found by mDNS the one unproven and unseen for longest
   makes room; ready and configured ones are never thrown out by a flood of suggestions.
3. One daemon is one peer, however many addresses or URLs lead to it; we ourselves are none.
4. Everything here is synchronous and does no I/O: decide here, act in `lan.py`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from p2pmodels.clock import Clock
from p2pmodels.core.peer import PEER_PORT, Hello, PeerId
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.errors import NameRefused
from p2pmodels.sources.lan.addresses import AddressRule
from p2pmodels.sources.lan.carrier import plain_host

KNOWN_LIMIT = 256  # contacts; reliability F12: a flood of instances must not grow memory
ADDRESSES_LIMIT = 8  # addresses of one contact; a laptop with Wi-Fi, cable and docker has three
RECHECK_S = 5.0  # seconds between hellos, so that a crash shows within ten, retry included
HELLOS_PER_S = 10.0  # hellos a second to ready peers; with more than 50 peers they come less often
RETRY_FIRST_S = 0.5  # seconds; one lost hello is no proof of death
RETRY_CEILING_S = 10.0  # seconds; a peer that was ready comes back soon after its restart
STRANGER_CEILING_S = 60.0  # seconds; a suggestion that never answered deserves less
LOOK_AFTER_GOODBYE_S = 3.0  # seconds; a goodbye can be forged, a hello afterwards decides
FORGOTTEN_AFTER_S = 7200.0  # seconds; longer than an mDNS record lives (75 minutes)
MISBEHAVED_PAUSE_S = 300.0  # seconds before a peer that broke the protocol is greeted again
SILENCES_LIMIT = 2  # questions in a row without an answer; then none until the next hello


class FoundBy(StrEnum):
    """How a peer became known."""

    MDNS = "mdns"
    CONFIGURED = "configured"


class PeerState(StrEnum):
    """NEW until the first hello; then READY while it answers, UNREACHABLE while it does not."""

    NEW = "new"
    READY = "ready"
    UNREACHABLE = "unreachable"
    OURSELVES = "ourselves"


@dataclass(frozen=True, slots=True)
class PeerView:
    """A peer as the others see it; texts are empty while nothing is known."""

    id: str
    address: str
    host: str
    port: int
    bt_port: int
    found_by: FoundBy
    version: str
    state: PeerState
    last_seen: float
    bytes_received: int

    @property
    def endpoint(self) -> PeerAddress:
        """Where its peer port is. Raises NameRefused while no address is known."""
        return PeerAddress(self.host, self.port)

    @property
    def bt_address(self) -> PeerAddress | None:
        """Where its BitTorrent listens, if it does on a port that we may contact."""
        try:
            return PeerAddress(self.host, self.bt_port)
        except NameRefused:
            return None


@dataclass(slots=True, eq=False)
class Contact:
    """A suggestion and what became of it. Only the book changes it."""

    key: str
    found_by: FoundBy
    id: PeerId | None
    addresses: tuple[PeerAddress, ...]
    last_seen: float
    next_hello: float
    address: PeerAddress | None = None
    state: PeerState = PeerState.NEW
    version: str = ""
    bt_port: int = 0
    failures: int = 0
    silences: int = 0
    helped_at: float = float("-inf")
    bytes_received: int = 0
    was_ready: bool = False
    is_leaving: bool = False
    is_busy: bool = False

    @property
    def is_ready(self) -> bool:
        return self.state is PeerState.READY


def view(contact: Contact) -> PeerView:
    """The contact as a value."""
    address = contact.address or (contact.addresses[0] if contact.addresses else None)
    return PeerView(
        id=str(contact.id or ""),
        address=str(address) if address else contact.key,
        host=address.host if address else "",
        port=address.port if address else 0,
        bt_port=contact.bt_port,
        found_by=contact.found_by,
        version=contact.version,
        state=contact.state,
        last_seen=contact.last_seen,
        bytes_received=contact.bytes_received,
    )


def _ignore(_view: PeerView) -> None: ...


class PeerBook:
    """The known contacts. `jitter` gives numbers in 0…1; `on_*` are called inside the change."""

    def __init__(self, own: PeerId, clock: Clock, jitter: Callable[[], float]) -> None:
        self._own, self._clock, self._jitter = own, clock, jitter
        self._contacts: dict[str, Contact] = {}
        self.rule = AddressRule()
        self.last_word: Callable[[PeerView], float] = lambda _peer: float("-inf")
        """When a peer last said something that only its peer port can carry (monotonic)."""
        self.on_found: Callable[[PeerView], None] = _ignore
        self.on_ready: Callable[[PeerView], None] = _ignore
        self.on_gone: Callable[[PeerView], None] = _ignore

    # suggestions

    def configure(self, key: str) -> None:
        """The operator names a peer; its addresses come with `resolved`."""
        if key not in self._contacts:
            self._add(key, FoundBy.CONFIGURED, None, ())

    def resolved(self, contact: Contact, addresses: Iterable[PeerAddress]) -> None:
        """The addresses of a configured peer, as far as they may be contacted."""
        allowed = [address for address in addresses if self.rule.allows_configured(address)]
        contact.addresses = tuple(dict.fromkeys([*allowed, *contact.addresses]))[:ADDRESSES_LIMIT]

    def found(self, id: PeerId, addresses: Iterable[PeerAddress]) -> None:
        """mDNS says that `id` listens there; what may not be contacted is left out."""
        allowed = tuple(dict.fromkeys(a for a in addresses if self.rule.allows_found(a)))
        allowed = allowed[:ADDRESSES_LIMIT]
        if id == self._own or not allowed:
            return
        contact = self._by_id(id)
        if contact is None:
            if not self._make_room():
                return
            contact = self._add(str(id), FoundBy.MDNS, id, allowed)
        elif set(allowed) <= set(contact.addresses) and contact.is_ready:
            return
        else:
            kept = contact.addresses if contact.found_by is FoundBy.CONFIGURED else ()
            contact.addresses = tuple(dict.fromkeys([*allowed, *kept]))[:ADDRESSES_LIMIT]
        contact.next_hello = self._clock.monotonic()
        contact.failures = 0
        self.on_found(view(contact))

    def left(self, id: PeerId) -> None:
        """mDNS says goodbye for `id`; a hello a little later has the last word."""
        for contact in [c for c in self._contacts.values() if c.id == id]:
            if not contact.was_ready and contact.found_by is FoundBy.MDNS:
                del self._contacts[contact.key]
                continue
            contact.is_leaving = True
            contact.next_hello = self._clock.monotonic() + LOOK_AFTER_GOODBYE_S
            self._lose(contact)

    def may_come(self, host: str) -> bool:
        """Whether a machine at this address may come to us: at home, or a configured peer's."""
        try:
            address = PeerAddress(plain_host(host), PEER_PORT)
        except NameRefused:
            return False
        configured = (c for c in self._contacts.values() if c.found_by is FoundBy.CONFIGURED)
        known = {known.host for contact in configured for known in contact.addresses}
        is_here = ipaddress.ip_address(address.host).is_loopback
        return is_here or self.rule.allows_found(address) or address.host in known

    # what greetings brought

    def due(self, count: int) -> list[Contact]:
        """At most `count` contacts whose hello is due, the ready ones first; they become busy."""
        now = self._clock.monotonic()
        waiting = [
            contact
            for contact in self._contacts.values()
            if contact.next_hello <= now and not contact.is_busy and not self._speaks(contact, now)
        ]
        waiting.sort(key=lambda c: (not c.is_ready, c.next_hello))
        chosen = waiting[:count]
        for contact in chosen:
            contact.is_busy = True
        return chosen

    def _speaks(self, contact: Contact, now: float) -> bool:
        """Whether it is heard of anyhow: a hello would tell nothing new."""
        if not contact.is_ready or contact.silences:
            return False
        at = self.last_word(view(contact))
        if at > contact.last_seen:
            contact.last_seen, contact.next_hello = at, at + self._recheck_pause()
        return contact.next_hello > now

    def is_credible(self, contact: Contact, hello: Hello) -> bool:
        """Whether the answer at one of its addresses can be this contact's.

        Many machines have the same docker address: there, another daemon answers, or we do.
        """
        return contact.found_by is FoundBy.CONFIGURED or hello.id == contact.id

    def answered(self, contact: Contact, address: PeerAddress, hello: Hello) -> None:
        """It said hello at `address`."""
        now = self._clock.monotonic()
        contact.is_busy = False
        if self._contacts.get(contact.key) is not contact:
            return  # forgotten while it was being greeted
        contact.failures = contact.silences = 0
        contact.is_leaving = False
        contact.last_seen = now
        if contact.id is not None and contact.id != hello.id:
            self._lose(contact)  # another daemon has taken over the configured address
        if hello.id == self._own:
            contact.state, contact.next_hello = PeerState.OURSELVES, now + STRANGER_CEILING_S
            return
        contact = self._merged(contact, hello.id)
        contact.id, contact.address = hello.id, address
        contact.version, contact.bt_port = hello.version, hello.bt_port
        contact.last_seen, contact.next_hello = now, now + self._recheck_pause()
        if not contact.is_ready:
            is_news = self._ready_one(str(hello.id)) is None
            contact.state, contact.was_ready = PeerState.READY, True
            if is_news:
                self.on_ready(view(contact))

    def failed(self, contact: Contact) -> None:
        """None of its addresses gave a hello."""
        contact.is_busy = False
        contact.failures += 1
        absence = self._clock.monotonic() - contact.last_seen
        is_lost = contact.is_leaving or absence > FORGOTTEN_AFTER_S
        if is_lost and contact.found_by is FoundBy.MDNS:
            self._contacts.pop(contact.key, None)
            return
        ceiling = RETRY_CEILING_S if contact.was_ready else STRANGER_CEILING_S
        pause = min(RETRY_FIRST_S * 2 ** min(contact.failures - 1, 10), ceiling)
        contact.next_hello = self._clock.monotonic() + pause * self._spread()
        if contact.failures > 1 or not contact.is_ready:
            self._lose(contact)

    # what questions brought

    def heard(self, id: str, *, helped: bool = False, received: int = 0) -> None:
        """It answered a question, which is as good as a hello."""
        contact = self._ready_one(id)
        if contact is not None:
            now = self._clock.monotonic()
            contact.silences, contact.last_seen = 0, now
            contact.next_hello = now + self._recheck_pause()
            contact.bytes_received += received
            contact.helped_at = now if helped else contact.helped_at

    def unheard(self, id: str) -> None:
        """It did not answer a question in time: after SILENCES_LIMIT of these, a hello decides."""
        contact = self._ready_one(id)
        if contact is not None:
            contact.silences += 1
            contact.next_hello = min(contact.next_hello, self._clock.monotonic() + RETRY_FIRST_S)

    def misbehaved(self, id: str) -> None:
        """It broke the protocol: no peer for a while."""
        for contact in [c for c in self._contacts.values() if str(c.id) == id]:
            contact.next_hello = self._clock.monotonic() + MISBEHAVED_PAUSE_S
            self._lose(contact)

    # views

    def ready(self) -> list[PeerView]:
        """The ready peers that answer questions, the helpful ones first."""
        willing = [c for c in self._ready_ones() if c.silences < SILENCES_LIMIT]
        return [view(c) for c in sorted(willing, key=lambda c: -c.helped_at)]

    def all(self) -> list[PeerView]:
        """Everybody known, each daemon once, without ourselves."""
        chosen = {c.id: c for c in self._ready_ones()}
        shown = [
            contact
            for contact in self._contacts.values()
            if contact.state is not PeerState.OURSELVES
            and chosen.get(contact.id, contact) is contact
        ]
        return [view(contact) for contact in shown]

    # inside

    def _add(
        self, key: str, found_by: FoundBy, id: PeerId | None, addresses: tuple[PeerAddress, ...]
    ) -> Contact:
        now = self._clock.monotonic()
        contact = Contact(key, found_by, id, addresses, last_seen=now, next_hello=now)
        self._contacts[key] = contact
        return contact

    def _make_room(self) -> bool:
        """Whether one more contact fits, after the least useful suggestion was forgotten."""
        if len(self._contacts) < KNOWN_LIMIT:
            return True
        loose = [
            c
            for c in self._contacts.values()
            if c.found_by is FoundBy.MDNS and not c.is_ready and not c.is_busy
        ]
        if not loose:
            return False
        oldest = min(loose, key=lambda c: (c.was_ready, c.last_seen))
        del self._contacts[oldest.key]
        return True

    def _merged(self, contact: Contact, id: PeerId) -> Contact:
        """The one contact of this id: a configured one absorbs what mDNS found."""
        other = next((c for c in self._contacts.values() if c.id == id and c is not contact), None)
        if other is None or contact.found_by is other.found_by:
            return contact
        kept, gone = (
            (contact, other) if contact.found_by is FoundBy.CONFIGURED else (other, contact)
        )
        kept.addresses = tuple(dict.fromkeys([*kept.addresses, *gone.addresses]))[:ADDRESSES_LIMIT]
        kept.bytes_received += gone.bytes_received
        kept.helped_at = max(kept.helped_at, gone.helped_at)
        kept.failures = kept.silences = 0
        if gone.is_ready and not kept.is_ready:  # known already: nobody is told a second time
            kept.state, kept.was_ready = PeerState.READY, True
        del self._contacts[gone.key]
        return kept

    def _lose(self, contact: Contact) -> None:
        was_ready = contact.is_ready
        if contact.was_ready or contact.failures:
            contact.state = PeerState.UNREACHABLE
        if was_ready and self._ready_one(str(contact.id)) is None:
            self.on_gone(view(contact))

    def _by_id(self, id: PeerId) -> Contact | None:
        return next((c for c in self._contacts.values() if c.id == id), None)

    def _ready_ones(self) -> Sequence[Contact]:
        """One contact for each ready daemon."""
        by_id = {c.id: c for c in reversed(self._contacts.values()) if c.is_ready}
        return [*reversed(by_id.values())]

    def _ready_one(self, id: str) -> Contact | None:
        return next((c for c in self._ready_ones() if str(c.id) == id), None)

    def _recheck_pause(self) -> float:
        count = sum(1 for c in self._contacts.values() if c.is_ready)
        return max(RECHECK_S, count / HELLOS_PER_S) * self._spread()

    def _spread(self) -> float:
        """A factor that keeps thirty machines from doing it all at the same moment."""
        return 0.75 + 0.25 * self._jitter()
