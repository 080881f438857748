// The charts of explorer/svg.py, and the search page's scatter plot: one cursor for all, a tooltip, selection by
// dragging, links, and legends.

import { clock, duration } from "./units.js";

const SVG = "http://www.w3.org/2000/svg";
const CLICK_PIXELS = 4; // a pointer that moves less is clicking
const BOX_PIXELS = 10; // a drag on a heat map selects a box if it is at least that high
const CHANGE_PIXELS = 6; // beside its mark, a change is in the tooltip
const MIN_RANGE = 1000; // milliseconds
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

const panels = document.querySelector(".panels"); // of a page whose URL has a time range, for drags and links
let cursor; // what the tooltip is about: { plot, at, height } in the units of the axes, and `pointer` or `isByKey`
let drag; // { plot, from: a place, pointer, selection, menu }; by keyboard there is no pointer
const waiting = []; // functions to call when the drag has ended
const models = new WeakMap();
const hiddenNames = new WeakMap(); // of the lines that the user has hidden, by panel

const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
tip.setAttribute("role", "status");
document.body.append(tip);

// Data ---------------------------------------------------------------------------------------------------------------

// The numbers of a plot and its marks with their values. A scatter plot, whose dots are links, has no such marks; it
// ends at the right border of its box, whose pixels are its own.
function model(plot) {
  if (!models.has(plot)) {
    const marks = [...plot.querySelectorAll("[data-url]")].map((mark) => ({
      mark, name: mark.dataset.name, url: mark.dataset.url, values: valuesOf(mark),
      bounds: mark.dataset.bounds && JSON.parse(mark.dataset.bounds),
    }));
    models.set(plot, { ...JSON.parse(plot.dataset.plot), marks });
  }
  const found = models.get(plot);
  if (found.kind !== "scatter") return found;
  const { width } = plot.getBoundingClientRect();
  return { ...found, width, right: width };
}

// A line's path has pairs of a step and its value.
function valuesOf(mark) {
  if (mark.dataset.values) return JSON.parse(mark.dataset.values);
  const values = [], pairs = mark.getAttribute("d").slice(1).split(" ").map(Number);
  for (let index = 0; index < pairs.length; index += 2) values[pairs[index]] = pairs[index + 1];
  return values;
}

const panelOf = (plot) => plot.closest(".content");
const stepAt = ({ begin, step }, at) => Math.floor((at - begin) / step);
const timesOf = ({ begin, step }, index) => ({ start: begin + index * step, end: begin + (index + 1) * step });
const across = (plot, at) => plot.left + ((at - plot.start) / (plot.end - plot.start)) * (plot.right - plot.left);
const up = (plot, height) => plot.bottom - ((height - plot.low) / (plot.high - plot.low)) * (plot.bottom - plot.top);

// Where a pointer is, in pixels of the plot and in the units of its axes.
function placeOf(element, pointer) {
  const plot = model(element), box = element.getBoundingClientRect(), pixels = plot.width / box.width;
  const x = clamp((pointer.clientX - box.left) * pixels, plot.left, plot.right);
  const y = clamp((pointer.clientY - box.top) * pixels, plot.top, plot.bottom);
  return {
    x, y,
    at: plot.start + ((x - plot.left) / (plot.right - plot.left)) * (plot.end - plot.start),
    height: plot.low + ((plot.bottom - y) / (plot.bottom - plot.top)) * (plot.high - plot.low),
  };
}

// The values at a place, from the top: { mark, name, value, row, isNear }. The near one is that which a click follows.
function entriesAt(element, { at, height }) {
  const plot = model(element), index = stepAt(plot, at);
  if (plot.kind === "lines") {
    const entries = plot.marks.filter(({ mark }) => !mark.classList.contains("off"))
      .map((mark) => ({ mark, name: mark.name, value: mark.values[index] })).filter(({ value }) => value !== undefined);
    const distances = entries.map(({ value }) => Math.abs(value - height));
    const near = distances.indexOf(Math.min(...distances));
    entries.forEach((entry, number) => (entry.isNear = number === near));
    return entries.sort((a, b) => b.value - a.value);
  }
  const [mark] = plot.marks;
  if (!mark) return [];
  const isHeatmap = plot.kind === "heatmap";
  const row = isHeatmap ? clamp(Math.floor(height) - plot.low, 0, mark.values.length - 1) : index;
  const value = isHeatmap ? mark.values[row][index] : mark.values[row];
  return value ? [{ mark, name: durations(mark, row, row), value, row, isNear: true }] : [];
}

