"""What needs root: compiling, verifying, pinning and attaching the eBPF programs."""
