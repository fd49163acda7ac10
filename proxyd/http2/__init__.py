"""HTTP/2 without I/O: bytes in, events out, and what is to be sent as bytes (RFC 9113, RFC 7541, RFC 9218).

`connection` is the engine of a server's side. It knows frames, streams, windows and settings, and every bound on what a client may
make us do. What a request means is not known here: the fields of a request are pairs of bytes. May import: base. Begin with
`connection`.
"""
