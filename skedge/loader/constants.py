"""What the programs must know of the kernel they run on: numbers that are put into the bytecode when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from skedge.dataplane.bpf.btf import VMLINUX, enumerators, member_places

_RP_FILTER = 8  # IPV4_DEVCONF_RP_FILTER

CONSTANTS = (
    "OFF_V6ONLY_BYTE",
    "OFF_V6ONLY_BIT",
    "OFF_USERLOCKS_BYTE",
    "OFF_USERLOCKS_BIT",
    "OFF_SK_ERR",
    "OFF_TOTAL_RETRANS",
    "OFF_CB_FLAGS",
    "OFF_RCV_SADDR6",
    "OFF_TIME_WAIT_NEXT",
    "OFF_MAX_ACK_BACKLOG",
    "OFF_HALF_OPEN",
    "OFF_SKB_DEV",
    "OFF_DEV_IN_DEVICE",
    "OFF_DEV_NET",
    "OFF_NET_DEVCONF_ALL",
    "OFF_RP_FILTER",
    "OFF_DEVCONF_RP_FILTER",
    "NAT_HALF_OPEN_MAX",
    "OFF_SND_UNA",
    "OFF_SND_NXT",
    "OFF_SND_WND",
    "OFF_WRITE_SEQ",
    "OFF_PACKETS_OUT",
    "OFF_RETRANSMITS",
    "OFF_BACKOFF",
    "OFF_PINET6",
    "OFF_RECVERR4_BYTE",
    "OFF_RECVERR4_BIT",
    "OFF_RECVERR6_BYTE",
    "OFF_RECVERR6_BIT",
)
"""The macros of the sources that are filled in at loading; a constant's place here is its number in the bytecode."""


def kernel_defines(path: str = VMLINUX) -> Mapping[str, int]:
    """Return the offsets in the running kernel's structs. Raises HostError."""
    places = member_places(
        {
            "sock_common": ("skc_ipv6only", "skc_v6_rcv_saddr", "skc_tw_rcv_nxt"),
            "sock": ("sk_err", "sk_userlocks", "sk_max_ack_backlog"),
            "tcp_sock": (
                *("total_retrans", "bpf_sock_ops_cb_flags"),
                *("snd_una", "snd_nxt", "snd_wnd", "write_seq", "packets_out"),
            ),
            "inet_connection_sock": ("icsk_accept_queue", "icsk_retransmits", "icsk_backoff"),
            "request_sock_queue": ("qlen",),
            "sk_buff": ("dev",),
            "net_device": ("ip_ptr", "nd_net"),
            "in_device": ("cnf",),
            "ipv4_devconf": ("data",),
            "net": ("ipv4",),
            "netns_ipv4": ("devconf_all",),
        },
        path,
    )
    only, locks = places["sock_common", "skc_ipv6only"], places["sock", "sk_userlocks"]
    rp_filter = places["ipv4_devconf", "data"].byte + 4 * (_RP_FILTER - 1)
    return {
        "OFF_V6ONLY_BYTE": only.byte,
        "OFF_V6ONLY_BIT": only.bit,
        "OFF_USERLOCKS_BYTE": locks.byte,
        "OFF_USERLOCKS_BIT": locks.bit,
        "OFF_SK_ERR": places["sock", "sk_err"].byte,
        "OFF_TOTAL_RETRANS": places["tcp_sock", "total_retrans"].byte,
        "OFF_CB_FLAGS": places["tcp_sock", "bpf_sock_ops_cb_flags"].byte,
        "OFF_RCV_SADDR6": places["sock_common", "skc_v6_rcv_saddr"].byte,
        "OFF_TIME_WAIT_NEXT": places["sock_common", "skc_tw_rcv_nxt"].byte,
        "OFF_MAX_ACK_BACKLOG": places["sock", "sk_max_ack_backlog"].byte,
        "OFF_HALF_OPEN": places["inet_connection_sock", "icsk_accept_queue"].byte
        + places["request_sock_queue", "qlen"].byte,
        "OFF_SKB_DEV": places["sk_buff", "dev"].byte,
        "OFF_DEV_IN_DEVICE": places["net_device", "ip_ptr"].byte,
        "OFF_DEV_NET": places["net_device", "nd_net"].byte,
        "OFF_NET_DEVCONF_ALL": places["net", "ipv4"].byte + places["netns_ipv4", "devconf_all"].byte,
        "OFF_RP_FILTER": places["in_device", "cnf"].byte + rp_filter,
        "OFF_DEVCONF_RP_FILTER": rp_filter,
        "OFF_SND_UNA": places["tcp_sock", "snd_una"].byte,
        "OFF_SND_NXT": places["tcp_sock", "snd_nxt"].byte,
        "OFF_SND_WND": places["tcp_sock", "snd_wnd"].byte,
        "OFF_WRITE_SEQ": places["tcp_sock", "write_seq"].byte,
        "OFF_PACKETS_OUT": places["tcp_sock", "packets_out"].byte,
        "OFF_RETRANSMITS": places["inet_connection_sock", "icsk_retransmits"].byte,
        "OFF_BACKOFF": places["inet_connection_sock", "icsk_backoff"].byte,
        **_error_queues(path),
    }


def _error_queues(path: str) -> Mapping[str, int]:
    """Return where a socket says that its program reads errors of the network, of IPv4 and of IPv6.

    Since Linux 6.7 both are numbered bits of one word; before, bits of two structs, and OFF_PINET6 leads to the second.
    """
    bits = enumerators(("INET_FLAGS_RECVERR", "INET_FLAGS_RECVERR6"), path)
    if bits:
        (four, six), flags = bits.values(), member_places({"inet_sock": ("inet_flags",)}, path)
        start = flags["inet_sock", "inet_flags"].byte
        found = (0, start + four // 8, four % 8, start + six // 8, six % 8)
    else:
        places = member_places({"inet_sock": ("recverr", "pinet6"), "ipv6_pinfo": ("recverr",)}, path)
        own, other = places["inet_sock", "recverr"], places["ipv6_pinfo", "recverr"]
        found = (places["inet_sock", "pinet6"].byte, own.byte, own.bit, other.byte, other.bit)
    names = ("OFF_PINET6", "OFF_RECVERR4_BYTE", "OFF_RECVERR4_BIT", "OFF_RECVERR6_BYTE", "OFF_RECVERR6_BIT")
    return dict(zip(names, found, strict=True))


def of_site(nat_flows: int) -> Mapping[str, int]:
    """Return the constants that depend on how the site is configured."""
    return {"NAT_HALF_OPEN_MAX": nat_flows // 8}


def map_sizes(nat_flows: int) -> Mapping[str, int]:
    """Return the entries of the maps that are sized when they are made: a flow has one for each direction."""
    return {"nat_flows_v1": nat_flows * 2, "nat_placements_v1": nat_flows}
