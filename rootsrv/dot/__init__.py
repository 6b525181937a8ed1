"""DNS over TLS on the service addresses (RFC 7858, RFC 9539): a process of its own beside the workers."""
