"""Deploys of real programs under load: Flask under gunicorn, Node and a gRPC server, with no failed request.

`scripts/deploys --times N` runs all stories N times, `test_stories.py` some of them once. `programs.py` has the programs and how they are
started, `load.py` the clients, `stories.py` what is done to the programs.
"""
