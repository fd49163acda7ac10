"""What the master does on a timer: alerts, certificates, watched files, retention, and what expires.

May import: registry and everything below. Each module is one job.
"""
