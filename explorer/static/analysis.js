// The pages of explorer/analysis_pages.py: loads the answer, and enlarges frames of the flame graph.

import { colourAll } from "./sql/highlight.js";

const answer = document.getElementById("answer");

async function load() {
  try {
    const url = new URL(answer.dataset.source, location);
    url.searchParams.set("zone", Intl.DateTimeFormat().resolvedOptions().timeZone);
    const response = await fetch(url);
    const text = await response.text();
    const isFragment = text.trimStart().startsWith("<") && !text.includes("<!doctype");
    if (!isFragment) throw new Error(new DOMParser().parseFromString(text, "text/html").querySelector("main").innerText);
    answer.innerHTML = text;
    prepareFlame();
    colourAll(answer);
  } catch (error) {
    const problem = document.createElement("p");
    problem.className = "empty";
    problem.role = "alert";
    problem.textContent = `Could not load the answer. ${error.message}`;
    answer.replaceChildren(problem);
  }
}

function prepareFlame() {
  const frames = [...answer.querySelectorAll(".frame")];
  const whole = document.getElementById("whole");
  function zoom(left, share) {
    for (const frame of frames) {
      const begin = Math.max((frame.dataset.left - left) / share, 0);
      const end = Math.min((Number(frame.dataset.left) + Number(frame.dataset.share) - left) / share, 1);
      frame.setAttribute("x", `${100 * begin}%`);
      frame.setAttribute("width", `${100 * Math.max(end - begin, 0)}%`);
    }
    whole.hidden = share === 1;
  }
  for (const frame of frames) {
    frame.addEventListener("click", () => zoom(Number(frame.dataset.left), Number(frame.dataset.share)));
  }
  whole?.addEventListener("click", () => zoom(0, 1));
}

load();
