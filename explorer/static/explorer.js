// Shows times in the browser's time zone. Has what the scripts of several pages need.
"use strict";

// Three digits and a unit, as explorer.web.duration.
function duration(nanos) {
  if (!nanos) return "0";
  const [unit, size] = nanos >= 1e9 ? ["s", 1e9] : nanos >= 1e6 ? ["ms", 1e6] : nanos >= 1e3 ? ["µs", 1e3] : ["ns", 1];
  return `${Number((nanos / size).toPrecision(3)).toLocaleString("en")} ${unit}`;
}

const UNITS = [["day", 86_400_000], ["hour", 3_600_000], ["minute", 60_000], ["second", 1000]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

for (const element of document.querySelectorAll("time[datetime]")) {
  const time = new Date(element.dateTime);
  const untilThen = time - Date.now();
  const [unit, size] = UNITS.find(([, size]) => Math.abs(untilThen) >= size) ?? UNITS.at(-1);
  element.textContent = "relative" in element.dataset
    ? relative.format(Math.round(untilThen / size), unit)
    : time.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  element.title = element.dateTime;
}
