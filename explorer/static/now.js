// Updates the figures without a reload, so that the rest of the page stays as it is.

const now = document.getElementById("now");

async function refresh() {
  if (document.hidden || now.contains(document.activeElement)) return;
  try {
    const response = await fetch(location.href);
    if (!response.ok) throw new Error(response.statusText);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    now.replaceChildren(...page.getElementById("now").childNodes);
    now.classList.remove("stale");
  } catch {
    now.classList.add("stale");
  }
}

setInterval(refresh, 30_000);
