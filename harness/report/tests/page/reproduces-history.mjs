// Checks that the pages of run directories reproduce the client events of their histories, line by line:
// node reproduces-history.mjs DIRECTORY...
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { page } from "./load.mjs";

async function differences(directory) {
  const html = readFileSync(join(directory, "report.html"), "utf8");
  const packed = html.match(/<script type="application\/octet-stream" id="run">([^<]*)</)[1];
  const data = page.buildModel(page.decode(await page.unpack(packed)));
  const shown = Array.from({ length: page.operationCount(data) }, (_, i) => page.historyLines(page.operation(data, i)));
  const history = readFileSync(join(directory, "history.jsonl"), "utf8").split("\n");
  const written = history.filter((line) => line && !line.includes('"process":"nemesis"'));
  const [a, b] = [new Set(shown.flat()), new Set(written)];
  return [...[...a].filter((line) => !b.has(line)), ...[...b].filter((line) => !a.has(line))];
}

for (const directory of process.argv.slice(2)) {
  const lines = await differences(directory);
  if (lines.length) {
    console.error(`${directory}: the page and the history differ:\n${lines.slice(0, 4).join("\n")}`);
    process.exitCode = 1;
  }
}
