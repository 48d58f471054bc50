"""Control streams between two namespaces: real sockets, real TLS, real refusals."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from skedge.control.identity.identity import Identity, load
from skedge.control.streams.bus import Bus, BusLink
from skedge.core.linkstate.messages import Digest, Digests, Hello, Key, Kind, Message, Pull
from skedge.core.model import LinkId
from skedge.core.names import SOCKET_MARK
from skedge.core.reasons import Reason
from skedge.core.records import Version
from tests.integration.control.netns import Pair, Place, wait
from tests.unit.control.authority import Authority

pytestmark = pytest.mark.needs_root

LINK = LinkId.between("edge-a", "edge-b")
PORT = 7401


class Talker:
    """A bus with a flooder that says Hello and then whatever is put into its queue."""

    def __init__(
        self,
        place: Place,
        peer: Place,
        identity: Identity,
        neighbour: str,
        site: str | None = None,
        *,
        rtt: Callable[[LinkId], float] = lambda _link: 0.0,
    ) -> None:
        self.place, self.identity, self.site = place, identity, site or identity.site
        self.queue: deque[Message] = deque()
        self.heard: list[Message] = []
        self.events: list[tuple[str, Reason]] = []
        self.verdicts: list[LinkId] = []
        self.on_message: Callable[[LinkId, Message], None] = lambda _link, message: self.heard.append(message)
        self.bus = Bus(
            self.site,
            identity,
            PORT,
            on_up=self._up,
            on_down=lambda _link, reason: self.events.append(("down", reason)),
            on_message=lambda link, message: self.on_message(link, message),
            take=lambda _link: self.queue.popleft() if self.queue else None,
            rtt=rtt,
            on_verdict=lambda link: self.verdicts.append(link),
        )
        self.at = BusLink(place.device, place.link_local, peer.link_local, neighbour)
        place.call(self.bus.set_links, {LINK: self.at})

    def _up(self, _link: LinkId) -> None:
        self.events.append(("up", Reason.NONE))
        self.queue.clear()
        self.queue.append(Hello(self.site, "demo", "main", 1))

    def say(self, message: Message) -> None:
        def work() -> None:
            self.queue.append(message)
            self.bus.wake(LINK)

        self.place.call(work)

    @property
    def up(self) -> bool:
        return self.bus.stats()[LINK].up

    @property
    def ups(self) -> int:
        return sum(1 for event, _ in self.events if event == "up")

    def close(self) -> None:
        self.place.do(self.bus.close())


@pytest.fixture
def talkers() -> Iterator[list[Talker]]:
    made: list[Talker] = []
    yield made
    for talker in made:
        talker.close()


def identity(authority: Authority, where: Path, site: str) -> Identity:
    return load(authority.directory(where / site, site), "demo", site)


@pytest.fixture
def two(joined: Pair, authority: Authority, tmp_path: Path, talkers: list[Talker]) -> tuple[Talker, Talker]:
    """Both ends, made at the same moment."""
    a, b = identity(authority, tmp_path, "edge-a"), identity(authority, tmp_path, "edge-b")
    talkers.append(Talker(joined.a, joined.b, a, "edge-b"))
    talkers.append(Talker(joined.b, joined.a, b, "edge-a"))
    return talkers[0], talkers[1]


def both_up(a: Talker, b: Talker, within: float = 5.0) -> float:
    return wait(lambda: a.up and b.up and bool(a.heard) and bool(b.heard), within, "streams up")


def test_one_stream_comes_up_and_carries_messages_both_ways(two: tuple[Talker, Talker]) -> None:
    a, b = two
    took = both_up(a, b)
    print(f"stream up after {took * 1000:.0f} ms")
    assert a.heard == [Hello("edge-b", "demo", "main", 1)]
    assert b.heard == [Hello("edge-a", "demo", "main", 1)]
    time.sleep(1.0)  # whatever was dialled twice has been settled
    dialler = a.bus.stats()[LINK].dialler
    assert dialler == b.bus.stats()[LINK].dialler != ""
    key = Key("edge-c", Kind.LINKS)
    for n in range(1000):
        a.say(Pull((key,) * (n % 50 + 1)))
    big = Digests(tuple(Digest(key, Version(1, n), bytes(8)) for n in range(15_000)))
    b.say(big)
    wait(lambda: len(b.heard) == 1001 and a.heard[-1] == big, 20, "all messages")
    assert [len(message.keys) for message in b.heard[1:] if isinstance(message, Pull)] == [
        n % 50 + 1 for n in range(1000)
    ]
    assert a.ups == b.ups == 1


def test_dialled_at_the_same_time_the_same_stream_survives_at_both_ends(
    two: tuple[Talker, Talker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skedge.control.streams.link_session.YIELD_S", 0.0)
    a, b = two
    for _ in range(5):
        both_up(a, b)
        time.sleep(0.7)
        assert a.up
        assert b.up
        assert a.bus.stats()[LINK].dialler == b.bus.stats()[LINK].dialler
        for talker in two:  # both, before either may hear the next stream's first word
            talker.heard.clear()
        for talker in two:
            talker.place.call(talker.bus.reset, LINK, Reason.STALE)


def test_a_killed_controller_is_found_again(
    two: tuple[Talker, Talker], talkers: list[Talker], authority: Authority, tmp_path: Path, joined: Pair
) -> None:
    a, b = two
    both_up(a, b)
    b.close()
    wait(lambda: not a.up, 2, "a notices")
    assert a.events[-1] == ("down", Reason.NO_ANSWER)
    a.heard.clear()
    time.sleep(1)
    again = Talker(joined.b, joined.a, identity(authority, tmp_path, "edge-b"), "edge-a")
    talkers.append(again)
    took = both_up(a, again, 4)
    print(f"found again after {took * 1000:.0f} ms")


def test_a_peer_that_lost_its_stream_silently_is_let_in_again(
    two: tuple[Talker, Talker], talkers: list[Talker], authority: Authority, tmp_path: Path, joined: Pair
) -> None:
    """The host died without a word: the old stream is still open here when its successor dials."""
    a, b = two
    both_up(a, b)
    time.sleep(2.1)  # older than what counts as dialled at the same time
    joined.cut()
    b.close()
    joined.mend()
    assert a.up
    a.heard.clear()
    again = Talker(joined.b, joined.a, identity(authority, tmp_path, "edge-b"), "edge-a")
    talkers.append(again)
    both_up(a, again, 4)


def test_the_wrong_neighbour_is_refused_by_name(
    joined: Pair, authority: Authority, tmp_path: Path, talkers: list[Talker]
) -> None:
    a = Talker(joined.a, joined.b, identity(authority, tmp_path, "edge-a"), "edge-b")
    x = Talker(joined.b, joined.a, identity(authority, tmp_path, "edge-x"), "edge-a")
    talkers += [a, x]
    wait(lambda: a.bus.stats()[LINK].reason is Reason.WRONG_PEER, 5, "refusal")
    assert "the far end is 'edge-x', configured is 'edge-b'" in a.bus.stats()[LINK].text
    time.sleep(1)
    assert a.events == []
    assert not a.heard


@pytest.mark.parametrize("wrong", ["authority", "network", "revoked"])
def test_strangers_are_refused(
    joined: Pair, authority: Authority, tmp_path: Path, talkers: list[Talker], wrong: str
) -> None:
    other = {"authority": Authority(), "network": authority, "revoked": authority}[wrong]
    network = "other" if wrong == "network" else "demo"
    other.network = network
    stranger = load(other.directory(tmp_path / "b", "edge-b"), network, "edge-b")
    authority.network = "demo"
    directory = authority.directory(tmp_path / "a", "edge-a")
    if wrong == "revoked":
        certificate = x509.load_der_x509_certificate(stranger.certificate)
        (directory / "revoked.pem").write_bytes(authority.revocation_list(certificate))
    a = Talker(joined.a, joined.b, load(directory, "demo", "edge-a"), "edge-b")
    b = Talker(joined.b, joined.a, stranger, "edge-a")
    talkers += [a, b]
    expected = Reason.REVOKED if wrong == "revoked" else Reason.BAD_SIGNATURE
    seen: set[Reason] = set()

    def refused() -> bool:
        seen.update(talker.bus.stats()[LINK].reason for talker in (a, b))
        return a.bus.stats()[LINK].reason is expected

    wait(refused, 5, "refusal")
    time.sleep(1)
    assert a.events == b.events == []
    assert not a.heard
    assert not b.heard


def test_a_link_that_goes_down_is_closed_soon_and_redialled_when_it_is_up(
    two: tuple[Talker, Talker], joined: Pair
) -> None:
    a, b = two
    both_up(a, b)
    joined.cut()
    for talker in two:
        talker.place.call(talker.bus.set_up, LINK, False)
    wait(lambda: not a.up and not b.up, 5, "streams closed")
    for talker in two:
        assert talker.events[-1] == ("down", Reason.PROBE_LOST)
        talker.heard.clear()
    time.sleep(1)
    joined.mend()
    for talker in two:
        talker.place.call(talker.bus.set_up, LINK, True)
    took = both_up(a, b, 3)
    print(f"stream back {took * 1000:.0f} ms after the link")


def test_the_end_that_takes_a_link_for_down_says_so_before_it_hangs_up(two: tuple[Talker, Talker]) -> None:
    """The other end's probes may be answered: it has no other way to learn it."""
    a, b = two
    both_up(a, b)
    a.place.call(a.bus.set_up, LINK, False)
    last = Pull((Key("edge-a", Kind.LINKS),))
    a.say(last)
    wait(lambda: last in b.heard, 4, "last words")
    wait(lambda: not a.up and not b.up, 8, "closed")


