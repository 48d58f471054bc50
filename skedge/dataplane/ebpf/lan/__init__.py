"""The engine ebpf's part for flows of the LAN: their table, its layout, the devices, the host's rules."""
