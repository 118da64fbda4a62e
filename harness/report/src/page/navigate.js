// Moves the view, and shows what a search or a link asks for.

function look(from, to) {
  state.view = clampView(from, to, state.data.end);
  draw();
}

const middle = () => (state.view[0] + state.view[1]) / 2;
const zoom = (factor, time = middle()) => look(...zoomed(state.view, factor, time));
const pan = (share) => look(...panned(state.view, share));
const lookAround = (from, to) => look(...padded(from, to));

function pin(item) {
  state.pinned = item;
  showDetails(item);
  draw();
}

// Dims all keys but one; -1 for none.
function filterKey(key) {
  state.keyFilter = key;
  $("select[name=key]").value = key < 0 ? "" : key;
  draw();
}

function showWholeRun() {
  state.marked = new Set();
  filterKey(-1);
  pin(null);
  setStatus("");
  look(0, state.data.end);
}

function showOperation(i, status) {
  const op = operation(state.data, i);
  lookAround(op.time, op.completed ?? op.time);
  pin({ kind: "operation", i });
  setStatus(status || "operation " + op.index);
}

function showCounterexample({ key, operations, breaks_at }) {
  state.marked = new Set(operations.concat(breaks_at === null ? [] : [breaks_at]));
  const shown = [...state.marked].map((i) => operation(state.data, i));
  lookAround(Math.min(...shown.map((op) => op.time)), Math.max(...shown.map((op) => op.completed ?? op.time)));
  filterKey(state.data.keys.indexOf(key));
  if (breaks_at !== null) pin({ kind: "operation", i: breaks_at });
  setStatus("the counterexample, key " + key);
}

// The first violation, and what it is about: its transaction, or the operations of the counterexample.
function showFirstViolation() {
  const { data } = state, error = data.errors_found[0];
  if (!error) return false;
  const transaction = error.transaction, trace = transaction && traceOf(data, transaction);
  const counterexample = data.counterexamples[0];
  if (!trace && counterexample && counterexample.operations.length) showCounterexample(counterexample);
  else if (trace) {
    const times = [...traceLines(trace).map(({ time }) => time), error.at];
    lookAround(Math.min(...times), Math.max(...times));
  } else lookAround(error.at - 50 * MS, error.at + 50 * MS);
  if (transaction) selectTrace(transaction);
  pin({ kind: "error", error });
  setStatus("the first violation" + (transaction ? ", transaction " + transaction : ""));
  return true;
}

// The first violation, the counterexample, or the first operation that did not succeed.
function showFirstError() {
  const { data } = state;
  if (showFirstViolation()) return;
  const counterexample = data.counterexamples[0];
  if (counterexample && counterexample.operations.length) { showCounterexample(counterexample); return; }
  if (data.focus && data.first_transaction) {
    lookAround(...data.focus);
    selectTrace(data.first_transaction);
    setStatus("transaction " + data.first_transaction);
    return;
  }
  const first = (outcome) => data.columns["op.kind"].findIndex((_, i) => OUTCOMES[outcomeOf(data, i)] === outcome);
  const i = first("info") < 0 ? first("fail") : first("info");
  if (i < 0) setStatus("every operation succeeded");
  else showOperation(i, "the first operation with outcome " + OUTCOMES[outcomeOf(data, i)]);
}

function showFault(fault) {
  pin({ kind: "fault", fault });
}

function showNextFault(direction) {
  const centre = (fault) => (fault.from + fault.to) / 2, { faults } = state.data;
  const fault = direction > 0 ? faults.find((fault) => centre(fault) > middle() + 1)
    : faults.findLast((fault) => centre(fault) < middle() - 1);
  if (!fault) { setStatus("no more faults in this direction"); return; }
  const span = Math.max(fault.to - fault.from, 20 * MS) * 0.75;
  look(centre(fault) - span, centre(fault) + span);
  showFault(fault);
}

