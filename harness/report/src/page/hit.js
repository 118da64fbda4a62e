// What is at a point of the timeline: { kind: "operation", i }, { kind: "fault", fault },
// { kind: "span", lane, i }, { kind: "error", error }, or null.

// Pixels beside an item that still hit it.
const SLACK = 4;

function hit(data, lanes, scale, x, y) {
  if (y < TOP) {
    // The flag of a violation is beside its time.
    const error = data.errors_found.find(({ at }) => x >= scale.x(at) - SLACK && x <= scale.x(at) + 9);
    return error && x >= scale.left ? { kind: "error", error } : null;
  }
  const lane = lanes.find((lane) => y >= lane.y && y < lane.y + lane.h);
  if (!lane || x < scale.left) return null;
  const time = scale.time(x), slack = scale.perPixel * SLACK;
  const covers = (from, to) => time >= from - slack && time <= to + slack;
  if (lane.kind === "fault") return faultItem(lane.faults.find((fault) => covers(fault.from, fault.to)));
  if (lane.kind === "client") {
    const starts = data.columns["op.time"];
    const i = nearest(lane.operations, (i) => starts[i], time, (i) => covers(starts[i], endOf(data, i)));
    return i === undefined ? null : { kind: "operation", i };
  }
  const row = Math.floor((y - lane.y - ROWS_TOP) / ROW_HEIGHT);
  const spans = lane.rows[Math.min(ROWS - 1, Math.max(0, row))];
  const i = nearest(spans, (i) => lane.from[i], time, (i) => covers(lane.from[i], lane.to[i]));
  if (i !== undefined) return { kind: "span", lane, i };
  return faultItem(lane.down.find((fault) => time >= fault.from && time <= fault.to));
}

const faultItem = (fault) => (fault ? { kind: "fault", fault } : null);

// Of items ordered by start: the last that starts before a time, or the next one, if it covers the time.
function nearest(items, start, time, covers) {
  const next = firstIndex(items, (i) => start(i) > time);
  return [items[next - 1], items[next]].find((i) => i !== undefined && covers(i));
}
