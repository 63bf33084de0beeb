// Follows Airflow's theme, leads out of its frame, and keeps what is live up to date.
"use strict";

const outside = (() => {
  try {
    return window.parent === window ? null : window.parent.document;
  } catch {
    return null; // the frame is of another origin
  }
})();

const TOKENS = {
  "--bg": "--chakra-colors-bg",
  "--panel": "--chakra-colors-bg-subtle",
  "--raised": "--chakra-colors-bg-muted",
  "--line": "--chakra-colors-border",
  "--text": "--chakra-colors-fg",
};

function followTheme() {
  const theirs = outside.documentElement;
  const ours = document.documentElement;
  ours.dataset.theme = theirs.classList.contains("dark") ? "dark" : "light";
  const values = outside.defaultView.getComputedStyle(theirs);
  for (const [name, token] of Object.entries(TOKENS)) {
    const value = values.getPropertyValue(token).trim();
    // A name that is unknown here would leave the page without a colour.
    if (value && CSS.supports("color", value)) ours.style.setProperty(name, value);
    else ours.style.removeProperty(name);
  }
}

if (outside) {
  followTheme();
  new MutationObserver(followTheme).observe(outside.documentElement, {
    attributes: true,
    attributeFilter: ["class"],
  });
}

// The frame may open no window of its own: a link that leads elsewhere is Airflow's to follow.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-leave]");
  if (!link || !outside) return;
  event.preventDefault();
  const twin = outside.createElement("a");
  twin.href = link.href;
  twin.target = "_blank";
  twin.rel = "noopener noreferrer";
  outside.body.append(twin);
  twin.click();
  twin.remove();
});

const LONGEST_PAUSE = 30;
// Where nothing changes, each look comes a little later than the one before, up to this.
const LONGEST_QUIET = 10;
const LATER = 1.25;

const STEPS = [[86400, "d"], [3600, "h"], [60, "min"]];

// As the server tells it, and by its clock: that of the browser may be another.
function tellAgo(now) {
  for (const each of document.querySelectorAll("#live time[datetime]")) {
    const seconds = (now - Date.parse(each.dateTime)) / 1000;
    const size = Math.abs(seconds);
    const step = STEPS.find(([length]) => size >= length);
    const told = step ? `${Math.floor(size / step[0])} ${step[1]}` : `${Math.round(size)} s`;
    each.textContent = seconds < 0 ? `in ${told}` : `${told} ago`;
  }
}

class Refresher {
  constructor(seconds) {
    this.seconds = seconds;
    this.failures = 0;
    this.pause = seconds;
    this.longestQuiet = LONGEST_QUIET;
    this.schedule();
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return;
      this.pause = this.seconds;
      this.schedule(0);
    });
  }

  schedule(seconds) {
    clearTimeout(this.timer);
    const pause = this.failures ? Math.min(2 ** this.failures, LONGEST_PAUSE) : this.pause;
    this.timer = setTimeout(() => this.refresh(), 1000 * (seconds ?? pause));
  }

  async refresh() {
    if (document.hidden) return; // looked at again when somebody looks
    try {
      const headers = { Accept: "text/html" };
      if (this.tag) headers["If-None-Match"] = this.tag;
      const answer = await fetch(this.address(), { headers });
      if (answer.status >= 500) throw new Error(answer.statusText);
      if (answer.status === 304) {
        this.pause = Math.max(this.seconds, Math.min(this.pause * LATER, this.longestQuiet));
        const now = Date.parse(answer.headers.get("Date") ?? "");
        if (now && !this.isHeld()) tellAgo(now);
      } else {
        this.pause = this.seconds;
        const text = await answer.text();
        // What is held back under somebody's fingers has to come again.
        const isShown = this.show(new DOMParser().parseFromString(text, "text/html"));
        this.tag = isShown ? answer.headers.get("ETag") : null;
      }
      this.failures = 0;
    } catch {
      this.failures += 1;
    }
    document.getElementById("silence").hidden = this.failures < 2;
    if (this.isOver) return;
    this.schedule();
  }

  address() {
    return location.href;
  }

  isHeld() {
    const shown = document.getElementById("live");
    const isRead = shown.querySelector(".readout") || isSelecting(shown);
    return Boolean(shown.contains(document.activeElement) || isRead);
  }

  show(page) {
    if (page.body.dataset.kind !== document.body.dataset.kind) {
      location.reload(); // another page by now: all of it is new
      return false;
    }
    const shown = document.getElementById("live");
    const fresh = page.getElementById("live");
    this.isOver = !page.body.dataset.live;
    if (!fresh || shown.innerHTML === fresh.innerHTML) return true;
    if (this.isHeld() && !this.isOver) return false; // not under somebody's fingers
    const open = [...shown.querySelectorAll("details")].map((each) => each.open);
    const ticked = new Set([...shown.querySelectorAll("input:checked")].map((each) => each.value));
    shown.replaceChildren(...document.importNode(fresh, true).childNodes);
    shown.querySelectorAll("details").forEach((each, place) => (each.open = Boolean(open[place])));
    shown
      .querySelectorAll("input[type=checkbox]")
      .forEach((each) => (each.checked = ticked.has(each.value)));
    readCharts();
    return true;
  }
}

