"""What is kept on disk: zone versions, the ledger of what is served, answer tables, zone files."""
