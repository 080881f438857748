// The SQL page: what is put into the editor.

import { editor } from "./editor.js";

// Only execCommand leaves it to the browser's undo.
function insert(text) {
  editor.focus();
  document.execCommand("insertText", false, text);
}

document.querySelector(".aids").addEventListener("click", ({ target }) => {
  const { name, sql } = target.closest("button")?.dataset ?? {};
  if (sql) {
    editor.select();
    insert(sql);
    editor.scrollIntoView({ block: "nearest" });
  } else if (name) {
    insert(name);
  }
});

// In a wide window, the aids are beside the editor.
const isWide = matchMedia("(min-width: 1000px)").matches;
for (const details of document.querySelectorAll(".aids > details")) details.open = isWide;
