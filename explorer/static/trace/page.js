// The page of one trace: its state, which the URL has in part, and what changes it.
//
// Data flows one way: an event calls `update`, which changes the state and draws everything.

import { count, keys, label, nameOf, numberOf, page, serviceOf, spans } from "./data.js";
import * as details from "./details.js";
import * as flame from "./flame.js";
import * as operationTable from "./operations.js";
import * as timeline from "./timeline.js";
import * as tree from "./tree.js";
import * as waterfall from "./waterfall.js";

const byId = (id) => document.getElementById(id);
const find = byId("find");
const treeElement = byId("tree");
const flameElement = byId("flame");
const minimap = byId("minimap");

const URL_DELAY = 100; // milliseconds from a small step to its place in the URL

const state = {
  current: tree.rowOf(0), // the node that has the keyboard's focus
  isDetailed: false, // the panel shows its details
  ...timeline.WHOLE, // the range of time, in nanoseconds since the trace's start
  isFlame: false,
  operation: -1, // the operation whose spans are marked
  marked: new Set(), // spans that were found, or that belong to this operation
  countMarked: () => 0, // by node
  printing: false,
};
const failed = spans.flatMap((span, number) => (span.failed ? number : []));

// State and URL -------------------------------------------------------------------------------------------------------

// `remember` is "push" for what Back undoes, and "replace" for small steps.
function update(changes, remember = "replace") {
  Object.assign(state, changes);
  writeUrl(remember);
  draw();
}

let writing = 0;

function writeUrl(remember) {
  clearTimeout(writing);
  // Browsers refuse hundreds of changes in a row, as by an arrow key that is held down.
  if (remember === "push") writeUrlNow(remember);
  else writing = setTimeout(writeUrlNow, URL_DELAY, remember);
}

function writeUrlNow(remember) {
  const parameters = new URLSearchParams();
  if (state.isDetailed) parameters.set("span", keys[tree.firstSpan(state.current)]);
  if (timeline.isZoomed(state)) {
    parameters.set("from", state.from);
    parameters.set("to", state.to);
  }
  if (state.isFlame) parameters.set("view", "flame");
  const hash = parameters.size ? `#${parameters}` : "";
  if (hash === location.hash) return;
  history[`${remember}State`](null, "", `${location.pathname}${location.search}${hash}`);
}

function readUrl() {
  clearTimeout(writing);
  const parameters = new URLSearchParams(location.hash.slice(1));
  const [from, to] = ["from", "to"].map((name) => Number.parseInt(parameters.get(name), 10));
  const number = numberOf.get(parameters.get("span"));
  Object.assign(state, from < to ? timeline.limited(from, to) : timeline.WHOLE, {
    isFlame: parameters.get("view") === "flame",
    isDetailed: number !== undefined,
  });
  // The URL has the first span of a group for the group.
  if (number !== undefined && tree.firstSpan(state.current) !== number) state.current = number;
  if (!state.isFlame) tree.reveal(state.current);
  draw();
  if (number !== undefined) scrollToCurrent();
}

// Drawing -------------------------------------------------------------------------------------------------------------

function draw() {
  treeElement.hidden = state.isFlame && !state.printing;
  flameElement.hidden = byId("flame-note").hidden = !state.isFlame;
  document.querySelector(".waterfall").classList.toggle("flame", state.isFlame);
  byId("view-flame").setAttribute("aria-pressed", state.isFlame);
  byId("view-waterfall").setAttribute("aria-pressed", !state.isFlame);
  for (const id of ["expand", "collapse"]) byId(id).disabled = state.isFlame;
  for (const tag of document.querySelectorAll("[data-service]")) {
    const service = Number(tag.dataset.service);
    tag.setAttribute("aria-pressed", tree.callsOf(service).length > 0 && !tree.isServiceOpen(service));
  }
  details.draw(state, closeDetails); // first, because it changes the width of the rest
  operationTable.draw(state);
  timeline.drawRange(state);
  drawRows();
  byId("whole").hidden = byId("shown-range").hidden = !timeline.isZoomed(state);
  byId("shown-range").textContent = timeline.text(state);
  if (failed.length) {
    const at = failed.indexOf(state.current);
    byId("errors").textContent = at < 0 ? count(failed.length, "error") : `error ${at + 1} of ${failed.length}`;
  }
}

// What depends on what is scrolled to.
function drawRows() {
  if (!treeElement.hidden) waterfall.draw(state);
  if (state.isFlame) flame.draw(state);
}

