"""How many connections of the LAN find a source port towards one workload, as bpf/nat/flow/scratch.h has it."""

from __future__ import annotations

from skedge.core.model import Lan

NAT_ADDRESS_PORTS = 1024, 65535  # of an address that no socket uses
WARN_SHARE = 0.8


def port_limit(lan: Lan, *, far: bool) -> int:
    """Return the number: an eighth of the ports stays unused, so that trying finds one.

    ``far``: the workload is another site's, and connections to it come from this site's NAT addresses.
    """
    first, last = NAT_ADDRESS_PORTS if far else lan.ports
    ports = last - first + 1
    return ports - ports // 8
