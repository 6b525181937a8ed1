"""The root beside one resolver (RFC 8806): what is generated, who may have it, what the resolver is told."""
