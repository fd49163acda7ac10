"""The handlers of the commands, by topic. Importing them fills the command table."""

from proxyd.registry.commands import apply, certs, live, sessions, stage, traffic

__all__ = ["apply", "certs", "live", "sessions", "stage", "traffic"]
