"""Text, addresses, paths and numbers: pure functions and values that know nobody else in the project.

May import: the standard library and idna. Begin with `text`, which most rooms use.
"""
