"""The data plane: a request from the client's bytes to the backend's answer.

May import: everything below (base, config, net, http1, store, events), never registry or health. Begin with `handler`,
which reads top to bottom in the order of the design.
"""