function scrollToCurrent() {
  const { top, height } = (state.isFlame ? flame : waterfall).extent(state.current);
  // The axis stays at the window's top; in a narrow window, the details cover its bottom.
  const [head, panel] = [document.querySelector(".timeline"), byId("details")];
  const from = (head.offsetHeight || minimap.offsetHeight + document.querySelector(".axis").offsetHeight) + height;
  const to = innerHeight - (panel.hidden || innerWidth >= 1000 ? 0 : panel.offsetHeight) - 2 * height;
  if (top >= from && top <= to) return;
  scrollBy(0, top - (from + to) / 2);
  drawRows();
}

// Moving and opening --------------------------------------------------------------------------------------------------

function goTo(node, changes = {}, remember = "replace") {
  if (!state.isFlame) tree.reveal(node);
  update({ current: node, ...changes }, remember);
  scrollToCurrent();
}

// Go to a span that may be anywhere in the trace.
function jumpTo(number, isDetailed = state.isDetailed) {
  goTo(number, { isDetailed, ...timeline.including(state, spans[number]) }, isDetailed ? "push" : "replace");
}

function activate(node) {
  if (!tree.isGroup(node)) jumpTo(node, true);
  else if (state.isFlame) jumpTo(tree.firstSpan(node), true);
  else setOpen(node, !tree.isOpen(node));
}

function setView(isFlame) {
  if (!isFlame) tree.reveal(state.current);
  update({ isFlame }, "push");
  (isFlame ? flameElement : treeElement).focus({ preventScroll: true });
  scrollToCurrent();
}

function closeDetails() {
  update({ isDetailed: false }, "push");
  (state.isFlame ? flameElement : treeElement).focus({ preventScroll: true });
}

function setOpen(node, open) {
  tree.setOpen(node, open);
  afterOpening();
}

function afterOpening() {
  update({ current: tree.rowOf(state.current) });
}

function zoom(range, remember = "push") {
  update(range, remember);
}

// Around the current span, if any of it is shown, and otherwise around the middle.
function zoomBy(factor, remember = "replace") {
  const { start, duration: length } = spans[tree.firstSpan(state.current)];
  const middle = Math.min(Math.max(start + length / 2, state.from), state.to);
  zoom(timeline.scaled(state, factor, middle), remember);
}

function setAllOpen(open) {
  tree.setAllOpen(open);
  afterOpening();
}

// The next of these spans in the order of rows, or the previous one; after the last comes the first.
function following(numbers, backwards = false) {
  const at = tree.firstSpan(state.current) - (tree.isGroup(state.current) && !backwards ? 1 : 0);
  return backwards
    ? (numbers.findLast((number) => number < at) ?? numbers.at(-1))
    : (numbers.find((number) => number > at) ?? numbers[0]);
}

function toError(backwards) {
  if (failed.length) jumpTo(following(failed, backwards), true);
}

// Marked spans --------------------------------------------------------------------------------------------------------

function mark(marked, operation = -1) {
  update({ marked, operation, countMarked: tree.counter((number) => marked.has(number)) });
}

function textOf(number) {
  const span = spans[number];
  const process = page.processes[span.process];
  const parts = [span.id, nameOf(number), serviceOf(number).name, span.kind, span.status, span.message[0]];
  const values = [...span.attributes, ...process.resource];
  for (const event of span.events) {
    parts.push(event.name);
    values.push(...event.attributes);
  }
  return [...parts, ...values.map(([key, value]) => `${key}=${value}`)].join("\n").toLowerCase();
}

function findAll() {
  const text = find.value.trim().toLowerCase();
  const numbers = spans.map((_, number) => number);
  mark(new Set(text ? numbers.filter((number) => textOf(number).includes(text)) : []));
  const found = `${state.marked.size.toLocaleString()} of ${count(spans.length, "span")}`;
  byId("matches").textContent = text ? `${found}; press Enter for the next` : "";
}

function unmark() {
  find.value = "";
  findAll();
}

function toNextMatch() {
  if (state.marked.size) jumpTo(following([...state.marked]));
}

function stepThrough(operation) {
  if (operation !== state.operation) {
    find.value = "";
    const numbers = spans.map((_, number) => number);
    mark(new Set(numbers.filter((number) => spans[number].operation === operation)), operation);
  }
  toNextMatch();
  const at = [...state.marked].indexOf(state.current) + 1;
  byId("matches").textContent = `span ${at} of ${state.marked.size.toLocaleString()} of ${label(state.current)}`;
}

// Keyboard ------------------------------------------------------------------------------------------------------------

