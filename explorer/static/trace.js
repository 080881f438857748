// The waterfall of one trace. Only visible rows are in the document (list virtualisation), which 10,000 spans need.
"use strict";

const page = JSON.parse(document.getElementById("trace").textContent);
const spans = page.spans;
const tree = document.getElementById("tree");
const details = document.getElementById("details");
const find = document.getElementById("find");
const matchCount = document.getElementById("matches");
const traceId = location.pathname.split("/").pop();

const VALUE_CHARACTERS = 300; // shown of a value before it is expanded
const OVERSCAN_ROWS = 10; // drawn above and below the visible ones
const INDENT_LEVELS = 12; // deeper spans are not indented further

// For each span, the number of the first span after its subtree, and the number of its parent, or -1.
const endOf = new Array(spans.length);
const parentOf = new Array(spans.length).fill(-1);
{
  const open = [];
  spans.forEach((span, number) => {
    while (open.length && spans[open.at(-1)].depth >= span.depth) endOf[open.pop()] = number;
    if (open.length) parentOf[number] = open.at(-1);
    open.push(number);
  });
  while (open.length) endOf[open.pop()] = spans.length;
}

let rows = []; // numbers of the spans outside of collapsed subtrees
let current = 0; // number of the span that has the keyboard's focus
let shown = -1; // number of the span in the details, or -1
let matches = new Set();
const collapsed = new Set();

function element(name, className, ...content) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...content);
  return node;
}

// Rows ----------------------------------------------------------------------------------------------------------------

function layOut() {
  rows = [];
  for (let number = 0; number < spans.length; number = collapsed.has(number) ? endOf[number] : number + 1) {
    rows.push(number);
  }
  draw();
}

function draw() {
  // The style sheet sets the height of a row, depending on the width of the window.
  const height = parseFloat(getComputedStyle(tree).getPropertyValue("--row-height"));
  tree.style.height = `${rows.length * height}px`;
  const top = Math.max(-tree.getBoundingClientRect().top, 0);
  const first = Math.max(Math.floor(top / height) - OVERSCAN_ROWS, 0);
  const last = Math.min(Math.ceil((top + innerHeight) / height) + OVERSCAN_ROWS, rows.length);
  const width = barWidth();
  const visible = [];
  for (let row = first; row < last; row++) {
    const drawn = rowOf(rows[row], width);
    drawn.style.top = `${row * height}px`;
    visible.push(drawn);
  }
  tree.replaceChildren(...visible);
  tree.setAttribute("aria-activedescendant", `span-${current}`);
}

function barWidth() {
  return Math.max(document.getElementById("ticks").clientWidth, 1);
}

function rowOf(number, width) {
  const span = spans[number];
  const process = page.processes[span.process];
  const isParent = endOf[number] > number + 1;
  const row = element("div", `row s${process.colour}`);
  row.id = `span-${number}`;
  row.dataset.span = number;
  row.setAttribute("role", "treeitem");
  row.setAttribute("aria-level", span.depth + 1);
  row.setAttribute("aria-selected", number === shown);
  row.setAttribute(
    "aria-label",
    `${process.service}: ${span.name}, ${duration(span.duration)}${span.failed ? ", error" : ""}`,
  );
  row.classList.toggle("current", number === current);
  row.classList.toggle("match", matches.has(number));
  row.classList.toggle("failed", span.failed);

  const name = element("span", "name");
  name.style.paddingLeft = `${Math.min(span.depth, INDENT_LEVELS) * 0.9}rem`;
  const toggle = element("span", "toggle", isParent ? (collapsed.has(number) ? "▸" : "▾") : "");
  if (isParent) {
    row.setAttribute("aria-expanded", !collapsed.has(number));
    toggle.dataset.toggle = number;
  }
  name.append(toggle);
  if (span.failed) name.append(element("span", "mark", "!"));
  name.append(element("b", "", process.service), " ", span.name);
  if (collapsed.has(number)) name.append(element("i", "", ` (${endOf[number] - number - 1} more)`));
  name.title = `${process.service}: ${span.name}`;
  row.append(name, element("span", "time", duration(span.duration)), bar(span, width));
  return row;
}

function bar(span, width) {
  const scale = width / (page.duration || 1);
  const svg = svgElement("svg", { width, height: 16 });
  svg.append(
    svgElement("path", { class: "all", d: boxes([span.start, span.start + span.duration], scale, 2, 12, 2) }),
    svgElement("path", { class: "own", d: boxes(span.own, scale, 2, 12, 0) }),
    svgElement("path", { class: "critical", d: boxes(span.critical, scale, 14, 2, 0) }),
  );
  return element("span", "bar", svg);
}

