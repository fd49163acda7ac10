"""What is kept of a request: counters, slow requests, the access log, and writing them out.

May import: proxy.core. Begin with `stats`.
"""
