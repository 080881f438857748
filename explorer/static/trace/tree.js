// The rows of the waterfall as a tree of nodes, and which of them are open.
//
// A node is a number: that of a span, or a larger one for a group of similar siblings, which is the parent of its
// members. No access to the document.

import { operations, spans } from "./data.js";

// Siblings of the same service and operation become a group from this number on: one row in place of four shows more of
// the trace, and with fewer siblings each has something to tell.
const MIN_SIMILAR = 4;

const roots = [];
const parents = []; // by node; -1 for a root
const children = spans.map(() => []);
const levels = []; // by node; 1 for a root
const subtreeEnds = []; // by span: the number of the first span after its subtree
const closed = new Set();
let rows = null; // the nodes whose ancestors are all open, from top to bottom

{
  const open = [];
  const close = (number) => (subtreeEnds[open.pop()] = number);
  spans.forEach((span, number) => {
    while (open.length && spans[open.at(-1)].depth >= span.depth) close(number);
    parents[number] = open.at(-1) ?? -1;
    (open.length ? children[open.at(-1)] : roots).push(number);
    open.push(number);
  });
  while (open.length) close(spans.length);

  const families = [roots, ...children.slice()];
  for (const siblings of families) groupSimilar(siblings);
  for (const node of allNodes()) levels[node] = parents[node] < 0 ? 1 : levels[parents[node]] + 1;
}

function groupSimilar(siblings) {
  if (siblings.length < MIN_SIMILAR) return;
  const similar = new Map();
  for (const number of siblings) {
    const { operation } = spans[number];
    if (!similar.has(operation)) similar.set(operation, []);
    similar.get(operation).push(number);
  }
  const nodes = [];
  for (const members of similar.values()) {
    if (members.length < MIN_SIMILAR) {
      nodes.push(...members);
      continue;
    }
    const group = children.push(members) - 1;
    parents[group] = parents[members[0]];
    for (const member of members) parents[member] = group;
    closed.add(group);
    nodes.push(group);
  }
  siblings.splice(0, siblings.length, ...nodes.sort((one, other) => firstSpan(one) - firstSpan(other)));
}

// All nodes, parents before their children.
function allNodes() {
  return visible(() => true);
}

function visible(isOpen) {
  const nodes = [];
  const stack = roots.toReversed();
  while (stack.length) {
    const node = stack.pop();
    nodes.push(node);
    if (isOpen(node)) for (let at = children[node].length - 1; at >= 0; at--) stack.push(children[node][at]);
  }
  return nodes;
}

export function isGroup(node) {
  return node >= spans.length;
}

// The spans that a row stands for: one, or the members of a group.
export function members(node) {
  return isGroup(node) ? children[node] : [node];
}

export function firstSpan(node) {
  return members(node)[0];
}

export function parentOf(node) {
  return parents[node];
}

export function parentSpan(number) {
  const parent = parents[number];
  return parent >= 0 && isGroup(parent) ? parents[parent] : parent;
}

// Child spans, without regard to groups.
export function childSpans(number) {
  return children[number].flatMap(members);
}

export function firstChild(node) {
  return children[node][0];
}

export function levelOf(node) {
  return levels[node];
}

export function hasChildren(node) {
  return children[node].length > 0;
}

export function isOpen(node) {
  return !closed.has(node);
}

export function openRows() {
  rows ??= visible(isOpen);
  return rows;
}

// A function that returns how many of a node's spans, its own and all below it, fulfil the condition.
export function counter(condition) {
  const before = new Uint32Array(spans.length + 1);
  spans.forEach((_, number) => (before[number + 1] = before[number] + Number(condition(number))));
  return (node) => members(node).reduce((sum, number) => sum + before[subtreeEnds[number]] - before[number], 0);
}

export const countSpans = counter(() => true);
export const countFailed = counter((number) => spans[number].failed);

const summaries = new Map();

// What is shown of a group's spans together; `own` and `critical` are intervals of the spans' data.
export function summary(group) {
  if (!summaries.has(group)) summaries.set(group, summarise(children[group].map((number) => spans[number])));
  return summaries.get(group);
}

function summarise(similar) {
  const durations = similar.map((span) => span.duration).sort((one, other) => one - other);
  return {
    shortest: durations[0],
    median: durations[Math.floor((durations.length - 1) / 2)],
    longest: durations.at(-1),
    all: union(similar.map((span) => [span.start, span.start + span.duration])),
    own: union(similar.map((span) => span.own)),
    critical: union(similar.map((span) => span.critical)),
  };
}

// The union of lists of intervals, in order.
function union(lists) {
  const pairs = [];
  for (const list of lists) for (let at = 0; at < list.length; at += 2) pairs.push(list.slice(at, at + 2));
  const merged = [];
  for (const [start, end] of pairs.sort(([one], [other]) => one - other)) {
    if (merged.length && start <= merged.at(-1)) merged[merged.length - 1] = Math.max(merged.at(-1), end);
    else merged.push(start, end);
  }
  return merged;
}

// Opening and closing -------------------------------------------------------------------------------------------------

export function setOpen(node, open) {
  if (!hasChildren(node)) return;
  if (open) closed.delete(node);
  else closed.add(node);
  rows = null;
}

export function reveal(node) {
  for (let ancestor = parents[node]; ancestor >= 0; ancestor = parents[ancestor]) {
    if (closed.delete(ancestor)) rows = null;
  }
}

// The nearest row of a node: itself, or the closed ancestor that hides it.
export function rowOf(node) {
  let row = node;
  for (let ancestor = parents[node]; ancestor >= 0; ancestor = parents[ancestor]) {
    if (closed.has(ancestor)) row = ancestor;
  }
  return row;
}

export function setAllOpen(open) {
  for (const node of allNodes()) setOpen(node, open);
}

// The calls of a service: its spans that have children, and whose parent belongs to another service.
const entries = new Map();
spans.forEach((span, number) => {
  const { service } = operations[span.operation];
  const parent = parentSpan(number);
  if (!hasChildren(number) || (parent >= 0 && operations[spans[parent].operation].service === service)) return;
  if (!entries.has(service)) entries.set(service, []);
  entries.get(service).push(number);
});

export function callsOf(service) {
  return entries.get(service) ?? [];
}

export function setServiceOpen(service, open) {
  for (const number of callsOf(service)) setOpen(number, open);
}

export function isServiceOpen(service) {
  return callsOf(service).some(isOpen);
}
