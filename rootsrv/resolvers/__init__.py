"""What a resolver is told so that it has the root from a copy: its configuration, by software and version."""
