"""HTTP for the people who watch."""