const MOST_LINES = 20_000;

// A console that grows: what is new is asked for and put behind what is there.
class Follower extends Refresher {
  constructor(seconds) {
    super(seconds);
    this.longestQuiet = 2 * seconds; // somebody watches
  }

  address() {
    const { attempt, next } = document.getElementById("live").dataset;
    const address = new URL(location.href);
    address.hash = "";
    if (attempt) {
      address.searchParams.set("attempt", attempt);
      address.searchParams.set("offset", next);
    }
    return address;
  }

  show(page) {
    const shown = document.getElementById("live");
    const fresh = page.getElementById("live");
    if (fresh?.dataset.next === undefined) {
      location.reload(); // a session that has ended, or another page by now
      return false;
    }
    const isNew = fresh.dataset.newest !== shown.dataset.newest;
    const isPinned = new URL(location.href).searchParams.has("attempt");
    if (isNew && !isPinned) {
      location.reload(); // it is tried again, and that is what is followed
      return false;
    }
    const around = document.importNode(page.getElementById("around"), true);
    const before = document.getElementById("around");
    const isOpen = before.querySelector("details")?.open;
    if (isOpen && around.querySelector("details")) around.querySelector("details").open = true;
    // Not under somebody's fingers: it comes again.
    if (!before.contains(document.activeElement) && !isSelecting(before)) before.replaceWith(around);
    const list = shown.querySelector(".console");
    const source = fresh.querySelector(".console");
    // A line that had no end yet comes again, and longer.
    if (source && list) this.append(list, source, "open" in shown.dataset);
    else if (source) shown.append(document.importNode(source, true));
    shown.dataset.next = fresh.dataset.next;
    shown.toggleAttribute("data-open", "open" in fresh.dataset);
    this.isOver = "complete" in fresh.dataset;
    return true;
  }

  append(list, source, isOpen) {
    const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    if (isOpen) list.lastElementChild?.remove();
    const lines = [...document.importNode(source, true).children];
    for (const line of lines) {
      line.dataset.at = `${source.dataset.here}#${line.id}`;
      line.removeAttribute("id");
    }
    list.append(...lines);
    const surplus = list.childElementCount - MOST_LINES;
    for (let count = 0; count < surplus; count += 1) list.firstElementChild.remove();
    if (surplus > 0) list.start += surplus;
    if (isAtEnd) list.scrollTop = list.scrollHeight;
  }
}

// A line's number leads to it wherever the console has grown to by then.
document.addEventListener("click", (event) => {
  const link = event.target.closest(".console li > a");
  if (!link) return;
  event.preventDefault();
  const line = link.parentElement;
  const at = line.dataset.at ?? `${line.parentElement.dataset.here}#${line.id}`;
  history.replaceState(null, "", `?${at}`);
  document.querySelectorAll(".console .chosen").forEach((each) => each.classList.remove("chosen"));
  line.classList.add("chosen");
});

function isSelecting(element) {
  const selection = document.getSelection();
  return Boolean(selection && !selection.isCollapsed && element.contains(selection.anchorNode));
}

const SVG = "http://www.w3.org/2000/svg";

// What a chart's curves are worth where somebody points, by pointer or by arrow keys.
class Reader {
  constructor(chart) {
    this.chart = chart;
    this.lines = JSON.parse(chart.dataset.points);
    this.places = [...new Set(this.lines.flatMap((line) => line.x))].sort((a, b) => a - b);
    chart.addEventListener("pointermove", (event) => this.point(event));
    chart.addEventListener("pointerleave", () => this.hide());
    chart.addEventListener("blur", () => this.hide());
    chart.addEventListener("keydown", (event) => this.step(event));
  }

  point(event) {
    const box = this.chart.getBoundingClientRect();
    const across = (event.clientX - box.left) * (this.chart.viewBox.baseVal.width / box.width);
    this.show(findNearest(this.places, across));
  }

  step(event) {
    const stride = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20 }[event.key];
    if (event.key === "Escape") this.hide();
    if (!stride || !this.places.length) return;
    event.preventDefault();
    const last = this.places.length - 1;
    this.show(Math.min(last, Math.max(0, (this.at ?? (stride > 0 ? -1 : last + 1)) + stride)));
  }

  show(at) {
    this.at = at;
    const place = this.places[at];
    if (!this.cursor) {
      this.cursor = this.chart.appendChild(document.createElementNS(SVG, "path"));
      this.cursor.classList.add("cursor");
      this.readout = this.chart.parentElement.appendChild(document.createElement("div"));
      this.readout.className = "readout";
      this.readout.setAttribute("role", "status");
    }
    this.cursor.setAttribute("d", `M${place} 10V216`);
    const told = this.lines.flatMap((line) => {
      const index = findNearest(line.x, place);
      const value = index === undefined ? null : line.y[index];
      return value === null ? [] : [{ when: line.at[index], text: `${line.name} ${value}` }];
    });
    this.readout.replaceChildren(
      ...[told[0]?.when ?? "", ...told.map((each) => each.text)].map((text) => {
        const row = document.createElement("p");
        row.textContent = text;
        return row;
      }),
    );
  }

  hide() {
    this.cursor?.remove();
    this.readout?.remove();
    this.cursor = this.readout = this.at = undefined;
  }
}

