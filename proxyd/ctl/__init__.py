"""proxyctl: the operator's command line. It uses the admin HTTP API, and speaks to the registry as a client."""
