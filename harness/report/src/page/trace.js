// The layout of the message diagram: time runs downwards, and each event has a row. Rows show the order
// of events; gaps that are longer than GAP are labelled.

const GAP = 40 * MS;
const ROW = 21, PAIR = 13, GAP_ROW = 26, HEAD = 44, FOOT = 24;

// The points of a trace with their y positions, the labelled gaps, and the height.
function layoutTrace(trace) {
  const points = [];
  for (const event of trace.events) points.push({ time: event.time, event });
  trace.messages.forEach((message, n) => {
    if (message.sent) points.push({ time: message.sent.time, message: n, end: "sent" });
    if (message.received) points.push({ time: message.received.time, message: n, end: "received" });
  });
  // At equal times, a message arrives before what it causes.
  const rank = (point) => (point.end === "received" ? 0 : 1);
  points.sort((a, b) => a.time - b.time || rank(a) - rank(b));
  const gaps = [];
  let y = HEAD, last = null;
  for (const point of points) {
    if (last !== null && point.time - last > GAP) {
      gaps.push({ y: y + 22, ms: (point.time - last) / MS });
      y += GAP_ROW;
    }
    // A message that only arrives needs room for the name of its sender.
    if (point.end === "received" && !trace.messages[point.message].sent) y += ROW;
    y += point.time === last && point.end === "received" ? PAIR : ROW;
    point.y = y;
    last = point.time;
  }
  return { points, gaps, height: y + FOOT };
}

// The y position of a time: that of the first point at or after it.
function traceY(layout, time) {
  const point = layout.points.find((point) => point.time >= time);
  return point ? point.y : layout.height - 12;
}

// The ends of each message in the layout: { sent, received }, each a y position or undefined.
function messageEnds(trace, layout) {
  const ends = trace.messages.map(() => ({}));
  for (const point of layout.points) if (point.end) ends[point.message][point.end] = point.y;
  return ends;
}

// A label in the diagram of a transaction, whose identifier is in the title: repeated in every label it would
// hide the rest. Longer identifiers that begin with it stay, as "Read 1.10/0" does for 1.1.
function withoutTransaction(text, transaction) {
  const literal = transaction.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  // In a list, with one of the commas beside it.
  return text.replace(new RegExp(" " + literal + ",(?= )", "g"), "")
    .replace(new RegExp(",? " + literal + "(?![\\w/-]|\\.\\w)", "g"), "");
}

// A trace in words, by time: { time, node, line, text } each. A message is told when it is sent.
function traceLines(trace) {
  const lines = trace.events.map(({ time, node, line, text }) => ({ time, node, line, text: `${node}: ${text}` }));
  for (const { from, to, sent, received, text } of trace.messages) {
    const arrival = !received ? "never received" : !sent ? "received a second time, or its sending is not recorded"
      : `received after ${((received.time - sent.time) / MS).toFixed(3)} ms`;
    const [node, { time, line }] = sent ? [from, sent] : [to, received];
    lines.push({ time, node, line, text: `${from} to ${to}: ${text} (${arrival})` });
  }
  return lines.sort((a, b) => a.time - b.time);
}

// What the lanes tell of a transaction: lines of text, for those whose messages the page omits.
function lanesInWords(data, transaction) {
  return data.lanes.flatMap((lane) => {
    const spans = [...lane.from.keys()].filter((i) => lane.transaction(i) === transaction);
    return spans.map((i) => ({ time: lane.from[i], text: spanLines(data, lane, i).join("; ") }));
  }).sort((a, b) => a.time - b.time);
}
