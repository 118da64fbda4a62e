// Maps times to pixels, and computes which times are in view.

// Nanoseconds that the view shows at least.
const SPAN_MIN = 20000;

// The index of the first element for which a monotonic test holds.
function firstIndex(array, test) {
  let low = 0, high = array.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (test(array[middle])) high = middle; else low = middle + 1;
  }
  return low;
}

// The scale of a view, [from, to], that is drawn at `left` in `width` pixels.
function timeScale([from, to], left, width) {
  const perPixel = (to - from) / width;
  return {
    from, to, left, width, perPixel,
    right: left + width,
    x: (time) => left + (time - from) / perPixel,
    time: (x) => from + (x - left) * perPixel,
  };
}

// A view of about this range that stays near the run, which ends at `end`.
function clampView(from, to, end) {
  const span = Math.min(Math.max(to - from, SPAN_MIN), end * 1.02 + 1);
  const start = Math.max(-end * 0.01, Math.min((from + to) / 2 - span / 2, end * 1.01 - span));
  return [start, start + span];
}

// The range after zooming by a factor around a time.
const zoomed = ([from, to], factor, time) => [time - (time - from) * factor, time + (to - time) * factor];

// The range after moving by a share of its span.
const panned = ([from, to], share) => [from + share * (to - from), to + share * (to - from)];

// A range with room around it.
function padded(from, to) {
  const room = Math.max((to - from) * 0.25, 2 * MS);
  return [from - room, to + room];
}

// The times at which the axis has labels, and the decimals that their seconds need.
function ticks(scale) {
  const fits = (step) => step / scale.perPixel >= 80;
  let step = 10 ** Math.floor(Math.log10(scale.perPixel * 110));
  for (const factor of [2, 2.5, 2]) if (!fits(step)) step *= factor;
  const digits = Math.max(0, Math.min(6, Math.ceil(-Math.log10(step / SECOND) - 1e-9)));
  const times = [];
  for (let time = Math.ceil(scale.from / step) * step; time <= scale.to; time += step) times.push(time);
  return { times, digits };
}
