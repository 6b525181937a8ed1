"""The zone: what it is, how it arrives, whether it can be believed."""
