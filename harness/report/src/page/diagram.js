// Draws the message diagram of a transaction.

const SVG = "http://www.w3.org/2000/svg";
const DIAGRAM_WIDTH = 1072, TIMES_WIDTH = 96;

function svgElement(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

const clipped = (text, length) => (text.length > length ? text.slice(0, length - 1) + "…" : text);

function drawDiagram(trace) {
  const box = $("#diagram"), { nodes } = state.data;
  box.textContent = "";
  const layout = layoutTrace(trace);
  const gap = (DIAGRAM_WIDTH - TIMES_WIDTH - 150) / Math.max(1, nodes.length - 1);
  const label = "Messages of transaction " + trace.transaction;
  const svg = svgElement(box, "svg", { viewBox: `0 0 ${DIAGRAM_WIDTH} ${layout.height}`, role: "img", "aria-label": label });
  const diagram = {
    svg, trace, layout,
    x: (node) => TIMES_WIDTH + 60 + gap * nodes.indexOf(node),
    short: (text, length) => clipped(withoutTransaction(text, trace.transaction), length),
    cited: new Set(state.data.quotes.map((quote) => lineName(quote.node, quote.line))),
  };
  for (const node of nodes) drawLifeline(diagram, node);
  drawTimes(diagram);
  for (const { event, y } of layout.points) if (event) drawEvent(diagram, event, y);
  const ends = messageEnds(trace, layout);
  trace.messages.forEach((message, n) => drawMessage(diagram, message, ends[n]));
  addHint(box, "Time runs down, in milliseconds since the first event. A dashed arrow with ✕ is a message that never "
    + "arrived; an arrow that begins in mid-air is one that arrived a second time, or whose sending is not recorded.");
  if (trace.omitted) addHint(box, trace.omitted + " more events in the middle are omitted.");
}

function addHint(box, text) {
  const hint = document.createElement("p");
  hint.className = "hint";
  hint.textContent = text;
  box.append(hint);
}

// The transaction in words. Without a trace, what the lanes tell of it.
function drawWords(transaction) {
  const box = $("#trace");
  if (!box) return;
  const trace = traceOf(state.data, transaction);
  box.querySelector("summary").textContent = `Transaction ${transaction} in words`;
  const words = box.querySelector(".words");
  words.textContent = "";
  if (!trace) addHint(words, "This page omits the messages of this transaction; the journals have them. From the lanes:");
  const list = document.createElement("ol");
  list.className = "trace";
  for (const { time, text } of trace ? traceLines(trace) : lanesInWords(state.data, transaction)) {
    const item = document.createElement("li"), at = document.createElement("time");
    at.textContent = seconds(time);
    item.append(at, " " + text);
    list.append(item);
  }
  words.append(list);
  if (trace && trace.omitted) addHint(words, trace.omitted + " more events in the middle are omitted.");
}

function drawLifeline({ svg, layout, x }, node) {
  const { points, height } = layout, bottom = height - 8;
  svgElement(svg, "text", { x: x(node), y: 18, "text-anchor": "middle", class: "head" }, node);
  svgElement(svg, "line", { x1: x(node), x2: x(node), y1: 28, y2: bottom, class: "life" });
  if (!points.length) return;
  const first = points[0].time, last = points[points.length - 1].time;
  for (const fault of state.data.faults) {
    if (!fault.inactive || !fault.nodes.includes(node) || fault.to < first || fault.from > last) continue;
    const y1 = fault.from <= first ? 28 : traceY(layout, fault.from);
    const y2 = fault.to >= last ? bottom : traceY(layout, fault.to);
    svgElement(svg, "line", { x1: x(node), x2: x(node), y1, y2, class: "inactive" });
  }
}

// The times since the first event, each once, and the lengths of gaps.
function drawTimes({ svg, layout }) {
  svgElement(svg, "text", { x: TIMES_WIDTH - 14, y: 18, class: "t" }, "ms");
  let shown = null;
  for (const { time, y } of layout.points) {
    if (time === shown) continue;
    shown = time;
    const offset = "+" + ((time - layout.points[0].time) / MS).toFixed(3);
    svgElement(svg, "text", { x: TIMES_WIDTH - 14, y: y + 4, class: "t" }, offset);
  }
  for (const { y, ms } of layout.gaps) {
    const length = ms >= 1000 ? (ms / 1000).toFixed(2) + " s" : ms.toFixed(0) + " ms";
    svgElement(svg, "text", { x: TIMES_WIDTH - 14, y, class: "t gap" }, length + " later");
  }
}

function drawEvent(diagram, event, y) {
  const { svg, x, short } = diagram;
  const g = svgElement(svg, "g", { class: "event " + event.tone });
  const frame = svgElement(g, "rect", { y: y - 9, height: 18, rx: 3 });
  const label = svgElement(g, "text", { y: y + 4 }, short(event.text, 44));
  const width = label.getComputedTextLength() + 12;
  const right = x(event.node) + 8;
  // To the left of the line where there is no room on the right.
  const left = right + width > DIAGRAM_WIDTH - 4 ? x(event.node) - 8 - width : right;
  frame.setAttribute("x", left);
  frame.setAttribute("width", width);
  label.setAttribute("x", left + 6);
  svgElement(g, "title", {}, `${event.node}, ${seconds(event.time)}: ${event.text}`);
  if (event.line !== null) linkLine(diagram, g, event.node, event.line);
}

function drawMessage(diagram, message, ends) {
  const { svg, x, short } = diagram, { sent, received } = message;
  const from = x(message.from), to = x(message.to), direction = to > from ? 1 : -1;
  const g = svgElement(svg, "g", { class: "message " + message.tone + (received ? "" : " lost") });
  // A message with one end is drawn as a part of the way.
  const x1 = sent ? from : to - direction * 60, y1 = ends.sent ?? ends.received - 14;
  const x2 = received ? to - direction * 3 : from + (to - from) * 0.55, y2 = ends.received ?? ends.sent + 14;
  svgElement(g, "line", { x1, y1, x2, y2, class: "arrow" });
  // A message without one end does not show whose it is.
  const other = !received ? "✕ to " + message.to : !sent ? "from " + message.from : "";
  if (received) {
    const angle = (Math.atan2(y2 - y1, x2 - x1) * 180) / Math.PI;
    svgElement(g, "path", { d: "M0 0 l-8 -4 v8 z", class: "tip", transform: `translate(${x2} ${y2}) rotate(${angle})` });
  } else {
    svgElement(g, "text", { x: x2 + direction * 4, y: y2 + 4, "text-anchor": direction > 0 ? "start" : "end" }, other);
  }
  if (!sent) svgElement(g, "text", { x: x1 - direction * 4, y: y1 - 8, "text-anchor": "middle", class: "origin" }, other);
  const slope = (y2 - y1) / Math.max(1, Math.abs(x2 - x1));
  const anchor = direction > 0 ? "start" : "end";
  const position = { x: x1 + direction * 10, y: y1 + slope * 10 - 4, "text-anchor": anchor, class: "label" };
  svgElement(g, "text", position, short(message.text, 30));
  const duration = !received ? "never received" : !sent ? "a duplicate, or its sending is not recorded"
    : ((received.time - sent.time) / MS).toFixed(3) + " ms";
  svgElement(g, "title", {}, `${message.from} to ${message.to}: ${message.text} (${duration})`);
  if (sent) linkLine(diagram, g, message.from, sent.line);
  else linkLine(diagram, g, message.to, received.line);
}

const lineName = (node, line) => node + ":" + line;

// Makes an element show its journal line when it is clicked.
function linkLine({ trace, cited }, g, node, line) {
  const name = lineName(node, line);
  g.dataset.line = name;
  if (cited.has(name)) g.classList.add("cited");
  g.addEventListener("click", () => {
    if (cited.has(name)) { showLine(name); return; }
    const lines = [g.querySelector("title").textContent, `${node} journal line ${line}`];
    pin({ kind: "text", lines, transaction: trace.transaction });
    highlightLine(name);
  });
}

// Frames what a journal line records, in the diagram.
function highlightLine(name) {
  for (const g of document.querySelectorAll("#diagram g[data-line]")) g.classList.toggle("selected", g.dataset.line === name);
}
