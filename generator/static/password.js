// Shows the picture of the trace as soon as its spans are stored, which they are in several batches.

const DELAYS = [1, 1, 2, 2, 4, 4, 8, 8]; // seconds from one try to the next
const picture = document.getElementById("waterfall");
const scheme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
const note = document.getElementById("note");

async function load(attempt) {
  const fresh = new Image();
  fresh.src = `${picture.dataset.source}?scheme=${scheme}&attempt=${attempt}`;
  try {
    await fresh.decode();
    picture.src = fresh.src;
    picture.hidden = false;
    note.textContent = "";
  } catch {
    if (attempt === DELAYS.length) note.textContent = "Its spans are not stored yet: reload this page later.";
  }
  if (attempt < DELAYS.length) setTimeout(load, DELAYS[attempt] * 1000, attempt + 1);
}

load(0);
