"""Automatic HTTPS, the master's side: which names need a certificate (`names.py`), how one is ordered from a CA (`ca.py`), and when
(`orders.py`). Begin with `orders.py`."""