// One path for all intervals: those closer than 0.3 pixels are merged, which keeps the path of 10,000 children short.
function boxes(intervals, scale, y, height, minWidth) {
  let path = "";
  let from = 0;
  let to = -1;
  const add = () => {
    if (to >= from) {
      path += `M${from.toFixed(1)},${y}h${Math.max(to - from, minWidth).toFixed(1)}v${height}H${from.toFixed(1)}z`;
    }
  };
  for (let at = 0; at < intervals.length; at += 2) {
    const [left, right] = [intervals[at] * scale, intervals[at + 1] * scale];
    if (left - to > 0.3 || to < from) {
      add();
      from = left;
    }
    to = right;
  }
  add();
  return path;
}

function svgElement(name, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function drawTicks() {
  const count = barWidth() < 350 ? 2 : 4;
  document.getElementById("ticks").replaceChildren(
    ...Array.from({ length: count + 1 }, (_, tick) => element("span", "", duration((page.duration * tick) / count))),
  );
}

// Keyboard, collapsing, search -----------------------------------------------------------------------------------------

function moveTo(number) {
  for (let ancestor = parentOf[number]; ancestor >= 0; ancestor = parentOf[ancestor]) collapsed.delete(ancestor);
  current = number;
  layOut();
  const height = parseFloat(getComputedStyle(tree).getPropertyValue("--row-height"));
  const top = tree.getBoundingClientRect().top + rows.indexOf(number) * height;
  const covered = details.hidden || innerWidth >= 1000 ? 0 : details.offsetHeight;
  if (top < 2 * height || top > innerHeight - covered - 2 * height) {
    scrollBy(0, top - (innerHeight - covered) / 2);
    draw();
  }
}

function toggle(number, collapse = !collapsed.has(number)) {
  if (endOf[number] === number + 1) return;
  if (collapse) {
    collapsed.add(number);
    if (current > number && current < endOf[number]) current = number;
  } else {
    collapsed.delete(number);
  }
  layOut();
}

function onKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const row = rows.indexOf(current);
  const isOpen = endOf[current] > current + 1 && !collapsed.has(current);
  const actions = {
    ArrowDown: () => moveTo(rows[Math.min(row + 1, rows.length - 1)]),
    ArrowUp: () => moveTo(rows[Math.max(row - 1, 0)]),
    Home: () => moveTo(0),
    End: () => moveTo(rows.at(-1)),
    ArrowRight: () => (isOpen ? moveTo(current + 1) : toggle(current, false)),
    ArrowLeft: () => (isOpen ? toggle(current, true) : moveTo(Math.max(parentOf[current], 0))),
    Enter: () => show(current),
    " ": () => show(current),
    Escape: hide,
  };
  if (actions[event.key]) {
    event.preventDefault();
    actions[event.key]();
  }
}

function textOf(span) {
  const process = page.processes[span.process];
  const parts = [span.id, span.name, process.service, span.kind, span.status, span.message[0]];
  const values = [...span.attributes, ...process.resource];
  for (const event of span.events) {
    parts.push(event.name);
    values.push(...event.attributes);
  }
  return [...parts, ...values.map(([key, value]) => `${key}=${value}`)].join("\n").toLowerCase();
}

function findAll() {
  const text = find.value.trim().toLowerCase();
  matches = new Set();
  if (text) spans.forEach((span, number) => textOf(span).includes(text) && matches.add(number));
  matchCount.textContent = text ? `${matches.size} of ${spans.length} spans; press Enter for the next` : "";
  draw();
}

function toNextMatch() {
  const numbers = [...matches];
  if (numbers.length) moveTo(numbers.find((number) => number > current) ?? numbers[0]);
}

// Details of a span ------------------------------------------------------------------------------------------------------------

