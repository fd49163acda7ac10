"""The sources of requests: the HTTP/1.1 connection, HTTP/2, and any other WSGI server.

May import: proxy.core. Begin with `connection`, which adds the loop to `receiving` (a request's body), and that to `answering`.
"""
