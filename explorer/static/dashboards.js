// Each panel is fetched by itself, again and again: a figure for Plotly, or a piece of this page.
"use strict";

const form = document.getElementById("view");
const panels = [...document.querySelectorAll(".content")];
const traces = document.querySelector(".panels").dataset.traces;
const dark = matchMedia("(prefers-color-scheme: dark)");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// Plotly shows times as they are written, so they are written in the browser's zone.
function local(millis) {
  const time = new Date(millis);
  return new Date(millis - time.getTimezoneOffset() * 60_000).toISOString().slice(0, -1);
}

// Plotly takes as long to load as all else together, so that it is loaded for the first figure, and tables need not wait.
let plotly;
function loaded() {
  plotly ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "/plotly.js";
    script.onload = resolve;
    script.onerror = () => {
      plotly = undefined; // to be tried again
      reject(new Error("no Plotly"));
    };
    document.head.append(script);
  });
  return plotly;
}

async function draw(panel, figure) {
  await loaded();
  const { data, layout } = figure;
  const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), automargin: true };
  for (const trace of data) {
    if (trace.about.step) place(trace);
    if (trace.type === "heatmap") trace.colorscale = [[0, dark.matches ? "#17344f" : "#d6e8fa"], [1, dark.matches ? "#8cc8ff" : "#08315c"]];
  }
  for (const line of layout.shapes ?? []) {
    line.line = { color: colour(line.name === "bad" ? "error" : "warning"), width: 1, dash: "dot" };
  }
  const look = {
    autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("text"), family: "system-ui, sans-serif", size: 12 }, margin: { t: 10, r: 10, b: 30, l: 50 },
    // namelength: a name is not cut, for Plotly would cut through its entities.
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
  if (isNew) lead(panel);
}

// Many names would take the chart's room below it. Beside it there is more, if the longest is not too long.
function legend(panel, data) {
  const names = data[0].labels ?? data.map((trace) => trace.name ?? "");
  const width = 60 + 7 * Math.max(...names.map((name) => name.length));
  const isBeside = names.length > 4 && width < 0.5 * panel.clientWidth;
  return isBeside ? { orientation: "v" } : { orientation: "h", yref: "container", y: 0, yanchor: "bottom" };
}

// explorer/charts.py says what `about` has.
function place(trace) {
  const isHeatmap = trace.type === "heatmap";
  const { begin, step, ranges } = trace.about;
  const steps = [...(isHeatmap ? trace.z[0] : trace.y).keys()];
  // Cells are drawn around their middle.
  trace.x = steps.map((number) => local((begin + (number + (isHeatmap ? 0.5 : 0)) * step) / 1000));
  if (isHeatmap) trace.customdata = ranges.map((range) => steps.map(() => range));
}

function urlOf(point) {
  const { url, values, begin, step } = point.data.about;
  const [row, column] = [point.pointNumber].flat();
  const number = column ?? row;
  const own = { start: begin + number * step, end: begin + (number + 1) * step - 1, ...values?.[row] };
  if (!url || values && !values[row]) return undefined;
  return `${traces}${url.replace(/\{(\w+)\}/g, (_, name) => own[name])}`;
}

// Where the tooltip is that of all lines, the one is meant that is nearest to the pointer.
function meant({ points, event }) {
  const away = ({ bbox }) => Math.abs((bbox.y0 + bbox.y1) / 2 - event.pageY);
  return points.length > 1 ? points.reduce((one, other) => (away(other) < away(one) ? other : one)) : points[0];
}

// From a point, slice, cell or bar to the traces behind it.
function lead(panel) {
  panel.on("plotly_click", (clicked) => {
    const url = urlOf(meant(clicked));
    if (!url) return;
    if (clicked.event.ctrlKey || clicked.event.metaKey) open(url, "_blank", "noopener");
    else location.assign(url);
  });
  panel.on("plotly_hover", ({ points }) => panel.classList.toggle("leads", Boolean(urlOf(points[0]))));
  panel.on("plotly_unhover", () => panel.classList.remove("leads"));
}

function show(panel, html) {
  if (panel.classList.contains("js-plotly-plot")) Plotly.purge(panel);
  panel.classList.remove("chart", "leads");
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
    const answer = await fetch(panel.dataset.source + location.search);
    if (answer.headers.get("Content-Type").startsWith("application/json")) await draw(panel, await answer.json());
    else if (answer.ok || answer.status === 500) show(panel, await answer.text());
    else throw new Error(`${answer.status} ${answer.statusText}`);
    panel.classList.remove("stale");
  } catch (error) {
    panel.classList.add("stale");
    if (panel.querySelector(".waiting")) panel.querySelector(".waiting").textContent = `Not to be had: ${error.message}. Tried again.`;
  } finally {
    delete panel.dataset.busy;
    panel.dataset.shown = "yes";
  }
}

const all = () => Promise.all(panels.map(refresh));
all();
const seconds = parseInt(form.elements.refresh.value);
if (seconds) setInterval(() => document.hidden || all(), seconds * 1000);
dark.addEventListener("change", all);

// What to show is in the URL.
const own = document.getElementById("own");
const ownTime = document.getElementById("own-time");
const [ownFrom, ownTo] = ownTime.querySelectorAll("input");
const [begin, end] = [own.value, form.elements.to.value];
function showOwn() {
  ownTime.hidden = form.elements.from.value !== own.value;
  if (!ownTime.hidden && !ownFrom.value) {
    const given = Number(own.value), until = Number(form.elements.to.value);
    ownFrom.value = local(given || Date.now() - 3_600_000).slice(0, 19);
    ownTo.value = local(until || Date.now()).slice(0, 19);
  }
}
// Also back in the browser's history the form shows what the URL says, and not how it was left.
addEventListener("pageshow", () => {
  form.reset();
  [own.value, form.elements.to.value] = [begin, end];
  if (form.elements["var-operation"]) form.elements["var-operation"].disabled = false;
  showOwn();
});
form.addEventListener("change", (event) => {
  showOwn();
  if (event.target.name === "from") form.elements.to.value = "now";
  if (event.target.name === "var-service") form.elements["var-operation"].disabled = true; // another service has others
  if (ownTime.hidden) form.requestSubmit();
});
form.addEventListener("submit", () => {
  if (ownTime.hidden) return;
  own.value = String(new Date(ownFrom.value).getTime());
  form.elements.to.value = String(new Date(ownTo.value).getTime());
});

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent);
    button.textContent = "Copied";
  });
}
