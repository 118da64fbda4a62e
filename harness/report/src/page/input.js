// Pointer, wheel, keyboard and buttons.

const ACTIONS = {
  "first-error": showFirstError,
  "previous-fault": () => showNextFault(-1),
  "next-fault": () => showNextFault(1),
  "zoom-in": () => zoom(0.5),
  "zoom-out": () => zoom(2),
  "whole-run": showWholeRun,
  "show-transaction": () => {
    showTransaction($("select[name=transaction]").value);
    $("#timeline").scrollIntoView();
  },
};

const KEYS = {
  ArrowLeft: () => pan(-0.15),
  ArrowRight: () => pan(0.15),
  "+": ACTIONS["zoom-in"],
  "=": ACTIONS["zoom-in"],
  "-": ACTIONS["zoom-out"],
  0: ACTIONS["whole-run"],
  e: ACTIONS["first-error"],
  n: ACTIONS["next-fault"],
  p: ACTIONS["previous-fault"],
  "/": () => $("input[name=find]").focus(),
  Escape: unpin,
};

function unpin() {
  state.marked = new Set();
  pin(null);
}

function bindInput() {
  bindTimeline();
  bindOverview();
  bindControls();
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (/INPUT|SELECT|TEXTAREA/.test(event.target.tagName)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const action = KEYS[event.key];
    if (action) { event.preventDefault(); action(); }
  });
  addEventListener("hashchange", followHash);
  // Following the current link again does not fire hashchange.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (link && link.hash && link.hash === location.hash) followHash();
  });
  addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColors(); draw(); });
}

// A point of the timeline canvas.
function pointOf(event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

const hitAt = (event) => hit(state.data, state.lanes, scale(), ...pointOf(event));

// Hovering shows details, dragging pans, a click pins, the wheel with Ctrl zooms.
function bindTimeline() {
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, view: state.view, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) {
      if (!state.pinned) showDetails(hitAt(event));
      return;
    }
    drag.moved ||= Math.abs(event.clientX - drag.x) > 3;
    if (drag.moved) {
      canvas.classList.add("panning");
      look(...panned(drag.view, (drag.x - event.clientX) / scale().width));
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    canvas.classList.remove("panning");
    if (drag && !drag.moved) {
      state.marked = new Set();
      pin(hitAt(event));
    }
    drag = null;
  });
  canvas.addEventListener("dblclick", (event) => zoom(0.4, scale().time(pointOf(event)[0])));
  canvas.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      zoom(1.0015 ** event.deltaY, scale().time(pointOf(event)[0]));
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      pan((event.deltaX || event.deltaY) / scale().width);
    }
  }, { passive: false });
}

// Dragging selects a range, a click moves the view.
function bindOverview() {
  let start = null;
  const timeAt = (event) =>
    ((event.clientX - overview.getBoundingClientRect().left) / overview.clientWidth) * state.data.end;
  overview.addEventListener("pointerdown", (event) => {
    start = timeAt(event);
    overview.setPointerCapture(event.pointerId);
  });
  overview.addEventListener("pointermove", (event) => {
    if (start !== null) look(Math.min(start, timeAt(event)), Math.max(start, timeAt(event)));
  });
  overview.addEventListener("pointerup", (event) => {
    if (start !== null && Math.abs(timeAt(event) - start) < state.data.end / 200) {
      const half = (state.view[1] - state.view[0]) / 2;
      look(start - half, start + half);
    }
    start = null;
  });
}

function bindControls() {
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.action) ACTIONS[button.dataset.action]();
    if (button.dataset.counterexample) {
      const counterexample = state.data.counterexamples[button.dataset.counterexample];
      if (counterexample.operations.length) showCounterexample(counterexample);
      $("#timeline").scrollIntoView();
    }
  });
  for (const form of document.querySelectorAll("form"))
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (form.elements.find) find(form.elements.find.value.trim());
    });
  const keys = $("select[name=key]"), traces = $("select[name=transaction]");
  keys.addEventListener("change", () => filterKey(keys.value === "" ? -1 : Number(keys.value)));
  if (traces) traces.addEventListener("change", () => selectTrace(traces.value));
}
