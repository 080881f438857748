// Durations and times, written as by explorer/web.py.

const UNITS = [["s", 1e9], ["ms", 1e6], ["µs", 1e3], ["ns", 1]];

// The largest unit of which the time has at least one, after it is rounded to three digits.
export function unitOf(nanos) {
  return UNITS.find(([, size]) => nanos >= 0.9995 * size) ?? UNITS.at(-1);
}

// Three digits and a unit.
export function duration(nanos) {
  if (!nanos) return "0";
  const [unit, size] = unitOf(nanos);
  return `${Number((nanos / size).toPrecision(3)).toLocaleString("en")} ${unit}`;
}

// A time to the second, in a time zone or in the browser's. Sweden's notation is that of ISO 8601.
export const clock = (time, zone = undefined) => time.toLocaleString("sv", { timeZone: zone });