def dropped_tcp(place: Place) -> None:
    """Throw away what arrives of TCP, also of connections that are open."""
    place.nft(
        "table inet trial {",
        " chain arrive { type filter hook prerouting priority -300; meta l4proto tcp drop; }",
        "}",
    )


def prohibited_tcp(place: Place) -> None:
    place.nft(
        "table inet trial {",
        " chain arrive { type filter hook input priority 0; meta l4proto tcp reject with icmpx admin-prohibited; }",
        "}",
    )


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> float:
    """Dial more often, and judge sooner: return after how long."""
    monkeypatch.setattr("skedge.control.streams.link_session.RETRY_MOST_S", 0.2)
    monkeypatch.setattr("skedge.control.streams.dial_verdict.OVER_S", 2.0)
    return 4.0


@pytest.mark.parametrize(
    ("firewall", "verdict"),
    [(dropped_tcp, Reason.TCP_DROPPED), (prohibited_tcp, Reason.TCP_PROHIBITED)],
)
def test_tcp_that_does_not_pass_is_told_from_a_controller_that_is_gone(
    joined: Pair,
    authority: Authority,
    tmp_path: Path,
    talkers: list[Talker],
    hurried: float,
    firewall: Callable[[Place], None],
    verdict: Reason,
) -> None:
    """An ICMP error that comes during the call, as between namespaces, is told at the next SYN: a second later."""
    mine, theirs = identity(authority, tmp_path, "edge-a"), identity(authority, tmp_path, "edge-b")
    a = Talker(joined.a, joined.b, mine, "edge-b", rtt=lambda _link: 0.1 if verdict is Reason.TCP_DROPPED else 0.5)
    b = Talker(joined.b, joined.a, theirs, "edge-a")
    talkers.append(a)
    both_up(a, b)
    b.close()
    wait(lambda: not a.up, 8, "stream down")
    time.sleep(hurried)
    assert a.bus.stats()[LINK].tcp is Reason.NONE, "refused: its host forwards"
    firewall(joined.b)
    took = wait(lambda: a.bus.stats()[LINK].tcp is verdict, 4 * 2 * hurried, "verdict")
    print(f"{verdict} after {took:.1f} s")
    wait(lambda: a.verdicts == [LINK], 2, "told")
    joined.b.nft()
    took = wait(lambda: a.bus.stats()[LINK].tcp is Reason.NONE, 4 * 2.0, "taken back")
    wait(lambda: a.verdicts == [LINK, LINK], 2, "told that it is taken back")


