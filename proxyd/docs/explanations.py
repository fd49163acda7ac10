"""Explanations of settings for which one line of help is not enough: why this default, and what goes wrong at the extremes.

They are written for a person whom the proxy has woken at night and who has conf/proxyd.ini open.
"""

from __future__ import annotations

#: By `section.key`; plain prose, wrapped into comments by proxyd.docs.ini.
EXPLANATIONS: dict[str, str] = {
    "proxy.bind":
        "The default is loopback, so that trying proxyd exposes nothing. 0.0.0.0:80 opens it to the world. Ports below "
        "1024 need the capability CAP_NET_BIND_SERVICE or systemd's socket (conf/systemd). unix:/path serves a front on "
        "the same host.",
    "proxy.workers":
        "One worker keeps one core busy. More workers than cores use more memory and bring no speed. With fewer, cores "
        "remain for backends on the same host. Limits and circuits hold over all workers, whatever their number.",
    "proxy.worker_connections":
        "For a client beyond this number, the connection that has been idle for the longest time is closed. If none is idle, the "
        "client waits in the kernel's backlog. Each connection takes a file descriptor, and one in the "
        "middle of a request takes another for the upstream. proxyd raises its soft limit of open files by itself. The "
        "hard limit (ulimit -Hn, LimitNOFILE) should be about 2.5 times this number. Otherwise idle connections are "
        "closed before this number is reached: a sixth of the descriptors, 256 at most, is kept free.",
    "proxy.backlog":
        "It absorbs the bursts that come while workers are busy. The kernel cuts it to net.core.somaxconn without telling "
        "anyone. If it is too small, clients see refused or slow connects in a burst. If it is very large, an overloaded "
        "proxy answers clients who left long ago.",
    "proxy.keepalive_timeout":
        "Longer than browsers and most load balancers wait. Otherwise proxyd could close a connection while the next "
        "request is on its way. Behind a load balancer it must exceed the balancer's idle timeout, or the balancer sees "
        "sporadic 502s. A very long timeout keeps the connections of clients who are gone.",
    "proxy.header_timeout":
        "It protects against clients that send a header very slowly to hold a connection. The TLS handshake has the same "
        "time limit. Less than a second cuts off honest clients on bad networks.",
    "proxy.body_timeout":
        "It limits silence, not the whole transfer: an upload may take hours as long as it moves. If it is too short, "
        "clients that pause are cut off (a person who chooses the next file). If it is too long, a stalled client holds "
        "an upstream's connection for that long.",
    "proxy.min_request_rate":
        "It ends clients that send a byte now and then to hold a backend. Only the time counts in which proxyd waits for the "
        "client. 500 bytes a second is a hundredth of a bad mobile connection. A client that streams a body by nature, and "
        "has nothing to send for long, needs 0.",
    "proxy.min_response_rate":
        "It ends clients that read so slowly that an answer holds a backend for hours. The time counts only while bytes wait "
        "to be sent, so an idle event stream is not cut.",
    "proxy.min_rate_window":
        "A client that was faster before may pause for longer, up to body_timeout. If it is too short, a phone in a tunnel is "
        "cut off.",
    "proxy.buffer_total":
        "For routes with request_buffer or response_buffer. When it is used up, bodies stream as without a buffer, and "
        "proxyd_unbuffered_total counts them. Multiply it by the number of workers to know what the disk must hold.",
    "proxy.buffer_directory":
        "The files have no names, so nothing is left when proxyd ends. On many systems /tmp is memory: then name a "
        "directory on a disk, such as /var/tmp.",
    "proxy.requests_per_connection":
        "When a connection closes now and then, its client connects again and may reach another worker, or another host "
        "after a DNS change. 1 turns keep-alive off, and every request pays for a handshake.",
    "proxy.max_request_line":
        "RFC 9112 asks a server to accept at least 8000 bytes. Applications that put state into URLs may need more. Your "
        "backends must accept as much.",
    "proxy.max_header_size":
        "The sum over all fields, cookies included. Each connection may hold that much memory while its header arrives.",
    "proxy.max_body_size":
        "Bodies are streamed and never held in memory as a whole. So this limit protects the backends, not proxyd's "
        "memory. A route can set its own max_body_size, also a larger one.",
    "proxy.graceful_timeout":
        "A worker that stops (reload, shutdown) accepts no new connections and waits this long for its requests in "
        "flight. Then it cuts the rest, and their clients see a broken response. Make it longer than your longest usual "
        "request, and make systemd's TimeoutStopSec longer still. WebSockets get a close frame (1001).",
    "proxy.http2_cleartext":
        "For a front or a client of gRPC that speaks HTTP/2 without TLS. A client that does not begin with the preface of "
        "HTTP/2 gets HTTP/1.1 as before. There is no upgrade from HTTP/1.1 (RFC 9113 withdrew it).",
    "proxy.http2_max_streams":
        "Clients learn this number and send further requests when others have ended. One that goes beyond it gets "
        "REFUSED_STREAM, which it may send again. A browser needs about 100 for a page of many files.",
    "proxy.http2_stream_window":
        "Larger windows make uploads over long distances faster: at most one window is on its way during a round trip. "
        "256k and 100 ms are 2.5 MB/s.",
    "proxy.http2_connection_window":
        "This bounds the memory for bodies that a client has sent and no backend has read yet. If it is less than a few "
        "stream windows, one upload whose backend does not read delays the others of its connection.",
    "proxy.trusted_proxies":
        "Every client can send these fields with any content. So proxyd replaces them by what it sees itself, unless the "
        "sender is listed here. List the addresses of the load balancer or CDN in front, and nothing more. Whoever "
        "connects from a listed address chooses the client address that rate limits, the maintenance bypass and the logs "
        "see. If a front is not listed, all its users share the front's address and therefore one rate limit. The word unix "
        "stands for a front that connects by a UNIX socket ([proxy] bind = unix:/path).",
    "proxy.proxy_protocol_from":
        "For fronts that pass connections on without reading them. Whoever connects from a listed address chooses the client's address, "
        "as with trusted_proxies, and is refused without the header: turn it on in the front first. Checks that such a front makes over "
        "plain HTTP need the header, too.",
    "proxy.stale_after":
        "For those to whom an old route is worse than none, on several hosts above all: an apply is answered after [registry] apply_wait, "
        "though a host may be late. Such a host knows it, because its master told it of the new version. The default keeps traffic going "
        "while the database can't be read. Values below a second also hit workers that are merely busy. A host that is cut off from the "
        "database knows of nothing newer, and goes on.",
    "proxy.unknown_host":
        "404 shows a person that a server answered. 421 tells an HTTP/2 client to try another connection. close gives "
        "scanners nothing, but it gives people with a typo in their DNS no hint either.",
    "proxy.via":
        "A request that carries this name in Via has been here before: a backend points back at proxyd. It gets 508 "
        "instead of an endless loop. Two proxies in one chain must have different names.",
    "proxy.redirect_https":
        "The status is 308, so that method and body stay. The target is port 443 of the requested host. A request counts "
        "as HTTPS if it came over the [tls] listener, or if a front in trusted_proxies says that it came over HTTPS. If a "
        "front ends TLS and is not listed there, its clients are redirected in an endless loop.",
    "proxy.hsts":
        "Browsers remember it for as long as you say, and you cannot take it back. Begin with 1h. Go to 365d when every "
        "name has worked over HTTPS for a while.",
    "tls.certificates":
        "Each file holds one certificate: the chain first, then the key. The first certificate is shown to clients that "
        "name no host. Of two files for one name, one with an RSA key and one with an ECDSA key, each client is shown the one "
        "that it knows. Changed files are used within seconds, without a restart. If a file cannot be read, the last good "
        "one stays in use and the log says so. Before a certificate expires, warnings are logged.",
    "tls.min_version":
        "Every client made in the last ten years speaks 1.2. 1.3 shuts some old clients out and simplifies an audit.",
    "tls.ciphers":
        "intermediate serves Chrome 31, Firefox 27, Safari 9 and whatever is newer. modern shuts out whoever lacks TLS 1.3, "
        "like Java 8 before its update 261 and Safari before 12.1.",
    "tls.http2":
        "Clients that do not ask for HTTP/2 get HTTP/1.1. The bounds are in [proxy]: http2_max_streams, "
        "http2_stream_window and http2_connection_window.",
    "tls.client_crl":
        "The file is read again when it changes, so whatever fetches the lists replaces it. A list that is past its next update counts for "
        "nothing: no client of its CA is let in until there is a newer one, and the log says so. Every worker keeps the lists in memory "
        "once for each name that asks for certificates.",
    "acme.challenges":
        "http-01 needs port 80 and tls-alpn-01 port 443 to lead here; dns-01 needs neither, but a program that writes into your DNS. "
        "A challenge that fails is not followed by the next one: the CA counts failures, and the error says what to mend.",
    "acme.handshake_wait":
        "Who comes in the seconds between the declaration of a name and its certificate waits a moment, rather than being warned of the "
        "local CA. Only the first order of a name is waited for: while it is renewed the old one is shown, and after an order that "
        "failed the local CA's at once. If it is long, a CA that is slow keeps first visitors waiting for it, and each of them takes one "
        "of worker_connections meanwhile.",
    "acme.profile":
        "Certificates that live for days need a proxy that is up: one that was off for longer starts with the local CA's until the "
        "new one is there. Renewal follows the lifetime by itself.",
    "registry.bind":
        "Anyone who can speak to the registry can claim domains, and with them your traffic. Beyond loopback, proxyd "
        "refuses to start without tokens_file or tls_client_ca. allow_unprotected lifts this where the network itself is "
        "the protection.",
    "registry.reconnect_grace":
        "During this time the routes of a lost session are kept but take no traffic. RECONNECT brings them back as they "
        "were. Choose it longer than a deployment or a restart of the service takes. If it is too short, clients have to "
        "register again: the client library does, other clients may not. If it is hours, dead routes answer 503 where a "
        "404 or another service could answer.",
    "registry.replace_grace":
        "A service that is restarted registers again, and needs some time until it has applied its routes. Until then the old "
        "ones serve. If it is too short, clients get 404 in between. If it is long, routes that the new version does not have any "
        "more stay that long if it never applies.",
    "registry.staged_ttl":
        "A client that stages and never applies holds memory for nothing. After this time its staged changes are dropped, "
        "and it has to stage them again.",
    "registry.apply_wait":
        "CONFIG_APPLY answers OK when every worker routes by the change, usually within milliseconds. A worker that hangs "
        "must not hold the client for ever. So after this time the answer is OK too, since the change is committed, and "
        "the log names the worker. Clients often wait 5 to 10 s for an answer. Stay below that.",
    "registry.max_in_flight":
        "Further commands wait their turn. Commands that wait for a backend (BACKEND_TEST, MAINT_ENTER) do not count "
        "while they wait.",
    "registry.max_line":
        "Existing clients know 16k. Longer lines allow a larger ROUTE_ADD_BULK. Each connection may hold as much memory.",
    "registry.max_output":
        "A client that sends commands and does not read the answers is disconnected when this much output waits for it. "
        "The value must exceed the largest answer (1m for a compressed one).",
    "registry.max_routes":
        "Each worker holds all routes in memory. The upper bound comes from shared memory, which has room for 131072 "
        "circuits.",
    "registry.keepalive_idle":
        "A host that vanishes silently (power, cable) is noticed after idle + interval * count: 60 s by default. A "
        "process that dies is noticed at once, because its kernel closes the connection. Shorter values end sessions for "
        "every hiccup of the network. Longer values send users to a dead backend, unless its route has a health check.",
    "registry.register_timeout":
        "Connections that never register are closed, so that they cannot use up max_connections.",
    "registry.tokens_file":
        "`proxyd token NAME` makes the entries; docs/configuration.md describes the format. The file is read again when "
        "it changes, so you can withdraw a token without a restart. Sessions that registered with that token stay until "
        "they end.",
    "registry.deny_targets":
        "A client that may register could reach through proxyd what trusts this host. On link-local addresses are the metadata "
        "services of clouds, which give credentials away. An address is refused when it is staged; a name is looked at each time a "
        "connection is opened (502 upstream_denied). proxyd's own registry and admin HTTP are refused in any case.",
    "registry.unknown_options":
        "An error shows a misspelt option at once. But some clients stop their whole replay at the first error, and leave their routes "
        "staged: with note, such an option is answered OPTIONS_OK, named in the log once for each service and in the notes of "
        "ROUTE_STATUS, and has no effect. It fits services that were written for a newer proxyd.",
    "registry.unix_targets":
        "A socket is often guarded by its file's mode alone, and proxyd may be let in: that of Docker gives the host away. So no client "
        "may name one unless this setting does, as a full path or by a directory above it. Name directories in which only programs that "
        "you trust can make files: a link there leads anywhere. proxyd's own sockets are refused in any case.",
    "registry.tls_certificate":
        "Tokens travel in REGISTER. Without TLS, anyone who can listen on the network can read them. The chain comes "
        "first, then the key, as for [tls] certificates. New connections use a renewed file within seconds. Warnings are "
        "logged before it expires.",
    "registry.tls_client_ca":
        "Clients without a certificate of this CA fail in the handshake. It works only together with tls_certificate.",
    "registry.max_failed_logins":
        "Refused attempts are counted by address over a minute. A low number also locks out other clients behind the same "
        "NAT.",
    "registry.allow_unprotected":
        "For a network that nobody else uses, such as a container network. No other setting is as dangerous.",
    "master.spawn":
        "With yes, one command starts everything, and a master that dies is started again within 0.1 to 5 s. With no, the "
        "unit conf/systemd/proxyd-master.service runs `proxyd master`, so that you can restart workers and master "
        "separately. Without a master, traffic goes on by the last known routes. Only changes, health checks and the "
        "admin HTTP server wait for it.",
    "admin.bind":
        "Without viewer_token_file, it shows routes, addresses and events to anyone who can connect, so that it must be "
        "loopback then. It speaks plain HTTP, in which tokens can be read on the way: beyond loopback, use a network of your "
        "own, or a route of proxyd's with TLS. Actions need the token in any case.",
    "admin.token_file":
        "One line, of 16 characters or more. Only the proxyd user should be able to read the file. Without a token file, "
        "the page and the API show things but change nothing.",
    "admin.viewer_token_file":
        "One line, of 16 characters or more, and not that of token_file. Once it is set, the page, the API and /metrics ask "
        "everybody for it; the token of token_file does as well, and still only that one may act. /livez and /readyz stay "
        "open and say no more than yes or no. Prometheus sends it by authorization and credentials_file.",
    "database.url":
        "SQLite is a file. It needs no server and is enough for one host. A relative path starts at the working "
        "directory. The file must be on a local disk, because WAL does not work over NFS. With PostgreSQL, several hosts "
        "share one configuration: install 'proxyd[postgresql]', and set ratelimit.storage to Redis if limits must hold "
        "over all hosts. Each host keeps its own circuits. The url may name several servers and parameters, as libpq takes "
        "them: postgresql://proxyd@a:5432,b:5432/proxyd?target_session_attrs=read-write&sslmode=verify-full. A server that "
        "restarts is connected to again. While it is away or hangs, traffic goes on, and changes are refused within "
        "busy_timeout and a second.",
    "database.shared_memory":
        "Files of fixed size (about 17 MB for circuits, 3 MB or more for rate limits), mapped by all processes of the "
        "host. They survive a restart. /dev/shm/proxyd keeps them off the disk, but then a reboot clears the counters. "
        "Two proxies on one host need two directories, and so two databases in one folder do: the second proxy does not start.",
    "database.busy_timeout":
        "A long write by someone else (such as a sqlite3 shell with an open transaction) delays the commands of clients. "
        "After this time they get an error that says so. Requests never wait for the database. Statistics are kept in "
        "memory until it is free.",
    "database.poll":
        "On one host the master tells the workers of a change through shared memory, within milliseconds. Polling finds "
        "changes from elsewhere: the master of another host, a restored backup. Each look is a cheap query, so 100ms is "
        "fine.",
    "database.max_size":
        "What is in use is measured once a minute, without SQLite's log; about a tenth is kept free for what is written "
        "next. Where it is more, single checks, minutes, slow requests, WebSockets, refused addresses and changes of "
        "circuits go, the oldest first, but not those of the last hour; then sums by the hour, but not those of the last "
        "8 days. Days, incidents, deploys, events and routes stay: if they alone are too much, proxyctl status says so. "
        "The log and the event history_dropped say it when history begins to go, proxyd_history_dropped_rows_total counts "
        "the rows. Set it where there are many targets: 10,000 that are checked every 10 s make 86 million single checks a "
        "day. On PostgreSQL the size is an estimate from the server's statistics, and the files keep their size.",
    "database.retain_health":
        "A check every 10 s makes 60,000 rows per route and week. This setting decides how far back uptime queries can "
        "look.",
    "database.retain_stats":
        "One row per route and minute with traffic, and one row per refused address and minute.",
    "database.retain_events":
        "Events are the audit trail: who applied, drained and reset what. Keep them as long as your rules demand.",
    "health.default_check":
        "It is off because a request for / every 10 s can have effects that the backend's owner does not expect. On, "
        "every route is checked, also those of clients that know nothing of health checks.",
    "health.pool":
        "This many checks of targets that answer within a second run at once, and as many checks of slower targets. So "
        "targets that hang wait for each other, and no target that answers waits for them. Further checks wait; "
        "proxyd_health_lag_seconds shows how long. Each check takes a file descriptor of the master.",
    "health.jitter":
        "Without it, all checks of routes that were applied together would always run at the same moment. It is never "
        "more than a quarter of the interval.",
    "health.window":
        "A target is down after health_fall failures in a row, or when fewer than half of the checks in the window "
        "succeeded. Below nine in ten it is degraded but keeps its traffic. A short window forgets flapping sooner. With "
        "a long one, an outage in the morning still shows at noon (100 checks every 10 s are 17 minutes).",
    "health.queue":
        "Each result takes about half a kilobyte of memory. A status change acts at once, whether or not its row can be "
        "written, and the current status is never dropped. proxyd_health_results_dropped_total counts the dropped "
        "results.",
    "health.results_per_second":
        "5 gives each check of 50 targets every 10 s a row of its own. Beyond, checks of a route in a row with the same outcome "
        "share one: when the first and the last were, how many, and the shortest, mean and longest time. A row goes on for as "
        "many seconds as there are routes for each row a second: 1,000 routes have a row every 200 s, 10,000 one in 33 "
        "minutes, 18,000 and more one an hour. Another outcome begins another row at once, so a single failure among them has "
        "its row and its instant. Rows that grow are written once a minute. More rows a second cost about 200 bytes each, for as "
        "long as [database] retain_health. The sums by minute, hour and day count each check whatever this says.",
    "health.drive_circuits":
        "With yes, the first requests after a backend died are refused by the circuit, or go to a replica, instead of "
        "failing. With no, health is shown, published as events and stored, but only the requests' own failures open a "
        "circuit. Circuits of routes in maintenance or without their session are left alone (docs/health.md).",
    "ratelimit.storage":
        "shared counts exactly over the workers of this host and needs no server. With redis://, several hosts share a "
        "count. That costs one round trip per request, and windows are rounded up to whole seconds. While Redis cannot be "
        "reached, each host counts with its share, the limit divided by the number of live hosts and at least 1, and its "
        "log says so once. How many hosts live is known from a PostgreSQL database; with SQLite each host counts alone.",
    "ratelimit.strategy":
        "sliding-window-counter adds a share of the last window's count to the current one. It is nearly exact, takes "
        "little memory and allows no burst at the edge of a window. fixed-window allows up to twice the limit around an "
        "edge. moving-window never allows more than the limit in any window, and takes six times the memory. A change of "
        "strategy starts all counts at zero.",
    "ratelimit.ipv6_prefix":
        "A customer usually has at least a /64. With 128, one customer has 2^64 addresses to evade a limit. 56 or 48 "
        "catches more, but neighbours may share one limit.",
    "ratelimit.allow":
        "For your monitoring and your own offices. Behind a front, set proxy.trusted_proxies as well. Otherwise everyone "
        "has the front's address.",
    "ratelimit.entries":
        "Each counter takes 48 bytes (288 with moving-window), all allocated at the start. A change of this number starts "
        "all counts at zero. If there are too few, an attack from many addresses pushes out the longest unused counters, "
        "and some clients start again from zero.",
    "maintenance.bypass":
        "So that you can look at a backend before you let the users in again.",
    "maintenance.retry_after":
        "Search engines and well-behaved clients come back after this time. If it is short, they all come back while you "
        "are still at work.",
    "log.level":
        "debug logs every connection's errors, which is too much for production. warning still logs every failed upstream "
        "request and every opened circuit.",
    "log.format":
        "json writes one object per line, for a log collector. text is for people and for tools that read the combined "
        "format.",
    "log.access_format":
        "text and combined begin alike, so that tools for the combined format read both. Tools that demand the end of the line "
        "after the User-Agent need combined.",
    "log.access_addresses":
        "Where the law counts an address as personal data, short keeps a network, and nobody can be found by it. Limits, and the "
        "addresses that backends are told, are the whole ones.",
    "log.access":
        "Lines are written in batches, apart from the requests, so that a slow disk delays nobody. SIGUSR1 opens the file "
        "again (conf/logrotate.d).",
    "alerts.webhook":
        "Alerts are sent for upstreams that go down, circuits that open, slow_critical requests, and certificates 30, 7 "
        "and 1 days before they expire, and once more when it is over. A webhook that does not answer delays only the alerts. [webhooks] "
        "has more of them, with filters.",
    "alerts.error_rate":
        "A route all of whose requests fail is told anyway. This is for services of which a part fails; some have a few errors always.",
    "alerts.interval":
        "Without it, a flapping backend would fill the channel until nobody reads it any more.",
    "sites.directory":
        "Only files whose names end in .ini count, so that an editor's backup files do not become routes. Link to files "
        "in sites-available.",
    "sites.watch":
        "A file is applied as a whole or not at all, so half-saved files do no harm. With no, SIGHUP applies changed "
        "files.",
    "dns.servers":
        "They are asked over UDP, and over TCP for long answers. Names in /etc/hosts and localhost never need them. Other "
        "sources in nsswitch.conf, such as mDNS, are not used.",
    "dns.timeout":
        "A name that takes longer fails with 502 upstream_unresolved and is asked for again after 2 s. Only requests to "
        "that name wait. While no name server answers, the addresses of the last answer stay in use for an hour.",
}
