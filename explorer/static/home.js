// New figures come without a reload, which would take away where one was on the page.
"use strict";

const cards = document.querySelector(".cards");

async function refresh() {
  try {
    const answer = await fetch("/");
    if (!answer.ok) throw new Error(answer.statusText);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelectorAll(".figure");
    for (const [number, figure] of cards.querySelectorAll(".figure").entries()) {
      figure.replaceChildren(...fresh[number].childNodes);
    }
    cards.classList.remove("stale");
  } catch {
    cards.classList.add("stale");
  }
}

setInterval(() => document.hidden || refresh(), 30_000);