function treeKey(key) {
  const rows = tree.openRows();
  const row = rows.indexOf(state.current);
  const { current } = state;
  const isOpen = tree.hasChildren(current) && tree.isOpen(current);
  const parent = tree.parentOf(current);
  const actions = {
    ArrowDown: () => goTo(rows[Math.min(row + 1, rows.length - 1)]),
    ArrowUp: () => goTo(rows[Math.max(row - 1, 0)]),
    Home: () => goTo(rows[0]),
    End: () => goTo(rows.at(-1)),
    ArrowRight: () => (isOpen ? goTo(tree.firstChild(current)) : setOpen(current, true)),
    ArrowLeft: () => (isOpen ? setOpen(current, false) : goTo(parent < 0 ? current : parent)),
  };
  return actions[key];
}

function flameKey(key) {
  const next = flame.neighbour(tree.firstSpan(state.current), key);
  return next === undefined ? undefined : () => goTo(next);
}

function rangeKey(key) {
  const steps = { ArrowLeft: -0.1, ArrowRight: 0.1, ArrowDown: -0.1, ArrowUp: 0.1, PageDown: -1, PageUp: 1 };
  return key in steps ? () => zoom(timeline.panned(state, steps[key]), "replace") : undefined;
}

function commonKey(key) {
  const { start, duration: length } = spans[tree.firstSpan(state.current)];
  const actions = {
    Enter: () => activate(state.current),
    " ": () => activate(state.current),
    e: () => toError(false),
    E: () => toError(true),
    "+": () => zoomBy(0.5),
    "-": () => zoomBy(2),
    z: () => zoom(timeline.limited(start, start + length)),
    0: () => zoom(timeline.WHOLE),
    Escape: () => (state.isDetailed ? closeDetails() : timeline.isZoomed(state) ? zoom(timeline.WHOLE) : unmark()),
  };
  return actions[key];
}

// `actionOf` returns what a key does, if it does anything.
function onKeys(target, actionOf) {
  target.addEventListener("keydown", (event) => {
    const action = event.altKey || event.ctrlKey || event.metaKey ? undefined : actionOf(event.key, event.shiftKey);
    if (!action) return;
    event.preventDefault();
    action();
  });
}

onKeys(treeElement, (key, shift) => (shift && rangeKey(key)) || treeKey(key) || commonKey(key));
onKeys(flameElement, (key, shift) => (shift && rangeKey(key)) || flameKey(key) || commonKey(key));
onKeys(minimap, (key) => (key === "Escape" ? () => zoom(timeline.WHOLE) : rangeKey(key) || commonKey(key)));
onKeys(byId("details"), (key) => (key === "Escape" ? closeDetails : undefined));
onKeys(find, (key) => (key === "Enter" ? toNextMatch : undefined));

// Mouse and window ----------------------------------------------------------------------------------------------------

treeElement.addEventListener("click", (event) => {
  const toggle = event.target.closest("[data-toggle]");
  const row = event.target.closest(".row");
  if (toggle) setOpen(Number(toggle.dataset.toggle), !tree.isOpen(Number(toggle.dataset.toggle)));
  else if (row) activate(Number(row.dataset.node));
});
find.addEventListener("input", findAll);
timeline.listen(() => state, zoom);
flame.listen(() => state, activate);
operationTable.listen(draw, stepThrough);

const buttons = {
  expand: () => setAllOpen(true),
  collapse: () => setAllOpen(false),
  "previous-error": () => toError(true),
  "next-error": () => toError(false),
  "zoom-in": () => zoomBy(0.5, "push"),
  "zoom-out": () => zoomBy(2, "push"),
  whole: () => zoom(timeline.WHOLE),
  "view-waterfall": () => setView(false),
  "view-flame": () => setView(true),
};
for (const [id, action] of Object.entries(buttons)) byId(id)?.addEventListener("click", action);
for (const tag of document.querySelectorAll("[data-service]")) {
  tag.addEventListener("click", () => {
    const service = Number(tag.dataset.service);
    tree.setServiceOpen(service, !tree.isServiceOpen(service));
    afterOpening();
  });
}

function print(printing) {
  if (printing === state.printing) return;
  state.printing = printing;
  draw();
}

addEventListener("popstate", readUrl);
addEventListener("scroll", () => requestAnimationFrame(drawRows), { passive: true });
addEventListener("resize", () => {
  timeline.drawMinimap();
  draw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
matchMedia("print").addEventListener("change", ({ matches }) => print(matches));
addEventListener("beforeprint", () => print(true));
addEventListener("afterprint", () => print(false));

timeline.drawMinimap();
readUrl();
// Jaeger's parameter for the search in a trace.
find.value = new URLSearchParams(location.search).get("uiFind") ?? "";
if (find.value) {
  findAll();
  if (state.marked.size && !state.isDetailed) goTo([...state.marked][0], { isDetailed: true });
}
