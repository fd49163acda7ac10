"""Files mapped by all processes of a host: the board, circuits, rate limits, open WebSockets.

May import: base. Locks are freed by the kernel when their holder dies. Begin with `shared`, then `board`.
"""