function findNearest(places, wanted) {
  let best;
  places.forEach((place, index) => {
    if (best === undefined || Math.abs(place - wanted) < Math.abs(places[best] - wanted)) best = index;
  });
  return best;
}

function readCharts() {
  for (const chart of document.querySelectorAll("svg[data-points]:not([data-read])")) {
    chart.dataset.read = "";
    new Reader(chart);
  }
}
readCharts();

const live = Number(document.body.dataset.live);
const followed = document.querySelector("#live[data-tail]");
if (live > 0 && document.getElementById("live")) new (followed ? Follower : Refresher)(live);
const tail = followed?.querySelector(".console");
if (tail && !location.hash && (live > 0 || followed.dataset.begin !== "0")) tail.scrollTop = tail.scrollHeight;

const BUSY = 429;
const MAX_LOOKS = 60;

// A new submission: what its source is shows before it is sent, and an archive may be dropped.
class SourceForm {
  constructor(form) {
    this.form = form;
    this.address = form.querySelector("button[formaction]").getAttribute("formaction");
    for (const name of ["source", "ref", "path", "system"]) {
      form.elements[name].addEventListener("change", () => this.look());
    }
    const field = form.querySelector(".drop");
    const input = form.elements.archive;
    input.addEventListener("change", () => this.describe(field, input.files[0]));
    for (const kind of ["dragenter", "dragover"]) {
      field.addEventListener(kind, (event) => {
        event.preventDefault();
        field.classList.add("over");
      });
    }
    field.addEventListener("dragleave", () => field.classList.remove("over"));
    field.addEventListener("drop", (event) => {
      event.preventDefault();
      field.classList.remove("over");
      if (event.dataTransfer.files.length !== 1) {
        document.getElementById("archive-chosen").textContent = "Drop one .tar.gz.";
        return;
      }
      input.files = event.dataTransfer.files;
      this.describe(field, input.files[0]);
    });
  }

  // One look at a time: the server refuses a second one of the same user, also after an abort.
  async look() {
    this.wanted = true;
    if (this.looking) return;
    this.looking = true;
    for (let tries = 0; this.wanted && tries < MAX_LOOKS; tries += 1) {
      this.wanted = false;
      if (!this.form.elements.source.value.trim() || this.form.elements.archive.files.length) break;
      const answer = await this.ask();
      if (answer?.status === BUSY) {
        this.wanted = true;
        await new Promise((resolve) => setTimeout(resolve, 1000));
      } else if (answer && !this.wanted) {
        this.show(new DOMParser().parseFromString(answer.text, "text/html"));
      }
    }
    this.looking = false;
  }

  async ask() {
    const body = new URLSearchParams();
    for (const [name, value] of new FormData(this.form)) {
      if (typeof value === "string") body.append(name, value);
    }
    try {
      const answer = await fetch(this.address, { method: "POST", body });
      return { status: answer.status, text: await answer.text() };
    } catch {
      return null; // The button asks again, and submitting checks all of it anyhow.
    }
  }

  show(page) {
    for (const id of ["report", "refs"]) {
      const fresh = page.getElementById(id);
      if (!fresh) return; // a session that has ended, or a server that does not answer
      document.getElementById(id).replaceChildren(...document.importNode(fresh, true).childNodes);
    }
    for (const name of ["source", "ref", "path"]) {
      const input = this.form.elements[name];
      const problem = page.getElementById(`${name}-error`);
      document.getElementById(`${name}-error`)?.remove();
      input.closest(".field").classList.toggle("wrong", Boolean(problem));
      if (problem) input.setAttribute("aria-invalid", "true");
      else input.removeAttribute("aria-invalid");
      input.setAttribute("aria-describedby", `${name}-help${problem ? ` ${name}-error` : ""}`);
      if (problem) input.after(document.importNode(problem, true));
    }
  }

  async describe(field, file) {
    const told = document.getElementById("archive-chosen");
    if (!file) {
      told.textContent = "";
      return;
    }
    const limit = Number(field.dataset.limit);
    const size = `${file.name}: ${file.size} bytes`;
    told.textContent = file.size > limit ? `${size}, more than the ${limit} that are taken` : size;
    // Browsers compute digests on pages of HTTPS and of this machine alone.
    if (file.size > limit || !crypto.subtle) return;
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
    const hex = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    if (this.form.elements.archive.files[0] === file) told.textContent = `${size}, SHA-256 ${hex}`;
  }
}

const sourceForm = document.querySelector("form[action$='/new']");
if (sourceForm?.querySelector(".drop")) new SourceForm(sourceForm);
