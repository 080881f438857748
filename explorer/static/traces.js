// The search page: times of one's own in the browser's zone, and the operations of the chosen service.
"use strict";

const form = document.querySelector("form.search");
const lookback = document.getElementById("lookback");
const ownRange = document.getElementById("own-range");
const operation = document.getElementById("operation");

const MINUTE = 60_000;

// A datetime-local input's value is a time of the browser's zone.
function localText(millis) {
  const time = new Date(millis);
  return new Date(millis - time.getTimezoneOffset() * MINUTE).toISOString().slice(0, 19);
}

function chooseRange() {
  const isOwn = lookback.value === "custom";
  ownRange.hidden = !isOwn;
  for (const input of ownRange.querySelectorAll("input")) input.disabled = !isOwn;
}

for (const [id, name, otherwise] of [["from", "start", Date.now() - 60 * MINUTE], ["to", "end", Date.now()]]) {
  const asked = form.elements[name].value;
  document.getElementById(id).value = localText(asked ? asked / 1000 : otherwise);
}
form.addEventListener("submit", () => {
  for (const [id, name] of [["from", "start"], ["to", "end"]]) {
    const text = document.getElementById(id).value;
    form.elements[name].value = text ? new Date(text).getTime() * 1000 : "";
  }
  // What is empty need not be in the URL.
  for (const input of form.elements) input.disabled ||= !input.value;
});
// Back in the browser's history the form is as it was left.
addEventListener("pageshow", () => {
  for (const input of form.elements) input.disabled = false;
  chooseRange();
});
lookback.addEventListener("change", chooseRange);
chooseRange();

document.getElementById("service").addEventListener("change", async (event) => {
  const service = event.target.value;
  operation.length = 1;
  if (!service) return;
  const answer = await (await fetch(`/api/services/${encodeURIComponent(service)}/operations`)).json();
  if (event.target.value === service) operation.append(...(answer.data ?? []).map((name) => new Option(name, name)));
});

for (const text of document.querySelectorAll("text[data-time]")) {
  text.textContent = new Date(Number(text.dataset.time)).toLocaleTimeString();
}
