"""The mesh, as far as it can be decided without touching the world: who may say what, and what follows from it."""
