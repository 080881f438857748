// Draws the rows of the waterfall. Only visible ones are in the document (list virtualisation): there may be 10,000.

import { count, durationRange, label, nameOf, serviceOf, spans } from "./data.js";
import { element, svgElement } from "./dom.js";
import * as tree from "./tree.js";
import { duration } from "../units.js";

const container = document.getElementById("tree");
const ticks = document.getElementById("ticks");

const OVERSCAN_ROWS = 10; // drawn above and below the visible ones
const INDENT_LEVELS = 12; // deeper rows are not indented further
const PRINTED_WIDTH = 600; // pixels of a bar's drawing, which is stretched to the paper's width

// The style sheet sets the height of a row, depending on the width of the window.
function rowHeight() {
  return parseFloat(getComputedStyle(container).getPropertyValue("--row-height"));
}

export function draw(state) {
  const rows = tree.openRows();
  const height = rowHeight();
  container.style.height = `${rows.length * height}px`;
  const top = Math.max(-container.getBoundingClientRect().top, 0);
  const first = state.printing ? 0 : Math.max(Math.floor(top / height) - OVERSCAN_ROWS, 0);
  const last = state.printing ? rows.length : Math.ceil((top + innerHeight) / height) + OVERSCAN_ROWS;
  const width = state.printing ? PRINTED_WIDTH : Math.max(ticks.clientWidth, 1);
  container.replaceChildren(
    ...rows.slice(first, last).map((node, index) => {
      const row = rowOf(node, state, width);
      row.style.top = `${(first + index) * height}px`;
      return row;
    }),
  );
  container.setAttribute("aria-activedescendant", `row-${state.current}`);
}

// The vertical extent of a node's row in the window.
export function extent(node) {
  const height = rowHeight();
  return { top: container.getBoundingClientRect().top + tree.openRows().indexOf(node) * height, height };
}

function rowOf(node, state, width) {
  const isGroup = tree.isGroup(node);
  const span = isGroup ? null : spans[node];
  const number = tree.firstSpan(node);
  const isClosed = tree.hasChildren(node) && !tree.isOpen(node);
  const similar = isGroup ? tree.summary(node) : null;
  const range = isGroup ? durationRange(similar.shortest, similar.longest) : duration(span.duration);
  const times = isGroup ? `${tree.members(node).length.toLocaleString()} × ` : "";
  const errors = isClosed ? tree.countFailed(node) : Number(Boolean(span?.failed));

  const row = element("div", `row s${serviceOf(number).colour}`);
  row.id = `row-${node}`;
  row.dataset.node = node;
  row.setAttribute("role", "treeitem");
  row.setAttribute("aria-level", tree.levelOf(node));
  row.setAttribute("aria-selected", state.isDetailed && node === state.current);
  const problem = errors === 0 ? "" : isClosed ? `, ${count(errors, "error")}` : ", error";
  row.setAttribute("aria-label", `${times}${label(number)}, ${range}${problem}`);
  row.classList.toggle("current", node === state.current);
  row.classList.toggle("match", isClosed || isGroup ? isClosed && state.countMarked(node) > 0 : state.marked.has(node));

  const name = element("span", "name");
  name.style.paddingLeft = `${Math.min(tree.levelOf(node) - 1, INDENT_LEVELS) * 0.9}rem`;
  const toggle = element("span", "toggle", tree.hasChildren(node) ? (isClosed ? "▸" : "▾") : "");
  if (tree.hasChildren(node)) {
    row.setAttribute("aria-expanded", !isClosed);
    toggle.dataset.toggle = node;
  }
  name.append(toggle);
  if (errors) name.append(element("span", "mark", errors > 1 || !span?.failed ? count(errors, "error") : "!"));
  name.append(times, element("b", "", serviceOf(number).name), " ", nameOf(number), isGroup ? `, ${range}` : "");
  const inside = tree.countSpans(node) - 1;
  if (isClosed && !isGroup) name.append(" ", element("i", "", `(${inside.toLocaleString()} more)`));
  name.title = `${times}${label(number)}${isGroup ? `, ${range}` : ""}`;
  row.classList.toggle("similar", isGroup);
  row.append(name, ...(isGroup ? [] : [element("span", "time", range)]), barOf(span, similar, state, width));
  return row;
}

function barOf(span, similar, { from, to }, width) {
  const { all, own, critical } = similar ?? {
    all: [span.start, span.start + span.duration],
    own: span.own,
    critical: span.critical,
  };
  const scale = { from, perNano: width / (to - from || 1), width };
  const svg = svgElement("svg", { viewBox: `0 0 ${width} 16`, preserveAspectRatio: "none" });
  svg.append(
    svgElement("path", { class: "all", d: boxes(all, scale, 2, 12, 2) }),
    svgElement("path", { class: "own", d: boxes(own, scale, 2, 12, 0) }),
    svgElement("path", { class: "critical", d: boxes(critical, scale, 14, 2, 0) }),
  );
  return element("span", "bar", svg);
}

// One path for all intervals: those closer than 0.3 pixels are merged, which keeps the path of 10,000 children short.
function boxes(intervals, { from, perNano, width }, y, height, minWidth) {
  let path = "";
  let begin = 0;
  let end = -1;
  const add = () => {
    if (end < begin) return;
    path += `M${begin.toFixed(1)},${y}h${Math.max(end - begin, minWidth).toFixed(1)}v${height}H${begin.toFixed(1)}z`;
  };
  for (let at = 0; at < intervals.length; at += 2) {
    const left = Math.max((intervals[at] - from) * perNano, 0);
    const right = Math.min((intervals[at + 1] - from) * perNano, width);
    if (right < 0 || left > width) continue;
    if (left - end > 0.3 || end < begin) {
      add();
      begin = left;
    }
    end = right;
  }
  add();
  return path;
}
