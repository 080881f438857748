// Fetches each panel, a fragment of HTML, at the refresh interval and when its width has changed.

import * as charts from "./charts.js";

const form = document.getElementById("view");
const panels = [...document.querySelectorAll(".content")];
const MIN_WIDTH = 160; // pixels
const RESIZE_MILLIS = 200;
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

// The form's inputs know no time zones: write times in the browser's.
function local(millis) {
  const time = new Date(millis);
  return new Date(millis - time.getTimezoneOffset() * 60_000).toISOString().slice(0, -1);
}

// What a reader has done in a panel stays when its content is replaced: focus, scroll position, opened tables.
function show(panel, html) {
  const scrolling = ".scroll, .graph", focusable = ".plot, button, summary, .scroll, .graph";
  const { scrollTop = 0, scrollLeft = 0 } = panel.querySelector(scrolling) ?? {};
  const isOpen = panel.querySelector("details")?.open;
  const focus = [...panel.querySelectorAll(focusable)].indexOf(document.activeElement);
  panel.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
  panel.querySelector("details")?.toggleAttribute("open", Boolean(isOpen));
  panel.querySelector(scrolling)?.scrollTo({ top: scrollTop, left: scrollLeft, behavior: "instant" });
  panel.querySelectorAll(focusable)[focus]?.focus({ preventScroll: true });
  charts.replaced(panel);
}

const widthOf = (panel) => Math.max(panel.clientWidth, MIN_WIDTH);

function sourceOf(panel, width) {
  const parameters = new URLSearchParams(location.search);
  parameters.set("width", width);
  parameters.set("zone", zone);
  return `${panel.dataset.source}?${parameters}`;
}

async function refresh(panel) {
  if (panel.dataset.busy) return;
  panel.dataset.busy = "yes";
  const width = widthOf(panel);
  try {
    const response = await fetch(sourceOf(panel, width));
    if (!response.ok && response.status !== 500) throw new Error(`${response.status} ${response.statusText}`);
    const html = await response.text();
    await charts.settled();
    show(panel, html);
    panel.classList.remove("stale");
  } catch (error) {
    panel.classList.add("stale");
    const waiting = panel.querySelector(".waiting");
    if (waiting) waiting.textContent = `Could not load: ${error.message}. Retrying.`;
  } finally {
    delete panel.dataset.busy;
    panel.dataset.shown = "yes";
  }
  if (widthOf(panel) !== width) await refresh(panel);
}

const refreshAll = () => Promise.all(panels.map(refresh));
refreshAll();
const seconds = parseInt(form.elements.refresh.value);
if (seconds) setInterval(() => document.hidden || refreshAll(), seconds * 1000);

// A chart has the width for which it was drawn, and is scaled until it is drawn again.
const area = document.querySelector(".panels");
let areaWidth = area.clientWidth, resizing;
new ResizeObserver(() => {
  if (area.clientWidth === areaWidth) return;
  areaWidth = area.clientWidth;
  clearTimeout(resizing);
  resizing = setTimeout(refreshAll, RESIZE_MILLIS);
}).observe(area);

// The form. The URL has its state.
const custom = document.getElementById("custom");
const customTime = document.getElementById("custom-time");
const [customFrom, customTo] = customTime.querySelectorAll("input");
const [begin, end] = [custom.value, form.elements.to.value];
function showCustomTime() {
  customTime.hidden = form.elements.from.value !== custom.value;
  if (!customTime.hidden && !customFrom.value) {
    const from = Number(custom.value), to = Number(form.elements.to.value);
    customFrom.value = local(from || Date.now() - 3_600_000).slice(0, 19);
    customTo.value = local(to || Date.now()).slice(0, 19);
  }
}
// A page from the back/forward cache has the form as it was left: reset it to the state of the URL.
addEventListener("pageshow", () => {
  form.reset();
  [custom.value, form.elements.to.value] = [begin, end];
  if (form.elements["var-operation"]) form.elements["var-operation"].disabled = false;
  showCustomTime();
});
form.addEventListener("change", (event) => {
  showCustomTime();
  if (event.target.name === "from") form.elements.to.value = "now";
  if (event.target.name === "var-service") form.elements["var-operation"].disabled = true; // until the operations of the new service are loaded
  if (customTime.hidden) form.requestSubmit();
});
form.addEventListener("submit", () => {
  if (customTime.hidden) return;
  custom.value = String(new Date(customFrom.value).getTime());
  form.elements.to.value = String(new Date(customTo.value).getTime());
});
