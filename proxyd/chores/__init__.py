"""What the master does on a timer: it sends alerts, watches certificates and files, deletes old rows, and ends what has expired.

May import: registry and everything below. Each module is one job. Begin with `janitor`.
"""
