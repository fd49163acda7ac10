"""Finds the target that a route asks to have checked."""

from __future__ import annotations

from proxyd.base.urls import ALWAYS, parse_backend, split_grpc_check
from proxyd.config.options import RouteOptions, route_options, tls_of
from proxyd.config.sections import HealthSettings
from proxyd.health.probe import Target
from proxyd.store.sql.snapshot import RouteRecord


def target_of(record: RouteRecord, settings: HealthSettings) -> tuple[Target, RouteOptions] | None:
    """A route's target and options. None if the route has no check, or if its row can't be read."""
    try:
        options = route_options(record.options)
        backend = parse_backend(record.backend_url)
        if backend.answer is not None:
            return None
        http2, service = backend.spoken(options.http2), None
        place, send_proxy = "", options.send_proxy
        path = options.health_check_path or (settings.default_path if settings.default_check else "")
        if not path:
            return None
        if path.startswith("tcp://"):
            other = parse_backend("http://" + path.removeprefix("tcp://")) if len(path) > len("tcp://") else backend
            shown = f"[{other.host}]" if ":" in other.host else other.host
            where = f"{shown}:{other.port}" if other.port else other.place
            scheme, host, port, authority, path = "tcp", other.host, other.port, where, ""
            send_proxy = send_proxy if other is backend else "off"
        elif path.startswith("grpc://"):
            where, service = split_grpc_check(path)
            other = parse_backend("http://" + where) if where else backend
            scheme, host, port, authority, place = other.scheme, other.host, other.port, other.authority, other.place
            if other is backend:
                authority = options.upstream_host or authority
            else:
                send_proxy = "off"
            http2, path = ALWAYS, "/"
        else:
            scheme, host, port, place = backend.scheme, backend.host, backend.port, backend.place
            authority = options.upstream_host or backend.authority
    except ValueError:
        return None
    return Target(scheme, host, port, authority, path, options.health_check_interval, options.health_check_timeout,
                  options.health_expected_status, options.health_expected_body, options.health_rise, options.health_fall,
                  tls_of(options), options.health_check_keepalive, options.bare_lf, http2, service,
                  "" if place == authority else place, send_proxy), options
