"""Settings and route options, each declared once; the file format, checks, environment names and documents follow from it.

May import: base. Begin with `declare`, then `sections`, `settings` and `options`.
"""
