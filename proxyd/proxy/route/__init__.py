"""Which pool a request belongs to and which of its members takes it: table, drain, balancing, and following the master.

May import: proxy.upstream, proxy.record and proxy.core. Begin with `table`, then `choose` and `members`.
"""
