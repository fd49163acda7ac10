"""The registry: services register over TCP, stage their configuration, and apply it.

May import: events, store and everything below, never health or proxy. Begin with `protocol`, the table of commands, then `state`, which
holds the sessions, and `operations`, which the admin API calls too.
"""
