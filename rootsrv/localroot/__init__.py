"""The LocalRoot service: verified zones to resolvers whose operators signed up, and to everybody where that is safe."""
