"""The way to a backend and back: connections, an attempt, retries, circuits, WebSockets, compression.

May import: proxy.core and proxy.route. Begin with `attempt`.
"""
