// The search page: live results.

import { replaced } from "./charts.js";
import { showTimes } from "./explorer.js";
import { clock } from "./units.js";

const live = document.getElementById("live");
const MILLIS = 3000;
let shown; // the results as the server sent them
let timer;

const results = () => document.getElementById("results");

function showClock(root) {
  for (const text of root.querySelectorAll("text[data-time]")) {
    text.textContent = clock(new Date(Number(text.dataset.time))).slice(11);
  }
}

// The row at the top of the window, or the focused one.
function anchorRow() {
  const rows = [...results().querySelectorAll("tr[data-trace]")];
  const focused = rows.find((row) => row.contains(document.activeElement));
  return focused ?? rows.find((row) => row.getBoundingClientRect().bottom > 0);
}

// The page does not move under the reader, and the focus stays on its link.
function replace(fresh) {
  const anchor = anchorRow();
  const before = anchor?.getBoundingClientRect().top;
  const focused = results().contains(document.activeElement) && document.activeElement;
  const selector = focused && (focused.matches(".plot") ? ".plot" : `a[href="${CSS.escape(focused.getAttribute("href"))}"]`);
  const scrolled = scrollY > 0;
  results().replaceWith(fresh);
  showTimes(fresh);
  showClock(fresh);
  const same = anchor && fresh.querySelector(`tr[data-trace="${anchor.dataset.trace}"]`);
  if (same && scrolled) scrollBy({ top: same.getBoundingClientRect().top - before, behavior: "instant" });
  if (selector) fresh.querySelector(selector)?.focus({ preventScroll: true });
  replaced(fresh);
}

async function reload() {
  if (!document.hidden) {
    try {
      const response = await fetch(location.href);
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const fresh = page.getElementById("results");
      if (!fresh) throw new Error(response.statusText);
      if (live.checked && fresh.innerHTML !== shown) {
        shown = fresh.innerHTML;
        replace(document.adoptNode(fresh));
      } else {
        showTimes(results());
        results().classList.remove("stale");
      }
    } catch {
      results().classList.add("stale"); // the server does not answer
    }
  }
  if (live.checked) timer = setTimeout(reload, MILLIS);
}

function start() {
  clearTimeout(timer);
  if (live.checked && !live.disabled) timer = setTimeout(reload, MILLIS);
}

live.addEventListener("change", () => {
  const url = new URL(location);
  if (live.checked) url.searchParams.set("live", "1");
  else url.searchParams.delete("live");
  history.replaceState(history.state, "", url);
  live.defaultChecked = live.checked;
  start();
});
addEventListener("pageshow", start);
showClock(document);
