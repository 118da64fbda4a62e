// Draws the timeline.

let drawQueued = false;
function draw() {
  if (drawQueued) return;
  drawQueued = true;
  requestAnimationFrame(() => { drawQueued = false; paint(); });
}

function paint() {
  // The canvas has no size while the page or this section is hidden.
  if (canvas.clientWidth <= NAMES_WIDTH) return;
  const [g] = prepareCanvas(canvas, state.height);
  const s = scale();
  paintAxis(g, s);
  g.save();
  g.beginPath();
  g.rect(s.left, 0, s.width, state.height);
  g.clip();
  for (const fault of state.data.faults) {
    const a = s.x(fault.from), b = Math.max(s.x(fault.to), a + 1);
    if (b < s.left || a > s.right) continue;
    g.fillStyle = state.colors.fault;
    g.fillRect(a, TOP, b - a, state.height - TOP);
  }
  for (const lane of state.lanes) {
    g.strokeStyle = state.colors.faint;
    g.lineWidth = 1;
    g.beginPath();
    g.moveTo(s.left, lane.y + lane.h - 0.5);
    g.lineTo(s.right, lane.y + lane.h - 0.5);
    g.stroke();
    if (lane.kind === "fault") paintFaults(g, s, lane);
    else if (lane.kind === "client") paintOperations(g, s, lane);
    else paintNode(g, s, lane);
  }
  paintErrors(g, s);
  g.restore();
  paintOverview();
}

// A line through all lanes where a violation became true, with a flag at the top; the pinned one is thick. The
// journal line that is shown has a line as well.
function paintErrors(g, s) {
  const { pinned, colors, data } = state;
  for (const error of data.errors_found) {
    const at = s.x(error.at);
    if (at < s.left || at > s.right) continue;
    const isPinned = pinned && pinned.kind === "error" && pinned.error === error;
    g.fillStyle = colors.invalid;
    g.globalAlpha = isPinned || error === data.errors_found[0] ? 1 : 0.45;
    g.fillRect(at - (isPinned ? 1 : 0.5), TOP - 12, isPinned ? 2 : 1, state.height - TOP + 12);
    g.beginPath();
    g.moveTo(at, TOP - 12);
    g.lineTo(at + 9, TOP - 8);
    g.lineTo(at, TOP - 4);
    g.fill();
  }
  g.globalAlpha = 1;
  if (pinned && pinned.kind === "line") {
    const lane = state.lanes.find((lane) => lane.kind === "node" && lane.name === pinned.quote.node);
    g.strokeStyle = colors.invalid;
    g.lineWidth = 2;
    if (lane) g.strokeRect(s.x(pinned.quote.time) - 3, lane.y + 1, 6, lane.h - 3);
    g.lineWidth = 1;
  }
}

function paintAxis(g, s) {
  const { times, digits } = ticks(s);
  g.fillStyle = state.colors.soft;
  g.strokeStyle = state.colors.faint;
  g.textAlign = "center";
  for (const time of times) {
    const at = s.x(time);
    g.globalAlpha = 0.6;
    g.beginPath();
    g.moveTo(at, TOP - 5);
    g.lineTo(at, state.height);
    g.stroke();
    g.globalAlpha = 1;
    const fits = at > s.left + 14 && at < s.right - 20;
    if (fits) g.fillText((time / SECOND).toFixed(digits) + " s", at, 10);
  }
  g.textAlign = "left";
}

function paintFaults(g, s, lane) {
  for (const fault of lane.faults) {
    const a = s.x(fault.from), b = Math.max(s.x(fault.to), a + 2);
    if (b < s.left || a > s.right) continue;
    const pinned = state.pinned && state.pinned.fault === fault;
    g.fillStyle = state.colors.down;
    g.globalAlpha = pinned ? 1 : 0.8;
    g.fillRect(a, lane.y + 5, b - a, lane.h - 11);
    g.globalAlpha = 1;
    // A line to the recovery.
    if (fault.recovered) g.fillRect(b, lane.y + lane.h / 2 - 1, Math.max(0, s.x(fault.recovered) - b), 1);
    const label = faultTitle(fault);
    if (b - a > g.measureText(label).width + 8) {
      g.fillStyle = state.colors.paper;
      g.fillText(label, Math.max(a, s.left) + 4, lane.y + lane.h / 2);
    }
  }
}

