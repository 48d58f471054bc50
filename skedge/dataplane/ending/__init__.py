"""What ends connections on purpose: sockets of the host, flows of the LAN, connections of IPVS."""
