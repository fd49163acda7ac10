"""The data plane: how a request is matched, gated, balanced, forwarded and recorded. Knows the store, never the registry."""
