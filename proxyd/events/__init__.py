"""The event bus, and the types of events.

May import: base, config and store. Begin with `types`, then `bus`.
"""
