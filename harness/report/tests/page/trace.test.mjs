import assert from "node:assert/strict";
import { test } from "node:test";
import { page } from "./load.mjs";

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
