"""What a resolver is told so that it has the root from a copy, by software and version; and what it may tell."""
