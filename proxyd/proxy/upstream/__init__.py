"""The way to a backend and back: connections, an attempt, retries, circuits, WebSockets, compression.

May import: proxy.record and proxy.core. Begin with `forward`. `retry` decides what is tried again,
`circuit` when a circuit opens.
"""
