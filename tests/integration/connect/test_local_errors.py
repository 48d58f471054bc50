"""What the own host does not let out says nothing of the workload."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from skedge.core.objects import Target
from skedge.loader import host_requirements

from .kit import FAR4, Site, candidate, eventually, run
from .test_counts import LISTENER, full_backlog, syn_retries

CGROUP_SKB, CGROUP_INET_EGRESS, ALLOW_MULTI = 8, 1, 2
DENY = """
#include <uapi/linux/bpf.h>
#include <uapi/linux/ip.h>
int deny(struct __sk_buff *skb)
{
    struct iphdr ip = {};
    bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip));
    return ip.daddr != bpf_htonl(0x64400002);
}
"""


@contextlib.contextmanager
def denied_by_the_unit(site: Site) -> Iterator[None]:
    """What IPAddressDeny= of a systemd unit is: an egress filter of its cgroup."""
    from bcc import BPF

    with host_requirements.headers():
        module = BPF(text=DENY.encode())
    cgroup = os.open(site.host.cgroup, os.O_RDONLY)
    try:
        module.attach_func(module.load_func(b"deny", CGROUP_SKB), cgroup, CGROUP_INET_EGRESS, ALLOW_MULTI)
        yield
        module.detach_func(module.funcs[b"deny"], cgroup, CGROUP_INET_EGRESS)
    finally:
        os.close(cgroup)


@contextlib.contextmanager
def denied_by_a_rule(_: Site, verdict: str = "drop") -> Iterator[None]:
    run("nft", "add table ip denied; add chain ip denied out { type filter hook output priority 0; }; "
        f"add rule ip denied out ip daddr {FAR4[0]} tcp flags syn / syn,ack,rst {verdict}")  # fmt: skip
    try:
        yield
    finally:
        run("nft", "delete table ip denied")


@contextlib.contextmanager
def rejected_by_a_rule(site: Site) -> Iterator[None]:
    with denied_by_a_rule(site, "reject"):
        yield


@pytest.mark.parametrize(
    ("deny", "gives_up"),
    [(denied_by_the_unit, True), (denied_by_the_unit, False), (denied_by_a_rule, True), (rejected_by_a_rule, False)],
)
def test_a_connect_that_the_own_host_denies_suspends_nobody(site: Site, deny, gives_up: bool) -> None:
    syn_retries(1)
    server = site.server(FAR4[0])
    site.service([candidate("a", 0, server.target), candidate("b", 50, site.server().target)], LISTENER)
    with deny(site), socket.socket() as client:
        client.settimeout(1.4 if gives_up else 8)
        with pytest.raises(OSError):
            client.connect(LISTENER)
        client.close()
        eventually(lambda: site.open() == 0, "given back")
    assert site.suspended() == set()
    with socket.socket() as client:
        client.connect(LISTENER)
        assert (site.open("a"), site.open("b")) == (1, 0)


def test_one_that_went_out_at_last_and_was_not_answered_suspends(site: Site) -> None:
    """The rule goes between the first SYN and the next."""
    syn_retries(2)
    with full_backlog(FAR4[0]) as silent:
        target = Target(silent.target.address, silent.target.port)
        site.service([candidate("a", 0, target)], LISTENER)
        with socket.socket() as client:
            with denied_by_a_rule(site):
                client.setblocking(False)
                client.connect_ex(LISTENER)
            client.settimeout(1.3)
            with contextlib.suppress(OSError):
                client.recv(1)
            eventually(lambda: retransmitted(client), "sent again")
        eventually(lambda: site.suspended() == {"a"}, "suspended")


def retransmitted(made: socket.socket) -> bool:
    return bool(made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[100])
