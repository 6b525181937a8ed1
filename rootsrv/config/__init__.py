"""The configuration: TOML to frozen dataclasses; an error names the key."""
