"""What a flow of a LAN client is, as a machine of states in plain Python: no packets, no maps, no time. The packet
programs must agree with it after every packet (tests/integration/lan/flows/test_flow_states.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Side(StrEnum):
    CLIENT = "client"
    WORKLOAD = "workload"

    @property
    def other(self) -> Side:
        return Side.WORKLOAD if self is Side.CLIENT else Side.CLIENT


class Said(StrEnum):
    """A packet, by what it says of the connection; a reset is one that its receiver may believe, or is forged."""

    SYN = "syn"
    PLAIN = "ack"
    FIN = "fin"
    RESET = "rst"
    FORGED = "forged"


class Age(StrEnum):
    """Which time-out a flow has."""

    SYN = "syn"
    ESTABLISHED = "established"
    FIN = "fin"
    CLOSED = "closed"


@dataclass
class ModelFlow:
    port: int
    said: dict[Side, set[Said]] = field(default_factory=lambda: {Side.CLIENT: {Said.SYN}, Side.WORKLOAD: set()})
    ended: bool = False
    passive: bool = False
    """The workload closed first."""
    turn: int = 0

    def both(self, what: Said) -> bool:
        return all(what in said for said in self.said.values())

    def hear(self, side: Side, what: Said) -> None:
        """Take one packet in."""
        mine, theirs = self.said[side], self.said[side.other]
        if what is Said.FORGED or (what is Said.RESET and side is Side.CLIENT and Said.SYN not in theirs):
            return  # a client that resets before it was answered means an older connection of the port
        if what is Said.FIN and side is Side.WORKLOAD and Said.FIN not in theirs:
            self.passive = True
        mine.add(what)
        if what is not Said.PLAIN:
            self.ended |= Said.RESET in mine or self.both(Said.FIN)
        elif self.ended and Said.RESET in mine and not self.both(Said.FIN):
            self.ended = False  # it lives: the reset was none
            for said in self.said.values():
                said.discard(Said.RESET)

    @property
    def is_attempt(self) -> bool:
        """Whether nothing is known but the client's SYN."""
        return not self.ended and self.said == {Side.CLIENT: {Said.SYN}, Side.WORKLOAD: set()}

    @property
    def age(self) -> Age:
        client, workload = self.said[Side.CLIENT], self.said[Side.WORKLOAD]
        if self.ended:
            return Age.CLOSED
        if Said.FIN in client | workload:
            return Age.FIN
        return Age.ESTABLISHED if Said.PLAIN in client and Said.SYN in workload else Age.SYN


@dataclass
class Model:
    """All flows of some clients towards one workload, over a few ports.

    ``room``: so many flows later, one that is still half open makes room.
    """

    ports: range
    room: int
    began: list[int] = field(default_factory=list)
    """The clients, in the order of their SYNs; a flow knows its place in it."""
    flows: dict[int, ModelFlow] = field(default_factory=dict)

    @property
    def open(self) -> int:
        return sum(not flow.ended for flow in self.flows.values())

    def needs_port(self, client: int) -> bool:
        """Whether a SYN of this client begins a new flow."""
        return client not in self.flows or self.flows[client].ended

    def has_room(self, client: int) -> bool:
        """Whether there is a port for a new flow of this client: a free one, or one of a flow that has ended."""
        return self.open < len(self.ports)

    def enter(self, client: int) -> None:
        """Take a turn; the flow that had its place in the room ends if it is half open still."""
        self.began.append(client)
        turn = len(self.began) - 1 - self.room
        old = self.flows.get(self.began[turn]) if turn >= 0 else None
        if old is not None and old.turn == turn and Said.PLAIN not in old.said[Side.CLIENT]:
            del self.flows[self.began[turn]]

    def begin(self, client: int, port: int | None) -> None:
        """Begin a new flow on the port that the programs chose (None: they refused it). Raises AssertionError."""
        self.flows.pop(client, None)
        self.enter(client)
        assert (port is not None) == self.has_room(client), "a port exactly where there is one"
        if port is None:
            return
        assert port in self.ports
        for other, flow in list(self.flows.items()):
            if flow.port == port:
                assert flow.ended, f"port {port} is client {other}'s"
                del self.flows[other]
        self.flows[client] = ModelFlow(port, turn=len(self.began) - 1)

    def move(self, client: int, port: int) -> None:
        """Place a client's flow anew, which only an unanswered one may be. Raises AssertionError."""
        assert self.flows[client].is_attempt
        assert port == self.flows[client].port or all(flow.ended for flow in self.flows.values() if flow.port == port)
        self.flows = {one: flow for one, flow in self.flows.items() if one == client or flow.port != port}
        self.flows[client].port = port

    def sweep(self, age: Age) -> None:
        """Let the time-out of some flows be over."""
        self.flows = {client: flow for client, flow in self.flows.items() if flow.age is not age}
