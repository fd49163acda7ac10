"""Health checks of upstreams, and what follows from them."""
