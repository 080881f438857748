// Updates the figures without a reload, so that focus and scroll position stay.

const cards = document.querySelector(".cards");

async function refresh() {
  try {
    const response = await fetch("/");
    if (!response.ok) throw new Error(response.statusText);
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html").querySelectorAll(".figure");
    for (const [number, figure] of cards.querySelectorAll(".figure").entries()) {
      figure.replaceChildren(...fresh[number].childNodes);
    }
    cards.classList.remove("stale");
  } catch {
    cards.classList.add("stale");
  }
}

setInterval(() => document.hidden || refresh(), 30_000);
