"""The shared page: the few numbers that all processes read, the only channel to the packet path."""
