"""A soak: mixed traffic and sessions that come and go, for long, and what grows meanwhile.

`scripts/soak --minutes M` runs it. `load.py` is a process of HTTP clients, `churn.py` the sessions, `measure.py` what is measured and
judged.
"""
