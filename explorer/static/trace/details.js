// The panel with the details of a span, or of a group of similar spans.

import { count, nameOf, page, serviceOf, spans, sum } from "./data.js";
import { button, element, link } from "./dom.js";
import * as tree from "./tree.js";
import { colour } from "../sql/highlight.js";
import { duration } from "../units.js";

const panel = document.getElementById("details");
const { traceId, upstream, downstream, earlier, sql } = panel.dataset;

const VALUE_CHARACTERS = 300; // shown of a value before it is expanded
const URL_CHARACTERS = 2_000; // a link that would be longer is left out, as in explorer/links.py
const CUT_CHARACTERS = 500; // names are cut to this length, and then cannot be searched for
const AROUND_MICROS = 30n * 60n * 1_000_000n; // searched before and after a span
const EARLIER_DELAY = 250; // milliseconds that a span is shown before the database is asked about it

let shown = -1;
let asking = new AbortController();

export function draw(state, close) {
  panel.hidden = !state.isDetailed;
  const node = state.isDetailed ? state.current : -1;
  if (node === shown) return;
  shown = node;
  asking.abort();
  if (node < 0) return;
  panel.replaceChildren(button("Close", close, "close"), ...(tree.isGroup(node) ? ofGroup(node) : ofSpan(node)));
  panel.scrollTop = 0;
}

function ofGroup(node) {
  const numbers = tree.members(node);
  const { shortest, median, longest, own, critical } = tree.summary(node);
  const failed = numbers.filter((number) => spans[number].failed).length;
  return [
    element("h2", "", `${numbers.length.toLocaleString()} × ${nameOf(numbers[0]) || "(no name)"}`),
    table([
      ["service", serviceOf(numbers[0]).name],
      ["spans", numbers.length.toLocaleString()],
      ["errors", failed.toLocaleString()],
      ["shortest", duration(shortest)],
      ["median", duration(median)],
      ["longest", duration(longest)],
      ["self time", duration(sum(own))],
      ["on the critical path", duration(sum(critical))],
    ]),
    element("p", "", "The right arrow key opens the group."),
  ];
}

