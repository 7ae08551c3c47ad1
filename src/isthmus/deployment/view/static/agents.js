// Shows the page's newest state without a new page, so that its reader keeps the place. Nothing happens while it is hidden.
"use strict";

const SECONDS = 10;
const notice = document.getElementById("stale");

async function newest() {
  const response = await fetch(location.href, { credentials: "same-origin", redirect: "error" });
  return new DOMParser().parseFromString(await response.text(), "text/html").querySelector("main");
}

async function refresh() {
  if (document.hidden) return;
  const main = document.querySelector("main");
  const next = await newest().catch(() => null);
  // Airflow itself answers with something else while its own database is away.
  notice.hidden = next !== null;
  if (next && !main.contains(document.activeElement)) main.replaceWith(next);
}

setInterval(refresh, SECONDS * 1000);
document.addEventListener("visibilitychange", refresh);
