"""Sockets: dialling, listening, TLS contexts, and the byte streams that the hot path reads and writes.

May import: base and config. Begin with `stream`.
"""
