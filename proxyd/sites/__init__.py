"""Site files: routes from a directory of INI files, kept as sessions of the registry.

May import: registry and everything below. Begin with `sitefile`, then `follow`.
"""
