"""Decides which pool a request belongs to, and which member takes it: route table, drain, balancing, and following the master.

May import: proxy.upstream, proxy.record and proxy.core. Begin with `table`, then `choose` and `members`.
"""
