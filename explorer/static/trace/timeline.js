// The axis and the minimap: which part of the trace's time is shown.

import { endOf, page, serviceOf, spans } from "./data.js";
import { element } from "./dom.js";
import { duration, unitOf } from "../units.js";

const ticks = document.getElementById("ticks");
const minimap = document.getElementById("minimap");
const canvas = minimap.querySelector("canvas");
const range = minimap.querySelector(".range");

const TICK_PIXELS = 90; // the least distance of two ticks
const LABEL_PIXELS = 70; // a label that would have less than this is left out
const DRAG_PIXELS = 4; // a shorter movement is a click

export const WHOLE = { from: 0, to: page.duration };

export function isZoomed({ from, to }) {
  return from > WHOLE.from || to < WHOLE.to;
}

// The nearest range within the trace, of at least one nanosecond.
export function limited(from, to) {
  const length = Math.min(Math.max(Math.round(to - from), 1), page.duration);
  const start = Math.min(Math.max(Math.round(from), 0), page.duration - length);
  return { from: start, to: start + length };
}

export function scaled({ from, to }, factor, centre = (from + to) / 2) {
  return limited(centre - (centre - from) * factor, centre + (to - centre) * factor);
}

export function panned({ from, to }, share) {
  const distance = (to - from) * share;
  return limited(from + distance, to + distance);
}

// The range of the same length that has the span in its middle, if it is out of the range.
export function including({ from, to }, { start, duration: length }) {
  if (start < to && start + length > from) return { from, to };
  const middle = start + length / 2;
  return limited(middle - (to - from) / 2, middle + (to - from) / 2);
}

export function text({ from, to }) {
  return `${duration(to - from)} from ${duration(from)} on`;
}

export function drawRange(state) {
  const percent = (nanos) => `${(100 * nanos) / (page.duration || 1)}%`;
  range.style.left = percent(state.from);
  range.style.width = percent(state.to - state.from);
  range.hidden = !isZoomed(state);
  minimap.setAttribute("aria-valuenow", Math.round((50 * (state.from + state.to)) / (page.duration || 1)));
  minimap.setAttribute("aria-valuetext", `${text(state)}, of ${duration(page.duration)}`);
  drawTicks(state);
}

function drawTicks({ from, to }) {
  const width = ticks.clientWidth;
  const step = roundStep(((to - from) * TICK_PIXELS) / Math.max(width, 1));
  const [unit, size] = unitOf(Math.min(to, step * 1000));
  const digits = Math.max(0, -Math.floor(Math.log10(step / size) + 1e-9));
  const format = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  const marks = [];
  for (let time = Math.ceil(from / step) * step; time <= to; time += step) {
    const left = ((time - from) / (to - from || 1)) * width;
    const amount = (time / size).toLocaleString(undefined, format);
    const mark = element("span", "", width - left < LABEL_PIXELS ? "" : time ? `${amount} ${unit}` : "0");
    mark.style.left = `${left}px`;
    marks.push(mark);
  }
  ticks.replaceChildren(...marks);
}

// The smallest of 1, 2, 5, 10, 20, ... that is at least `smallest`.
function roundStep(smallest) {
  const power = 10 ** Math.floor(Math.log10(Math.max(smallest, 1)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= smallest);
}

export function drawMinimap() {
  const { clientWidth: width, clientHeight: height } = canvas;
  const context = prepared(canvas, width, height);
  const perNano = width / (page.duration || 1);
  const line = Math.min(Math.max(height / spans.length, 1), 4);
  spans.forEach((span, number) => {
    context.fillStyle = colourOf(serviceOf(number));
    const top = Math.floor((number / spans.length) * height);
    context.fillRect(span.start * perNano, top, Math.max((endOf(number) - span.start) * perNano, 1), line);
  });
}

// A canvas of this size in CSS pixels, empty and as sharp as the screen.
export function prepared(canvas, width, height) {
  canvas.width = Math.round(width * devicePixelRatio);
  canvas.height = Math.round(height * devicePixelRatio);
  const context = canvas.getContext("2d");
  context.scale(devicePixelRatio, devicePixelRatio);
  return context;
}

const colours = {};

// The colour of a service: that of the classes s0, s1, ...
export function colourOf({ colour }) {
  if (!colours[colour]) {
    const probe = document.body.appendChild(element("span", `s${colour}`));
    colours[colour] = getComputedStyle(probe).getPropertyValue("--service").trim();
    probe.remove();
  }
  return colours[colour];
}

// Dragging over `area` calls `zoom` with the range of time; `shown` returns the range that the area has.
function onDrag(area, shown, zoom) {
  const selection = element("div", "selection");
  let begin = null;
  const place = (event) => {
    const box = area.getBoundingClientRect();
    return Math.min(Math.max(event.clientX - box.left, 0), box.width);
  };
  const end = () => {
    begin = null;
    selection.remove();
  };
  area.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    begin = place(event);
    area.setPointerCapture(event.pointerId);
  });
  area.addEventListener("pointermove", (event) => {
    if (begin === null) return;
    const at = place(event);
    selection.style.left = `${Math.min(begin, at)}px`;
    selection.style.width = `${Math.abs(at - begin)}px`;
    area.append(selection);
  });
  area.addEventListener("pointerup", (event) => {
    if (begin === null) return;
    const sides = [begin, place(event)].sort((one, other) => one - other);
    end();
    if (sides[1] - sides[0] < DRAG_PIXELS) return;
    const { from, to } = shown();
    const [left, right] = sides.map((x) => from + ((to - from) * x) / area.clientWidth);
    zoom(limited(left, right));
  });
  area.addEventListener("pointercancel", end);
  area.addEventListener("dblclick", () => zoom(WHOLE));
}

export function listen(shown, zoom) {
  onDrag(ticks, shown, zoom);
  onDrag(minimap, () => WHOLE, zoom);
}
