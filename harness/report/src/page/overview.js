// Draws the overview: completions over the whole run, and the part that is in view.

const OVERVIEW_HEIGHT = 46, BIN_WIDTH = 2;

function paintOverview() {
  const [g, width] = prepareCanvas(overview, OVERVIEW_HEIGHT);
  const { data, colors } = state;
  const x = (time) => (time / (data.end || 1)) * width;
  for (const fault of data.faults) {
    g.fillStyle = colors.fault;
    g.fillRect(x(fault.from), 0, Math.max(1.5, x(fault.to) - x(fault.from)), OVERVIEW_HEIGHT);
  }
  paintBins(g, overviewBins(Math.ceil(width / BIN_WIDTH)));
  g.fillStyle = colors.invalid;
  for (const error of data.errors_found) g.fillRect(x(error.at) - 0.75, 0, 1.5, OVERVIEW_HEIGHT);
  const a = x(state.view[0]), b = Math.max(x(state.view[1]), a + 3);
  g.fillStyle = colors.paper;
  g.globalAlpha = 0.62;
  g.fillRect(0, 0, a, OVERVIEW_HEIGHT);
  g.fillRect(b, 0, width - b, OVERVIEW_HEIGHT);
  g.globalAlpha = 1;
  g.strokeStyle = colors.accent;
  g.lineWidth = 2;
  g.strokeRect(a + 1, 1, b - a - 2, OVERVIEW_HEIGHT - 2);
  g.lineWidth = 1;
}

function paintBins(g, bins) {
  const max = Math.max(1, ...bins.map((bin) => bin[0] + bin[1] + bin[2]));
  g.globalAlpha = 0.75;
  bins.forEach((bin, n) => {
    let y = OVERVIEW_HEIGHT;
    OUTCOMES.forEach((outcome, o) => {
      // A single indeterminate operation stays visible.
      const height = bin[o] ? Math.max((bin[o] / max) * 40, outcome === "info" ? 2 : 0.5) : 0;
      g.fillStyle = state.colors[outcome];
      g.fillRect(n * BIN_WIDTH, y - height, BIN_WIDTH - 0.4, height);
      y -= height;
    });
  });
  g.globalAlpha = 1;
}

let cachedBins = [];
function overviewBins(count) {
  if (cachedBins.length === count) return cachedBins;
  const { data } = state;
  cachedBins = Array.from({ length: count }, () => [0, 0, 0]);
  data.columns["op.time"].forEach((time, i) => {
    const bin = Math.min(count - 1, Math.floor((time / (data.end || 1)) * count));
    cachedBins[bin][outcomeOf(data, i)]++;
  });
  return cachedBins;
}
