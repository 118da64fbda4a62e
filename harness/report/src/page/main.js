// Starts the page.

// Fills the elements whose content depends on the data: the names of lanes, and the choices.
function fillElements() {
  const { data, lanes } = state;
  for (const lane of lanes) {
    const label = document.createElement("span");
    label.textContent = lane.name;
    label.style.top = lane.y + lane.h / 2 + "px";
    label.className = lane.kind;
    $("#names").append(label);
  }
  const keys = data.keys.map((key, number) => [key, number]);
  keys.sort((a, b) => a[0].localeCompare(b[0], undefined, { numeric: true }));
  for (const [key, number] of keys) $("select[name=key]").add(new Option(key, number));
  const traces = $("select[name=transaction]");
  if (traces) for (const { transaction, title } of data.traces) traces.add(new Option(transaction + "  " + title, transaction));
}

function showInitialView() {
  const { data } = state;
  if (data.first_transaction) selectTrace(data.first_transaction);
  const counterexample = data.counterexamples[0];
  if (showFirstViolation()) { /* The view is set. */ }
  else if (counterexample && counterexample.operations.length) showCounterexample(counterexample);
  else if (data.focus) lookAround(...data.focus);
  else look(0, data.end);
}

async function start() {
  const started = performance.now();
  document.documentElement.classList.add("scripted");
  if (typeof DecompressionStream === "undefined") {
    $("#detail").textContent = "The timeline needs a browser with DecompressionStream; the rest of the page is complete.";
    return;
  }
  state.data = buildModel(decode(await unpack($("#run").textContent)));
  Object.assign(state, layoutLanes(state.data));
  fillElements();
  // A page from a server has a way back to its list of runs; one from a file has none.
  $("a.back").hidden = !/^\/run\/[^/]+\/[^/]+\/report\.html$/.test(location.pathname) || location.protocol === "file:";
  readColors();
  bindInput();
  state.view = [0, state.data.end];
  showDetails(null);
  showInitialView();
  paint();
  // Once everything has its size.
  followHash();
  // For the tests, and for exploration in the console.
  globalThis.run = {
    ready_ms: performance.now() - started,
    data: state.data,
    operation: (i) => operation(state.data, i),
    historyLines,
    paint,
    view: () => state.view,
    details: () => $("#detail").textContent,
  };
  document.documentElement.dataset.ready = "yes";
}

start();