// Texts --------------------------------------------------------------------------------------------------------------

const durations = ({ bounds }, first, last) => [bounds[first][0], bounds[last][1]].map((ms) => duration(ms * 1e6)).join(" to ");
const timeOf = ({ zone }, micros) => clock(new Date(micros / 1000), zone);
const period = (plot, { start, end }) => `${timeOf(plot, start)} to ${timeOf(plot, end).slice(11)}`;
const number = (value) => value.toLocaleString("en", Number.isInteger(value) || Math.abs(value) >= 100
  ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 3 });
// As explorer.web.quantity.
function quantity(plot, value) {
  if (plot.kind !== "lines") return `${number(value)} ${value === 1 ? "request" : "requests"}`;
  if (plot.unit === " ms") return duration(value * 1e6);
  if (plot.unit === " %") return value === 0 ? "0 %" : value < 0.005 ? "< 0.01 %" : `${value.toFixed(2)} %`;
  return `${number(value)}${plot.unit}`;
}

// Links --------------------------------------------------------------------------------------------------------------

// The path of a mark's traces in a time, and, for cells and bars, with durations from those of one row to another.
// explorer/links.py documents the template.
function pathOf({ url, bounds }, { start, end }, first, last) {
  const fields = { start: Math.round(start), end: Math.round(end) - 1, 0: bounds?.[first][0], 1: bounds?.[last][1] };
  return url.replace(/\{(\w+)\}/g, (_, name) => fields[name]);
}

const tracesUrl = (path) => path && panels.dataset.traces + path;
// The page of what differs has the parameters of a search.
const differencesUrl = (path) => path && panels.dataset.differences + path.slice(path.indexOf("?"));

// The page itself with another time range.
function rangeUrl({ start, end }) {
  const url = new URL(location), from = Math.floor(start / 1000);
  url.searchParams.set("from", from);
  url.searchParams.set("to", Math.max(Math.ceil(end / 1000), from + MIN_RANGE));
  return url.href;
}

function open(url, event) {
  if (!url) return;
  if (event.ctrlKey || event.metaKey) window.open(url, "_blank", "noopener");
  else location.assign(url);
}

function follow(element, place, event) {
  const plot = model(element), near = entriesAt(element, place).find(({ isNear }) => isNear);
  if (near) open(tracesUrl(pathOf(near.mark, timesOf(plot, stepAt(plot, place.at)), near.row, near.row)), event);
}

// Cursor and tooltip -------------------------------------------------------------------------------------------------

const rectangle = (left, top, right, bottom) => `M${left} ${top}H${right}V${bottom}H${left}z`;

function draw(element, name, path) {
  element.querySelector(`:scope > .${name}`).setAttribute("d", path);
}

// The line of the cursor on all charts with a time axis, without other marks; without an argument there is none.
function drawCursor(at) {
  for (const element of document.querySelectorAll(".plot")) {
    const plot = model(element), isShown = plot.changes && at >= plot.start && at <= plot.end;
    draw(element, "cursor", isShown ? `M${across(plot, at)} ${plot.top}V${plot.bottom}` : "");
    draw(element, "spot", "");
    element.classList.remove("linked");
    for (const { mark } of plot.marks) mark.classList.remove("near");
  }
}

// A mark of the value that a click follows: a point of a line, a cell, or a bar.
function spot(plot, index, { value, row }) {
  const { start, end } = timesOf(plot, index);
  if (plot.kind === "lines") {
    const [x, y] = [across(plot, (start + end) / 2), up(plot, value)];
    return `M${x - 3} ${y}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0`;
  }
  const [low, high] = plot.kind === "heatmap" ? [plot.low + row, plot.low + row + 1] : [0, value];
  return rectangle(across(plot, start), up(plot, high), across(plot, end), up(plot, low));
}

function element(name, className, ...children) {
  const created = document.createElement(name);
  created.className = className;
  created.append(...children);
  return created;
}

function swatch(mark) {
  const svg = document.createElementNS(SVG, "svg"), rect = document.createElementNS(SVG, "rect");
  for (const part of [svg, rect]) {
    part.setAttribute("width", 10);
    part.setAttribute("height", 10);
  }
  rect.setAttribute("fill", mark.getAttribute("stroke"));
  svg.append(rect);
  return svg;
}

