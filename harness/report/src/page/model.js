// What the columns mean: operations, transactions, and the spans of lanes. See packed.rs.

const MS = 1e6, SECOND = 1e9;
const FUNCTIONS = ["get", "put", "del", "cas", "read", "add", "inc", "enqueue", "dequeue", "drain",
  "append", "poll", "lock", "unlock", "transfer", "txn", "snapshot"];
// Functions whose value is what they return, and functions whose values are texts and not JSON.
const RETURNING = ["get", "read", "dequeue", "drain", "poll"], TEXTUAL = ["get", "put", "del"];
const OUTCOMES = ["ok", "fail", "info"];

// Adds what the columns only imply: the value of each operation, and the spans of each lane.
function buildModel(data) {
  // 0 is no value, 1 the next new value, and 1 + n the value n places before the next new one.
  let known = 0;
  data.valueOf = Array.from(data.columns["op.value"], (code) =>
    code === 0 ? -1 : code === 1 ? known++ : known + 1 - code);
  data.lanes = data.lanes.map((lane, number) => laneModel(data, lane, number));
  return data;
}

function laneModel(data, lane, number) {
  const column = (name) => data.columns[`lane.${number}.${name}`];
  const from = column("from").map((micros) => micros * 1000);
  const since = (offsets) => offsets.map((micros, i) => (micros < 0 ? NaN : from[i] + micros * 1000));
  return {
    name: lane.name,
    layout: lane.layout,
    from,
    to: since(column("duration")),
    keys: column("key"),
    endings: column("ending"),
    milestones: lane.layout.milestones.map((_, n) => since(column("milestone." + n))),
    transaction: (i) => identifier(data, `lane.${number}.span`, i),
    marks: lane.marks.map((mark, n) => {
      const starts = column(`mark.${n}.from`).map((micros) => micros * 1000);
      const durations = column(`mark.${n}.duration`);
      return { ...mark, from: starts, to: starts.map((time, i) => time + durations[i] * 1000) };
    }),
  };
}

// The identifier of a transaction, or null.
function identifier(data, name, i) {
  const major = data.columns[name + ".major"][i], minor = data.columns[name + ".minor"][i];
  if (major < 0) return data.identifiers[minor];
  return major === 0 && minor === 0 ? null : major + "." + minor;
}

const operationCount = (data) => data.columns["op.index"].length;
const outcomeOf = (data, i) => data.columns["op.kind"][i] % 3;
const functionOf = (data, i) => Math.floor(data.columns["op.kind"][i] / 3);

// When an operation ended; the end of the run if it never did.
function endOf(data, i) {
  const c = data.columns;
  return c["op.completion"][i] ? c["op.time"][i] + c["op.duration"][i] : data.end;
}

function operation(data, i) {
  const c = data.columns;
  const completed = c["op.completion"][i] !== 0;
  return {
    i,
    index: c["op.index"][i],
    time: c["op.time"][i],
    process: c["op.process"][i],
    f: FUNCTIONS[functionOf(data, i)],
    outcome: OUTCOMES[outcomeOf(data, i)],
    key: data.keys[c["op.key"][i]],
    value: data.valueOf[i] < 0 ? null : data.values[data.valueOf[i]],
    version: identifier(data, "op.version", i),
    error: errorOf(data, i),
    completion: completed ? c["op.index"][i] + c["op.completion"][i] : null,
    completed: completed ? c["op.time"][i] + c["op.duration"][i] : null,
  };
}

function errorOf(data, i) {
  const number = data.columns["op.error"][i];
  if (!number) return null;
  const transaction = identifier(data, "op.error.transaction", i);
  return data.errors[number - 1].replace(/%t|%%/g, (match) => (match === "%t" ? transaction : "%"));
}

// What a client has asked for, of a value to which the answer adds what was read.
function askedOf(f, value) {
  if (f === "txn") return value.map(([step, key, read]) => [step, key, step === "r" ? null : read]);
  const { found, end, watermark, ...asked } = value;
  return asked;
}

// The lines of the history file for an operation.
function historyLines(op) {
  const { process, f, key } = op;
  const invocation = { index: op.index, time: op.time, process, type: "invoke", f, key };
  const returns = RETURNING.includes(f);
  const value = TEXTUAL.includes(f) || op.value === null ? op.value : JSON.parse(op.value);
  const adds = f === "txn" || f === "snapshot";
  const asked = adds && value !== null ? askedOf(f, value) : value;
  if (!returns && value !== null) invocation.value = asked;
  const lines = [JSON.stringify(invocation)];
  if (op.completion !== null) {
    const completion = { index: op.completion, time: op.completed, process, type: op.outcome, f, key };
    const isKnown = adds ? op.outcome === "ok" : value !== null;
    if (returns ? op.outcome === "ok" || value !== null : isKnown) completion.value = value;
    else if (adds && op.outcome === "fail") completion.value = asked;
    if (op.version) completion.version = op.version;
    if (op.error !== null) completion.error = op.error;
    lines.push(JSON.stringify(completion));
  }
  return lines;
}

// A text value as it is shown: in quotes if its end could not be seen, or if it could be taken for no value.
const shownValue = (op) => (!TEXTUAL.includes(op.f) || (op.value !== "nothing" && /^\S+$/.test(op.value)) ? op.value : `'${op.value}'`);

// An operation in short, without its key.
function describe(op) {
  if (RETURNING.includes(op.f)) {
    return op.outcome === "ok" ? op.f + " = " + (op.value === null ? "nothing" : shownValue(op)) : op.f;
  }
  return op.value === null ? op.f : op.f + " " + shownValue(op);
}

// The phases of a span in the order of time, each with its colour. The last one ends with the span.
function phasesOf(lane, i) {
  const reached = lane.milestones
    .map((times, n) => ({ time: times[i], phase: lane.layout.milestones[n] }))
    .filter(({ time }) => !Number.isNaN(time))
    .sort((a, b) => a.time - b.time);
  const begins = [{ time: lane.from[i], phase: lane.layout.start }, ...reached];
  return begins
    .map(({ time, phase }, n) => ({
      from: time, to: n + 1 < begins.length ? begins[n + 1].time : lane.to[i], tone: phase.tone, faint: phase.faint,
    }))
    .filter(({ tone }) => tone !== null);
}

// A span as text, one line per milestone.
function spanLines(data, lane, i) {
  const key = lane.keys[i] < 0 ? "" : ", key " + data.keys[lane.keys[i]];
  const later = (time) => ((time - lane.from[i]) / MS).toFixed(3) + " ms later";
  const lines = [`${lane.name}, transaction ${lane.transaction(i)}${key}`];
  if (lane.layout.start.text) lines.push(lane.layout.start.text + " " + seconds(lane.from[i]));
  const milestones = lane.layout.milestones.map((phase, n) => [phase.text, lane.milestones[n][i]]);
  milestones.sort((a, b) => a[1] - b[1]);
  for (const [text, time] of milestones) if (text && !Number.isNaN(time)) lines.push(text + " " + later(time));
  const ending = lane.layout.endings[lane.endings[i]];
  if (ending && ending.text) lines.push(ending.text + " " + later(lane.to[i]));
  return lines;
}

const seconds = (time) => (time / SECOND).toFixed(6) + " s";
const faultTitle = (fault) => [fault.action, ...fault.nodes].join(" ");
const traceOf = (data, transaction) => data.traces.find((trace) => trace.transaction === transaction);
