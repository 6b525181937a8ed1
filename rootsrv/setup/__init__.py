"""What differs from site to site, asked once and written into every file that needs it (docs/install.md)."""
