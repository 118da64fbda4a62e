// The details of the item under the pointer, or of the pinned one.

const HINT = "Hover over an operation, a fault or a transaction to see its details.";

function showDetails(item) {
  const box = $("#detail");
  box.classList.toggle("pinned", item !== null && item === state.pinned);
  if (!item) { box.textContent = HINT; return; }
  const { lines, transaction } = detailsOf(item);
  box.textContent = lines.join("\n");
  if (!transaction) return;
  if (traceOf(state.data, transaction)) {
    const link = document.createElement("a");
    link.href = "#transaction=" + transaction;
    link.textContent = "messages of " + transaction;
    box.append("\n", link);
  } else if (state.data.traces.length) {
    const remark = document.createElement("span");
    remark.className = "remark";
    remark.textContent = `transaction ${transaction}; this page omits its messages, the journals have them`;
    box.append("\n", remark);
  }
}

function detailsOf(item) {
  const { data } = state;
  if (item.kind === "operation") return operationDetails(operation(data, item.i));
  if (item.kind === "fault") return faultDetails(item.fault);
  if (item.kind === "error") {
    const { at, check, text, transaction } = item.error;
    return { lines: [`violation found by the check ${check}, ${seconds(at)}`, text], transaction };
  }
  if (item.kind === "span")
    return { lines: spanLines(data, item.lane, item.i), transaction: item.lane.transaction(item.i) };
  return item;
}

function operationDetails(op) {
  const duration = op.completed === null ? "has no completion"
    : "took " + ((op.completed - op.time) / MS).toFixed(3) + " ms";
  const effect = { ok: "", fail: "; had no effect", info: "; may or may not have taken effect" }[op.outcome];
  const client = op.process % state.data.clients;
  return { lines: [...historyLines(op), `client ${client}, operation ${duration}${effect}`], transaction: op.version };
}

function faultDetails(fault) {
  const line = state.data.nemesis.find((line) => line.startsWith(`{"index":${fault.index},`));
  const duration = ((fault.to - fault.from) / MS).toFixed(1);
  const sentence = `${fault.fault}: ${faultTitle(fault)} from ${seconds(fault.from)} for ${duration} ms`;
  return { lines: line ? [line, sentence] : [sentence], transaction: fault.txn };
}
