// A log of any length: only the lines near the view are in the page. Lines have one height, or, wrapped, a whole number of them.
(() => {
  "use strict";
  const LINE = 18, AROUND = 40, GUTTER = 52;
  const { $, number, put } = window.probity;

  // SGR colours become classes; every other escape sequence goes. A carriage return means: what follows replaces the line.
  const ESCAPES = /\x1b(?:\[([0-9;:]*)([ -/]*[@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[()][A-Z0-9]|.)/g;
  const BASIC = [0, 1, 2, 3, 4, 5, 6, 7];
  const style = (now, codes) => {
    for (let i = 0; i < codes.length; i++) {
      const code = codes[i];
      if (code === 0) now = { fg: -1, on: new Set() };
      else if (code >= 1 && code <= 4) now.on.add(code);
      else if (code === 22) { now.on.delete(1); now.on.delete(2); }
      else if (code === 23 || code === 24) now.on.delete(code - 20);
      else if (code >= 30 && code <= 37) now.fg = code - 30;
      else if (code >= 90 && code <= 97) now.fg = code - 90;
      else if (code === 39) now.fg = -1;
      else if (code === 38 || code === 48) {
        const skip = codes[i + 1] === 5 ? 2 : 4;
        if (code === 38 && skip === 2) now.fg = BASIC[codes[i + 2] % 8] ?? -1;
        i += skip;
      }
    }
    return now;
  };
  const plain = (raw) => {
    const text = raw.replace(ESCAPES, "");
    return text.slice(text.lastIndexOf("\r") + 1);
  };
  const paint = (line, raw) => {
    if (!raw.includes("\x1b")) { line.append(plain(raw)); return; }
    let now = { fg: -1, on: new Set() }, at = 0;
    const add = (text) => {
      if (!text) return;
      if (now.fg < 0 && !now.on.size) { line.append(text); return; }
      const part = document.createElement("span");
      part.className = [now.fg >= 0 ? `c${now.fg}` : "", ...[...now.on].map((n) => `a${n}`)].join(" ").trim();
      part.textContent = text;
      line.append(part);
    };
    raw = raw.slice(raw.lastIndexOf("\r") + 1);
    for (const hit of raw.matchAll(ESCAPES)) {
      add(raw.slice(at, hit.index));
      if (hit[2] === "m") now = style(now, (hit[1] || "0").split(/[;:]/).map(Number));
      at = hit.index + hit[0].length;
    }
    add(raw.slice(at));
  };

  class Log {
    constructor(box, follow) {
      this.box = box;
      this.sizer = $(".sizer", box);
      this.button = follow;
      this.lines = [];
      this.open = {};
      this.tops = null;
      this.following = true;
      this.unseen = 0;
      this.hit = -1;
      this.window = document.createElement("div");
      this.window.className = "chunk";
      this.sizer.append(this.window);
      box.addEventListener("scroll", () => this.scrolled(), { passive: true });
      follow.addEventListener("click", () => this.follow());
      new ResizeObserver(() => this.layout()).observe(box);
      box.addEventListener("click", (event) => {
        const line = event.target.closest(".ln");
        if (line && event.clientX < line.getBoundingClientRect().left + GUTTER) history.replaceState(null, "", `#L${line.dataset.n}`), this.go(line.dataset.n - 1);
      });
    }
    // Text comes as it was written: an event may end in the middle of a line.
    add(stream, text) {
      const parts = text.replace(/\r\n/g, "\n").replace(/\t/g, "    ").split("\n");
      parts.forEach((part, i) => {
        const last = i === parts.length - 1;
        if (last && part === "") return;
        let at = this.open[stream];
        if (at === undefined) { at = this.lines.push({ s: stream, t: part }) - 1; this.unseen++; }
        else this.lines[at].t += part;
        if (last) this.open[stream] = at;
        else delete this.open[stream];
      });
      this.tops = null;
      this.later();
    }
    later() {
      this.frame ??= requestAnimationFrame(() => { this.frame = null; this.layout(); });
    }
    layout() {
      if (!this.box.clientHeight) return;
      const wrap = this.box.hasAttribute("data-wrap");
      if (wrap) {
        const columns = Math.max(10, Math.floor((this.box.clientWidth - GUTTER - 12) / this.glyph()));
        if (!this.tops || this.columns !== columns) {
          this.columns = columns;
          this.tops = new Float64Array(this.lines.length + 1);
          for (let i = 0; i < this.lines.length; i++)
            this.tops[i + 1] = this.tops[i] + LINE * Math.max(1, Math.ceil(plain(this.lines[i].t).length / columns));
        }
      } else this.tops = null;
      this.sizer.style.height = `${this.top(this.lines.length) + 8}px`;
      if (this.following) this.box.scrollTop = this.box.scrollHeight;
      this.draw();
    }
    glyph() {
      if (!this.width) {
        const probe = document.createElement("span");
        probe.textContent = "0".repeat(100);
        this.window.append(probe);
        this.width = probe.getBoundingClientRect().width / 100 || 7.2;
        probe.remove();
      }
      return this.width;
    }
    top(i) { return this.tops ? this.tops[i] : i * LINE; }
    at(y) {
      if (!this.tops) return Math.min(this.lines.length, Math.max(0, Math.floor(y / LINE)));
      let low = 0, high = this.lines.length;
      while (low < high) { const mid = (low + high) >> 1; if (this.tops[mid + 1] <= y) low = mid + 1; else high = mid; }
      return low;
    }
    draw() {
      if (!this.lines.length) {
        if (!this.ready) return;
        const none = document.createElement("p");
        none.className = "none";
        none.textContent = this.box.dataset.empty;
        this.window.replaceChildren(none);
        return;
      }
      const from = Math.max(0, this.at(this.box.scrollTop) - AROUND);
      const to = Math.min(this.lines.length, this.at(this.box.scrollTop + this.box.clientHeight) + AROUND);
      const rows = [];
      for (let i = from; i < to; i++) {
        const row = document.createElement("div");
        row.className = "ln";
        row.dataset.n = i + 1;
        row.dataset.s = this.lines[i].s;
        if (i === this.hit) row.dataset.hit = "";
        const text = document.createElement("span");
        paint(text, this.lines[i].t);
        if (!text.textContent) text.textContent = " ";
        row.append(text);
        rows.push(row);
      }
      this.window.style.top = `${this.top(from)}px`;
      this.window.replaceChildren(...rows);
      this.note();
    }
    scrolled() {
      const end = this.box.scrollHeight - this.box.clientHeight - this.box.scrollTop < 2 * LINE;
      if (end !== this.following) { this.following = end; if (!end) this.unseen = 0; }
      this.draw();
    }
    note() {
      if (this.following) this.unseen = 0;
      this.button.hidden = this.following;
      put(this.button, this.unseen ? `Follow, ${number(this.unseen)} new lines` : "Go to the end");
    }
    follow() {
      this.following = true;
      this.layout();
      this.box.focus();
    }
    wrap(on) {
      const first = this.at(this.box.scrollTop);
      this.box.toggleAttribute("data-wrap", on);
      this.tops = null;
      this.layout();
      if (!this.following) this.box.scrollTop = this.top(first);
    }
    go(i) {
      this.hit = i;
      this.following = false;
      this.layout();
      this.box.scrollTop = Math.max(0, this.top(i) - this.box.clientHeight / 3);
      this.draw();
    }
    find(text) {
      const wanted = text.toLowerCase();
      const hits = [];
      if (wanted) this.lines.forEach((line, i) => { if (plain(line.t).toLowerCase().includes(wanted)) hits.push(i); });
      return hits;
    }
  }
  window.probity.Log = Log;
})();
