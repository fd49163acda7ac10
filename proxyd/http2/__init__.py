"""HTTP/2 without I/O: bytes in, events out, and what is to be sent as bytes (RFC 9113, RFC 7541, RFC 9218).

`connection` is the engine of a server's side, and `client` what is different on the other one. They know frames, streams, windows and
settings, and every bound on what a peer may make us do. What a message means is not known here: fields are pairs of bytes. May import:
base. Begin with `connection`. Only `asking` reads and writes: single requests, on a socket that it is given.
"""
