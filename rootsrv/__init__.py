"""An anycast, authoritative DNS root server instance."""

__version__ = "0.1.0"