function tipRow(plot, { mark, name, value, isNear }) {
  const row = element("div", isNear && plot.marks.length > 1 ? "near" : "");
  if (plot.kind === "lines") row.append(swatch(mark.mark));
  row.append(element("bdi", "name", name), element("span", "value", quantity(plot, value)));
  return row;
}

// The changes in the step at a place, and beside it: [time, text].
function changesNear(plot, at) {
  const { start, end } = timesOf(plot, stepAt(plot, at)), x = across(plot, at);
  return (plot.changes ?? []).filter(([time]) => (time >= start && time < end) || Math.abs(across(plot, time) - x) <= CHANGE_PIXELS);
}

function changeRow(plot, [time, text]) {
  return element("div", "change", element("span", "", timeOf(plot, time).slice(11)), element("bdi", "", text));
}

function show() {
  const { plot: shown, at } = cursor, plot = model(shown), index = stepAt(plot, at), entries = entriesAt(shown, cursor);
  drawCursor(plot.changes ? at : undefined);
  const near = entries.find(({ isNear }) => isNear);
  if (near) {
    draw(shown, "spot", spot(plot, index, near));
    near.mark.mark.classList.add("near");
    shown.classList.toggle("linked", Boolean(near.mark.url));
  }
  const head = plot.changes ? [element("div", "time", entries.length ? period(plot, timesOf(plot, index)) : timeOf(plot, at))] : [];
  say([...head, ...entries.map((entry) => tipRow(plot, entry)), ...changesNear(plot, at).map((change) => changeRow(plot, change))]);
}

// Show these elements in the tooltip, beside the pointer or the cursor. Only what the keyboard does is read aloud.
function say(elements) {
  tip.setAttribute("aria-live", cursor.isByKey ? "polite" : "off");
  tip.replaceChildren(...elements);
  tip.hidden = !elements.length;
  moveTo(tip, cornerOf(cursor.plot));
}

// Beside a place in the window, and within the window.
function moveTo(box, [x, y]) {
  const { width, height } = box.getBoundingClientRect();
  const left = x + 16 + width > document.documentElement.clientWidth ? x - 16 - width : x + 16;
  box.style.left = `${Math.max(left, 0)}px`;
  box.style.top = `${clamp(y - height / 2, 0, Math.max(innerHeight - height, 0))}px`;
}

function hide() {
  cursor = undefined;
  tip.hidden = true;
  drawCursor();
}

// Selection ----------------------------------------------------------------------------------------------------------

// What a drag has selected: times, and for a box on a heat map or bars of a histogram the rows. The keyboard selects
// whole steps, as boxes and bars are.
function selectionOf(place) {
  const { plot: dragged, from } = drag, plot = model(dragged), { isByKey } = place;
  const [start, end] = [from.at, place.at].sort((a, b) => a - b);
  const first = stepAt(plot, start);
  const last = isByKey ? stepAt(plot, end) : Math.max(Math.ceil((end - plot.begin) / plot.step) - 1, first);
  const steps = { start: timesOf(plot, first).start, end: timesOf(plot, last).end };
  const isHigh = isByKey ? place.height !== from.height : Math.abs(place.y - from.y) >= BOX_PIXELS;
  const isBox = plot.kind === "heatmap" && isHigh;
  if (plot.kind !== "histogram" && !isBox) return isByKey ? steps : { start, end };
  const rows = isBox ? [from.height, place.height].map((height) => Math.floor(height) - plot.low) : [first, last];
  const [low, high] = rows.map((row) => clamp(row, 0, plot.marks[0].bounds.length - 1)).sort((a, b) => a - b);
  const columns = isBox ? [Math.max(first, 0), last + 1] : [];
  const counts = plot.marks[0].values.slice(low, high + 1).flatMap((row) => (isBox ? row.slice(...columns) : row));
  return { ...steps, first: low, last: high, isBox, sum: counts.reduce((sum, count) => sum + count, 0) };
}

function drawSelection(selection) {
  const plot = model(drag.plot), [left, right] = [selection.start, selection.end].map((at) => across(plot, at));
  const [top, bottom] = selection.isBox
    ? [up(plot, plot.low + selection.last + 1), up(plot, plot.low + selection.first)] : [plot.top, plot.bottom];
  draw(drag.plot, "selection", rectangle(clamp(left, plot.left, plot.right), top, clamp(right, plot.left, plot.right), bottom));
  say(textsOf(selection).map((text) => element("div", "", text)));
}

