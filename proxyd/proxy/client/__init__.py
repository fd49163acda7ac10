"""The sources of requests: the HTTP/1.1 connection loop, and any other WSGI server.

May import: proxy.core. Begin with `connection`.
"""
