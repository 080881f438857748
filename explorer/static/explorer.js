// Shows times in the browser's time zone.

import { clock } from "./units.js";

const UNITS = [["day", 86_400_000], ["hour", 3_600_000], ["minute", 60_000], ["second", 1000]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

export function showTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const time = new Date(element.dateTime);
    const untilThen = time - Date.now();
    const [unit, size] = UNITS.find(([, size]) => Math.abs(untilThen) >= size) ?? UNITS.at(-1);
    element.textContent = "relative" in element.dataset
      ? relative.format(Math.round(untilThen / size), unit)
      : clock(time);
    element.title = element.dateTime;
  }
}
showTimes(document);
