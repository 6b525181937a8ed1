"""An anycast, authoritative DNS root server instance."""

__version__ = "0.2.0"
