"""proxyd: a dynamic reverse proxy with a service registry."""

__version__ = "0.1.0"
