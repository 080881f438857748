// The flame graph: time from left to right, the levels of the tree from top to bottom.
//
// Spans of one level that overlap in time get lanes of their own, so that none covers another. Only the visible lanes
// are drawn, on a canvas of the window's size.

import { endOf, label, nameOf, page, serviceOf, spans } from "./data.js";
import { colourOf, prepared } from "./timeline.js";
import * as tree from "./tree.js";
import { duration } from "../units.js";

const area = document.getElementById("flame");
const canvas = area.querySelector("canvas");
const note = document.getElementById("flame-note");

const LANE = 20; // pixels
const MIN_PALE_PIXELS = 3; // a narrower span has its full colour
const MIN_TEXT_PIXELS = 30; // the width from which a span has its name in it
const CHARACTER_PIXELS = 5; // less than the width of any usual character
const HIT_PIXELS = 2; // around a span that is narrower than the pointer

const lanes = []; // the spans of each lane by their start
const laneOf = []; // by span
const levels = []; // the spans of each level by their start

{
  spans.forEach((span, number) => (levels[span.depth] ??= []).push(number));
  for (const level of levels) {
    level.sort((one, other) => spans[one].start - spans[other].start);
    const first = lanes.length;
    for (const number of level) {
      let lane = first;
      while (lane < lanes.length && endOf(lanes[lane].at(-1)) > spans[number].start) lane += 1;
      (lanes[lane] ??= []).push(number);
      laneOf[number] = lane;
    }
  }
}

export function draw(state) {
  area.style.height = `${lanes.length * LANE}px`;
  const hidden = Math.max(-area.getBoundingClientRect().top, 0);
  const first = Math.floor(hidden / LANE);
  const last = Math.min(Math.ceil((hidden + innerHeight) / LANE), lanes.length);
  const height = Math.max(last - first, 0) * LANE;
  canvas.style.top = `${first * LANE}px`;
  canvas.style.height = `${height}px`;
  const width = area.clientWidth;
  const context = prepared(canvas, width, height);
  const style = getComputedStyle(area);
  context.font = `12px ${style.fontFamily}`;
  context.textBaseline = "middle";
  const paint = (name) => style.getPropertyValue(`--${name}`).trim();
  const paints = { text: paint("text"), error: paint("error"), match: paint("match"), accent: paint("accent") };
  lanes.slice(first, last).forEach((lane, at) => drawLane(context, lane, at * LANE, width, paints, state));
  describe(tree.firstSpan(state.current));
}

function drawLane(context, lane, top, width, paints, { current, marked, from, to }) {
  const scale = width / (to - from || 1);
  let drawnTo = -1;
  for (const number of lane) {
    const left = (spans[number].start - from) * scale;
    const right = (endOf(number) - from) * scale;
    const isCurrent = number === tree.firstSpan(current);
    const isMarked = marked.has(number);
    const isSpecial = isCurrent || isMarked || spans[number].failed;
    // A span that ends within a pixel that is drawn already is not drawn again, unless something tells it apart.
    if (right < 0 || left > width || (right < drawnTo && !isSpecial)) continue;
    drawnTo = Math.ceil(Math.max(right, left + 1));
    const x = Math.max(left, -2);
    drawSpan(context, number, { x, y: top, width: Math.max(Math.min(right, width + 2) - x - 1, 1) }, paints, isMarked);
    if (isCurrent) outline(context, x, top, Math.max(right - x - 1, 1), paints.accent);
  }
}

function drawSpan(context, number, { x, y, width }, paints, isMarked) {
  const service = serviceOf(number);
  context.fillStyle = isMarked ? paints.match : colourOf(service);
  context.globalAlpha = isMarked || width < MIN_PALE_PIXELS ? 1 : 0.4;
  context.fillRect(x, y + 1, width, LANE - 2);
  context.globalAlpha = 1;
  context.fillStyle = colourOf(service);
  context.fillRect(x, y + 1, width, 3);
  if (spans[number].failed) {
    context.fillStyle = paints.error;
    context.fillRect(x, y + LANE - 5, width, 4);
  }
  if (width < MIN_TEXT_PIXELS) return;
  context.save();
  context.beginPath();
  context.rect(x, y, width - 2, LANE);
  context.clip();
  context.fillStyle = paints.text;
  const text = `${spans[number].failed ? "! " : ""}${nameOf(number)} · ${service.name}`;
  context.fillText(text.slice(0, Math.ceil(width / CHARACTER_PIXELS)), Math.max(x, 0) + 4, y + LANE / 2 + 1);
  context.restore();
}

function outline(context, x, y, width, colour) {
  context.strokeStyle = colour;
  context.lineWidth = 2;
  context.strokeRect(x + 1, y + 1, Math.max(width - 2, 1), LANE - 2);
}

function describe(number) {
  const share = ((100 * spans[number].duration) / (page.duration || 1)).toFixed(1);
  const problem = spans[number].failed ? ", error" : "";
  note.textContent = `${label(number)}, ${duration(spans[number].duration)}, ${share} % of the trace${problem}`;
}

// The vertical extent of a node's lane in the window.
export function extent(node) {
  return { top: area.getBoundingClientRect().top + laneOf[tree.firstSpan(node)] * LANE, height: LANE };
}

function spanAt(event, state) {
  const box = area.getBoundingClientRect();
  const lane = lanes[Math.floor((event.clientY - box.top) / LANE)] ?? [];
  const nanos = (state.to - state.from) / box.width;
  const time = state.from + (event.clientX - box.left) * nanos;
  const distance = (number) => Math.max(spans[number].start - time, time - endOf(number), 0);
  let nearest = -1;
  for (const number of lane) if (nearest < 0 || distance(number) <= distance(nearest)) nearest = number;
  return nearest >= 0 && distance(nearest) <= HIT_PIXELS * nanos ? nearest : -1;
}

// The span to which a key leads from a span; undefined if the key leads nowhere.
export function neighbour(number, key) {
  const level = levels[spans[number].depth];
  const at = level.indexOf(number);
  const parent = tree.parentSpan(number);
  const targets = {
    ArrowUp: parent < 0 ? number : parent,
    ArrowDown: tree.childSpans(number)[0] ?? number,
    ArrowLeft: level[at - 1] ?? number,
    ArrowRight: level[at + 1] ?? number,
    Home: 0,
    End: levels.at(-1)[0],
  };
  return targets[key];
}

// `choose` is called with a span that is clicked; `shown` returns the state.
export function listen(shown, choose) {
  canvas.addEventListener("click", (event) => {
    const number = spanAt(event, shown());
    if (number >= 0) choose(number);
  });
  canvas.addEventListener("pointermove", (event) => {
    const number = spanAt(event, shown());
    canvas.classList.toggle("over", number >= 0);
    canvas.title = number < 0 ? "" : `${label(number)}, ${duration(spans[number].duration)}`;
    describe(number < 0 ? tree.firstSpan(shown().current) : number);
  });
  canvas.addEventListener("pointerleave", () => describe(tree.firstSpan(shown().current)));
}