def test_a_neighbour_that_accepts_and_hangs_up_does_not_hear_us(two: tuple[Talker, Talker], hurried: float) -> None:
    a, b = two
    both_up(a, b)
    a.place.call(a.bus.set_up, LINK, False)
    wait(lambda: b.bus.stats()[LINK].tcp is Reason.ONE_WAY, 4 * 2 * hurried, "verdict")
    a.place.call(a.bus.set_up, LINK, True)
    wait(lambda: b.up and b.bus.stats()[LINK].tcp is Reason.NONE, 8, "stream back")


def test_a_device_that_is_made_anew_is_listened_on_again(two: tuple[Talker, Talker], joined: Pair) -> None:
    a, b = two
    both_up(a, b)
    joined.disconnect()
    for talker in two:
        talker.place.call(talker.bus.set_up, LINK, False)
        talker.heard.clear()
    joined.connect()
    for talker in two:
        talker.place.call(talker.bus.set_up, LINK, True)
    both_up(a, b, 8)
    time.sleep(2.5)  # the listening socket of the new device

    async def knock() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET6) as sock:
            sock.setblocking(False)
            index = socket.if_nametoindex(joined.b.device)
            await asyncio.wait_for(loop.sock_connect(sock, (joined.a.link_local, PORT, 0, index)), 1)

    joined.b.do(knock())


