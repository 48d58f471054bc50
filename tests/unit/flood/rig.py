"""A few flooders side by side, joined without delay: what one lets be taken, the other receives."""

from __future__ import annotations

from dataclasses import replace

from skedge.core.linkstate.database import Limits
from skedge.core.linkstate.flooding import Flooder, Output
from skedge.core.linkstate.messages import AgedRecord, Hello, Kind, Message, Records, SignedRecord, signed_bytes
from skedge.core.model import LinkId
from skedge.core.reasons import Reason
from skedge.core.records import LinksRecord, LinkState, ServicesRecord, Version, WorkloadState
from tests.sim.doubles import FakeSigner, FakeVerifier, PlainCodec

NETWORK = "test"
CODEC = PlainCodec()


def flooder(
    site: str, incarnation: int = 1, key: str = "", verifier: FakeVerifier | None = None, limits: Limits | None = None
) -> Flooder:
    return Flooder(
        site=site,
        network=NETWORK,
        signer=FakeSigner(site, key),
        verifier=verifier or FakeVerifier(NETWORK),
        codec=CODEC,
        incarnation=incarnation,
        limits=limits or Limits(),
    )


def links_body(site: str, *to: str, cost: int = 1, rtt_us: int = 0) -> LinksRecord:
    return LinksRecord(site, "100.64.0.1", "fd00::1", tuple(LinkState(name, "main", cost, True, rtt_us) for name in to))


def services_body(site: str, port: int = 61000) -> ServicesRecord:
    return ServicesRecord(site, (WorkloadState("web", "web", port),), ("web",))


def signed(
    site: str,
    sequence: int = 1,
    *,
    incarnation: int = 1,
    kind: Kind = Kind.SERVICES,
    key: str = "",
    port: int = 61000,
    network: str = NETWORK,
    body: bytes | None = None,
) -> SignedRecord:
    """Return a record with a good signature of the site's (or another) key."""
    signer = FakeSigner(site, key)
    if body is None:
        body = CODEC.encode(services_body(site, port) if kind is Kind.SERVICES else links_body(site, "n"))
    record = SignedRecord(site, kind, Version(incarnation, sequence), body, signer.certificate, b"")
    return replace(record, signature=signer.sign(signed_bytes(network, record)))


def records(*those: SignedRecord, age_ms: int = 0) -> Records:
    return Records(tuple(AgedRecord(record, age_ms) for record in those))


def reasons(output: Output) -> list[Reason]:
    return [reason for reason, _ in output.problems]


def drain(one: Flooder, now: float, link: LinkId) -> list[Message]:
    """Return everything that a flooder has for a link."""
    messages = []
    while (message := one.take(now, link)) is not None:
        messages.append(message)
    return messages


def meet(one: Flooder, now: float, neighbour: str, name: str = "main") -> LinkId:
    """Bring an adjacency of ``one`` to where the neighbour has said Hello; drop what ``one`` sent so far."""
    link = LinkId.between(one.site, neighbour, name)
    one.adjacency_up(now, link, neighbour)
    one.receive(now, link, Hello(neighbour, NETWORK, name, 1))
    drain(one, now, link)
    return link


class Rig:
    """Flooders joined by links; `settle` carries messages until nobody has any."""

    def __init__(self, *flooders: Flooder) -> None:
        self.now = 0.0
        self.outputs: list[tuple[Flooder, Output]] = []
        self.carried: list[Message] = []
        self._joined: dict[LinkId, tuple[Flooder, Flooder]] = {}
        self.flooders = flooders

    def join(self, one: Flooder, other: Flooder, name: str = "main") -> LinkId:
        link = LinkId.between(one.site, other.site, name)
        self._joined[link] = (one, other)
        one.adjacency_up(self.now, link, other.site)
        other.adjacency_up(self.now, link, one.site)
        return link

    def part(self, link: LinkId) -> None:
        for end in self._joined.pop(link):
            end.adjacency_down(self.now, link)

    def settle(self, rounds: int = 200) -> None:
        for _ in range(rounds):
            carried = [self._carry(link, *ends) for link, ends in self._joined.items()]
            if not any(carried):
                return
        raise AssertionError(f"still talking after {rounds} rounds: {self.carried[-3:]}")

    def run(self, seconds: float, step: float = 0.05) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step)
            for one in self.flooders:
                self.outputs.append((one, one.tick(self.now)))
            self.settle()

    def reasons(self, one: Flooder) -> list[Reason]:
        return [reason for who, output in self.outputs if who is one for reason, _ in output.problems]

    def _carry(self, link: LinkId, one: Flooder, other: Flooder) -> bool:
        carried = False
        for sender, receiver in ((one, other), (other, one)):
            for message in drain(sender, self.now, link):
                carried = True
                self.carried.append(message)
                self.outputs.append((receiver, receiver.receive(self.now, link, message)))
        return carried
