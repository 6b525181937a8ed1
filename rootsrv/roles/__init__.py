"""The roles of `rootsrv run`, as operators name them: each puts its parts together, and the supervisor watches them."""
