"""The longer word on settings whose one line of help is not enough: why this default, and what goes wrong at the extremes.

Written for a person who was woken by the proxy and has this file open.
"""

from __future__ import annotations

#: By `section.key`; plain prose, wrapped into comments by proxyd.docs.ini.
EXPLANATIONS: dict[str, str] = {
    "proxy.bind":
        "Loopback, so that trying proxyd exposes nothing. 0.0.0.0:80 opens it to the world: ports below 1024 need the "
        "capability CAP_NET_BIND_SERVICE, or systemd's socket (conf/systemd). unix:/path serves a front on the same host.",
    "proxy.workers":
        "One worker keeps one core busy; more of them than cores only take memory and turns from each other. Fewer leave "
        "cores to the backends, if those share the host. Limits and circuits hold over all workers, whatever their "
        "number.",
    "proxy.worker_connections":
        "Beyond it, clients wait in the kernel's backlog. A connection takes a file descriptor, one in the middle of a "
        "request another for the upstream. proxyd raises its soft limit of open files by itself; the hard one (ulimit -Hn, "
        "LimitNOFILE) should be about 2.5 times this number, or accepting stops with EMFILE before the bound is reached.",
    "proxy.backlog":
        "It takes the bursts that come while workers are busy. The kernel cuts it to net.core.somaxconn without a word. "
        "Too small, and clients see refused or slow connects in a burst; very large, and an overloaded proxy answers "
        "clients who left long ago.",
    "proxy.keepalive_timeout":
        "Longer than what browsers and most load balancers wait, so that it is not we who close a connection on which the "
        "next request is under way. Behind a load balancer it must exceed that one's idle timeout, or it will see "
        "sporadic 502. Very long keeps the connections of clients who are gone.",
    "proxy.header_timeout":
        "The bound against clients that trickle a header to hold a connection; the TLS handshake has as long, too. Under "
        "a second cuts off honest clients on bad networks.",
    "proxy.body_timeout":
        "It bounds silence, not the whole transfer: an upload of hours is fine as long as it moves. Too small breaks "
        "clients that pause (a person choosing the next file); too large lets a stalled client hold an upstream's "
        "connection as long.",
    "proxy.requests_per_connection":
        "Closing a connection now and then lets clients spread anew over workers and, after a DNS change, over hosts. 1 "
        "turns keep-alive off and makes every request pay for a handshake.",
    "proxy.max_request_line":
        "8k is what RFC 9112 asks a server to take at least. Applications that put state into URLs may need more; your "
        "backends must take it, too.",
    "proxy.max_header_size":
        "The sum over all fields, cookies included. Each connection may hold that much memory while its header arrives.",
    "proxy.max_body_size":
        "Bodies are streamed, never held whole, so this bound protects the backends and not our memory. A route can set "
        "its own max_body_size, larger ones too.",
    "proxy.graceful_timeout":
        "When a worker stops (reload, shutdown), it takes no new connection and waits this long for what is in flight; "
        "what is left is cut, and its client sees a broken response. Make it longer than your longest usual request, and "
        "systemd's TimeoutStopSec longer still. WebSockets get a close frame (1001).",
    "proxy.trusted_proxies":
        "From anybody else these fields are replaced by what we see ourselves, since they are a claim that every client "
        "can make. Set it to the addresses of the load balancer or CDN in front and to nothing wider: whoever connects "
        "from a trusted address chooses his own client address for rate limits, the maintenance bypass and the logs. Not "
        "set behind a front, all users share the front's address, and so its rate limit.",
    "proxy.unknown_host":
        "404 tells a person that he reached something. 421 tells an HTTP/2 client to try another connection. close gives "
        "scanners nothing, and people with a typo in their DNS no hint either.",
    "proxy.via":
        "A request that carries our own name has been here before: a backend points back at us, and it gets 508 instead "
        "of an endless loop. Two proxies in one chain must have different names.",
    "proxy.redirect_https":
        "308, so that method and body stay; it goes to port 443 of the host that was asked for. HTTPS is what came over our "
        "own [tls] listener, and what a front in trusted_proxies says came to it over HTTPS: a front that ends TLS and is "
        "not named there sends clients round in circles.",
    "proxy.hsts":
        "Browsers remember it for as long as you say, and there is no taking it back: begin with 1h, and go to 365d when "
        "every name has worked over HTTPS for a while.",
    "tls.certificates":
        "Chain first, key after it, one file a certificate; the first is shown to clients that name no host. Changed "
        "files are taken up within seconds, without a restart; a file that can't be read leaves the last good one in use, "
        "and the log says so. A warning is logged as the end of a certificate comes near.",
    "tls.min_version":
        "1.2 is understood by everything made in the last ten years. 1.3 shuts some old clients out and simplifies an "
        "audit.",
    "tls.http2":
        "Needs the h2 package (pip install 'proxyd[http2]'); without it the listener offers HTTP/1.1 alone. gunicorn "
        "serves the streams of one connection one after another; where many parallel streams matter, put a front before "
        "it (conf/fronts).",
    "registry.bind":
        "Whoever can speak to the registry can claim domains, and with them your traffic. Beyond loopback, proxyd refuses "
        "to start without tokens_file or tls_client_ca, unless allow_unprotected says that the network is the protection.",
    "registry.reconnect_grace":
        "In this time the routes of a lost session are kept, switched off, and RECONNECT brings them back as they were. "
        "Longer than a deployment or a restart of the service takes; too short makes clients register anew (fine for the "
        "client library, not for all others); hours keep dead routes answering 503 where a 404 or another service could "
        "be.",
    "registry.staged_ttl":
        "A client that stages and never applies holds memory and claims nothing; after this it has to stage again.",
    "registry.apply_wait":
        "CONFIG_APPLY answers OK when every worker routes by the change, usually within milliseconds. A worker that hangs "
        "must not hold the client for ever: after this time the answer is OK all the same (the change is committed) and "
        "the log names the worker. Clients often wait 5 to 10 s for an answer; stay below that.",
    "registry.max_in_flight":
        "Commands beyond it wait their turn. Commands that wait for a backend (BACKEND_TEST, MAINT_ENTER) don't count "
        "meanwhile.",
    "registry.max_line":
        "Existing clients know 16k. Larger lines allow larger ROUTE_ADD_BULK; each connection may hold as much memory.",
    "registry.max_output":
        "A client that asks and does not read is cut when this much waits for it. It must exceed the largest answer (1m "
        "for a compressed one).",
    "registry.max_routes":
        "Each worker has all of them in memory. Shared memory has room for 131072 circuits, hence the upper bound.",
    "registry.keepalive_idle":
        "idle + interval * count is the time after which a host that vanished without a word (power, cable) is noticed: "
        "60 s by default. A process that dies is seen at once, since its kernel closes the connection. Shorter values "
        "drop sessions for every hiccup of the network; longer ones send users to a dead backend, unless its route has a "
        "health check.",
    "registry.register_timeout":
        "Connections that never register are cut, so that they can't use up max_connections.",
    "registry.tokens_file":
        "Made with `proxyd token NAME`; docs/configuration.md has the format. It is read anew when it changes, so a token "
        "can be withdrawn without a restart; sessions that were admitted with it go on until they end.",
    "registry.tls_certificate":
        "Tokens travel in REGISTER: without TLS, whoever can listen on the network has them. Chain first, key after it, as "
        "for [tls] certificates; a renewed file is taken up for new connections within seconds, and its end is watched.",
    "registry.tls_client_ca":
        "Clients without a certificate of that CA don't get past the handshake. It works only together with "
        "tls_certificate.",
    "registry.max_failed_logins":
        "Refused attempts are counted by address over a minute. Low numbers punish the neighbours behind one NAT.",
    "registry.allow_unprotected":
        "For a network that nobody else is on, such as a container network. Nothing else here is as dangerous.",
    "master.spawn":
        "With yes, one command starts everything, and a master that dies is started again within 0.1 to 5 s. With no, the "
        "unit conf/systemd/proxyd-master.service runs `proxyd master`, so that workers and master can be restarted apart. "
        "Traffic goes on without a master, by the last table; only changes, health checks and the admin HTTP wait for it.",
    "admin.bind":
        "It shows routes, addresses and events to whoever reaches it; keep it on loopback or behind a front with a login. "
        "Actions need the token in any case.",
    "admin.token_file":
        "One line, 16 characters at least is wise; readable by the proxyd user alone. Empty, the page and the API only "
        "show.",
    "database.url":
        "SQLite is a file, needs no server and is enough for one host: a relative path counts from the working directory. "
        "It must be on a local disk: WAL does not work over NFS. PostgreSQL lets several hosts route by one "
        "configuration: install 'proxyd[postgresql]', and set ratelimit.storage to Redis if limits shall hold over all "
        "hosts. Circuits are each host's own.",
    "database.shared_memory":
        "Files of fixed size (some 17 MB for circuits, 3 MB or more for rate limits), mapped by all processes of the "
        "host. They survive a restart. /dev/shm/proxyd keeps them off the disk, at the price of counters that a reboot "
        "forgets. Two proxies on one host need two directories.",
    "database.busy_timeout":
        "Somebody's long write (a sqlite3 shell with an open transaction) holds up commands of clients, who get an error "
        "that says so after this time. Requests never wait for the database, and statistics are kept until it is free.",
    "database.poll":
        "On one host the master tells the workers of a change through shared memory, within milliseconds. This is for "
        "changes from elsewhere: the master of another host, a restored backup. A look is a cheap query; 100ms is fine.",
    "database.retain_health":
        "A check every 10 s makes 60,000 rows a route and week. It bounds how far back uptime queries can look.",
    "database.retain_stats":
        "A row a route and minute with traffic, and a row a refused address and minute.",
    "database.retain_events":
        "Events are the audit trail: who applied, drained and reset what. Keep them as long as your rules say.",
    "health.default_check":
        "Off, because asking a backend for / every 10 s can have effects that its owner does not expect. On, every route "
        "is watched, those of clients that never heard of health checks included.",
    "health.pool":
        "As many targets that answer within a second, and as many others: targets that hang wait for each other, and no "
        "target that answers waits for them. Checks beyond it wait, which proxyd_health_lag_seconds shows. Each takes a "
        "descriptor of the master.",
    "health.jitter":
        "Without it, all checks of routes applied together would run together for ever. It is cut to a quarter of the "
        "interval.",
    "health.window":
        "A target goes down after health_fall failures in a row, or when fewer than half of the window's checks were "
        "good; below nine in ten it is degraded, and keeps its traffic. A short window forgets flapping sooner; a long "
        "one remembers an outage of the morning at noon (100 checks every 10 s look back 17 minutes).",
    "health.queue":
        "They wait in memory, about half a kilobyte each. Status changes act at once, whether or not their rows can be "
        "written, and the current state is never dropped. proxyd_health_results_dropped_total counts what was.",
    "health.drive_circuits":
        "With yes, the first requests after a backend died are refused by the circuit (or go to a replica) instead of "
        "failing. With no, health is shown, told as events and stored, and traffic goes by what requests themselves meet. "
        "Circuits of routes in maintenance, or without their session, are left alone (docs/health.md).",
    "ratelimit.storage":
        "shared counts exactly over the workers of this host, without a server. With redis:// several hosts share a "
        "count, for a round trip a request, in whole seconds (a window is rounded up); while Redis can't be reached, "
        "each host counts alone, and its log says so once.",
    "ratelimit.strategy":
        "sliding-window-counter weighs the last window into this one: near to exact, small, and no burst at the edge. "
        "fixed-window lets twice the limit through around an edge. moving-window never lets more than the limit through in "
        "any window, and takes six times the memory. Another strategy begins with counts of its own.",
    "ratelimit.ipv6_prefix":
        "A customer usually has a /64 at least; with 128 he has 2^64 addresses to evade a limit with. 56 or 48 catches "
        "more, and may put neighbours into one bucket.",
    "ratelimit.allow":
        "Your monitoring and your own offices. Behind a front, set proxy.trusted_proxies as well: otherwise everybody has "
        "the front's address.",
    "ratelimit.entries":
        "48 bytes each (288 with moving-window), allocated in full at the start; another number begins all counts anew. Too "
        "few, and under an attack from many addresses the longest unused counters are forgotten, so that some clients get "
        "a fresh start.",
    "maintenance.bypass":
        "So that you can look at a backend before the users are let in again.",
    "maintenance.retry_after":
        "Search engines and well-behaved clients come back after it. A short one brings them all back while you still "
        "work.",
    "log.level":
        "debug logs each connection's troubles and is too much for production. warning still has every failed upstream "
        "request and every opened circuit.",
    "log.format":
        "json is one object a line for a log collector; text is for people and for tools that read the combined format.",
    "log.access":
        "Written in batches beside the requests, so that a slow disk delays nobody. A file is opened anew on SIGUSR1 "
        "(conf/logrotate.d).",
    "alerts.webhook":
        "Sent for upstreams that go down, circuits that open, slow_critical requests, and certificates 30, 7 and 1 days "
        "before their end. A webhook that does not answer delays nothing but itself.",
    "alerts.interval":
        "A flapping backend would otherwise fill the channel until nobody reads it.",
    "sites.directory":
        "Only names that end in .ini count, so that an editor's backup files don't become routes. Link from "
        "sites-available.",
    "sites.watch":
        "Each file is applied whole or not at all, so half-saved files do no harm. With no, SIGHUP applies them.",
    "dns.servers":
        "Asked over UDP, and over TCP for long answers. /etc/hosts and localhost never need them. Other sources of "
        "nsswitch.conf, such as mDNS, are not asked.",
    "dns.timeout":
        "A name that takes longer fails with 502 upstream_unresolved, and is asked for again after 2 s. Only requests to "
        "that name wait. While no server answers, the addresses of the last answer are used for an hour.",
}
