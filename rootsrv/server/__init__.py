"""Our side of the resolvers: UDP and TCP service."""