function textsOf(selection) {
  const plot = model(drag.plot), texts = plot.changes ? [period(plot, selection)] : [];
  if (selection.first === undefined) return texts;
  return [...texts, durations(plot.marks[0], selection.first, selection.last), quantity(plot, selection.sum)];
}

// Where a selection leads: a time is the page's new range; of a box or bars there is a choice.
function select(selection, event) {
  const { first, last } = selection;
  if (first === undefined) {
    open(rangeUrl(selection), event);
    return endDrag();
  }
  const plot = model(drag.plot), path = pathOf(plot.marks[0], selection, first, last);
  const choices = [["What differs", differencesUrl(path)], ["Show traces", tracesUrl(path)]];
  if (plot.changes) choices.push(["Zoom in", rangeUrl(selection)]);
  offer(selection, choices.filter(([, url]) => url));
}

// A menu of links at the end of the drag. The arrow keys move in it, and Escape closes it.
function offer(selection, choices) {
  const links = choices.map(([text, url]) => Object.assign(element("a", "", text), { href: url }));
  const menu = element("nav", "menu", ...textsOf(selection).map((text) => element("div", "", text)), ...links);
  menu.setAttribute("aria-label", "The selected requests");
  menu.tabIndex = -1; // a click on its texts does not close it
  drag.menu = menu;
  document.body.append(menu);
  moveTo(menu, cornerOf(drag.plot));
  hide();
  links[0]?.focus({ preventScroll: true });
  menu.addEventListener("focusout", ({ relatedTarget }) => menu.contains(relatedTarget) || endDrag());
  menu.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    links.at((links.indexOf(document.activeElement) + step) % links.length).focus();
  });
}

// The pointer's place in the window, or that of the end of a selection by keyboard.
function cornerOf(shown) {
  if (cursor.pointer) return [cursor.pointer.clientX, cursor.pointer.clientY];
  const box = shown.getBoundingClientRect(), plot = model(shown), scale = box.width / plot.width;
  return [box.left + across(plot, cursor.at) * scale, box.top + 60];
}

function endDrag() {
  const ended = drag;
  drag = undefined; // before the menu is removed, which takes its focus
  if (ended) draw(ended.plot, "selection", "");
  if (ended?.menu?.contains(document.activeElement)) ended.plot.focus({ preventScroll: true });
  ended?.menu?.remove();
  for (const resume of waiting.splice(0)) resume();
}

// Events -------------------------------------------------------------------------------------------------------------

const plotOf = ({ target }) => !target.closest?.("a") && target.closest?.(".plot");

addEventListener("pointerdown", (event) => {
  if (drag?.menu && !drag.menu.contains(event.target)) endDrag();
  const plot = event.button === 0 && plotOf(event);
  if (!plot) return;
  // A finger cannot hover: its first tap on a place shows the tooltip, and the second one follows the link.
  const place = placeOf(plot, event), index = stepAt(model(plot), place.at);
  const wasShown = cursor?.plot === plot && stepAt(model(plot), cursor.at) === index;
  drag = { plot, from: place, pointer: event, isFirstTap: event.pointerType === "touch" && !wasShown };
  plot.setPointerCapture(event.pointerId);
  cursor = { plot, ...place, pointer: event };
  show();
});
addEventListener("pointermove", (event) => {
  if (drag?.menu) return;
  const plot = drag?.plot ?? plotOf(event);
  if (!plot) return cursor && !cursor.isByKey && hide();
  cursor = { plot, ...placeOf(plot, event), pointer: event };
  show();
  const { clientX, clientY } = drag?.pointer ?? event;
  if (drag?.pointer && panels && (drag.selection || Math.hypot(event.clientX - clientX, event.clientY - clientY) >= CLICK_PIXELS)) {
    drag.selection = selectionOf(cursor);
    drawSelection(drag.selection);
  }
});
addEventListener("pointerup", (event) => {
  if (!drag?.pointer || drag.menu) return;
  if (drag.selection) return select(drag.selection, event);
  if (!drag.isFirstTap) follow(drag.plot, drag.from, event);
  endDrag();
});
addEventListener("pointercancel", endDrag);
addEventListener("pagehide", endDrag);
document.addEventListener("pointerleave", () => drag || hide());
addEventListener("scroll", () => {
  if (drag?.menu) endDrag();
  else if (cursor && !cursor.isByKey && !drag) hide();
}, { passive: true });
addEventListener("resize", () => cursor && !drag && show()); // a scatter plot is not scaled

