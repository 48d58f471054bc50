"""Paths and addresses: SPF, the routing information base, overlay addresses, LAN prefixes. Pure."""
