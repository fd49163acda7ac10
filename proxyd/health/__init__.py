"""Health checks of upstreams, and how their results move circuits.

May import: events, store and everything below, never registry or proxy. Begin with `checker`, then `probe` (one check) and `thresholds`.
"""
