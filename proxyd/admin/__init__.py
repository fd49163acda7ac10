"""The admin HTTP of the registry master: health of proxyd itself, metrics, API, live events and the status page.

May import: registry, health, events and everything below. Begin with `endpoints`, the table of what is served; `server` listens, and
`guard` says who may ask.
"""
