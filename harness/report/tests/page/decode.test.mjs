import assert from "node:assert/strict";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { pack, page } from "./load.mjs";

test("columns are decoded as they were packed", () => {
  const numbers = [0, -1, 1, 63, -64, 64, 2 ** 40, -(2 ** 40), 2 ** 52];
  const data = page.decode(pack({ name: "</script>" }, { a: numbers, "+t": [1000000, 1000001, 999999], none: [] }));
  assert.equal(data.name, "</script>");
  assert.deepEqual([...data.columns.a], numbers);
  assert.deepEqual([...data.columns.t], [1000000, 1000001, 999999]);
  assert.equal(data.columns.none.length, 0);
});

test("base64 and gzip are unpacked", async () => {
  const text = gzipSync(Buffer.from([1, 2, 255])).toString("base64");
  assert.deepEqual([...await page.unpack(`\n${text}\n`)], [1, 2, 255]);
});
