"use strict";
// The page of a route: what its place served in the last hour, day or week, whichever instance did it.
(() => {
  const {$, element, cell, tag, setText, note, whole, milliseconds, span, clock, ask, svg, rows, row, access, HEALTH, CIRCUIT, circuitTags} = window.proxyd;
  const POLL_MS = 5000, WIDTH = 600, HEIGHT = 160, LEFT = 44, BELOW = 18;
  const id = decodeURIComponent(location.pathname.split("/").pop());
  const path = "../api/v1/routes/" + encodeURIComponent(id);
  const CODES = [["status_2xx", "2xx"], ["status_3xx", "3xx"], ["status_4xx", "4xx"], ["status_5xx", "5xx"]];
  const TIMES = [["avg_ms", "average"], ["p50_ms", "half"], ["p95_ms", "95 %"], ["p99_ms", "99 %"]];
  let polling = false;

  const chosen = () => document.querySelector('input[name="span"]:checked').value;
  const time = (value) => value === null ? "\u2013" : milliseconds(value);

  function frame(points, top, label, said) {
    const base = HEIGHT - BELOW, first = points[0].at, last = points[points.length - 1].at;
    return svg("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": said},
      ...[0, 0.5, 1].map((part) => svg("line", {class: "grid", x1: LEFT, x2: WIDTH, y1: base - part * (base - 8), y2: base - part * (base - 8)})),
      ...[0, 0.5, 1].map((part) => svg("text", {class: "scale", x: LEFT - 6, y: base - part * (base - 8) + 4, "text-anchor": "end"}, label(top * part))),
      svg("text", {class: "scale", x: LEFT, y: HEIGHT - 3}, clock(first)),
      svg("text", {class: "scale", x: WIDTH, y: HEIGHT - 3, "text-anchor": "end"}, clock(last)));
  }

  const x = (index, count) => LEFT + (index + 0.5) * (WIDTH - LEFT) / count;

  // Bars of the answers, the worst statuses on top. A step in which checks found it down has a mark below.
  function codes(points) {
    const top = Math.max(1, ...points.map((point) => CODES.reduce((sum, [key]) => sum + point[key], 0)));
    const totals = CODES.map(([key, name]) => name + ": " + whole.format(points.reduce((sum, point) => sum + point[key], 0)));
    const drawn = frame(points, top, (value) => whole.format(Math.round(value)), "Answers by status. " + totals.join(", "));
    const base = HEIGHT - BELOW, width = Math.max(1, (WIDTH - LEFT) / points.length - 1);
    points.forEach((point, index) => {
      let y = base;
      for (const [key, name] of CODES) {
        const height = point[key] / top * (base - 8);
        if (!height) continue;
        y -= height;
        drawn.append(svg("rect", {class: "code-" + name, x: x(index, points.length) - width / 2, y, width, height}));
      }
      if (point.down_seconds > 0) drawn.append(svg("rect", {class: "down", x: x(index, points.length) - width / 2, y: base + 1, width, height: 3}));
    });
    return drawn;
  }

  function times(points) {
    const lines = TIMES.filter(([key]) => points.some((point) => point[key] !== null));
    const top = Math.max(1, ...points.flatMap((point) => lines.map(([key]) => point[key] || 0)));
    const said = lines.map(([key, name]) => name + " " + time(points.findLast((point) => point[key] !== null)?.[key] ?? null));
    const drawn = frame(points, top, milliseconds, "Time to answer at the end. " + said.join(", "));
    const base = HEIGHT - BELOW;
    for (const [key] of lines) {
      let d = "", gap = true;
      points.forEach((point, index) => {
        if (point[key] === null) { gap = true; return; }
        const y = base - point[key] / top * (base - 8);
        // A step alone is a dash as wide as it is.
        d += gap ? `M${(x(index, points.length) - 2).toFixed(1)},${y.toFixed(1)}h2` : `L${x(index, points.length).toFixed(1)},${y.toFixed(1)}`;
        gap = false;
      });
      drawn.append(svg("path", {class: "line-" + key, d}));
    }
    return [drawn, lines];
  }

  const key = (className, name) => element("span", "key " + className, name);

  function draw(history) {
    const print = JSON.stringify(history.points);
    if ($("codes-chart").print === print) return;
    $("codes-chart").print = print;
    $("codes-chart").replaceChildren(codes(history.points));
    $("codes-key").replaceChildren(...CODES.map(([, name]) => key("code-" + name, name)),
      ...(history.points.some((point) => point.down_seconds > 0) ? [key("down", "down")] : []));
    const [chart, lines] = times(history.points);
    $("times-chart").replaceChildren(chart);
    $("times-key").replaceChildren(...lines.map(([name, label]) => key("line-" + name, label)));
    const requests = history.points.reduce((sum, point) => sum + point.requests, 0);
    const errors = history.points.reduce((sum, point) => sum + point.errors, 0);
    const down = history.points.reduce((sum, point) => sum + point.down_seconds, 0);
    const figures = [["Requests", whole.format(requests)], ["Errors", whole.format(errors) + (requests ? " (" + (errors / requests * 100).toFixed(2) + " %)" : "")],
      ["Half within", time(history.p50_ms)], ["95 % within", time(history.p95_ms)], ["99 % within", time(history.p99_ms)], ["Down", span(down)]];
    $("figures").replaceChildren(...figures.map(([name, value]) => element("div", "", element("dt", "", name), element("dd", "", value))));
  }

  function stateOf(route) {
    const tags = [];
    if (!route.enabled) tags.push(tag("disabled", ""));
    if (route.maintenance.active) tags.push(tag("maintenance", "warn", "since " + route.maintenance.entered_at +
      (route.maintenance.reason ? ": " + route.maintenance.reason : "")));
    if (route.drain.active) tags.push(tag("draining " + Math.round(route.drain.traffic_percent) + " %", "warn"));
    if (route.hold.active) tags.push(tag("held", "warn"));
    if (route.stats.queued) tags.push(tag(route.stats.queued + " waiting", "warn"));
    tags.push(route.health ? tag(route.health.status, HEALTH[route.health.status] || "", route.health.reason) : tag("not checked", ""));
    return tags;
  }

  const memberRow = ({route, session}) => row(
    element("td", "", element("div", "name", route.instance + ", " + route.route_id), element("div", "sub", route.backend)),
    cell("State", "", ...stateOf(route), route.health && route.health.reason ? element("div", "sub", route.health.reason) : null),
    cell("Circuit", "", ...circuitTags(route.circuit)),
    cell("Requests", "number", whole.format(route.stats.requests)), cell("Errors", "number", whole.format(route.stats.errors)),
    cell("Session", "wide", route.source === "registry" ? route.session_id : route.source === "site" ? "site file" : "by hand",
      session ? element("div", "sub", session.state + ", " + session.address) : null));

  const BLAME = {backend: "bad", proxy: "warn", client: ""};
  const errorRow = (item) => row(
    element("td", "name", item.reason || "answered by the backend"), cell("Status", "number", String(item.status)),
    cell("By", "", tag(item.made_by, BLAME[item.made_by])), cell("Requests", "number", whole.format(item.requests)),
    cell("Last", "wide", clock(item.last_at), element("div", "sub", item.last_method + " " + item.last_url + ", " + item.last_request_id)));

  const slowRow = (item) => row(
    element("td", "", element("div", "name", item.method + " " + item.url),
      element("div", "sub", clock(item.at) + ", " + item.status + ", " + item.upstream + ", " + item.request_id)),
    cell("Total", "number", milliseconds(item.total_ms)), cell("Before", "number", milliseconds(item.queue_ms)),
    cell("Connect", "number", milliseconds(item.connect_ms)), cell("First byte", "number", milliseconds(item.first_byte_ms)),
    cell("Body", "number", milliseconds(item.body_ms)));

  function configuration(route, certificate) {
    const found = [["Source", {registry: "registered by its service", site: "site file", hand: "by hand"}[route.source]],
      ["Domains", route.domains.join(", ")], ["Path", route.path], ["Priority", String(route.priority)]];
    for (const [name, value] of Object.entries(route.options)) found.push([name, value]);
    for (const [name, value] of Object.entries(route.headers)) found.push(["answer: " + name, value]);
    for (const [name, value] of Object.entries(route.request_headers)) found.push(["request: " + name, value]);
    if (route.rate_limit) found.push(["Rate limit", route.rate_limit]);
    if (certificate) found.push(["Certificate", certificate.state + (certificate.not_after ? ", expires " + clock(certificate.not_after) + ", by " + certificate.issuer : "") + (certificate.error ? ": " + certificate.error : "")]);
    return found;
  }

  async function poll() {
    if (polling || who.shut()) return;
    polling = true;
    const wanted = chosen();
    try {
      const [[route], [history], [requests]] = await Promise.all([
        ask("GET", path), ask("GET", path + "/history?span=" + wanted), ask("GET", path + "/requests")]);
      const [[all], [sessions], [certificates]] = await Promise.all([
        ask("GET", "../api/v1/routes?limit=200&q=" + encodeURIComponent(route.domains[0].slice(0, 200))),
        ask("GET", "../api/v1/sessions?limit=200&service=" + encodeURIComponent(route.service)), ask("GET", "../api/v1/certificates")]);
      const where = route.domains[0] + route.path;
      setText("title", where);
      document.title = where + " - proxyd";
      setText("place", route.service + (route.domains.length > 1 ? ", also " + route.domains.slice(1).join(", ") : ""));
      if (wanted === chosen()) draw(history);
      const members = all.routes.filter((one) => one.service === route.service && one.domains[0] + one.path === where);
      const known = new Map(sessions.sessions.map((one) => [one.session_id, one]));
      rows("members", members.map((one) => ({route: one, session: known.get(one.session_id)})), memberRow, "");
      rows("errors", requests.errors, errorRow, "None.");
      rows("slow", requests.slow, slowRow, "None. The options slow_warning and slow_critical say what is slow.");
      rows("checks", history.checks, (item) => row(cell("When", "", clock(item.last_at), element("div", "sub", item.route_id)),
        cell("Result", "", tag(item.ok ? "good" : "failed", item.ok ? "good" : "bad"), item.status === null ? null : " " + item.status,
          item.checks > 1 ? " " + item.checks + " times" : null,
          item.error ? element("div", "sub", item.error) : null),
        cell("Took", "number", time(item.response_time_ms))), "No checks. The option health_check_path begins them.");
      rows("transitions", history.transitions, (item) => row(cell("When", "", clock(item.at), element("div", "sub", item.route_id)),
        cell("Change", "", tag(item.to.replace("_", "-"), CIRCUIT[item.to] || "good")), cell("Why", "", item.reason.replaceAll("_", " "))),
      "It never opened.");
      rows("deploys", history.deploys, (item) => row(
        element("td", "", element("div", "name", item.route_id + ", " + item.instance), element("div", "sub", item.backend)),
        cell("Added", "", clock(item.added_at), element("div", "sub", item.added_by)),
        cell("Removed", "", item.removed_at ? clock(item.removed_at) : "\u2013", item.removed_why ? element("div", "sub", item.removed_why) : null)), "");
      const certificate = certificates.certificates.find((one) => route.domains.includes(one.domain));
      rows("config", configuration(route, certificate), ([name, value]) => row(element("th", "", name), cell("", "", value)), "");
      const wrong = members.filter((one) => !one.enabled || one.circuit.state === "open" || (one.health && one.health.status === "down"));
      $("state").className = "state " + (wrong.length === members.length ? "bad" : wrong.length ? "warn" : "good");
      setText("state", !wrong.length ? members.length + (members.length === 1 ? " member serves" : " members serve") : wrong.length + " of " + members.length + " members down");
    } catch (failure) {
      polling = false;
      if (who.refused(failure, true)) return;
      $("state").className = "state bad";
      setText("state", failure.status === 404 ? "Route " + id + " is gone: a redeploy gives routes new ids" : failure.status ? failure.message : "proxyd does not answer. This page shows old data.");
    }
    polling = false;
    if (wanted !== chosen()) poll();
  }

  const who = access("../", poll);
  for (const input of document.querySelectorAll('input[name="span"]')) input.addEventListener("change", poll);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
  poll();
  setInterval(() => { if (!document.hidden) poll(); }, POLL_MS);
})();
