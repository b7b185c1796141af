// One run, live: what arrives on the stream goes into the page that the server rendered, without moving what is under the pointer.
(() => {
  "use strict";
  const { $, $$, Log, announce, duration, live, number, put } = window.probity;
  const root = $("#run");
  if (!root) return;
  const { href, ref, name } = root.dataset;
  const results = $("#results"), groups = $("#groups");
  const BAD = new Set(["failed", "error"]), ROWS = 150, FAILURES = 25;
  let seq = Number(root.dataset.seq), running = root.dataset.live === "true";

  // Tabs change the address, not the page.
  const show = (tab) => {
    $("#parts").dataset.tab = tab;
    for (const link of $$(".tabs a")) {
      if (link.dataset.tab === tab) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    log.layout();
  };
  $(".tabs").addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    history.pushState(null, "", link.href);
    show(link.dataset.tab);
  });
  addEventListener("popstate", () => show(new URLSearchParams(location.search).get("tab") || "results"));

  // The log: first what is kept, in pages, then what arrives.
  const log = new Log($("#log"), $("#log-follow"));
  let early = [];
  const line = (event) => (early ? early.push(event) : log.add(event.stream, event.text));
  (async () => {
    let next = $("#log").dataset.href;
    log.following = !location.hash;
    while (next) {
      const reply = await fetch(next).catch(() => null);
      if (!reply?.ok) { log.add("system", "The earlier part of the log could not be loaded. Reload the page to try again.\n"); break; }
      const page = await reply.json();
      for (const [stream, text] of page.lines) log.add(stream, text);
      next = page.next;
    }
    const late = early;
    early = null;
    late.forEach(line);
    log.ready = true;
    log.layout();
    const mark = /^#L(\d+)$/.exec(location.hash);
    if (mark) { show("log"); log.go(mark[1] - 1); }
  })();
  const wrap = $("#log-wrap");
  wrap.addEventListener("click", () => {
    const on = wrap.getAttribute("aria-pressed") !== "true";
    wrap.setAttribute("aria-pressed", String(on));
    log.wrap(on);
  });
  const finder = $("#log-find");
  let hits = [], at = 0;
  const jump = () => {
    put($("#log-hits"), finder.value ? (hits.length ? `${at + 1} of ${number(hits.length)}` : "none") : "");
    if (hits.length) log.go(hits[at]);
  };
  finder.addEventListener("input", () => { hits = log.find(finder.value); at = 0; jump(); });
  finder.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !hits.length) return;
    hits = log.find(finder.value);
    at = (at + (event.shiftKey ? hits.length - 1 : 1)) % hits.length;
    jump();
  });

  // What would shift a row that the pointer is on waits until it leaves.
  let held = [];
  const note = $("#held");
  const release = () => {
    const changes = held;
    held = [];
    note.hidden = true;
    changes.forEach((change) => change());
  };
  const place = (change) => {
    if (!results.matches(":hover")) return change();
    held.push(change);
    note.hidden = false;
    $("button", note).textContent = `Show ${number(held.length)} more`;
  };
  results.addEventListener("pointerleave", release);
  $("button", note).addEventListener("click", release);

  const clone = (selector) => $(selector).content.firstElementChild.cloneNode(true);
  const badge = (state, pill) => {
    const known = $(`template[data-state-template="${CSS.escape(state)}"]`) ?? $('template[data-state-template="queued"]');
    const mark = known.content.firstElementChild.cloneNode(true);
    if (pill) mark.dataset.pill = "";
    return mark;
  };
  const row = (result) => {
    const opens = BAD.has(result.outcome) || result.outcome === "xpassed" || result.attempt > 1 || result.message;
    const item = clone(opens ? "#row-template" : "#line-template");
    item.dataset.case = result.case;
    $(".state", item).replaceWith(badge(result.outcome));
    put($(".took", item), duration(result.duration_ms ?? 0));
    const title = $(".title", item), why = $(".why", item), tag = $(".tag", item);
    title.prepend(result.name);
    if (!opens) return item;
    const said = (result.message || "").trim().split("\n")[0].slice(0, 160);
    if (said) why.textContent = said; else why.remove();
    if (result.attempt > 1) {
      tag.textContent = `${result.flaky ? "flaky, " : ""}${result.attempt} attempts`;
      if (!result.flaky) delete tag.dataset.kind;
    } else tag.remove();
    $(".detail a", item).href = `${href}/case?key=${encodeURIComponent(result.case)}`;
    return item;
  };
  const find = (list, key) => $(`li[data-case="${CSS.escape(key)}"]`, list);

  const outcomes = new Map($$("li[data-case]", groups).map((item) => [item.dataset.case, $(".state", item).dataset.state]));
  const suites = new Map($$(".group", groups).map((group) => [group.dataset.suite, group]));
  let drawn = outcomes.size;
  const more = (list, suite, text) => {
    const item = document.createElement("li"), link = document.createElement("a");
    link.className = "more link";
    link.href = `${href}/results?suite=${encodeURIComponent(suite)}`;
    link.textContent = text;
    item.append(link);
    list.append(item);
  };
  const groupOf = (suite) => {
    let group = suites.get(suite);
    if (group) return group;
    group = clone("#group-template");
    group.dataset.suite = suite;
    $(".suite", group).textContent = suite || "Ungrouped";
    if (drawn >= ROWS) {
      group.open = false;
      const list = $(".cases", group);
      list.dataset.load = "#cases > li, #cases-more";
      more(list, suite, "Show the cases");
    }
    suites.set(suite, group);
    groups.append(group);
    groups.hidden = false;
    $("#no-results").hidden = true;
    return group;
  };
  const tally = (group, outcome, n, ms) => {
    const data = group.dataset;
    data.total = +data.total + n;
    if (BAD.has(outcome)) data.bad = +data.bad + n;
    else if (outcome === "skipped" || outcome === "xfailed") data.skipped = +data.skipped + n;
    data.ms = +(data.ms || 0) + ms;
    const say = (kind, count, word) => {
      let part = $(`.tally .${kind}`, group);
      if (!part && count) {
        part = document.createElement("span");
        part.className = kind;
        $(".ok", group).before(part);
      }
      if (part) { put(part, `${count} ${word}`); part.hidden = !count; }
    };
    say("bad", +data.bad, "failed");
    say("skip", +data.skipped, "skipped");
    put($(".ok", group), `${data.total - data.bad - data.skipped} passed`);
    put($("summary .took", group), duration(+data.ms));
  };
  // Draws a case by its latest attempt: in place where it is drawn already and not being read, else at the end.
  const latest = new Map();
  const draw = (list, key) => {
    const old = find(list, key), item = row(latest.get(key));
    if (!old) {
      item.classList.add("fresh");
      list.append(item);
    } else if (!$("details[open]", old)) old.replaceWith(item);
  };
  const failures = $("#failures"), failed = $("ul", failures), failing = $("h2 .n", failures);
  const bad = new Set($$("li", failed).map((item) => item.dataset.case));
  const count = (by) => put(failing, number(Number(failing.textContent.replace(/\D/g, "")) + by));
  const failure = (one) => {
    const is = BAD.has(one.outcome), was = bad.has(one.case);
    if (is && !was) { bad.add(one.case); count(1); }
    if (!is && was) { bad.delete(one.case); count(-1); }
    if (find(failed, one.case)) draw(failed, one.case);
    else if (is && !was && failed.children.length < FAILURES)
      place(() => {
        if (!bad.has(one.case)) return;
        failures.hidden = false;
        draw(failed, one.case);
      });
  };
  const result = (event) => {
    const one = event.result ?? event, suite = one.suite ?? one.file ?? "";
    one.flaky ??= one.attempt > 1 && one.outcome === "passed";
    latest.set(one.case, one);
    failure(one);
    if (event.totals) totals(event.totals);
    // A page that shows only the first suites of a large run leaves the others to their own page.
    if (root.dataset.partial === "true" && !suites.has(suite)) return;
    const before = outcomes.get(one.case), group = groupOf(suite), list = $(".cases", group);
    if (before === undefined && one.attempt > 1) later();
    else {
      if (before !== undefined) tally(group, before, -1, 0);
      tally(group, one.outcome, 1, one.duration_ms || 0);
    }
    outcomes.set(one.case, one.outcome);
    if (list.dataset.load) return;
    if (find(list, one.case)) draw(list, one.case);
    else if (drawn < ROWS) {
      drawn++;
      if (group === groups.lastElementChild) draw(list, one.case);
      else place(() => draw(list, one.case));
    } else if (!$(".more", list)) more(list, suite, "All cases of this suite");
  };

  let said = 0;
  const totals = (now) => {
    const counts = { ...now, passed: Math.max(0, now.passed - now.flaky) };
    for (const item of $$("#totals li")) {
      const n = now[item.dataset.key] || 0;
      put($("b", item), number(n));
      if (item.dataset.key === "errors") put($("span", item), n === 1 ? "error" : "errors");
      if (item.dataset.key !== "total") item.toggleAttribute("data-zero", !n);
    }
    const order = ["failed", "errors", "flaky", "passed", "skipped"];
    // As in views.py: whatever is there can be seen, however small its share.
    const floors = order.map((key) => (counts[key] ? Math.max(counts[key] / (now.total || 1), 0.02) : 0));
    const whole = floors.reduce((sum, part) => sum + part, 0) || 1;
    let start = 0;
    for (const [i, key] of order.entries()) {
      const part = $(`#totals .bar .${key}`), width = (100 * floors[i]) / whole;
      part.setAttribute("x", start);
      part.setAttribute("width", width);
      start += width;
    }
    put($("#n-results"), number(now.total));
    const bad = now.failed + now.errors, words = `${bad ? `${bad} failed, ` : ""}${now.passed} passed`;
    $("#totals .bar").setAttribute("aria-label", `${words} of ${now.total}`);
    document.title = `${words} · ${ref} · Probity`;
    if (Date.now() - said > 10000) { said = Date.now(); announce(words); }
  };

  // Asks the server for what the stream does not carry: facts, artifacts, counts after retries.
  let asking = 0;
  const later = () => { asking ||= setTimeout(reconcile, 600); };
  const reconcile = async () => {
    asking = 0;
    const reply = await fetch(location.pathname).catch(() => null);
    if (!reply?.ok) return;
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    for (const id of ["totals", "run-state", "run-reason", "facts", "artifacts", "n-results", "n-artifacts", "actions"]) {
      const now = document.getElementById(id), next = page.getElementById(id);
      if (now && next && !now.contains(document.activeElement)) now.replaceWith(next);
    }
    put(failing, $("#failures h2 .n", page)?.textContent ?? failing.textContent);
    for (const next of $$(".group", page)) {
      const group = suites.get(next.dataset.suite);
      if (!group) continue;
      for (const key of ["total", "bad", "skipped", "ms"]) group.dataset[key] = next.dataset[key];
      for (const part of [".tally", "summary .took"]) $(part, group).replaceWith($(part, next));
    }
    const empty = $("#no-results", page);
    if (!suites.size && empty) $("#no-results").replaceWith(empty);
  };
  const status = (event) => {
    const state = event.state || event.status;
    if (!state || state === root.dataset.state) return;
    root.dataset.state = state;
    $("#run-state").replaceChildren(badge(state, true));
    put($("#waiting-for"), state === "running" ? "Running; results appear here as they come in." : "");
    later();
  };
  const done = (event) => {
    running = false;
    status(event);
    stream?.close();
    $("#live").hidden = true;
    announce(`${name} ended: ${event.state || event.status}`);
    $("#abort")?.close();
    release();
    reconcile();
  };
  const handlers = { result, log: line, status, done, artifact: later };

  // The stream. The browser reconnects by itself and says what it has (Last-Event-ID); where it gives up, we begin again from there.
  let stream = null, tries = 0, missed = -1, quiet = 0;
  const settle = () => {
    clearTimeout(quiet);
    quiet = setTimeout(() => {
      if (!running) return;
      live("connected", missed > 0 ? `Live, caught up on ${number(missed)} ${missed === 1 ? "event" : "events"}` : "Live");
      if (missed > 0) setTimeout(() => running && stream?.readyState === 1 && live("connected", "Live"), 8000);
      missed = -1;
    }, 300);
  };
  const connect = () => {
    stream = new EventSource(`${root.dataset.events}${root.dataset.events.includes("?") ? "&" : "?"}last_event_id=${seq}`);
    stream.onopen = () => {
      live("replaying", tries ? "Catching up" : "Connecting");
      missed = tries ? 0 : -1;
      tries = 0;
      settle();
    };
    stream.onmessage = (message) => {
      const id = Number(message.lastEventId) || 0;
      if (message.lastEventId && id <= seq) return;
      if (id) seq = id;
      const event = JSON.parse(message.data);
      if (missed >= 0 && event.type !== "snapshot") { missed++; settle(); }
      handlers[event.type]?.(event);
    };
    stream.onerror = () => {
      if (!running) return stream.close();
      tries++;
      live("offline", "Offline, reconnecting");
      if (stream.readyState === EventSource.CLOSED) setTimeout(again, Math.min(10000, 500 * 2 ** Math.min(tries, 5)) * (0.75 + Math.random() / 2));
    };
  };
  // Signed out meanwhile: the server says so to a page, not to a stream.
  const again = async () => {
    const reply = await fetch(location.pathname, { method: "HEAD" }).catch(() => null);
    if (reply?.redirected) location.reload();
    else connect();
  };
  if (running) connect();
  addEventListener("pagehide", () => stream?.close());
  addEventListener("pageshow", (event) => { if (event.persisted && running) connect(); });
})();
