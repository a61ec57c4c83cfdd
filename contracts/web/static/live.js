// Operations as they happen, on top of the table that the server made. Without this file there is that table, and a link
// that loads it anew. The browser connects again by itself, and goes on after the last one that it saw.
"use strict";

const TAGS = { completed: "good", failed: "bad", denied: "warn", requested: "" };
const DRAW_MS = 400;
const SAY_MS = 20000;
let watching = null;

function dollars(text) {
  const [whole, rest] = text.split(".");
  const shown = (rest ?? "").replace(/0+$/, "").padEnd(2, "0");
  return "$" + Number(whole).toLocaleString("en") + "." + (Number(whole) >= 1 ? shown.slice(0, 2) : shown);
}

class Watching {
  constructor(place) {
    this.place = place;
    this.find = (name) => place.querySelector("#live-" + name);
    this.waiting = [];
    this.unsaid = { completed: 0, failed: 0, denied: 0, requested: 0 };
    this.paused = false;
    this.source = new EventSource(place.dataset.stream);
    this.source.addEventListener("open", () => this.state("live", "good"));
    this.source.addEventListener("error", () => {
      if (this.source.readyState === EventSource.CLOSED) this.state("ended: reload the page", "bad");
      else this.state("connecting …", "warn");
    });
    this.source.addEventListener("operation", (event) => this.came(JSON.parse(event.data)));
    this.source.addEventListener("skipped", (event) => this.say("Some were left out: " + JSON.parse(event.data).reason + "."));
    const pause = this.find("pause");
    pause.hidden = false;
    pause.addEventListener("click", () => {
      this.paused = !this.paused;
      pause.setAttribute("aria-pressed", String(this.paused));
      this.draw();
    });
    this.drawing = setInterval(() => this.draw(), DRAW_MS);
    this.saying = setInterval(() => this.sum(), SAY_MS);
  }

  end() {
    this.source.close();
    clearInterval(this.drawing);
    clearInterval(this.saying);
  }

  state(text, tag) {
    const shown = this.find("state");
    if (shown.textContent !== text) {
      shown.textContent = text;
      shown.className = "tag " + tag;
    }
  }

  came(one) {
    this.waiting.push(one);
    this.unsaid[one.what] += 1;
    const most = Number(this.place.dataset.rows);
    if (this.waiting.length > most) this.waiting.splice(0, this.waiting.length - most);
  }

  draw() {
    const many = this.waiting.length;
    const label = this.paused ? (many ? `Go on (${many} wait)` : "Go on") : "Pause";
    if (this.find("pause").textContent !== label) this.find("pause").textContent = label;
    if (this.paused || !many) return;
    const rows = this.find("rows");
    const made = document.createDocumentFragment();
    for (const one of this.waiting.splice(0).reverse()) made.append(this.row(one));
    rows.prepend(made);
    while (rows.rows.length > Number(this.place.dataset.rows)) rows.deleteRow(-1);
    this.find("none").hidden = true;
  }

  row(one) {
    const row = this.find("row").content.cloneNode(true).querySelector("tr");
    const [when, what, account, user, operation, provider, cost, why] = row.cells;
    const link = when.querySelector("a");
    link.textContent = new Date(one.recorded_at).toISOString().slice(0, 19).replace("T", " ");
    link.href = `/operations/${encodeURIComponent(one.operation_id)}?account_id=${encodeURIComponent(one.account_id)}`;
    const tag = what.querySelector(".tag");
    tag.textContent = one.what;
    if (TAGS[one.what]) tag.classList.add(TAGS[one.what]);
    account.textContent = one.account_id;
    user.textContent = one.user_id;
    operation.textContent = one.operation + (one.quantity === 1 ? "" : ` × ${one.quantity.toLocaleString("en")}`);
    provider.textContent = `${one.provider} · ${one.model}`;
    const isOutcome = one.what === "completed" || one.what === "failed";
    cost.textContent = one.cost === null ? "–" : (isOutcome ? "" : "≈ ") + dollars(one.cost);
    if (one.code) {
      const code = document.createElement("code");
      code.textContent = one.code;
      const message = one.message ?? "";
      why.append(code, " " + (message.length > 120 ? message.slice(0, 119) + "…" : message));
    }
    return row;
  }

  // For who cannot see the rows: now and then how many came, never each of them.
  sum() {
    const told = Object.entries(this.unsaid).filter(([, many]) => many).map(([what, many]) => `${many} ${what}`);
    for (const what of Object.keys(this.unsaid)) this.unsaid[what] = 0;
    if (told.length && !this.paused) this.say(`In the last ${SAY_MS / 1000} seconds: ${told.join(", ")}.`);
  }

  say(text) {
    this.find("said").textContent = text;
  }
}

function begin() {
  const place = document.querySelector("#live");
  if (watching && watching.place !== place) {
    watching.end();
    watching = null;
  }
  if (place && !watching) watching = new Watching(place);
}

document.addEventListener("DOMContentLoaded", begin);
document.addEventListener("htmx:afterSettle", begin);
addEventListener("pagehide", () => {
  watching?.end();
  watching = null;
});
addEventListener("pageshow", (event) => event.persisted && begin());
