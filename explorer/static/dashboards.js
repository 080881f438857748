// Fetches each panel at the refresh interval: a figure for Plotly as JSON, or a fragment of HTML.
"use strict";

const form = document.getElementById("view");
const panels = [...document.querySelectorAll(".content")];
const traces = document.querySelector(".panels").dataset.traces;
const dark = matchMedia("(prefers-color-scheme: dark)");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// Plotly knows no time zones: write times in the browser's.
function local(millis) {
  const time = new Date(millis);
  return new Date(millis - time.getTimezoneOffset() * 60_000).toISOString().slice(0, -1);
}

// Plotly is a large script: load it with the first figure, so that tables need not wait for it.
let plotly;
function loadPlotly() {
  plotly ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "/plotly.js";
    script.onload = resolve;
    script.onerror = () => {
      plotly = undefined; // the next refresh retries
      reject(new Error("the script plotly.js cannot be loaded"));
    };
    document.head.append(script);
  });
  return plotly;
}

async function draw(panel, figure) {
  await loadPlotly();
  const { data, layout } = figure;
  const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), automargin: true };
  for (const trace of data) {
    if (trace.about.step) addTimes(trace);
    if (trace.type === "heatmap") trace.colorscale = [[0, dark.matches ? "#17344f" : "#d6e8fa"], [1, dark.matches ? "#8cc8ff" : "#08315c"]];
  }
  for (const line of layout.shapes ?? []) {
    line.line = { color: colour(line.name === "bad" ? "error" : "warning"), width: 1, dash: "dot" };
  }
  const look = {
    autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("text"), family: "system-ui, sans-serif", size: 12 }, margin: { t: 10, r: 10, b: 30, l: 50 },
    // namelength: -1 keeps Plotly from shortening names, which would cut through HTML entities.
    hoverlabel: {
      bgcolor: colour("background"), bordercolor: colour("line"), font: { color: colour("text") }, namelength: -1,
    },
    legend: legend(panel, data), uirevision: "same",
  };
  panel.classList.add("chart");
  const isNew = !panel.classList.contains("js-plotly-plot");
  if (isNew) panel.replaceChildren();
  await Plotly.react(panel, data, {
    ...look, ...layout, xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  }, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] });
  if (isNew) followClicks(panel);
}

// A legend below the chart takes height for each row of names; beside it there is room if the names are short.
function legend(panel, data) {
  const names = data[0].labels ?? data.map((trace) => trace.name ?? "");
  const width = 60 + 7 * Math.max(...names.map((name) => name.length));
  const isBeside = names.length > 4 && width < 0.5 * panel.clientWidth;
  return isBeside ? { orientation: "v" } : { orientation: "h", yref: "container", y: 0, yanchor: "bottom" };
}

// `about` is documented in explorer/charts.py.
function addTimes(trace) {
  const isHeatmap = trace.type === "heatmap";
  const { begin, step, ranges } = trace.about;
  const steps = [...(isHeatmap ? trace.z[0] : trace.y).keys()];
  // A cell's coordinates are those of its centre.
  trace.x = steps.map((number) => local((begin + (number + (isHeatmap ? 0.5 : 0)) * step) / 1000));
  if (isHeatmap) trace.customdata = ranges.map((range) => steps.map(() => range));
}

function urlOf(point) {
  const { url, values, begin, step } = point.data.about;
  const [row, column] = [point.pointNumber].flat();
  const number = column ?? row;
  const fields = { start: begin + number * step, end: begin + (number + 1) * step - 1, ...values?.[row] };
  if (!url || values && !values[row]) return undefined;
  return `${traces}${url.replace(/\{(\w+)\}/g, (_, name) => fields[name])}`;
}

// The tooltip of a series covers all lines at that time: take the point nearest to the pointer.
function nearest({ points, event }) {
  const distance = ({ bbox }) => Math.abs((bbox.y0 + bbox.y1) / 2 - event.pageY);
  return points.length > 1 ? points.reduce((best, point) => (distance(point) < distance(best) ? point : best)) : points[0];
}

// A click on a point, slice, cell or bar opens the traces behind it.
function followClicks(panel) {
  panel.on("plotly_click", (clicked) => {
    const url = urlOf(nearest(clicked));
    if (!url) return;
    if (clicked.event.ctrlKey || clicked.event.metaKey) open(url, "_blank", "noopener");
    else location.assign(url);
  });
  panel.on("plotly_hover", ({ points }) => panel.classList.toggle("linked", Boolean(urlOf(points[0]))));
  panel.on("plotly_unhover", () => panel.classList.remove("linked"));
}

function show(panel, html) {
  if (panel.classList.contains("js-plotly-plot")) Plotly.purge(panel);
  panel.classList.remove("chart", "linked");
  const scrolling = ".scroll, .graph";
  const { scrollTop = 0, scrollLeft = 0 } = panel.querySelector(scrolling) ?? {};
  const hadFocus = panel.querySelector(scrolling)?.matches(":focus");
  panel.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
  for (const element of panel.querySelectorAll("time[datetime]")) {
    element.textContent = new Date(element.dateTime).toLocaleTimeString();
    element.title = element.dateTime;
  }
  const scrolled = panel.querySelector(scrolling);
  scrolled?.scrollTo({ top: scrollTop, left: scrollLeft, behavior: "instant" });
  if (hadFocus) scrolled?.focus({ preventScroll: true });
}

async function refresh(panel) {
  if (panel.dataset.busy) return;
  panel.dataset.busy = "yes";
  try {
    const response = await fetch(panel.dataset.source + location.search);
    if (response.headers.get("Content-Type").startsWith("application/json")) await draw(panel, await response.json());
    else if (response.ok || response.status === 500) show(panel, await response.text());
    else throw new Error(`${response.status} ${response.statusText}`);
    panel.classList.remove("stale");
  } catch (error) {
    panel.classList.add("stale");
    const waiting = panel.querySelector(".waiting");
    if (waiting) waiting.textContent = `Could not load: ${error.message}. Retrying.`;
  } finally {
    delete panel.dataset.busy;
    panel.dataset.shown = "yes";
  }
}

const refreshAll = () => Promise.all(panels.map(refresh));
refreshAll();
const seconds = parseInt(form.elements.refresh.value);
if (seconds) setInterval(() => document.hidden || refreshAll(), seconds * 1000);
dark.addEventListener("change", refreshAll);

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

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent);
    button.textContent = "Copied";
  });
}
