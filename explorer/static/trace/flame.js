// The flame graph: time from left to right, the levels of the tree from top to bottom.
//
// Spans of one level that overlap in time get lanes of their own, so that none covers another. Only the visible lanes
// are drawn, on a canvas of the window's size.

import { duration, endOf, label, nameOf, page, serviceOf, spans } from "./data.js";
import { coloursOf, prepared } from "./timeline.js";
import * as tree from "./tree.js";

const area = document.getElementById("flame");
const canvas = area.querySelector("canvas");
const note = document.getElementById("flame-note");

const LANE = 20; // pixels
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
  const firstLane = Math.floor(hidden / LANE);
  const lastLane = Math.min(Math.ceil((hidden + innerHeight) / LANE), lanes.length);
  const width = area.clientWidth;
  canvas.style.top = `${firstLane * LANE}px`;
  canvas.style.height = `${(lastLane - firstLane) * LANE}px`;
  const context = prepared(canvas, width, (lastLane - firstLane) * LANE);
  const style = getComputedStyle(area);
  const colours = coloursOf(area);
  const paint = (name) => style.getPropertyValue(name).trim();
  const [text, error, match, accent] = ["--text", "--error", "--match", "--accent"].map(paint);
  context.font = `12px ${style.fontFamily}`;
  context.textBaseline = "middle";
  const scale = width / (state.to - state.from || 1);

  for (let lane = firstLane; lane < lastLane; lane++) {
    const top = (lane - firstLane) * LANE;
    let drawnTo = -1;
    for (const number of lanes[lane]) {
      const left = (spans[number].start - state.from) * scale;
      const right = (endOf(number) - state.from) * scale;
      const isChosen = number === tree.firstSpan(state.current);
      // Spans that end within a pixel that is drawn already are not drawn again.
      if (right < 0 || left > width || (right < drawnTo && !isChosen)) continue;
      drawnTo = Math.ceil(Math.max(right, left + 1));
      const x = Math.max(left, -2);
      const box = Math.max(Math.min(right, width + 2) - x - 1, 1);
      context.globalAlpha = 1;
      if (state.marked.has(number)) {
        context.fillStyle = match;
        context.fillRect(x, top, box, LANE - 1);
      }
      context.fillStyle = colours[serviceOf(number).colour];
      context.globalAlpha = box < 3 ? 1 : 0.4;
      context.fillRect(x, top + 1, box, LANE - 2);
      context.globalAlpha = 1;
      context.fillRect(x, top + 1, box, 3);
      if (spans[number].failed) {
        context.fillStyle = error;
        context.fillRect(x, top + LANE - 5, box, 4);
      }
      if (isChosen) {
        context.strokeStyle = accent;
        context.lineWidth = 2;
        context.strokeRect(x + 1, top + 1, Math.max(box - 2, 1), LANE - 2);
      }
      if (box < MIN_TEXT_PIXELS) continue;
      context.save();
      context.beginPath();
      context.rect(x, top, box - 2, LANE);
      context.clip();
      context.fillStyle = text;
      const start = Math.max(x, 0);
      const mark = spans[number].failed ? "! " : "";
      const name = `${mark}${nameOf(number)} · ${serviceOf(number).name}`;
      context.fillText(name.slice(0, Math.ceil(box / CHARACTER_PIXELS)), start + 4, top + LANE / 2 + 1);
      context.restore();
    }
  }
  describe(tree.firstSpan(state.current));
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
