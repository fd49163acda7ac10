"use strict";
// The status page: polls the API, follows events, and draws with textContent and elements alone, never with HTML text.
(() => {
  const POLL_MS = 2000, SLOW_MS = 10000, GROUPS = 20, SHOWN = 50, EVENTS = 50, ASKED = 200, FINDINGS = 10, MOST = 200;
  const {$, element, cell, tag, setText, note, whole, milliseconds, span, clock, ask, rows, row, access, HEALTH, circuitTags, notClosed} = window.proxyd;
  const eventTypes = document.querySelector('meta[name="events"]').content.split(" ");
  let first = 0, polling = false, again = false, stream = null, saidTimer = 0;

  function say(text) {
    $("said").textContent = text;
    clearTimeout(saidTimer);
    saidTimer = setTimeout(() => { $("said").textContent = ""; }, 6000);
  }

  // Rows stay the same elements while nothing in them changes, so that focus and selection survive a poll.
  function fill(body, items, key, build) {
    const known = new Map([...body.children].map((row) => [row.dataset.key, row]));
    let place = body.firstElementChild;
    for (const item of items) {
      const print = JSON.stringify([item, who.acts()]);
      let row = known.get(key(item));
      known.delete(key(item));
      if (!row || row.print !== print) {
        const fresh = build(item);
        fresh.dataset.key = key(item);
        fresh.print = print;
        if (row) {
          const focused = row.contains(document.activeElement) ? document.activeElement.dataset.act || "" : null;
          if (place === row) place = fresh;
          row.replaceWith(fresh);
          if (focused !== null) focusIn(fresh, focused);
        }
        row = fresh;
      }
      if (row === place) place = place.nextElementSibling;
      else body.insertBefore(row, place);
    }
    for (const row of known.values()) {
      const focused = row.contains(document.activeElement), next = row.nextElementSibling || row.previousElementSibling;
      row.remove();
      if (focused) focusIn(next || body, "");
    }
  }

  // Give the focus to the button of that name, else to what else can take it in a row, else to the part of the page that the row was in:
  // whoever goes by the keyboard is not to begin anew because something was drawn.
  function focusIn(row, act) {
    const target = (act && row.querySelector(`[data-act="${CSS.escape(act)}"]`)) || row.querySelector("button") || row.querySelector("a")
      || row.closest("[tabindex]");
    if (target) target.focus();
  }

  // Open a dialog, and give the focus back when it closes, though its row was drawn anew meanwhile.
  function open(dialog) {
    const here = document.activeElement, row = here.closest("tr"), body = row && row.parentElement;
    dialog.showModal();
    dialog.addEventListener("close", () => {
      // Until it is drawn, a closed dialog may still have the focus.
      if (!row || (document.activeElement !== document.body && !dialog.contains(document.activeElement))) return;
      focusIn([...body.children].find((one) => one.dataset.key === row.dataset.key) || body, here.dataset.act);
    }, {once: true});
  }

  function sparkline(series) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("viewBox", "0 0 120 28");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("class", "spark");
    svg.setAttribute("role", "img");
    const requests = series ? series.requests : [0, 0], errors = series ? series.errors : [0, 0];
    const total = requests.reduce((sum, count) => sum + count, 0), failed = errors.reduce((sum, count) => sum + count, 0);
    svg.setAttribute("aria-label", whole.format(total) + " requests, " + whole.format(failed) + " errors in 30 minutes");
    const top = Math.max(1, ...requests), step = 120 / (requests.length - 1);
    const points = (counts) => counts.map((count, index) => (index * step).toFixed(1) + "," + (27 - count / top * 25).toFixed(1)).join(" L");
    const path = (className, d) => {
      const made = document.createElementNS(space, "path");
      made.setAttribute("class", className);
      made.setAttribute("d", d);
      svg.append(made);
    };
    path("area", "M0,28 L" + points(requests) + " L120,28 Z");
    path("trace", "M" + points(requests));
    if (failed) path("errors", "M" + points(errors));
    return svg;
  }

  function states(route, found) {
    const tags = [];
    if (found) {
      const said = tag(found.kind.replaceAll("_", " "), found.severity === "critical" ? "bad" : "warn", found.why);
      if (found.since) said.append(" ", lasting(found.since));
      tags.push(said);
    }
    if (!route.enabled) tags.push(tag("disabled", ""));
    if (route.maintenance.active) tags.push(tag("maintenance", "warn", "since " + route.maintenance.entered_at +
      (route.maintenance.reason ? ": " + route.maintenance.reason : "")));
    if (route.drain.active) {
      tags.push(tag("draining " + Math.round(route.drain.traffic_percent) + " %", "warn", span(route.drain.remaining_seconds) + " left"));
    }
    if (route.hold.active) tags.push(tag("held", "warn", "until " + route.hold.until));
    if (route.health) tags.push(tag(route.health.status, HEALTH[route.health.status] || "", route.health.reason));
    if (route.health && HEALTH[route.health.status] !== "good" && route.health.reason) tags.push(element("div", "sub", route.health.reason));
    return tags.length ? tags : [tag("not checked", "")];
  }

  function act(label, name, run) {
    const button = element("button", "", label);
    button.type = "button";
    button.dataset.act = name;
    button.setAttribute("aria-label", name);
    button.addEventListener("click", run);
    return button;
  }

  function routeActions(route) {
    if (!who.acts()) return [];
    const path = "api/v1/routes/" + encodeURIComponent(route.route_id), name = route.service + " " + route.route_id;
    const buttons = [];
    if (route.source === "hand") {
      buttons.push(act("Change", "Change " + name, () => edit(route)));
      buttons.push(act("Remove", "Remove " + name, async () => {
        const sure = await confirmed("Remove " + name, "Requests for " + route.domains.join(", ") + route.path + " are answered with 404, "
          + "unless another route takes them.", "", "", "Remove");
        if (sure !== null) change("DELETE", path);
      }));
    }
    if (notClosed(route.circuit)) {
      buttons.push(act("Reset circuit", "Reset circuit of " + name, () => change("POST", path + "/circuit/reset")));
    }
    if (route.maintenance.active) {
      buttons.push(act("End maintenance", "End maintenance of " + name, () => change("DELETE", path + "/maintenance")));
    } else {
      buttons.push(act("Maintenance", "Maintenance of " + name, async () => {
        const url = await confirmed("Maintenance of " + name, "Requests are answered with a page and status 503.",
          "Page url (empty: the built-in page)", "", "Enter maintenance");
        if (url !== null) change("POST", path + "/maintenance", {page_url: url});
      }));
    }
    return buttons;
  }

  function routeRow({route, series, found}) {
    const where = route.domains.join(", ") + route.path, stats = route.stats;
    const failed = stats.requests ? stats.errors / stats.requests * 100 : 0;
    const link = element("a", "", where);
    link.href = "route/" + encodeURIComponent(route.route_id);
    const title = element("td", "", element("div", "name", link),
      element("div", "sub", route.service + " " + route.instance + ", " + route.route_id + " to " + route.backend));
    return element("tr", "", title, cell("State", "", ...states(route, found)),
      cell("Circuit", "", ...circuitTags(route.circuit)),
      cell("Last 30 min", "wide", sparkline(series)), cell("Requests", "number", whole.format(stats.requests)),
      cell("Errors", "number" + (failed >= 1 ? " bad-text" : ""), whole.format(stats.errors),
        stats.errors ? element("div", "sub", failed.toFixed(1) + " %") : null),
      cell("p50 / p99", "number wide", stats.requests ? milliseconds(stats.p50_latency_ms) + " / " + milliseconds(stats.p99_latency_ms) : "\u2013"),
      cell("Open", "number", whole.format(stats.in_flight + stats.websocket_active),
        stats.queued ? element("div", "sub", whole.format(stats.queued) + " waiting") : null),
      element("td", "acts", ...routeActions(route)));
  }

  function sessionRow({session, drain}) {
    const path = "api/v1/sessions/" + encodeURIComponent(session.session_id) + "/drain";
    const name = session.service_name + " " + session.instance_name;
    const buttons = [];
    if (who.acts() && session.state === "connected" && session.routes_active) {
      buttons.push(session.draining ? act("Cancel drain", "Cancel drain of " + name, () => change("DELETE", path))
        : act("Drain", "Drain " + name, async () => {
          const seconds = await confirmed("Drain " + name, "Its share of new requests falls to zero over this time.", "Seconds", "60", "Drain");
          if (seconds !== null) change("POST", path, {seconds: Number(seconds)});
        }));
    }
    const shown = [tag(session.state, session.state === "connected" ? "good" : "warn")];
    if (session.draining) {
      const done = drain ? Math.round(100 - drain.traffic_percent) : 0;
      shown.push(tag("draining" + (drain ? " " + done + " %" : ""), "warn", drain ? span(drain.remaining_seconds) + " left" : ""));
      const bar = element("progress", "");
      bar.max = 100;
      bar.value = done;
      bar.setAttribute("aria-label", "Drain of " + name);
      shown.push(bar);
    }
    return element("tr", "",
      element("td", "", element("div", "name", name), element("div", "sub", [session.session_id, session.address].filter(Boolean).join(", "))),
      cell("State", "", ...shown), cell("Routes", "number", whole.format(session.routes_active)),
      cell("Active", "", session.last_activity ? clock(session.last_activity) : "never"), element("td", "acts", ...buttons));
  }

  // A drain tells of every tenth: one row says how far it is. It begins anew with each start.
  function withoutSteps(events) {
    const drains = new Map(), shown = [];
    for (const event of events) {
      if (!event.type.startsWith("drain_")) { shown.push(event); continue; }
      const newest = drains.get(event.session_id);
      if (!newest) shown.push({...event});
      if (event.type !== "drain_started") { if (!newest) drains.set(event.session_id, shown.at(-1)); continue; }
      if (newest) newest.started = event;
      drains.delete(event.session_id);
    }
    return shown.slice(0, EVENTS);
  }

  function eventRow({event, who, where}) {
    const time = element("time", "", clock(event.at));
    time.dateTime = event.at;
    time.title = event.at;
    const skipped = ["type", "at", "route_id", "session_id", "actor"];
    const parts = Object.entries(event.data || {}).filter(([key, value]) => !skipped.includes(key) && value !== "" && value !== null)
      .map(([key, value]) => key.replaceAll("_", " ") + " " + (typeof value === "object" ? JSON.stringify(value) : String(value)));
    if (event.route_id) parts.unshift("route " + event.route_id + (where ? " " + where : ""));
    else if (who && !(event.data || {}).service) parts.unshift(who);
    if (event.actor) parts.push("by " + event.actor);
    if (event.started) parts.push("drain started " + clock(event.started.at) + (event.started.actor ? " by " + event.started.actor : ""));
    return element("li", "", time, element("div", "", element("div", "", event.type.replaceAll("_", " ")),
      parts.length ? element("div", "sub", parts.join(", ").slice(0, 400)) : null));
  }

  function lasting(since) {
    const shown = element("span", "since", "");
    shown.dataset.since = shown.title = since;
    age(shown);
    return shown;
  }

  function finding(item) {
    const since = item.since ? lasting(item.since) : null;
    return element("li", item.severity, element("div", "name", item.what, since ? " " : null, since),
      item.why && item.why !== item.what ? element("div", "", item.why) : null, element("div", "sub", item.todo));
  }

  // "for 3 min" goes on though nothing else of a row changes.
  function age(shown) {
    const text = "for " + span((Date.now() - Date.parse(shown.dataset.since)) / 1000);
    if (shown.textContent !== text) shown.textContent = text;
  }

  function figures(status) {
    const behind = status.workers.filter((worker) => worker.config_version < status.config_version).length;
    const figure = (name, value) => element("div", "", element("dt", "", name), element("dd", "", value));
    const values = [["Routes", whole.format(status.routes) + (status.unwell ? " (" + whole.format(status.unwell) + " unhealthy)" : "")],
      ["Workers", whole.format(status.workers.length) + (behind ? " (" + behind + " behind)" : "")],
      ["Sessions", whole.format(status.sessions.connected) + (status.sessions.disconnected ? " + " + status.sessions.disconnected + " lost" : "")],
      ["Config version", whole.format(status.config_version)], ["Up", span(status.uptime_seconds)]];
    const next = status.certificates.map((item) => Date.parse(item.expires_at)).sort((one, other) => one - other)[0];
    if (next) values.push(["First certificate in a file expires", next > Date.now() ? "in " + span((next - Date.now()) / 1000) : "expired"]);
    const print = JSON.stringify(values);
    if ($("figures").dataset.print !== print) {
      $("figures").dataset.print = print;
      $("figures").replaceChildren(...values.map(([name, value]) => figure(name, value)));
    }
    const found = status.findings, others = found.filter((item) => !item.route_ids.length && item.severity !== "starting").length;
    $("problems").hidden = !found.length;
    fill($("problems"), found.slice(0, FINDINGS), (item) => item.kind + " " + item.subject, finding);
    note("problems-note", found.length > FINDINGS ? "And " + whole.format(found.length - FINDINGS) + (found.length < MOST ? "" : " or") + " more." : "");
    const wrong = [];
    if (status.unwell) wrong.push(whole.format(status.unwell) + (status.unwell === 1 ? " route is" : " routes are") + " unhealthy");
    if (others) wrong.push(others + (others === 1 ? " problem" : " problems"));
    const critical = found.some((item) => item.severity === "critical");
    $("state").className = "state " + (critical ? "bad" : status.state === "well" ? "good" : "warn");
    setText("state", wrong.length ? wrong.join(", ") : status.state === "starting" ? "Starting" : "All is well");
    document.title = (wrong.length ? "(!) " : "") + "proxyd";
  }

  async function poll() {
    if (who.shut()) return;
    if (polling) { again = true; return; }
    polling = true;
    try {
      const search = $("search").value.trim(), unwell = $("unwell").checked;
      const state = $("filter").value;
      const query = "?order=worst&limit=" + SHOWN + (first ? "&offset=" + first : "") + (state ? "&state=" + state : "") + (search ? "&q=" + encodeURIComponent(search) : "") + (unwell ? "&unwell=1" : "");
      const [[status], [routes, total], [traffic], [sessions, sessionTotal], [events]] = await Promise.all([
        ask("GET", "api/v1/status"), ask("GET", "api/v1/routes" + query), ask("GET", "api/v1/traffic" + query + "&minutes=30"),
        ask("GET", "api/v1/sessions?limit=" + SHOWN), ask("GET", "api/v1/events?limit=" + ASKED)]);
      figures(status);
      document.querySelectorAll("[data-since]").forEach(age);
      if (first && !routes.routes.length && total) { first = 0; again = true; }
      const wrong = new Map();
      for (const item of [...status.findings].reverse()) for (const id of item.route_ids) wrong.set(id, item);
      fill($("route-rows"), routes.routes.map((route) => ({route, series: traffic.routes[route.route_id], found: wrong.get(route.route_id)})),
        (item) => item.route.route_id, routeRow);
      note("routes-note", !total ? (search || state ? "No route matches." : unwell ? "Every route is healthy." : "No routes yet. They appear when a service registers, or an operator adds one.")
        : total > SHOWN ? whole.format(first + 1) + " to " + whole.format(first + routes.routes.length) + " of " + whole.format(total)
          + " routes, unhealthy ones first." : "");
      $("pages").hidden = total <= SHOWN;
      $("earlier").disabled = !first;
      $("later").disabled = first + SHOWN >= total;
      const drains = new Map(routes.routes.filter((route) => route.drain.active).map((route) => [route.session_id, route.drain]));
      fill($("session-rows"), sessions.sessions.map((session) => ({session, drain: drains.get(session.session_id)})),
        (item) => item.session.session_id, sessionRow);
      note("sessions-note", !sessionTotal ? "No sessions." : sessionTotal > SHOWN ? "The newest " + SHOWN + " of " + whole.format(sessionTotal) + "." : "");
      const who = new Map(sessions.sessions.map((session) => [session.session_id, session.service_name + " " + session.instance_name]));
      const where = new Map(routes.routes.map((route) => [route.route_id, route.domains[0] + route.path]));
      fill($("events"), withoutSteps(events.events).map((event) => ({event, who: who.get(event.session_id), where: where.get(event.route_id)})),
        (item) => String(item.event.id), eventRow);
      note("events-note", events.events.length ? "" : "Nothing has happened yet.");
    } catch (failure) {
      polling = false;
      if (who.refused(failure, true)) return;
      $("state").className = "state bad";
      setText("state", failure.status ? failure.message : "proxyd does not answer. This page shows old data.");
    }
    polling = false;
    if (again) { again = false; poll(); }
  }

  // What changes seldom, or is asked for seldom.
  async function pollSlowly() {
    if (who.shut()) return;
    try {
      const [[errors], [certificates], [hosts], [unknown]] = await Promise.all([
        ask("GET", "api/v1/errors?hours=24&limit=" + GROUPS), ask("GET", "api/v1/certificates"), ask("GET", "api/v1/hosts"),
        ask("GET", "api/v1/unknown-hosts?limit=10")]);
      rows("errors", errors.errors, errorRow, "Nothing failed and nothing was refused in the last 24 hours.");
      $("certificates-part").hidden = !certificates.certificates.length;
      rows("certificates", certificates.certificates, certificateRow, "");
      $("hosts-part").hidden = !hosts.hosts.length;
      rows("hosts", hosts.hosts, hostRow, "");
      $("unknown-part").hidden = !unknown.hosts.length;
      rows("unknown", unknown.hosts, (item) => row(cell("Host", "name", item.host), cell("Requests", "number", whole.format(item.requests)),
        cell("Last", "", clock(item.last_at))), "");
    } catch { /* the other poll says that proxyd does not answer */ }
  }

  const BLAME = {backend: "bad", proxy: "warn", client: ""};
  const errorRow = (item) => row(
    element("td", "", element("div", "name", item.reason || "answered by the backend"),
      element("div", "sub", item.service ? item.service + ", " + item.domain + item.path : "no route")),
    cell("Status", "number", String(item.status)), cell("By", "", tag(item.made_by, BLAME[item.made_by])),
    cell("Requests", "number", whole.format(item.requests)),
    cell("Last", "wide", clock(item.last_at), element("div", "sub", item.last_method + " " + item.last_url)));

  const CERTIFICATE = {valid: "good", ordering: "warn", failed: "bad"};
  const certificateRow = (item) => row(
    element("td", "", element("div", "name", item.domain), item.error ? element("div", "sub", item.error) : null),
    cell("State", "", tag(item.state, CERTIFICATE[item.state])),
    cell("Expires", "", item.not_after ? "in " + span((Date.parse(item.not_after) - Date.now()) / 1000) : "\u2013"),
    cell("Issuer", "", item.issuer || "\u2013"));

  const hostRow = (item) => row(
    element("td", "", element("div", "name", item.name), element("div", "sub", item.release)),
    cell("State", "", tag(!item.lives ? "no sign of life" : item.leads ? "leads" : "follows", !item.lives ? "bad" : "good"),
      item.drained_at ? tag("drained", "warn", "since " + item.drained_at + ", by " + item.drained_by) : null),
    cell("Behind", "number", whole.format(item.behind)), cell("Workers", "number", whole.format(item.workers)),
    cell("Sign of life", "", clock(item.heartbeat_at)));

  function follow() {
    stream = new EventSource("api/v1/events?follow=1");
    let soon = 0, later = 0;
    // The second look is past the half second for which answers are kept: the first may be of the moment before.
    const wake = () => {
      clearTimeout(soon);
      clearTimeout(later);
      soon = setTimeout(poll, 150);
      later = setTimeout(poll, 750);
    };
    for (const type of [...eventTypes, "missed"]) stream.addEventListener(type, wake);
  }

  async function change(method, path, body) {
    try {
      const [answer] = await ask(method, path, body, {"X-CSRF-Token": who.csrf});
      say(answer.done ? answer.done[0].toUpperCase() + answer.done.slice(1) : "Done");
    } catch (failure) {
      who.refused(failure);
      say(failure.message);
    }
    poll();
  }

  function confirmed(title, text, label, value, button) {
    const dialog = $("ask");
    $("ask-title").textContent = title;
    $("ask-text").textContent = text;
    $("ask-label").textContent = label;
    $("ask-field").hidden = !label;
    $("ask-value").value = value;
    $("ask-do").textContent = button;
    dialog.returnValue = "";
    open(dialog);
    return new Promise((resolve) => dialog.addEventListener("close",
      () => resolve(dialog.returnValue === "yes" ? $("ask-value").value : null), {once: true}));
  }

  // The dialog of a route by hand: a new one, or one that is changed. It stays open until the master has taken it.
  let edited = null;
  function edit(route) {
    edited = route;
    $("hand-title").textContent = route ? "Change route " + route.route_id : "Add a route";
    $("hand-do").textContent = route ? "Change" : "Add";
    $("hand-domains").value = route ? route.domains.join(", ") : "";
    $("hand-backend").value = route ? route.backend : "";
    $("hand-path").value = route ? route.path : "/";
    $("hand-priority").value = route ? route.priority : 0;
    $("hand-options").value = route ? Object.entries(route.options).map(([key, value]) => key + " = " + value).join("\n") : "";
    $("hand-error").textContent = "";
    open($("hand"));
  }

  async function take(event) {
    event.preventDefault();
    const options = {};
    for (const line of $("hand-options").value.split("\n").filter((text) => text.trim())) {
      const at = line.indexOf("=");
      if (at < 1) { $("hand-error").textContent = "Options: \"" + line.trim() + "\" is not like timeout = 30s"; return; }
      options[line.slice(0, at).trim()] = line.slice(at + 1).trim();
    }
    const body = {domains: $("hand-domains").value.split(",").map((name) => name.trim()).filter(Boolean), backend: $("hand-backend").value,
      path: $("hand-path").value, priority: Number($("hand-priority").value), options};
    try {
      const [answer] = await ask(edited ? "PATCH" : "POST", "api/v1/routes" + (edited ? "/" + encodeURIComponent(edited.route_id) : ""), body,
        {"X-CSRF-Token": who.csrf});
      $("hand").close();
      say(answer.done[0].toUpperCase() + answer.done.slice(1));
    } catch (failure) {
      who.refused(failure);
      $("hand-error").textContent = failure.message;
    }
    poll();
  }

  const who = access("", () => {
    $("add-route").hidden = !who.acts();
    if (!who.shut() && (!stream || stream.readyState === EventSource.CLOSED)) follow();
    poll();
    pollSlowly();
  });

  $("ask-form").addEventListener("submit", (event) => { event.preventDefault(); $("ask").close("yes"); });
  $("ask-cancel").addEventListener("click", () => $("ask").close(""));
  $("add-route").addEventListener("click", () => edit(null));
  $("hand-form").addEventListener("submit", take);
  $("hand-cancel").addEventListener("click", () => $("hand").close());
  let typing = 0;
  const turn = (by) => { first = Math.max(0, first + by); $("routes").scrollIntoView(); poll(); };
  $("earlier").addEventListener("click", () => turn(-SHOWN));
  $("later").addEventListener("click", () => turn(SHOWN));
  $("filter").addEventListener("change", () => { first = 0; poll(); });
  $("search").addEventListener("input", () => { first = 0; clearTimeout(typing); typing = setTimeout(poll, 200); });
  $("unwell").addEventListener("change", () => { first = 0; poll(); });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
  window.addEventListener("pagehide", () => stream && stream.close());
  $("add-route").hidden = !who.acts();
  if (!who.shut()) follow();
  poll();
  pollSlowly();
  setInterval(() => { if (!document.hidden) poll(); }, POLL_MS);
  setInterval(() => { if (!document.hidden) pollSlowly(); }, SLOW_MS);
})();
