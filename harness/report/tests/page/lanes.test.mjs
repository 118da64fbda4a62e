import assert from "node:assert/strict";
import { test } from "node:test";
import { page, sampleData } from "./load.mjs";

test("overlapping spans are in different rows as long as there are rows", () => {
  const from = [0, 1, 2, 5, 6], to = [4, 3, 9, 7, 8];
  const rows = page.assignRows(from, to, 3);
  assert.deepEqual(rows, [[0, 3], [1, 4], [2]]);
  assert.deepEqual(page.assignRows([0, 0, 0], [9, 9, 9], 2), [[0, 2], [1]], "then they overlap");
});

test("lanes are stacked: faults, clients, nodes", () => {
  const { lanes, height } = page.layoutLanes(sampleData());
  assert.deepEqual(lanes.map(({ kind, name }) => [kind, name]),
    [["fault", "kill-replica"], ["client", "client 0"], ["client", "client 1"], ["node", "r1"]]);
  lanes.slice(1).forEach((lane, n) => assert.ok(lane.y >= lanes[n].y + lanes[n].h));
  const last = lanes[lanes.length - 1];
  assert.ok(height >= last.y + last.h);
  assert.deepEqual(lanes[1].operations, [0, 2], "process 2 is client 0 again");
  assert.equal(last.down.length, 1);
});

test("many clients have thin lanes, of which some have names", () => {
  const data = { ...sampleData(), clients: 200 };
  const clients = page.layoutLanes(data).lanes.filter((lane) => lane.kind === "client");
  assert.equal(clients.length, 200);
  assert.equal(clients.filter((lane) => lane.name).length, 40);
});
