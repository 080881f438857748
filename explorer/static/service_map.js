// Pan and zoom of the service map, by its viewBox.

const graph = document.querySelector(".map .graph");
const svg = graph?.querySelector("svg");

const STEP = 1.25; // of one zoom
const [MIN_SCALE, MAX_SCALE] = [0.05, 4];
const READABLE = 0.6; // the least scale at first
const PAN = 60; // pixels, by an arrow key
const CLICK = 4; // pixels that the pointer may move in a click

function start() {
  const { width, height } = svg.viewBox.baseVal;
  let scale = 1, x = 0, y = 0; // the upper left corner, in the drawing's pixels

  function show() {
    svg.setAttribute("viewBox", `${x} ${y} ${graph.clientWidth / scale} ${graph.clientHeight / scale}`);
  }

  // The area is as high as the drawing, if the window has room for it.
  const first = Math.min(Math.max(graph.clientWidth / width, READABLE), 1);
  graph.classList.add("zoomable");
  graph.style.maxHeight = `${height * first}px`;

  // Shows all, or with a least scale, the upper part.
  function fit(least = MIN_SCALE) {
    const fitting = Math.min(graph.clientWidth / width, graph.clientHeight / height, 1);
    scale = Math.max(fitting, least);
    x = (width - graph.clientWidth / scale) / 2;
    y = Math.min((height - graph.clientHeight / scale) / 2, 0);
    show();
  }

  // The point at this place of the element stays there.
  function zoom(factor, left = graph.clientWidth / 2, top = graph.clientHeight / 2) {
    const before = scale;
    scale = Math.min(Math.max(scale * factor, MIN_SCALE), MAX_SCALE);
    x += left / before - left / scale;
    y += top / before - top / scale;
    show();
  }

  function pan(right, down) {
    x += right / scale;
    y += down / scale;
    show();
  }

  const keys = {
    "+": () => zoom(STEP), "=": () => zoom(STEP), "-": () => zoom(1 / STEP), "0": () => fit(),
    ArrowLeft: () => pan(-PAN, 0), ArrowRight: () => pan(PAN, 0), ArrowUp: () => pan(0, -PAN), ArrowDown: () => pan(0, PAN),
  };
  graph.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    keys[event.key]();
    event.preventDefault();
  });
  graph.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey && document.activeElement !== graph) return; // scrolls the page
    const place = graph.getBoundingClientRect();
    zoom(STEP ** (-Math.sign(event.deltaY)), event.clientX - place.left, event.clientY - place.top);
    event.preventDefault();
  }, { passive: false });

  // A drag that begins on a link does not follow it.
  function ignoreClick() {
    const ignore = (event) => event.preventDefault();
    addEventListener("click", ignore, { capture: true });
    setTimeout(() => removeEventListener("click", ignore, { capture: true }));
  }

  let drag = null;
  graph.addEventListener("pointerdown", (event) => {
    if (event.button === 0) drag = { x: event.clientX, y: event.clientY, moved: 0 };
  });
  graph.addEventListener("pointermove", (event) => {
    if (!drag) return;
    drag.moved += Math.abs(event.clientX - drag.x) + Math.abs(event.clientY - drag.y);
    if (drag.moved <= CLICK) return;
    if (!graph.hasPointerCapture(event.pointerId)) graph.setPointerCapture(event.pointerId);
    graph.classList.add("dragged");
    pan(drag.x - event.clientX, drag.y - event.clientY);
    [drag.x, drag.y] = [event.clientX, event.clientY];
  });
  for (const name of ["pointerup", "pointercancel"]) {
    addEventListener(name, () => {
      if (drag?.moved > CLICK) ignoreClick();
      drag = null;
      graph.classList.remove("dragged");
    });
  }
  graph.addEventListener("dragstart", (event) => event.preventDefault()); // of a link

  const buttons = document.querySelector(".map .zoom");
  const actions = { in: () => zoom(STEP), out: () => zoom(1 / STEP), fit: () => fit() };
  buttons.addEventListener("click", (event) => actions[event.target.dataset.zoom]?.());
  buttons.hidden = false;
  new ResizeObserver(show).observe(graph);
  fit(READABLE);
}

if (svg) start();
