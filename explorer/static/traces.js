// The search page: a custom range in the browser's time zone, and the operations of the chosen service.

const form = document.querySelector("form.search");
const lookback = document.getElementById("lookback");
const customRange = document.getElementById("custom-range");
const operation = document.getElementById("operation");

const MINUTE = 60_000;

// The value of a datetime-local input is in the browser's time zone.
function localText(millis) {
  const time = new Date(millis);
  return new Date(millis - time.getTimezoneOffset() * MINUTE).toISOString().slice(0, 19);
}

function chooseRange() {
  const isCustom = lookback.value === "custom";
  customRange.hidden = !isCustom;
  for (const input of customRange.querySelectorAll("input")) input.disabled = !isCustom;
}

for (const [id, name, initial] of [["from", "start", Date.now() - 60 * MINUTE], ["to", "end", Date.now()]]) {
  const micros = form.elements[name].value;
  document.getElementById(id).value = localText(micros ? micros / 1000 : initial);
}
form.addEventListener("submit", () => {
  for (const [id, name] of [["from", "start"], ["to", "end"]]) {
    const text = document.getElementById(id).value;
    form.elements[name].value = text ? new Date(text).getTime() * 1000 : "";
  }
  // Keep empty parameters out of the URL.
  for (const input of form.elements) input.disabled ||= !input.value;
});
// A page from the back/forward cache still has the inputs disabled that were empty when it was left.
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
  const response = await (await fetch(`/api/services/${encodeURIComponent(service)}/operations`)).json();
  if (event.target.value === service) operation.append(...(response.data ?? []).map((name) => new Option(name, name)));
});

for (const text of document.querySelectorAll("text[data-time]")) {
  text.textContent = new Date(Number(text.dataset.time)).toLocaleTimeString();
}
