// The data of the page, as explorer/waterfall.py describes it.

import { duration, unitOf } from "../units.js";

export const page = JSON.parse(document.getElementById("trace").textContent);
export const { spans, operations, services } = page;

// "12 to 50 ms".
export function durationRange(shortest, longest) {
  const [from, to] = [duration(shortest), duration(longest)];
  if (from === to) return to;
  const unit = ` ${unitOf(longest)[0]}`;
  return `${from.endsWith(unit) ? from.slice(0, -unit.length) : from} to ${to}`;
}

export function count(amount, noun, plural = `${noun}s`) {
  return `${amount.toLocaleString()} ${amount === 1 ? noun : plural}`;
}

export function serviceOf(number) {
  return services[operations[spans[number].operation].service];
}

export function nameOf(number) {
  return operations[spans[number].operation].name;
}

export function label(number) {
  return `${serviceOf(number).name}: ${nameOf(number)}`;
}

export function endOf(number) {
  return spans[number].start + spans[number].duration;
}

// The length of intervals: start, end, start, end, ...
export function sum(intervals) {
  let total = 0;
  for (let at = 0; at < intervals.length; at += 2) total += intervals[at + 1] - intervals[at];
  return total;
}

// The key of each span in the page's URL. Spans can share an id: later ones have their number behind it.
export const keys = [];
export const numberOf = new Map();
{
  const seen = new Map();
  spans.forEach(({ id }, number) => {
    seen.set(id, (seen.get(id) ?? 0) + 1);
    keys.push(seen.get(id) === 1 ? id : `${id}.${seen.get(id)}`);
    numberOf.set(keys[number], number);
  });
}