# ---- hostile neighbours -----------------------------------------------------------------------------------------


async def connect(place: Place, peer: Place) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock = socket.socket(socket.AF_INET6)
    sock.setblocking(False)
    sock.bind((place.link_local, 0, 0, socket.if_nametoindex(place.device)))
    loop = asyncio.get_running_loop()
    address = (peer.link_local, PORT, 0, socket.if_nametoindex(place.device))
    await asyncio.wait_for(loop.sock_connect(sock, address), 2)
    return await asyncio.open_connection(sock=sock)


def test_half_open_handshakes_are_few_and_do_not_stop_the_neighbour(
    joined: Pair, authority: Authority, tmp_path: Path, talkers: list[Talker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skedge.control.streams.stream.HANDSHAKE_S", 1.0)
    a = Talker(joined.a, joined.b, identity(authority, tmp_path, "edge-a"), "edge-b")
    talkers.append(a)

    async def press() -> int:
        writers = []
        for n in range(12):
            _, writer = await connect(joined.b, joined.a)
            writer.write(b"\x16\x03\x01" if n % 2 else b"GET / HTTP/1.0\r\n\r\n")
            writers.append(writer)
        await asyncio.sleep(1.5)
        for writer in writers:
            writer.close()
        return len(writers)

    time.sleep(0.2)
    assert joined.b.do(press()) == 12
    b = Talker(joined.b, joined.a, identity(authority, tmp_path, "edge-b"), "edge-a")
    talkers.append(b)
    both_up(a, b)


@pytest.mark.parametrize(
    "garbage", [b"\xff\xff\xff\xff", b"\0\0\0\x04abcd", b"\0\0\0\0"], ids=["large", "text", "empty"]
)
def test_bad_frames_from_the_right_neighbour_close_the_stream_with_a_reason(
    joined: Pair, authority: Authority, tmp_path: Path, talkers: list[Talker], garbage: bytes
) -> None:
    a = Talker(joined.a, joined.b, identity(authority, tmp_path, "edge-a"), "edge-b")
    talkers.append(a)
    b = identity(authority, tmp_path, "edge-b")

    async def misbehave() -> bytes:
        sock = socket.socket(socket.AF_INET6)
        sock.setblocking(False)
        index = socket.if_nametoindex(joined.b.device)
        sock.bind((joined.b.link_local, 0, 0, index))
        await asyncio.get_running_loop().sock_connect(sock, (joined.a.link_local, PORT, 0, index))
        context: ssl.SSLContext = b.tls(server=False)
        reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname="x")
        writer.write(garbage)
        rest = b""
        try:
            while chunk := await asyncio.wait_for(reader.read(100), 5):
                rest += chunk
        except OSError:
            pass
        writer.close()
        return rest

    time.sleep(0.2)
    joined.b.do(misbehave())
    wait(lambda: ("down", Reason.BAD_FRAME) in a.events, 3, "refusal")
    assert not a.heard


def test_only_the_neighbours_address_is_listened_to(
    joined: Pair, authority: Authority, tmp_path: Path, talkers: list[Talker]
) -> None:
    from tests.integration.control.netns import ip

    a = Talker(joined.a, joined.b, identity(authority, tmp_path, "edge-a"), "edge-b")
    talkers.append(a)
    ip("-n", joined.b.name, "addr", "add", "fe80::bad/64", "dev", joined.b.device, "nodad")
    other = Place(joined.b.name, joined.b.device, "fe80::bad", "")

    async def knock(place: Place) -> bytes:
        reader, writer = await connect(place, joined.a)
        try:
            return await asyncio.wait_for(reader.read(1), 1)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    time.sleep(0.2)
    assert joined.b.do(knock(other)) == b""  # closed at once
    with pytest.raises(TimeoutError):  # the neighbour's own is waited for
        joined.b.do(knock(joined.b))
    other.loop.close()


def test_a_handler_that_fails_closes_the_stream_and_nothing_else(two: tuple[Talker, Talker]) -> None:
    a, b = two
    both_up(a, b)

    def fail(_link: LinkId, _message: Message) -> None:
        raise ZeroDivisionError

    good, a.on_message = a.on_message, fail
    b.say(Pull(()))
    wait(lambda: ("down", Reason.BAD_FRAME) in a.events, 3, "closed")
    a.on_message = good
    a.heard.clear()
    b.heard.clear()
    both_up(a, b)


def test_control_sockets_carry_the_mark(two: tuple[Talker, Talker]) -> None:
    a, b = two
    both_up(a, b)
    stream = a.bus._ends[LINK].stream
    assert stream
    sock = stream.writer.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == SOCKET_MARK
    assert stream.writer.get_extra_info("ssl_object").version() == "TLSv1.3"


def test_a_neighbour_that_is_revoked_loses_its_open_stream(
    two: tuple[Talker, Talker], authority: Authority, tmp_path: Path
) -> None:
    a, b = two
    both_up(a, b)
    certificate = x509.load_pem_x509_certificate((tmp_path / "edge-b" / "site.crt").read_bytes())
    (tmp_path / "edge-a" / "revoked.pem").write_bytes(authority.revocation_list(certificate))
    a.place.call(a.identity.reload)
    wait(lambda: ("down", Reason.REVOKED) in a.events, 8, "closed")
    ups = a.ups
    time.sleep(1.5)
    assert a.ups == ups


def deploy(talker: Talker, authority: Authority) -> str:
    """Give a site another certificate of its own key and let it read that; return its serial number."""
    where = talker.identity.directory
    key = load_pem_private_key((where / "site.key").read_bytes(), None)
    authority.directory(where, talker.site, key=key)  # type: ignore[arg-type]

    def read() -> str:
        talker.identity.reload()
        talker.bus.renew()
        return talker.identity.serial

    return talker.place.call(read)


def taken(talker: Talker, serial: str) -> bool:
    return talker.bus.stats()[LINK].shown == serial


def test_a_new_certificate_is_shown_at_once_and_the_stream_says_so(
    two: tuple[Talker, Talker], authority: Authority
) -> None:
    a, b = two
    both_up(a, b)
    time.sleep(2.1)
    old = a.bus.stats()[LINK].shown
    assert old == a.identity.serial
    for talker in two:
        new = deploy(talker, authority)
        took = wait(partial(taken, talker, new), 5, "the new certificate was taken")
        print(f"taken after {took * 1000:.0f} ms")
        assert a.up
        assert b.up
    assert a.bus.stats()[LINK].shown == a.identity.serial != old
    before = a.ups, b.ups
    time.sleep(1)
    assert (a.ups, b.ups) == before, "and then it is left alone"


def test_a_certificate_of_another_authority_is_refused_with_words(two: tuple[Talker, Talker]) -> None:
    """Case 15: the old stream must not be taken for a proof."""
    a, b = two
    both_up(a, b)
    time.sleep(2.1)
    other = Authority("demo")
    new = deploy(b, other)
    wait(lambda: bool(b.bus.stats()[LINK].refused), 5, "told")
    assert b.bus.stats()[LINK].shown != new
    wait(lambda: not a.up and not b.up, 8, "and the old stream ends")
    wait(lambda: bool(a.bus.stats()[LINK].refused), 5, "told at the other end, too")
    end = time.monotonic() + 3
    while time.monotonic() < end:  # whichever end dials, and however it is hung up on
        assert "certificate" in a.bus.stats()[LINK].refused
        assert "certificate" in b.bus.stats()[LINK].refused
        time.sleep(0.01)
    deploy(a, other)
    wait(lambda: a.up and b.up, 8, "one authority again")
    assert not a.bus.stats()[LINK].refused
