// The state of the page, and the elements that several parts use.

const $ = (selector) => document.querySelector(selector);
const canvas = $("#canvas"), overview = $("#overview");

// The width of the column of lane names.
const NAMES_WIDTH = 124;

const state = {
  data: null,
  lanes: [],
  height: 0,
  // The times in view.
  view: [0, 1],
  // The item whose details are pinned, as hit() returns it.
  pinned: null,
  // The number of the only key that is highlighted, or -1.
  keyFilter: -1,
  // The operations of the counterexample that is shown.
  marked: new Set(),
  colors: {},
};

const scale = () => timeScale(state.view, NAMES_WIDTH, canvas.clientWidth - NAMES_WIDTH);
const setStatus = (text) => { $("output[name=status]").textContent = text; };

// Reads the colours of the style sheet, which depend on the colour scheme.
function readColors() {
  const style = getComputedStyle(document.documentElement);
  const names = ["paper", "ink", "soft", "faint", "accent", "invalid", "fault", ...OUTCOMES,
    "pending", "waiting", "done", "aborted", "io", "down", "neutral"];
  for (const name of names) state.colors[name] = style.getPropertyValue("--" + name).trim();
  state.colors.hatch = hatch(state.colors.down);
}

function hatch(color) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 6;
  const g = tile.getContext("2d");
  g.strokeStyle = color;
  g.globalAlpha = 0.75;
  g.beginPath();
  for (const d of [-6, 0, 6]) { g.moveTo(d, 6); g.lineTo(d + 6, 0); }
  g.stroke();
  return tile;
}

// Sizes a canvas for the resolution of the screen and clears it. Returns its context and its width.
function prepareCanvas(element, height) {
  const ratio = devicePixelRatio || 1, width = element.clientWidth;
  if (element.width !== Math.round(width * ratio) || element.height !== Math.round(height * ratio)) {
    element.width = Math.round(width * ratio);
    element.height = Math.round(height * ratio);
    element.style.height = height + "px";
  }
  const g = element.getContext("2d");
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, width, height);
  g.font = "11px system-ui, sans-serif";
  g.textBaseline = "middle";
  return [g, width];
}
