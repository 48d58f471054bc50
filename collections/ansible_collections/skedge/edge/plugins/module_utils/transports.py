# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""What the host's side must know of transports, as skedge.core.transports says it. PRIVATE to the collection."""

from __future__ import annotations

# The UDP port at which tunnels are received when the link says no other; a transport that is not here uses no UDP.
UDP_PORTS = {"vxlan": 4790, "wireguard": 4791}


def udp_port(link):
    """Return the UDP port at which a link's tunnel is received, 0 for a transport without."""
    port = UDP_PORTS.get(link.get("transport", "vxlan"), 0)
    return port and (link.get("port") or port)
