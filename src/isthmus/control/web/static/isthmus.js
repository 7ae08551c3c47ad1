/* What the pages do beyond forms and links, all of it optional: times that tick, copying, selects that submit, and live
   regions. A region is replaced when the server has another one; what the reader holds (focus, open details, what is
   typed) stays. */
"use strict";

/* --- Times: absolute in the page, relative to the reader. */

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

function duration(seconds) {
  for (const [size, unit] of UNITS) {
    if (seconds >= 2 * size || size === 1) return `${Math.floor(seconds / size)} ${unit}`;
  }
}

function relative(moment) {
  const seconds = (Date.now() - Date.parse(moment)) / 1000;
  if (Math.abs(seconds) < 1) return "now";
  return seconds > 0 ? `${duration(seconds)} ago` : `in ${duration(-seconds)}`;
}

function show(where, text) {
  if (where.textContent !== text) where.textContent = text;
}

function tick(root) {
  for (const time of root.querySelectorAll("time[datetime]")) show(time, relative(time.dateTime));
  for (const heard of root.querySelectorAll("tspan[data-when]")) show(heard, `, heard ${relative(heard.dataset.when)}`);
}

/* --- Copying. */

async function copy(button) {
  const from = button.dataset.copyFrom;
  const text = from ? document.getElementById(from).textContent : button.dataset.copy;
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select it";
  }
  setTimeout(() => { button.textContent = before; }, 1500);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.copy");
  if (button) copy(button);
});
document.addEventListener("change", (event) => {
  if (event.target.matches("select[data-submits]")) event.target.form.requestSubmit();
});

/* --- Live regions. */

const waiting = new Map();

function isHeld(region) {
  const active = document.activeElement;
  const isTyping = region.contains(active) && active.matches("input, select, textarea");
  return isTyping || region.querySelector("details[open]") !== null;
}

function replace(found) {
  const region = document.getElementById(found.name);
  if (!region || region.dataset.live === found.digest) return;
  if (isHeld(region)) {
    waiting.set(found.name, found);
    return;
  }
  const active = region.contains(document.activeElement) ? document.activeElement.id : "";
  region.innerHTML = found.html;
  region.dataset.live = found.digest;
  tick(region);
  if (active) document.getElementById(active)?.focus();
}

function settle() {
  for (const [name, found] of [...waiting]) {
    waiting.delete(name);
    replace(found);
  }
}

let source = null;
let again = 0;

function say(text) {
  const line = document.getElementById("stream");
  if (!line) return;
  line.textContent = text;
  line.hidden = !text;
}

function connect() {
  if (source || document.hidden || !document.body.hasAttribute("data-stream")) return;
  const opened = new EventSource(location.href);
  source = opened;
  opened.addEventListener("open", () => say(""));
  opened.addEventListener("parts", (event) => {
    // The page is made of other parts than when it was loaded: a link has come, or gone.
    if (event.data !== document.body.dataset.stream) { disconnect(); location.reload(); }
  });
  opened.addEventListener("region", (event) => replace(JSON.parse(event.data)));
  opened.addEventListener("end", () => { disconnect(); location.reload(); });
  opened.addEventListener("error", () => {
    disconnect();
    say("Not live: connecting again");
    again = setTimeout(connect, 2000);
  });
}

function disconnect() {
  clearTimeout(again);
  if (source) source.close();
  source = null;
}

/* A hidden page needs no stream, and browsers open only six connections to one place. */
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
window.addEventListener("pagehide", disconnect);
window.addEventListener("pageshow", connect);

tick(document);
setInterval(() => { tick(document); settle(); }, 1000);
