"""Chaos over three hosts: `scripts/chaos --hosts 3`. `world.py` is all of it, `faults.py` what goes wrong, `stage.py` what faults see."""
