// The table of time by service and operation.

import { operations, page, services, sum } from "./data.js";
import { button, element, svgElement } from "./dom.js";
import { duration } from "../units.js";

const FIRST_ROWS = 5; // shown before the table is expanded

const body = document.querySelector("#operations tbody");
const headings = document.querySelectorAll("#operations th[data-by]");
const more = document.getElementById("more-operations");

const VALUES = {
  service: (operation) => services[operation.service].name,
  name: (operation) => operation.name,
  count: (operation) => operation.count,
  self: (operation) => operation.selfTime,
  critical: (operation) => operation.criticalTime,
  errors: (operation) => operation.errors,
};

// All of it belongs to some span, so that the shares add up to 100 %.
const criticalTime = sum(operations.flatMap((operation) => [0, operation.criticalTime]));

const order = { by: "critical", descending: true };
let isExpanded = false;
let drawn = ""; // what the table shows

function compare(one, other) {
  const [left, right] = [VALUES[order.by](one), VALUES[order.by](other)];
  const difference = typeof left === "string" ? left.localeCompare(right) : left - right;
  return order.descending ? -difference : difference;
}

export function draw({ operation, printing }) {
  const wanted = JSON.stringify([order, isExpanded, operation, printing]);
  if (wanted === drawn) return;
  drawn = wanted;
  const numbers = operations.map((_, number) => number);
  numbers.sort((one, other) => compare(operations[one], operations[other]));
  const shown = isExpanded || printing ? numbers : numbers.slice(0, FIRST_ROWS);
  const focused = document.activeElement?.dataset.operation;
  body.replaceChildren(...shown.map((number) => rowOf(number, number === operation)));
  body.querySelector(`[data-operation="${focused}"]`)?.focus();
  for (const heading of headings) {
    const isChosen = heading.dataset.by === order.by;
    heading.setAttribute("aria-sort", isChosen ? (order.descending ? "descending" : "ascending") : "none");
  }
  more.hidden = numbers.length <= FIRST_ROWS;
  more.textContent = isExpanded ? `Show ${FIRST_ROWS} only` : `Show all ${numbers.length.toLocaleString()}`;
  more.setAttribute("aria-expanded", isExpanded);
}

function rowOf(number, isChosen) {
  const operation = operations[number];
  const service = services[operation.service];
  const share = criticalTime ? operation.criticalTime / criticalTime : 0;
  const name = button(operation.name || "(no name)", () => {}, "operation");
  name.dataset.operation = number;
  name.title = `${service.name}: ${operation.name}`;
  name.setAttribute("aria-pressed", isChosen);
  const row = element(
    "tr",
    `s${service.colour}`,
    element("td", "", element("span", "service", service.name)),
    element("td", "", name),
    element("td", "number", operation.count.toLocaleString()),
    element("td", "number", duration(operation.selfTime)),
    element("td", "number share", shareBar(share), element("span", "", `${(100 * share).toFixed(1)} %`)),
    element("td", operation.errors ? "number error" : "number", operation.errors.toLocaleString()),
  );
  row.classList.toggle("match", isChosen);
  row.dataset.row = number;
  return row;
}

function shareBar(share) {
  const svg = svgElement("svg", { width: 60, height: 8, "aria-hidden": "true" });
  svg.append(svgElement("rect", { width: 60 * share, height: 8 }));
  return svg;
}

// `redraw` draws the table again; `step` goes to the next span of an operation.
export function listen(redraw, step) {
  for (const heading of headings) {
    heading.querySelector("button").addEventListener("click", () => {
      const { by } = heading.dataset;
      const isText = by === "service" || by === "name";
      order.descending = order.by === by ? !order.descending : !isText;
      order.by = by;
      redraw();
    });
  }
  more.addEventListener("click", () => {
    isExpanded = !isExpanded;
    redraw();
  });
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) step(Number(row.dataset.row));
  });
}
