import assert from "node:assert/strict";
import { test } from "node:test";
import { page, sampleData } from "./load.mjs";

const MS = 1e6;
const end = (time) => ({ time: time * MS, line: 1 });
const trace = {
  events: [{ time: 2 * MS, node: "r1" }, { time: 100 * MS, node: "r1" }],
  messages: [
    { from: "master", to: "r1", sent: end(1), received: end(2) },
    { from: "r1", to: "master", sent: end(2), received: null },
  ],
};

test("points are ordered by time, and a message arrives before what it causes", () => {
  const { points } = page.layoutTrace(trace);
  assert.deepEqual(points.map((point) => point.end ?? "event"), ["sent", "received", "event", "sent", "event"]);
  points.slice(1).forEach((point, n) => assert.ok(point.y > points[n].y));
});

test("long gaps are labelled", () => {
  const { gaps } = page.layoutTrace(trace);
  assert.deepEqual(gaps.map(({ ms }) => ms), [98]);
});

test("ends of messages and times have positions", () => {
  const layout = page.layoutTrace(trace);
  const [first, second] = page.messageEnds(trace, layout);
  assert.ok(first.sent < first.received);
  assert.deepEqual(Object.keys(second), ["sent"]);
  assert.equal(page.traceY(layout, 0), layout.points[0].y);
  assert.ok(page.traceY(layout, 1000 * MS) > layout.points[4].y);
});

test("a label loses the transaction of the diagram, and no digit of another", () => {
  assert.equal(page.withoutTransaction("Prepare 1.1: put k", "1.1"), "Prepare: put k");
  assert.equal(page.withoutTransaction("Read 1.10/0", "1.1"), "Read 1.10/0");
  assert.equal(page.withoutTransaction("Read 1.1/0", "1.1"), "Read 1.1/0");
  assert.equal(page.withoutTransaction("Ack 1.1, 1.12", "1.1"), "Ack 1.12");
  assert.equal(page.withoutTransaction("Ack 1.0, 1.1, 1.12", "1.1"), "Ack 1.0, 1.12");
  assert.equal(page.withoutTransaction("Ack 1.0, 1.1", "1.1"), "Ack 1.0");
  assert.equal(page.withoutTransaction("Ack 2.1.1", "1.1"), "Ack 2.1.1");
});

test("a trace in words has every event and message, and says what became of each", () => {
  const said = page.traceLines({
    events: [{ time: 2 * MS, node: "r1", line: 7, text: "append PREPARE" }],
    messages: [
      { from: "master", to: "r1", sent: end(1), received: end(2), text: "Prepare" },
      { from: "r1", to: "master", sent: end(3), received: null, text: "VoteYes" },
      { from: "r2", to: "r1", sent: null, received: end(4), text: "PeerInquire" },
    ],
  }).map(({ text }) => text);
  assert.deepEqual(said, [
    "master to r1: Prepare (received after 1.000 ms)",
    "r1: append PREPARE",
    "r1 to master: VoteYes (never received)",
    "r2 to r1: PeerInquire (received a second time, or its sending is not recorded)",
  ]);
});

test("a transaction without a trace is told from the lanes", () => {
  const [line, ...rest] = page.lanesInWords(sampleData(), "1.7");
  assert.ok(line.text.startsWith("r1, transaction 1.7, key a; PREPARE appended"), line.text);
  assert.deepEqual(rest, []);
});
