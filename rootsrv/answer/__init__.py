"""From a verified zone to octets on the wire."""