function show(number) {
  const span = spans[number];
  const process = page.processes[span.process];
  current = shown = number;
  const close = element("button", "close", "Close");
  close.type = "button";
  close.addEventListener("click", hide);
  const facts = [
    ["service", process.service],
    ["start", afterStart(span.start)],
    ["duration", duration(span.duration)],
    ["self time", duration(sum(span.own))],
    ["on the critical path", duration(sum(span.critical))],
    ["kind", span.kind],
    ["status", span.status],
    ["status message", ...span.message],
    ["span id", span.id],
    ["parent's id", span.parent + (span.orphan ? " (not stored)" : "")],
  ].filter(([, value]) => value);
  details.replaceChildren(
    close,
    element("h2", "", span.name || "(no name)"),
    table(facts),
    ...section("Attributes", span.attributes, span.omitted[0]),
    ...listed("Events", span.events, span.omitted[1], (event) => [
      element("h4", "", `${event.name || "(no name)"}, ${afterStart(event.time)}`),
      table(event.attributes),
    ]),
    ...listed("Links", span.links, span.omitted[2], (link) => {
      const to = element("a", "", `trace ${link.trace}, span ${link.span}`);
      to.href = `/trace/${link.trace}?uiFind=${link.span}`;
      return [element("p", "", to), table(link.attributes)];
    }),
    ...section("Process", process.resource, 0),
    ...section(process.scope ? `Scope ${process.scope}` : "Scope", process.scopeAttributes, 0, Boolean(process.scope)),
  );
  details.hidden = false;
  details.scrollTop = 0;
  drawTicks();
  moveTo(number);
}

function hide() {
  details.hidden = true;
  shown = -1;
  drawTicks();
  draw();
  tree.focus({ preventScroll: true });
}

function afterStart(nanos) {
  return `${duration(Math.abs(nanos))} ${nanos < 0 ? "before" : "after"} the trace's start`;
}

function sum(intervals) {
  let total = 0;
  for (let at = 0; at < intervals.length; at += 2) total += intervals[at + 1] - intervals[at];
  return total;
}

function section(title, attributes, omitted, always = false) {
  if (!attributes.length && !always) return [];
  return [element("h3", "", title), table(attributes), ...more(omitted)];
}

function listed(title, items, omitted, content) {
  return items.length ? [element("h3", "", title), ...items.flatMap(content), ...more(omitted)] : [];
}

function more(omitted) {
  return omitted ? [element("p", "", `and ${omitted} more, in `, jsonLink())] : [];
}

function jsonLink() {
  const link = element("a", "", "the trace's JSON");
  link.href = `/api/traces/${traceId}`;
  return link;
}

function table(attributes) {
  const body = element("tbody", "");
  for (const [key, value, length] of attributes) {
    const heading = element("th", "", key);
    heading.scope = "row";
    body.append(element("tr", "", heading, valueCell(value, length ?? value.length)));
  }
  return element("table", "attributes", body);
}

function valueCell(value, length) {
  const text = element("span", "", value.slice(0, VALUE_CHARACTERS));
  const cell = element("td", "", text);
  if (value.length > VALUE_CHARACTERS) {
    const expand = element("button", "", `show all ${length.toLocaleString()} characters`);
    expand.type = "button";
    expand.addEventListener("click", () => {
      text.textContent = value;
      expand.remove();
      if (length > value.length) {
        const [shownLength, fullLength] = [value.length.toLocaleString(), length.toLocaleString()];
        cell.append(element("em", "", `… the first ${shownLength} of ${fullLength} characters; all are in `, jsonLink()));
      }
    });
    text.append("… ");
    cell.append(expand);
  } else if (length > value.length) {
    cell.append(element("em", "", "… more in ", jsonLink()));
  }
  return cell;
}

// ---------------------------------------------------------------------------------------------------------------------

tree.addEventListener("keydown", onKey);
tree.addEventListener("click", (event) => {
  const toggleMark = event.target.closest("[data-toggle]");
  const row = event.target.closest(".row");
  if (toggleMark) toggle(Number(toggleMark.dataset.toggle));
  else if (row) show(Number(row.dataset.span));
});
details.addEventListener("keydown", (event) => event.key === "Escape" && hide());
find.addEventListener("input", findAll);
find.addEventListener("keydown", (event) => event.key === "Enter" && toNextMatch());
document.getElementById("expand").addEventListener("click", () => {
  collapsed.clear();
  layOut();
});
document.getElementById("collapse").addEventListener("click", () => {
  spans.forEach((span, number) => endOf[number] > number + 1 && collapsed.add(number));
  while (parentOf[current] >= 0) current = parentOf[current];
  layOut();
});
addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
addEventListener("resize", () => {
  drawTicks();
  draw();
});

drawTicks();
layOut();
// Jaeger's parameter for the search in a trace. The links to other traces fill in the id of a span.
find.value = new URLSearchParams(location.search).get("uiFind") ?? "";
if (find.value) {
  findAll();
  if (matches.size) show([...matches][0]);
}
