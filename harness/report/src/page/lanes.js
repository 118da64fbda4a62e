// The layout of the timeline: lanes for faults, clients and nodes, from top to bottom.

const TOP = 24;
const CLIENTS_MAX = 400;
const FAULT_HEIGHT = 20;
const NODE_HEIGHT = 56;
// Spans of a node that overlap are drawn in rows.
const ROWS = 6, ROW_HEIGHT = 7.4, ROWS_TOP = 3;

// The lanes with their positions, and the height of all.
function layoutLanes(data) {
  const lanes = [];
  let height = TOP;
  const add = (lane, h) => {
    lanes.push({ ...lane, y: height, h });
    height += h;
  };
  for (const name of new Set(data.faults.map((fault) => fault.fault)))
    add({ kind: "fault", name, faults: data.faults.filter((fault) => fault.fault === name) }, FAULT_HEIGHT);
  height += 6;
  const clients = Math.min(data.clients, CLIENTS_MAX);
  const h = Math.max(4, Math.min(17, Math.floor(600 / clients)));
  operationsByClient(data, clients).forEach((operations, n) =>
    // Labels of thin lanes would overlap.
    add({ kind: "client", name: h > 9 || n % 5 === 0 ? "client " + n : "", operations }, h));
  height += 6;
  for (const lane of data.lanes) {
    const down = data.faults.filter((fault) => fault.inactive && fault.nodes.includes(lane.name));
    add({ ...lane, kind: "node", rows: assignRows(lane.from, lane.to, ROWS), down }, NODE_HEIGHT);
  }
  return { lanes, height: height + 4 };
}

// Operations by client. A client uses a new process after an indeterminate operation, a multiple of the
// number of clients later.
function operationsByClient(data, clients) {
  const lists = Array.from({ length: clients }, () => []);
  data.columns["op.process"].forEach((process, i) => {
    const client = process % data.clients;
    if (client < clients) lists[client].push(i);
  });
  return lists;
}

// Puts each span into the first free row. If no row is free, spans overlap.
function assignRows(from, to, count) {
  const rows = Array.from({ length: count }, () => []);
  const free = new Float64Array(count).fill(-Infinity);
  from.forEach((start, i) => {
    let row = free.findIndex((end) => end <= start);
    if (row < 0) row = i % count;
    free[row] = Math.max(free[row], to[i]);
    rows[row].push(i);
  });
  return rows;
}
