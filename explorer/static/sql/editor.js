// The editor of a statement, in the form #query, and the order of the result's rows.

import { colour } from "./highlight.js";
import { makeSortable } from "./sorting.js";

const form = document.getElementById("query");
export const editor = document.getElementById("sql");
const mirror = document.querySelector(".editor pre");

// The editor's own text is transparent: the coloured one is below it. The line at its end is as high as others.
const draw = () => colour(mirror, `${editor.value}\n`);
editor.addEventListener("input", draw);
// A page from the back/forward cache has the statement as it was left: show that of the URL, which made the result.
addEventListener("pageshow", ({ persisted }) => {
  if (persisted) form.reset();
  draw();
});
draw();
document.documentElement.classList.add("colours-sql");

// A statement that is too long for a URL is sent in the request's body.
form.addEventListener("submit", () => {
  const length = `${form.action}.json?${new URLSearchParams({ sql: editor.value })}`.length;
  form.method = length > Number(form.dataset.maxUrl) ? "post" : "get";
});
editor.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  form.requestSubmit();
});

const table = document.querySelector(".result table");
if (table) makeSortable(table);
