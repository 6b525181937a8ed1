"""Root zones made and signed here: data for the demo and for tests."""