function showTransaction(transaction) {
  const nodes = state.lanes.filter((lane) => lane.kind === "node");
  const spans = nodes.map((lane) => [lane, lane.from.findIndex((_, i) => lane.transaction(i) === transaction)]);
  const found = spans.find(([, i]) => i >= 0);
  if (found) {
    const [lane, i] = found;
    lookAround(lane.from[i], lane.to[i]);
    pin({ kind: "span", lane, i });
  }
  selectTrace(transaction);
  setStatus(found ? "transaction " + transaction : "this page has no transaction " + transaction);
}

function selectTrace(transaction) {
  if (!$("#diagram")) return;
  const trace = traceOf(state.data, transaction);
  drawWords(transaction);
  $("select[name=transaction]").value = trace ? transaction : "";
  if (trace) drawDiagram(trace);
  else $("#diagram").textContent = "";
}

// A journal line, by `node:line`.
function showLine(name) {
  const quote = state.data.quotes.find((quote) => lineName(quote.node, quote.line) === name);
  if (!quote) { setStatus(`this page does not quote journal line ${name}`); return; }
  lookAround(quote.time - 3 * MS, quote.time + 3 * MS);
  const title = `${quote.node} journal line ${quote.line}, ${seconds(quote.time)}`;
  pin({ kind: "line", quote, lines: [title, quote.text], transaction: null });
  const trace = state.data.traces.find((trace) =>
    traceLines(trace).some(({ node, line }) => node === quote.node && line === quote.line));
  if (trace) selectTrace(trace.transaction);
  highlightLine(name);
  $("#timeline").scrollIntoView();
}

function showKey(key) {
  const { data, view } = state, number = data.keys.indexOf(key);
  filterKey(number);
  const i = data.columns["op.key"].indexOf(number);
  if (i >= 0) {
    const { time } = operation(data, i);
    if (time < view[0] || time > view[1]) showOperation(i);
  }
  setStatus("filtered by key " + key);
}

// Finds a key, a transaction, a process, an event by its index, or the operation that wrote a value.
function find(text) {
  const { data } = state, c = data.columns;
  if (!text) return;
  if (data.keys.includes(text)) showKey(text);
  else if (/^\d+\.\d+$/.test(text) || data.identifiers.includes(text)) showTransaction(text);
  else if (/^p\d+$/.test(text)) {
    const i = c["op.process"].indexOf(Number(text.slice(1)));
    if (i < 0) setStatus("no process " + text.slice(1));
    else showOperation(i, "the first operation of process " + text.slice(1));
  } else if (/^\d+$/.test(text)) showEvent(Number(text));
  else {
    const value = data.values.indexOf(text);
    const i = value < 0 ? -1 : data.valueOf.indexOf(value);
    if (i < 0) setStatus("no key, transaction, process, index or value matches " + text);
    else showOperation(i, "the operation that wrote " + text);
  }
}

// The operation of an event, or the last one that was invoked before it.
function showEvent(index) {
  const c = state.data.columns;
  const completed = c["op.index"].findIndex((invoked, i) => c["op.completion"][i] && invoked + c["op.completion"][i] === index);
  const invoked = firstIndex(c["op.index"], (other) => other > index) - 1;
  showOperation(completed >= 0 ? completed : Math.max(0, invoked));
}

// Shows what the address refers to: #transaction=, #line=, #time= (a fault), #index=, #key=.
function followHash() {
  const [, kind, value] = decodeURIComponent(location.hash).match(/^#(\w+)=(.+)$/) || [];
  if (kind === "transaction") {
    showTransaction(value);
    (traceOf(state.data, value) ? $("#messages") : $("#timeline")).scrollIntoView();
  } else if (kind === "line") showLine(value);
  else if (kind === "time") {
    const fault = state.data.faults.find((fault) => fault.from === Number(value));
    lookAround(Number(value), fault ? fault.to : Number(value));
    if (fault) showFault(fault);
    $("#timeline").scrollIntoView();
  } else if (kind === "index" || kind === "key") {
    find(value);
    $("#timeline").scrollIntoView();
  } else if (location.hash.length > 1) {
    // The browser has scrolled there before this script filled the sections above.
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target) target.scrollIntoView();
  }
}
