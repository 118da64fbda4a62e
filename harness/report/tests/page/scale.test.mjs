import assert from "node:assert/strict";
import { test } from "node:test";
import { page } from "./load.mjs";

const S = 1e9;

test("times and pixels map to each other", () => {
  const scale = page.timeScale([1 * S, 3 * S], 100, 200);
  assert.deepEqual([scale.x(1 * S), scale.x(2 * S), scale.x(3 * S), scale.right], [100, 200, 300, 300]);
  assert.equal(scale.time(scale.x(1.25 * S)), 1.25 * S);
});

test("the first index is found by bisection", () => {
  for (const n of [0, 1, 2, 7, 8]) {
    const array = Array.from({ length: n }, (_, i) => i);
    for (let from = 0; from <= n; from++) assert.equal(page.firstIndex(array, (i) => i >= from), from);
  }
});

test("a view stays near the run and has a minimal span", () => {
  const end = 10 * S;
  for (const [from, to] of [[-5 * S, 1 * S], [9 * S, 30 * S], [-S, 100 * S], [3 * S, 3 * S]]) {
    const [a, b] = page.clampView(from, to, end);
    assert.ok(a >= -0.011 * end && b <= 1.011 * end + 1, `${a} ${b}`);
    assert.ok(b - a >= 19999, `${b - a}`);
  }
  const [a, b] = page.clampView(2 * S, 4 * S, end);
  assert.deepEqual([a, b], [2 * S, 4 * S]);
});

test("zooming keeps its centre, panning its span", () => {
  assert.deepEqual(page.zoomed([0, 100], 0.5, 20), [10, 60]);
  assert.deepEqual(page.panned([0, 100], 0.25), [25, 125]);
  const [from, to] = page.padded(0, 100e6);
  assert.deepEqual([from, to], [-25e6, 125e6]);
});

test("the axis has readable labels at every zoom", () => {
  for (const span of [20e3, 1e6, 37e6, 1e9, 12e9, 3600e9]) {
    const scale = page.timeScale([0, span], 124, 1000);
    const { times, digits } = page.ticks(scale);
    assert.ok(times.length >= 2 && times.length <= 14, `${span}: ${times.length} labels`);
    const labels = times.map((time) => (time / S).toFixed(digits));
    assert.equal(new Set(labels).size, labels.length, `${span}: ${labels}`);
  }
});
