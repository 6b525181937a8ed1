"""Load, comparison and capacity, beside the peers."""
