"""The admin HTTP of the registry master: health of proxyd itself, metrics, API, live events and the status page."""
