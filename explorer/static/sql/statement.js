// The statements of a page: colours them, and copies one.

import { colourAll } from "./highlight.js";

colourAll(document);

document.addEventListener("click", async ({ target }) => {
  const button = target.closest?.(".statement .copy");
  if (!button) return;
  const sql = button.closest(".statement").querySelector("pre");
  getSelection().selectAllChildren(sql);
  // Browsers allow it to pages of this machine or of https only; for others, the text is selected.
  await navigator.clipboard?.writeText(sql.textContent);
  button.textContent = navigator.clipboard ? "Copied" : "Selected";
});
