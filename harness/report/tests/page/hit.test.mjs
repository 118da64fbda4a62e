import assert from "node:assert/strict";
import { test } from "node:test";
import { page, sampleData } from "./load.mjs";

const MS = 1e6;
const data = sampleData();
const { lanes } = page.layoutLanes(data);
const scale = page.timeScale([0, 100 * MS], 100, 1000);
const [fault, client, , node] = lanes;
const at = (lane, time, y = lane.y + lane.h / 2) => page.hit(data, lanes, scale, scale.x(time), y);

test("operations are hit, also an open one and a little beside", () => {
  assert.deepEqual(at(client, 12 * MS), { kind: "operation", i: 0 });
  assert.deepEqual(at(client, 15.3 * MS), { kind: "operation", i: 0 });
  assert.deepEqual(at(client, 90 * MS), { kind: "operation", i: 2 });
  assert.equal(at(client, 30 * MS), null);
});

test("faults are hit in their lane and in the lane of their node", () => {
  assert.equal(at(fault, 45 * MS).fault, data.faults[0]);
  assert.equal(at(node, 45 * MS).fault, data.faults[0]);
  assert.equal(at(fault, 70 * MS), null);
});

test("spans are hit in their row", () => {
  const row = (n) => node.y + page.ROWS_TOP + (n + 0.5) * page.ROW_HEIGHT;
  assert.deepEqual(at(node, 12 * MS, row(0)), { kind: "span", lane: node, i: 0 });
  assert.deepEqual(at(node, 12.5 * MS, row(1)), { kind: "span", lane: node, i: 1 });
  assert.equal(at(node, 12.5 * MS, row(2)), null);
});

test("nothing is hit outside of the lanes", () => {
  assert.equal(page.hit(data, lanes, scale, 50, client.y + 2), null);
  assert.equal(page.hit(data, lanes, scale, 500, 2), null);
});
