"""bpf(2) without bcc: the system call, type information, pins, programs on devices."""
