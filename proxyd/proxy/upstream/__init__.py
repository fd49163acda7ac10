"""The path to a backend and back: connections, attempts, retries, circuits, WebSockets, compression.

May import: proxy.record and proxy.core. Begin with `forward`. `retry` decides which requests are sent again, and `circuit` when
a circuit opens.
"""
