"""Automatic HTTPS, the master's side: which names need a certificate (`names`), how one is ordered from a CA (`ca`), and when (`orders`).

May import: registry, events, store and everything below. Begin with `orders`.
"""
