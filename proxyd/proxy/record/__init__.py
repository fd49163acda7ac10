"""Records of requests: counters, slow requests and the access log, and how they are written.

May import: proxy.core. Begin with `stats`.
"""
