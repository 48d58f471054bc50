"""A tc program that tells what a device knows of the sums over the packets that come in."""

from __future__ import annotations

import ctypes
from typing import Any

from pyroute2 import IPRoute

from skedge.loader import host_requirements
from tests.integration.links.kit import Namespace

SOURCE = """
#include <uapi/linux/bpf.h>
#include <uapi/linux/pkt_cls.h>
#include <bcc/helpers.h>

BPF_ARRAY(sums, u64, 3);
static long (*csum_update)(struct __sk_buff *skb, __u32 sum) = (void *)BPF_FUNC_csum_update;

#define FOLD(sum) (((sum) & 0xffff) + ((sum) >> 16))

/* Counts packets of whole words: of no sum, of a right one, of a wrong one. */
int watch(struct __sk_buff *skb)
{
    long said = csum_update(skb, 0);
    __u64 sum = 0;
    __u32 word, what = 0;

    if (skb->protocol != bpf_htons(0x0800) && skb->protocol != bpf_htons(0x86dd))
        return TC_ACT_UNSPEC;
    if (said != -524) {
        for (int i = 0; i < 128; i++) {
            if (14 + 4 * i + 4 > skb->len || bpf_skb_load_bytes(skb, 14 + 4 * i, &word, 4))
                break;
            sum += word;
        }
        sum = FOLD((__u32)sum) + (sum >> 32);
        sum = FOLD(sum);
        said = FOLD((__u32)said);
        said = FOLD(said);
        what = FOLD(sum) % 0xffff == said % 0xffff ? 1 : 2;
    }
    sums.atomic_increment(what);
    return TC_ACT_UNSPEC;
}
"""


class SumsSeen:
    """How many packets came in by a device without a sum, with a right one, with a wrong one, while in its context."""

    def __init__(self, at: Namespace, device: str) -> None:
        from bcc import BPF  # only Debian's Python has it

        self._at, self._device = at, device
        with host_requirements.headers():
            self._bpf = BPF(text=SOURCE.encode())

    def __enter__(self) -> SumsSeen:
        self._at(self._attach, self._bpf.load_func(b"watch", 3))
        return self

    def __exit__(self, *_: object) -> None:
        self._at.sh(f"tc qdisc del dev {self._device} clsact")

    def _attach(self, function: Any) -> None:
        with IPRoute() as route:
            index = route.link_lookup(ifname=self._device)[0]
            route.tc("add", "clsact", index)
            route.tc("add-filter", "bpf", index, ":1", fd=function.fd, name=function.name, parent="ffff:fff2",
                     classid=1, direct_action=True)  # fmt: skip

    def counts(self) -> tuple[int, int, int]:
        table = self._bpf[b"sums"]
        none, right, wrong = (int(table[ctypes.c_int(n)].value) for n in range(3))
        return none, right, wrong
