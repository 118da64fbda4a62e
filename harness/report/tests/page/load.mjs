// Loads the parts of the page's script that use neither the document nor the state of the page.
import { readFileSync } from "node:fs";

const FILES = ["decode", "model", "scale", "lanes", "hit", "trace"];
const NAMES = ["unpack", "decode", "buildModel", "operation", "operationCount", "endOf", "historyLines", "describe",
  "phasesOf", "spanLines", "firstIndex", "timeScale", "clampView", "zoomed", "panned", "padded", "ticks",
  "layoutLanes", "assignRows", "ROWS_TOP", "ROW_HEIGHT", "hit", "layoutTrace", "traceY", "messageEnds",
  "withoutTransaction", "traceLines", "lanesInWords"];

const read = (name) => readFileSync(new URL(`../../src/page/${name}.js`, import.meta.url), "utf8");
const source = FILES.map(read).join("\n");
export const page = new Function(`"use strict";\n${source}\nreturn { ${NAMES.join(", ")} };`)();

// Packs a header and columns as columns.rs does. A name that begins with + has differences.
export function pack(header, columns) {
  const bytes = [];
  const put = (number) => {
    let rest = BigInt.asUintN(64, (BigInt(number) << 1n) ^ (BigInt(number) >> 63n));
    while (rest >= 0x80n) {
      bytes.push(Number(rest & 0x7fn) | 0x80);
      rest >>= 7n;
    }
    bytes.push(Number(rest));
  };
  const names = Object.entries(columns).map(([name, numbers]) => {
    numbers.forEach((number, i) => put(name[0] === "+" && i > 0 ? number - numbers[i - 1] : number));
    return [name, numbers.length];
  });
  const head = new TextEncoder().encode(JSON.stringify({ ...header, columns: names }));
  const packed = new Uint8Array(4 + head.length + bytes.length);
  new DataView(packed.buffer).setUint32(0, head.length, true);
  packed.set(head, 4);
  packed.set(bytes, 4 + head.length);
  return packed;
}

const IDS = (name, ids) => ({
  [`+${name}.major`]: ids.map(([major]) => major),
  [`+${name}.minor`]: ids.map(([, minor]) => minor),
});

// A small run: two clients, a fault, and a replica with two spans.
export function sampleData() {
  const MS = 1000000;
  const phase = (text, tone, faint = false) => ({ text, tone, faint });
  const header = {
    clients: 2, end: 100 * MS,
    keys: ["a", "b"], values: ["v1", "v2"], errors: ["conflict: %t holds 100 %%"], identifiers: ["uuid-1"],
    faults: [{ fault: "kill-replica", action: "kill", nodes: ["r1"], inactive: true, from: 40 * MS, to: 50 * MS, index: 4 }],
    lanes: [{
      name: "r1",
      layout: {
        start: phase("PREPARE appended", "pending"),
        milestones: [phase("PREPARE durable", "waiting"), phase("noted", null)],
        endings: [phase("", null), phase("applied", "done")],
      },
      marks: [{ shape: "bar", tone: "io" }],
    }],
    traces: [],
    errors_found: [{ at: 30 * MS, check: "atomicity", text: "AC1", transaction: "1.7" }],
  };
  const columns = {
    "+op.index": [0, 1, 4],
    "+op.time": [10 * MS, 20 * MS, 60 * MS],
    "op.completion": [2, 2, 0],
    "op.duration": [5 * MS, 5 * MS, 0],
    "op.process": [0, 1, 2],
    // put ok, get fail, put info
    "op.kind": [3, 1, 5],
    "op.key": [0, 1, 0],
    "op.value": [1, 0, 1],
    ...IDS("op.version", [[1, 7], [0, 0], [0, 0]]),
    "op.error": [0, 1, 0],
    ...IDS("op.error.transaction", [[0, 0], [-1, 0], [0, 0]]),
    ...IDS("lane.0.span", [[1, 7], [-1, 0]]),
    "lane.0.key": [0, -1],
    "+lane.0.from": [11000, 12000],
    "lane.0.duration": [3000, 1000],
    "lane.0.ending": [1, 0],
    "lane.0.milestone.0": [1000, -1],
    "lane.0.milestone.1": [2000, -1],
    "+lane.0.mark.0.from": [11000],
    "lane.0.mark.0.duration": [500],
  };
  return page.buildModel(page.decode(pack(header, columns)));
}