// The arrow keys move the cursor to the next step with a value or a change, and to the value above or below; Enter
// follows it. With Shift they select, as a drag does; Enter chooses what is selected.
addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    endDrag();
    hide();
  }
  const plot = plotOf(event);
  if (!plot || !["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Enter"].includes(event.key)) return;
  event.preventDefault();
  const place = cursor?.plot === plot ? cursor : undefined;
  if (event.key === "Enter") return drag?.selection ? select(drag.selection, event) : place && follow(plot, place, event);
  cursor = { ...move(plot, place, event.key), plot, isByKey: true };
  if (!event.shiftKey) endDrag();
  show();
  if (!event.shiftKey || !panels) return;
  drag ??= { plot, from: place ?? cursor };
  drag.selection = selectionOf(cursor);
  drawSelection(drag.selection);
});
addEventListener("focusout", (event) => {
  if (!cursor?.isByKey || !plotOf(event)) return;
  // Later, because a chart that is being replaced loses the focus to the new one.
  queueMicrotask(() => {
    if (document.activeElement === cursor?.plot) return;
    hide();
    if (!drag?.menu) endDrag();
  });
});

function move(element, place, key) {
  const plot = model(element), sideways = { ArrowLeft: -1, ArrowRight: 1 }[key];
  if (!sideways && place) return { at: place.at, height: nextHeight(element, place, key === "ArrowUp" ? 1 : -1) };
  const [first, last] = [plot.start, plot.end].map((at) => stepAt(plot, at)), direction = sideways ?? -1;
  let index = place ? stepAt(plot, place.at) : direction === 1 ? first - 1 : last + 1;
  do index += direction;
  while (index >= first && index <= last && !stepHasValue(plot, index) && !stepHasChange(plot, index));
  if (index < first || index > last) return place ?? { at: plot.end, height: plot.low };
  const { start, end } = timesOf(plot, index);
  return { at: clamp((start + end) / 2, plot.start, plot.end), height: place?.height ?? (plot.low + plot.high) / 2 };
}

const stepHasValue = ({ kind, marks }, index) => marks.some(({ values }) =>
  kind === "heatmap" ? values.some((row) => row[index]) : values[index] !== undefined);
const stepHasChange = (plot, index) => plot.changes?.some(([time]) => stepAt(plot, time) === index);

// The height of the next value above (1) or below (-1); rows of cells are as high as 1.
function nextHeight(element, place, direction) {
  const plot = model(element);
  if (plot.kind === "heatmap") return clamp(place.height + direction, plot.low + 0.5, plot.high - 0.5);
  const entries = entriesAt(element, place), near = entries.findIndex(({ isNear }) => isNear);
  return entries[near - direction]?.value ?? place.height;
}

// Legends ------------------------------------------------------------------------------------------------------------

addEventListener("click", ({ target }) => {
  const button = target.closest?.(".legend button");
  if (!button) return;
  const panel = panelOf(button), names = hiddenNames.get(panel) ?? new Set(), { name } = button.dataset;
  if (!names.delete(name)) names.add(name);
  hiddenNames.set(panel, names);
  hideLines(panel);
});

function hideLines(panel) {
  const names = hiddenNames.get(panel);
  if (!names) return;
  for (const button of panel.querySelectorAll(".legend button")) {
    button.setAttribute("aria-pressed", String(!names.has(button.dataset.name)));
  }
  for (const line of panel.querySelectorAll(".plot [data-name]")) line.classList.toggle("off", names.has(line.dataset.name));
}

// When nothing is being dragged.
export const settled = () => new Promise((resolve) => (drag ? waiting.push(resolve) : resolve()));

// After the content of a panel was replaced: the new chart shows what the old one did.
export function replaced(panel) {
  hideLines(panel);
  if (!cursor) return;
  if (cursor.plot.isConnected) return show();
  const plot = panel.querySelector(".plot");
  if (!plot) return hide();
  cursor = { ...cursor, ...(cursor.pointer && placeOf(plot, cursor.pointer)), plot };
  show();
}
