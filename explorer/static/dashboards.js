// Each panel is fetched by itself, again and again: a figure for Plotly, or a piece of this page.
"use strict";

const form = document.getElementById("view");
const panels = [...document.querySelectorAll(".content")];
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
  if (layout.xaxis?.type === "date") {
    for (const trace of data) {
      trace.leads.times = trace.x;
      trace.x = trace.x.map(local);
    }
  }
  for (const trace of data) {
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
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom" }, uirevision: "same",
  };
  panel.classList.add("chart");
  const isNew = !panel.classList.contains("js-plotly-plot");
  if (isNew) panel.replaceChildren();
  await Plotly.react(panel, data, {
    ...look, ...layout, xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  }, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] });
  if (!isNew) return;
  panel.on("plotly_click", ({ points }) => {
    const url = traces(points[0]);
    if (url) location.href = url;
  });
  panel.on("plotly_hover", () => panel.classList.add("on-a-mark"));
  panel.on("plotly_unhover", () => panel.classList.remove("on-a-mark"));
}

// Where a mark leads, if anywhere: explorer/charts.py says what `leads` is.
function traces(point) {
  const { link, columns, step, times } = point.data.leads;
  const [row, column] = [point.pointNumber].flat();
  const values = Object.fromEntries(Object.entries(columns).map(([name, list]) => [name, list[row]]));
  if (!link || Object.values(values).includes(null)) return null;
  if (step) {
    // The cells of a heat map are drawn around their middle.
    const start = times[column ?? row] - (column === undefined ? 0 : step / 2);
    [values.start, values.end] = [Math.round(start * 1000), Math.round((start + step) * 1000) - 1];
  }
  const base = document.querySelector("[data-traces]").dataset.traces;
  return base + link.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function show(panel, html) {
  if (panel.classList.contains("js-plotly-plot")) Plotly.purge(panel);
  panel.classList.remove("chart");
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
