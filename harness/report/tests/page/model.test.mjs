import assert from "node:assert/strict";
import { test } from "node:test";
import { page, sampleData } from "./load.mjs";

const MS = 1e6;
const data = sampleData();

test("operations have their values, versions and errors", () => {
  const [put, get, open] = [0, 1, 2].map((i) => page.operation(data, i));
  assert.deepEqual([put.f, put.outcome, put.key, put.value, put.version], ["put", "ok", "a", "v1", "1.7"]);
  assert.equal(get.error, "conflict: uuid-1 holds 100 %");
  assert.deepEqual([open.outcome, open.value, open.completion, open.completed], ["info", "v2", null, null]);
  assert.equal(page.endOf(data, 2), data.end);
  assert.equal(page.operationCount(data), 3);
});

test("operations become the lines of their history", () => {
  assert.deepEqual(page.historyLines(page.operation(data, 0)), [
    '{"index":0,"time":10000000,"process":0,"type":"invoke","f":"put","key":"a","value":"v1"}',
    '{"index":2,"time":15000000,"process":0,"type":"ok","f":"put","key":"a","value":"v1","version":"1.7"}',
  ]);
  assert.equal(page.historyLines(page.operation(data, 2)).length, 1);
});

test("an operation is described by its outcome", () => {
  const describe = (op) => page.describe({ value: "v", ...op });
  assert.equal(describe({ f: "put", outcome: "fail" }), "put v");
  assert.equal(describe({ f: "get", outcome: "ok", value: null }), "get = nothing");
  assert.equal(describe({ f: "get", outcome: "ok", value: "nothing" }), "get = 'nothing'");
  assert.equal(describe({ f: "put", outcome: "ok", value: "" }), "put ''");
  assert.equal(describe({ f: "get", outcome: "info" }), "get");
  assert.equal(describe({ f: "del", outcome: "ok", value: null }), "del");
});

test("a span has phases from its milestones", () => {
  const [lane] = data.lanes;
  assert.deepEqual(page.phasesOf(lane, 0), [
    { from: 11 * MS, to: 12 * MS, tone: "pending", faint: false },
    { from: 12 * MS, to: 13 * MS, tone: "waiting", faint: false },
  ], "the phase after the last milestone is not drawn");
  assert.deepEqual(page.phasesOf(lane, 1), [{ from: 12 * MS, to: 13 * MS, tone: "pending", faint: false }]);
});

test("a span is described by its milestones and its ending", () => {
  const [lane] = data.lanes;
  assert.deepEqual(page.spanLines(data, lane, 0), [
    "r1, transaction 1.7, key a",
    "PREPARE appended 0.011000 s",
    "PREPARE durable 1.000 ms later",
    "noted 2.000 ms later",
    "applied 3.000 ms later",
  ]);
  assert.deepEqual(page.spanLines(data, lane, 1), ["r1, transaction uuid-1", "PREPARE appended 0.012000 s"]);
  assert.deepEqual([...lane.marks[0].from, ...lane.marks[0].to], [11 * MS, 11.5 * MS]);
});
