"""proxyctl: the operator's command line. It uses the admin HTTP API, and speaks to the registry as a client.

May import: client, config and base. Begin with `parser`, the table of commands, then `act` and `show`.
"""
