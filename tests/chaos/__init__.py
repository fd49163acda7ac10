"""The chaos suite: a whole proxyd under traffic and changes, while faults come at random, and a checker that knows what was legal.

`scripts/chaos --seed N --minutes M` runs it. Begin with `invariants.py`, which lists what must hold; `history.py` knows what was
declared and acknowledged when; `judge.py` says which answers break what. `services.py` are the registry's clients, `traffic.py`
the HTTP clients, `faults/` what goes wrong, `plan.py` when, and `world.py` is all of it in one place.
"""