function ofSpan(number) {
  const span = spans[number];
  const process = page.processes[span.process];
  const facts = [
    ["service", serviceOf(number).name],
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
  const factTable = table(facts);
  if (earlier) compareWithEarlier(number, factTable.rows[2].cells[1]);
  return [
    element("h2", "", nameOf(number) || "(no name)"),
    factTable,
    linksOf(number),
    ...section("Attributes", span.attributes, span.omitted[0], number),
    ...listed("Events", span.events, span.omitted[1], (event) => [
      element("h4", "", `${event.name || "(no name)"}, ${afterStart(event.time)}`),
      table(event.attributes, number),
    ]),
    ...listed("Links", span.links, span.omitted[2], (target) => [
      element("p", "", linkTo(target)),
      table(target.attributes, number),
    ]),
    ...section("Process", process.resource, 0, number),
    ...(process.scope || process.scopeAttributes.length
      ? [element("h3", "", process.scope ? `Scope ${process.scope}` : "Scope"), table(process.scopeAttributes, number)]
      : []),
    ...sqlOf(number),
  ];
}

function linkTo({ trace, span }) {
  return link(`trace ${trace}, span ${span}`, `/trace/${trace}#span=${span}`);
}

function afterStart(nanos) {
  return `${duration(Math.abs(nanos))} ${nanos < 0 ? "before" : "after"} the trace's start`;
}

// Links to other pages ------------------------------------------------------------------------------------------------

// Microseconds since 1970, as PostgreSQL and Jaeger's searches have them.
function startMicros(number) {
  return (BigInt(page.start) + BigInt(spans[number].start)) / 1000n;
}

function timesAround(number) {
  const start = startMicros(number);
  return { start: start > AROUND_MICROS ? start - AROUND_MICROS : 0n, end: start + AROUND_MICROS };
}

function search(fields, number) {
  return `/search?${new URLSearchParams({ ...fields, lookback: "custom", ...timesAround(number) })}`;
}

function dashboard(url, number) {
  const { start, end } = timesAround(number);
  const [service, operation] = [serviceOf(number).name, nameOf(number)];
  const parameters = { "var-service": service, "var-operation": operation, from: start / 1000n, to: end / 1000n };
  return `${url}?${new URLSearchParams(parameters)}`;
}

function linksOf(number) {
  const [service, operation] = [serviceOf(number).name, nameOf(number)];
  const links = [
    ["Similar traces", search({ service, operation }, number), "within half an hour of this span"],
    ["Upstream operations", dashboard(upstream, number), "what leads to this operation"],
    ["Downstream operations", dashboard(downstream, number), "what this operation leads to"],
  ];
  const list = element("p", "links");
  // Without a name, a search and a dashboard would be about all operations or another one.
  const isComplete = operation && Math.max(operation.length, service.length) < CUT_CHARACTERS;
  for (const [text, href, title] of isComplete ? links : []) {
    if (href.length > URL_CHARACTERS) continue;
    const target = link(text, href);
    target.title = title;
    list.append(target, " ");
  }
  return list;
}

function sqlOf(number) {
  const id = BigInt.asIntN(64, BigInt(`0x${spans[number].id}`));
  const uuid = traceId.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
  const code = element("code", "", `select *\nfrom span\nwhere trace_id = '${uuid}' and span_id = ${id};`);
  const copy = button("Copy", async () => {
    getSelection().selectAllChildren(code);
    // Browsers allow it to pages of this machine or of https only; for others, the text is selected.
    await navigator.clipboard?.writeText(code.textContent);
    copy.textContent = navigator.clipboard ? "Copied" : "Selected";
  });
  colour(code);
  const page = link("Open in SQL", `${sql}?${new URLSearchParams({ sql: code.textContent })}`);
  return [element("h3", "", "SQL "), element("pre", "", code), element("p", "statement", copy, " ", page)];
}

// "slower than 97 % of 1,234 calls": the comparison with the operation's calls in the hour before the span.
async function compareWithEarlier(number, cell) {
  asking = new AbortController();
  const { signal } = asking;
  try {
    await new Promise((resolve) => setTimeout(resolve, EARLIER_DELAY));
    signal.throwIfAborted();
    const response = await fetch(`${earlier}?span=${spans[number].id}&start=${startMicros(number)}`, { signal });
    if (!response.ok) return;
    const { calls, faster } = await response.json();
    const share = Math.floor((100 * faster) / calls);
    const of = `of ${count(calls, "call")} of this operation in the hour before`;
    const text = calls ? `, slower than ${share} % ${of}` : ", no other call of this operation in the hour before";
    cell.append(element("span", "earlier", text));
  } catch (error) {
    if (error.name !== "AbortError" && !(error instanceof TypeError)) throw error; // the page works without it
  }
}

// Attributes ----------------------------------------------------------------------------------------------------------

function section(title, attributes, omitted, number) {
  if (!attributes.length) return [];
  return [element("h3", "", title), table(attributes, number), ...more(omitted)];
}

function listed(title, items, omitted, content) {
  return items.length ? [element("h3", "", title), ...items.flatMap(content), ...more(omitted)] : [];
}

function more(omitted) {
  return omitted ? [element("p", "", `and ${omitted} more, in `, jsonLink())] : [];
}

function jsonLink() {
  return link("the trace's JSON", `/api/traces/${traceId}`);
}

// With the number of a span, values link to a search of this attribute around the span's time.
function table(attributes, number = -1) {
  const body = element("tbody", "");
  for (const [key, value, length = value.length] of attributes) {
    const heading = element("th", "", key);
    heading.scope = "row";
    const href = number < 0 || length > value.length ? "" : searchOf(key, value, number);
    body.append(element("tr", "", heading, valueCell(value, length, href)));
  }
  return element("table", "attributes", body);
}

// The store searches texts, numbers and truth values, not lists and objects. Nobody searches for a whole stack trace.
function searchOf(key, value, number) {
  const href = search({ tags: JSON.stringify({ [key]: value }) }, number);
  const isSearchable = value && value.length <= VALUE_CHARACTERS && !/^[[{]|\n/.test(value);
  return isSearchable && key.length < CUT_CHARACTERS && href.length <= URL_CHARACTERS ? href : "";
}

function valueCell(value, length, href) {
  const begin = value.slice(0, VALUE_CHARACTERS);
  const text = href ? link(begin, href) : element("span", "", begin);
  if (href) text.title = "Traces with this attribute, within half an hour of this span";
  const cell = element("td", "", text);
  if (value.length > VALUE_CHARACTERS) {
    const expand = button(`show all ${length.toLocaleString()} characters`, () => {
      text.textContent = value;
      expand.remove();
      if (length > value.length) {
        const some = `the first ${value.length.toLocaleString()} of ${length.toLocaleString()} characters`;
        cell.append(element("em", "", `… ${some}; all are in `, jsonLink()));
      }
    });
    text.append("… ");
    cell.append(expand);
  } else if (length > value.length) {
    cell.append(element("em", "", "… more in ", jsonLink()));
  }
  return cell;
}
