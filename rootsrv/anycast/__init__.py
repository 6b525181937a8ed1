"""Our side of the routing system: probes, BIRD, the address lease."""
