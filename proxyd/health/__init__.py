"""Health checks of upstreams, and how their results move circuits."""
