// The shell: theme, times that tick, keyboard, search, dialogs, lists that refresh in place.
(() => {
  "use strict";
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Numbers and times, as in formats.py.
  const two = (n) => String(n).padStart(2, "0");
  const duration = (ms) => {
    if (ms > 0 && ms < 0.5) return "<1 ms";
    if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
    if (ms < 9950) return `${(ms / 1000).toFixed(1)} s`;
    const s = Math.round(ms / 1000);
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)}m ${two(s % 60)}s`;
    if (s < 86400) return `${Math.floor(s / 3600)}h ${two(Math.floor((s % 3600) / 60))}m`;
    return `${Math.floor(s / 86400)}d ${two(Math.floor((s % 86400) / 3600))}h`;
  };
  const ago = (date) => {
    const s = Math.floor((Date.now() - date) / 1000);
    if (s < 10) return "just now";
    if (s < 60) return `${s}s ago`;
    if (s < 3600) return `${Math.floor(s / 60)}m ago`;
    if (s < 86400) return `${Math.floor(s / 3600)}h ago`;
    return s < 2592000 ? `${Math.floor(s / 86400)}d ago` : date.toISOString().slice(0, 10);
  };
  const number = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const put = (element, text) => { if (element && element.textContent !== text) element.textContent = text; };
  const tick = () => {
    for (const element of $$("[data-since]")) put(element, duration(Date.now() - new Date(element.dataset.since)));
    for (const element of $$("time[data-ago]")) put(element, ago(new Date(element.dateTime)));
  };
  setInterval(tick, 1000);

  const announce = (text) => put($("#announce"), text);
  const toast = (text) => {
    const note = document.createElement("div");
    note.className = "toast";
    note.textContent = text;
    document.body.append(note);
    announce(text);
    setTimeout(() => note.remove(), 2500);
  };
  const live = (state, word) => {
    const light = $("#live");
    if (!light) return;
    light.hidden = false;
    if (light.dataset.state !== state) light.dataset.state = state;
    put($(".word", light), word);
    light.title = word;
  };

  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Plain http on another host has no clipboard: the old way still works there.
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    toast("Copied");
  };

  const theme = (value) => {
    document.cookie = `probity_theme=${value}; path=/; max-age=${value ? 31536000 : 0}; samesite=lax`;
    if (value) document.documentElement.dataset.theme = value;
    else delete document.documentElement.dataset.theme;
    for (const button of $$("[data-theme-set]")) button.setAttribute("aria-pressed", String(button.dataset.themeSet === value));
  };

  // The rail is a sheet on narrow screens.
  const rail = (open) => {
    const button = $("[data-rail]");
    $("#rail").toggleAttribute("data-open", open);
    button.setAttribute("aria-expanded", String(open));
    $(".rail-scrim")?.remove();
    if (open) {
      const scrim = document.createElement("div");
      scrim.className = "rail-scrim";
      scrim.onclick = () => rail(false);
      $("#rail").after(scrim);
      $("#rail nav a").focus();
    } else button.focus();
  };

  const palette = () => {
    const dialog = $("#palette");
    if (!dialog || dialog.open) return;
    dialog.showModal();
    const input = $("input", dialog);
    input.select();
    search(input.value);
  };
  // Only the last question counts; an older answer that comes late is dropped.
  let asked = 0;
  const search = async (text) => {
    const mine = ++asked;
    const reply = await fetch(`/search?q=${encodeURIComponent(text)}`).catch(() => null);
    if (mine !== asked || !reply?.ok) return;
    $("#hits").innerHTML = await reply.text();
    choose(1);
  };
  let typing = 0;
  $("#palette input")?.addEventListener("input", (event) => {
    clearTimeout(typing);
    typing = setTimeout(() => search(event.target.value), 120);
  });
  const choose = (step) => {
    const hits = $$("#hits a");
    if (!hits.length) return;
    const at = hits.findIndex((hit) => hit.getAttribute("aria-selected") === "true");
    const next = hits[(at + step + hits.length) % hits.length];
    hits.forEach((hit) => hit.setAttribute("aria-selected", String(hit === next)));
    next.scrollIntoView({ block: "nearest" });
    $("#palette input").setAttribute("aria-activedescendant", next.id);
  };

  const move = (step) => {
    const rows = $$(".row-link, .case > summary, .group > summary").filter((row) => row.offsetParent);
    if (!rows.length) return;
    const at = rows.indexOf(document.activeElement);
    const row = rows[Math.min(rows.length - 1, Math.max(0, at < 0 ? (step > 0 ? 0 : rows.length - 1) : at + step))];
    row.focus();
    row.scrollIntoView({ block: "nearest" });
  };

  let going = 0;
  document.addEventListener("keydown", (event) => {
    const dialog = $("dialog[open]");
    if (dialog?.id === "palette") {
      if (event.key === "ArrowDown" || event.key === "ArrowUp") { event.preventDefault(); choose(event.key === "ArrowDown" ? 1 : -1); }
      if (event.key === "Enter") { event.preventDefault(); ($('#hits a[aria-selected="true"]') || $("#hits a"))?.click(); }
      return;
    }
    if (event.key === "Escape") {
      const menu = $("details.menu[open]");
      if (menu) { menu.open = false; $("summary", menu).focus(); }
      else if ($("#rail[data-open]")) rail(false);
      else if (!dialog && event.target.matches("#find, #log-find")) event.target.blur();
      return;
    }
    if ((event.ctrlKey || event.metaKey) && event.key === "k" && !dialog) { event.preventDefault(); palette(); return; }
    if (dialog || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    const key = event.key;
    if (going) {
      going = clearTimeout(going) || 0;
      const link = $(`[data-go="${CSS.escape(key)}"]`);
      if (link) { event.preventDefault(); location.assign(link.href); }
      return;
    }
    if (key === "g") going = setTimeout(() => { going = 0; }, 1200);
    else if (key === "/") { event.preventDefault(); palette(); }
    else if (key === "?") $("#help")?.showModal();
    else if (key === "j" || key === "k") { event.preventDefault(); move(key === "j" ? 1 : -1); }
    else if (key === "f") {
      const field = $("#find") || $("#log-find");
      if (field?.offsetParent) { event.preventDefault(); field.focus(); field.select(); }
    }
  });

  document.addEventListener("click", (event) => {
    const on = (selector) => event.target.closest(selector);
    let hit;
    if ((hit = on("[data-copy]"))) copy(hit.dataset.copy);
    else if ((hit = on("[data-theme-set]"))) theme(hit.dataset.themeSet);
    else if (on("[data-palette]")) palette();
    else if (on("[data-help]")) $("#help").showModal();
    else if (on("[data-rail]")) rail(!$("#rail").hasAttribute("data-open"));
    else if ((hit = on("[data-dialog]"))) document.getElementById(hit.dataset.dialog).showModal();
    else if ((hit = on("[data-close]"))) hit.closest("dialog").close();
    else if ((hit = on("[data-reveal]"))) {
      const field = document.getElementById(hit.dataset.reveal);
      const shown = field.type === "password";
      field.type = shown ? "text" : "password";
      hit.setAttribute("aria-pressed", String(shown));
      hit.textContent = shown ? "Hide" : "Show";
    }
    if (event.target.matches("dialog")) event.target.close();
    for (const menu of $$("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });

  // A second press while the first is on its way does nothing.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.matches("[data-once]")) return;
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  });
  addEventListener("pageshow", () => $$("[data-sent]").forEach((form) => delete form.dataset.sent));

  // Parts of a <details> that come when it is first opened: from the address of the link inside, the elements that data-load selects.
  const load = async (part) => {
    const wanted = part.dataset.load, link = $("a", part);
    delete part.dataset.load;
    const reply = await fetch(link.href).catch(() => null);
    if (!reply?.ok) { part.dataset.load = wanted; return; }
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    part.replaceChildren(...$$(wanted, page));
    tick();
  };
  document.addEventListener("toggle", (event) => {
    if (event.target.open && event.target.matches?.(".case, .group")) $$(":scope > [data-load]", event.target).forEach(load);
  }, true);

  // Lists refresh where they are: cells change in place, new rows wait while the pointer or the focus is on the list.
  let held = null;
  const merge = (rows, fresh, force) => {
    const known = new Map($$("tr", rows).map((row) => [row.dataset.key, row]));
    const added = [];
    for (const row of $$("tr", fresh)) {
      const old = known.get(row.dataset.key);
      if (!old) { if (!known.size || !added.done) added.push(row); continue; }
      added.done = true;
      [...row.cells].forEach((cell, i) => {
        const now = old.cells[i];
        if (now.innerHTML === cell.innerHTML || now.contains(document.activeElement)) return;
        now.innerHTML = cell.innerHTML;
      });
    }
    const busy = !force && (rows.matches(":hover") || rows.contains(document.activeElement) || scrollY > 120);
    const note = $("#new-rows");
    if (added.length && busy && note) {
      held = fresh;
      put($("button", note), `Show ${number(added.length)} new`);
      note.hidden = false;
      return;
    }
    held = null;
    if (note) note.hidden = true;
    rows.prepend(...added);
  };
  const refresh = async () => {
    const rows = $("#rows[data-poll]");
    if (document.hidden || new URLSearchParams(location.search).has("cursor")) return;
    try {
      const reply = await fetch(location.href, { headers: { "X-Refresh": "1" } });
      if (reply.redirected && new URL(reply.url).pathname === "/sign-in") { location.reload(); return; }
      if (!reply.ok) throw new Error(String(reply.status));
      const page = new DOMParser().parseFromString(await reply.text(), "text/html");
      live("connected", "Live");
      const fresh = $("#rows", page);
      put($("#count"), $("#count", page)?.textContent ?? "");
      if (rows?.isConnected && fresh) merge(rows, fresh, false);
      else if (fresh || rows) $("#list")?.replaceWith($("#list", page));
      tick();
    } catch {
      live("offline", "Offline");
    }
  };
  if ($("[data-list]")) setInterval(refresh, 1000 * Number($("#rows")?.dataset.poll || 5));
  document.addEventListener("click", (event) => {
    if (event.target.closest("#new-rows button") && held) merge($("#rows"), held, true);
  });

  // What is shown once is not left by accident.
  let stored = !$("[data-secret]");
  addEventListener("beforeunload", (event) => { if (!stored) event.preventDefault(); });
  $("[data-stored]")?.addEventListener("click", () => { stored = true; });

  $("dialog[data-open]")?.showModal();
  $("[data-autofocus]")?.focus();
  window.probity = { $, $$, ago, announce, duration, live, number, put, tick, toast };
})();