// Calls visit(i, a, b) for the items that are in view, with their pixel range. Items are ordered by
// start and do not overlap, so at most one starts before the view. Skips items that would be drawn on
// top of the last one of the same group, unless they are highlighted.
function visible(s, items, { from, to, group, highlighted, min }, visit) {
  const last = [];
  let n = Math.max(0, firstIndex(items, (i) => from(i) >= s.from) - 1);
  for (; n < items.length; n++) {
    const i = items[n], a = s.x(from(i));
    if (a > s.right) break;
    const b = Math.max(s.x(to(i)), a + min);
    const g = group ? group(i) : 0;
    if (b < s.left || (b < (last[g] ?? -1) + 0.7 && !highlighted(i))) continue;
    last[g] = b;
    visit(i, a, b);
  }
}

function paintOperations(g, s, lane) {
  const { data, pinned, marked, keyFilter } = state;
  const starts = data.columns["op.time"], keys = data.columns["op.key"];
  const highlighted = (i) => marked.has(i) || (pinned && pinned.kind === "operation" && pinned.i === i);
  const options = {
    from: (i) => starts[i], to: (i) => endOf(data, i), group: (i) => outcomeOf(data, i), highlighted, min: 1.2,
  };
  visible(s, lane.operations, options, (i, a, b) => {
    const dimmed = keyFilter >= 0 && keys[i] !== keyFilter;
    const width = b - a - (b - a > 4 ? 1 : 0);
    g.globalAlpha = dimmed ? 0.13 : 1;
    paintOperation(g, lane, i, a, width);
    if (highlighted(i)) {
      g.globalAlpha = 1;
      g.strokeStyle = state.colors.invalid;
      g.lineWidth = 2;
      g.strokeRect(a - 1, lane.y + 0.5, width + 2, lane.h - 2);
      g.lineWidth = 1;
    }
    if (width > 46 && lane.h > 11) paintOperationLabel(g, s, lane, i, a, width, dimmed);
  });
  g.globalAlpha = 1;
}

// The shape of an operation shows its outcome: a bar, an outline, or an arrow for indeterminate.
function paintOperation(g, lane, i, a, width) {
  const outcome = OUTCOMES[outcomeOf(state.data, i)];
  const top = lane.y + 1, height = lane.h - 3;
  g.fillStyle = g.strokeStyle = state.colors[outcome];
  if (outcome === "ok") {
    g.globalAlpha *= functionOf(state.data, i) === 0 ? 0.5 : 0.9;
    g.fillRect(a, top, width, height);
  } else if (outcome === "fail") {
    if (width > 4) g.strokeRect(a + 0.5, top + 2.5, width - 1, height - 4);
    else g.fillRect(a, top + height / 2, width, height / 2);
  } else {
    g.beginPath();
    g.moveTo(a, top);
    g.lineTo(a + width, top);
    g.lineTo(a + width + 5, top + height / 2);
    g.lineTo(a + width, top + height);
    g.lineTo(a, top + height);
    g.fill();
  }
}

function paintOperationLabel(g, s, lane, i, a, width, dimmed) {
  const op = operation(state.data, i), text = op.key + " " + describe(op);
  if (g.measureText(text).width >= width - 6) return;
  const onColor = op.outcome !== "fail" && op.f !== "get" && op.f !== "read";
  g.globalAlpha = dimmed ? 0.3 : 1;
  g.fillStyle = onColor ? state.colors.paper : state.colors.ink;
  g.fillText(text, Math.max(a, s.left) + 4, lane.y + 1 + (lane.h - 3) / 2 + 0.5);
}

