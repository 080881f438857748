// The form of a search: a custom range in the browser's time zone, and the operations of the chosen service.

const form = document.querySelector("form.search");
const lookback = document.getElementById("lookback");
const customRange = document.getElementById("custom-range");
const operation = document.getElementById("operation");

const MINUTE = 60_000;
const TIMES = [["from", "start"], ["to", "end"]]; // each input, and the parameter that it sets

// What the form has for the page's URL.
const operations = [...operation.options];
const urlTimes = TIMES.map(([, name]) => form.elements[name].value);
let omitted = [];

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

function showUrl() {
  for (const input of omitted) input.disabled = false;
  omitted = [];
  operation.replaceChildren(...operations);
  form.reset();
  TIMES.forEach(([id, name], index) => {
    form.elements[name].value = urlTimes[index];
    const initial = Date.now() - (id === "from" ? 60 * MINUTE : 0);
    document.getElementById(id).value = localText(urlTimes[index] ? urlTimes[index] / 1000 : initial);
  });
  chooseRange();
}

form.addEventListener("submit", () => {
  for (const [id, name] of TIMES) {
    const text = document.getElementById(id).value;
    form.elements[name].value = text ? new Date(text).getTime() * 1000 : "";
  }
  // Keep empty parameters out of the URL.
  omitted = [...form.elements].filter((input) => !input.disabled && !input.value && input.name);
  for (const input of omitted) input.disabled = true;
});
// Browsers restore what was typed into a page that is shown again.
addEventListener("pageshow", showUrl);
lookback.addEventListener("change", chooseRange);
showUrl();

document.getElementById("service").addEventListener("change", async (event) => {
  const service = event.target.value;
  operation.length = 1;
  if (!service) return;
  const response = await (await fetch(`/api/services/${encodeURIComponent(service)}/operations`)).json();
  if (event.target.value === service) operation.append(...(response.data ?? []).map((name) => new Option(name, name)));
});
