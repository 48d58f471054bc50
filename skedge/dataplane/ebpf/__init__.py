"""The engine ebpf: its tables in pinned maps, the packet check, LAN devices, flows."""