function paintNode(g, s, lane) {
  for (const fault of lane.down) {
    const a = s.x(fault.from), b = s.x(fault.to);
    if (b < s.left || a > s.right) continue;
    g.fillStyle = g.createPattern(state.colors.hatch, "repeat");
    g.fillRect(a, lane.y + 1, Math.max(b - a, 2), lane.h - 3);
  }
  lane.rows.forEach((row, n) => paintSpans(g, s, lane, row, lane.y + ROWS_TOP + n * ROW_HEIGHT));
  for (const mark of lane.marks) paintMarks(g, s, lane, mark);
}

function paintSpans(g, s, lane, row, y) {
  const { data, pinned, keyFilter } = state;
  const highlighted = (i) => pinned && pinned.kind === "span" && pinned.lane === lane && pinned.i === i;
  const options = { from: (i) => lane.from[i], to: (i) => lane.to[i], highlighted, min: 1 };
  visible(s, row, options, (i, a, b) => {
    const key = lane.keys[i];
    const alpha = keyFilter >= 0 && key >= 0 && key !== keyFilter ? 0.13 : 1;
    paintSpan(g, s, lane, i, y, alpha);
    if (highlighted(i)) {
      g.strokeStyle = state.colors.invalid;
      g.strokeRect(a - 1, y - 1, b - a + 2, ROW_HEIGHT);
    }
    if (b - a > 70) {
      g.fillStyle = state.colors.ink;
      g.font = "8.5px system-ui, sans-serif";
      const text = lane.transaction(i) + (key < 0 ? "" : " " + data.keys[key]);
      g.fillText(text, Math.max(a, s.left) + 3, y + ROW_HEIGHT / 2 - 0.6);
      g.font = "11px system-ui, sans-serif";
    }
  });
  g.globalAlpha = 1;
}

function paintSpan(g, s, lane, i, y, alpha) {
  const height = ROW_HEIGHT - 1.6;
  for (const { from, to, tone, faint } of phasesOf(lane, i)) {
    const a = s.x(from);
    g.fillStyle = state.colors[tone];
    g.globalAlpha = alpha * (faint ? 0.45 : 1);
    g.fillRect(a, y, Math.max(s.x(to) - a, 0.8), height);
  }
  g.globalAlpha = alpha;
  const ending = lane.layout.endings[lane.endings[i]];
  const a = s.x(lane.from[i]), b = s.x(lane.to[i]);
  if (ending && ending.tone && b - a > 3) {
    g.fillStyle = state.colors[ending.tone];
    g.fillRect(b - 2, y, 2, height);
  }
}

function paintMarks(g, s, lane, mark) {
  const bottom = lane.y + lane.h;
  g.fillStyle = mark.tone === "neutral" ? state.colors.ink : state.colors[mark.tone];
  let last = -1;
  for (let i = Math.max(0, firstIndex(mark.from, (time) => time >= s.from) - 1); i < mark.from.length; i++) {
    const a = s.x(mark.from[i]);
    if (a > s.right) break;
    if (mark.shape === "cross") {
      if (a < s.left) continue;
      g.fillRect(a - 1.2, lane.y + 1, 2.4, lane.h - 3);
      g.fillText("✕", a + 3, bottom - 9);
      continue;
    }
    if (mark.shape === "triangle") {
      if (a < s.left) continue;
      g.beginPath();
      g.moveTo(a, bottom - 8);
      g.lineTo(a + 4, bottom - 1);
      g.lineTo(a - 4, bottom - 1);
      g.fill();
      continue;
    }
    const b = Math.max(a + 1, s.x(mark.to[i]));
    if (b < last + 0.7) continue;
    last = b;
    g.fillRect(a, bottom - 8, b - a - (b - a > 3 ? 0.8 : 0), 3);
  }
}
