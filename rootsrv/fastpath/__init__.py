"""Our side of the kernel: the BPF program that answers from the same table."""
