"use strict";
// What the scripts of both pages share. They draw with textContent and elements alone, never with HTML text.
window.proxyd = (() => {
  const $ = (id) => document.getElementById(id);
  const element = (tag, className, ...children) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  };
  const cell = (label, className, ...children) => {
    const made = element("td", className, element("div", "", ...children));
    made.dataset.label = label;
    return made;
  };
  const tag = (text, kind, title) => {
    const made = element("span", "tag " + (kind || ""), text);
    if (title) made.title = title;
    return made;
  };
  const setText = (id, text) => { if ($(id).textContent !== text) $(id).textContent = text; };
  const note = (id, text) => { $(id).hidden = !text; setText(id, text); };

  const whole = new Intl.NumberFormat("en");
  const milliseconds = (value) => value >= 1000 ? (value / 1000).toFixed(1) + " s" : value >= 10 ? value.toFixed(0) + " ms" : value.toFixed(1) + " ms";
  const span = (seconds) => {
    const s = Math.max(0, Math.round(seconds));
    if (s < 60) return s + " s";
    if (s < 3600) return Math.floor(s / 60) + " min";
    if (s < 86400) return Math.floor(s / 3600) + " h " + Math.floor(s % 3600 / 60) + " min";
    return Math.floor(s / 86400) + " d " + Math.floor(s % 86400 / 3600) + " h";
  };
  // The time of day says nothing about another day.
  const clock = (instant) => {
    const then = new Date(instant), time = then.toLocaleTimeString([], {hour12: false});
    return then.toDateString() === new Date().toDateString() ? time : then.toLocaleDateString([], {month: "short", day: "numeric"}) + " " + time;
  };

  async function ask(method, path, body, headers) {
    const response = await fetch(path, {method, headers: {"Accept": "application/json", ...headers}, credentials: "same-origin",
      body: body === undefined ? undefined : JSON.stringify(body), signal: AbortSignal.timeout(30000)});
    const text = await response.text();
    let value = {};
    try { value = text ? JSON.parse(text) : {}; } catch { value = {}; }
    if (!response.ok) {
      const failure = new Error(value.detail || "proxyd answered " + response.status);
      failure.status = response.status;
      failure.code = value.code;
      throw failure;
    }
    return [value, Number(response.headers.get("X-Total-Count") || 0)];
  }

  const SPACE = "http://www.w3.org/2000/svg";
  const svg = (name, attributes, ...children) => {
    const made = document.createElementNS(SPACE, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  // Rows of a table, drawn anew only where they are others than before.
  function rows(id, items, build, empty) {
    const body = $(id), print = JSON.stringify(items);
    if (body.print !== print) {
      body.print = print;
      body.replaceChildren(...items.map(build));
    }
    if ($(id + "-note")) note(id + "-note", items.length ? "" : empty);
  }
  const row = (...cells) => element("tr", "", ...cells);

  // Who is logged in, and the dialog to log in with. `base` leads to the status page; `changed` is called after a login, and a logout after
  // which the page may still be read.
  function access(base, changed) {
    const meta = (name) => document.querySelector(`meta[name="${name}"]`).content;
    const who = {csrf: "", role: ""};
    let kind = meta("login"), begged = false;
    const become = (csrf, role) => {
      who.csrf = csrf;
      who.role = role;
      $("open-login").hidden = kind === "off" || role !== "";
      $("logout").hidden = role === "";
      $("logout").textContent = role === "viewer" ? "Log out (viewer)" : "Log out";
    };
    const open = () => {
      $("login-error").textContent = "";
      $("login").showModal();
    };
    who.acts = () => who.role === "operator";
    // Whether this page may not even be read. Asks for the token, once.
    who.shut = () => {
      const shut = kind === "reading" && who.role === "";
      if (shut && !begged) {
        begged = true;
        if (!document.querySelector("dialog[open]")) open();
        $("state").className = "state warn";
        setText("state", "Log in to look");
      }
      return shut;
    };
    // What was refused: the session may be over, or reading needs a login now that it needed none before.
    who.refused = (failure, reading) => {
      if (failure.status !== 401 && failure.code !== "bad_csrf_token") return false;
      if (reading) kind = "reading";
      become("", "");
      changed();
      return true;
    };
    $("open-login").addEventListener("click", open);
    $("login-cancel").addEventListener("click", () => $("login").close());
    $("login-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        const [answer] = await ask("POST", base + "login", {token: $("token").value});
        begged = false;
        become(answer.csrf_token, answer.role);
        $("login").close();
        $("logout").focus();
        changed();
      } catch (failure) {
        $("login-error").textContent = failure.message;
      }
      $("token").value = "";
    });
    $("logout").addEventListener("click", async () => {
      try { await ask("POST", base + "logout"); } catch { /* the session is over for this page all the same */ }
      // What only a login showed is not to stay.
      if (kind === "reading") { location.reload(); return; }
      become("", "");
      $("open-login").focus();
      changed();
    });
    become(meta("csrf-token"), meta("role"));
    return who;
  }

  const HEALTH = {healthy: "good", down: "bad", degraded: "warn"};
  const CIRCUIT = {closed: "", half_open: "warn", open: "bad"};
  // Each host has circuits of its own: this one's, and those of others that are not closed.
  const circuitTags = (circuit) => [tag(circuit.state.replace("_", "-"), CIRCUIT[circuit.state]),
    ...circuit.hosts.filter((one) => one.state !== "closed").map(
      (one) => element("div", "sub", one.host + ": " + one.state.replace("_", "-")))];
  const notClosed = (circuit) => circuit.state !== "closed" || circuit.hosts.some((one) => one.state !== "closed");
  return {$, element, cell, tag, setText, note, whole, milliseconds, span, clock, ask, svg, rows, row, access, HEALTH, CIRCUIT, circuitTags, notClosed};
})();
