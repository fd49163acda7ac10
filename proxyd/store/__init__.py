"""The shared state: database models, migrations, what workers load, and memory shared by the processes of a host.

Knows settings and nobody else. All SQL of a process runs in the one native thread of its `Store`.
"""
