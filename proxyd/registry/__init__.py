"""The registry: services register over TCP, stage their configuration, and apply it."""
