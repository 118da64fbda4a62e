// The interactive parts of a run's page: the timeline, the search, the message diagram. Decodes the
// columns that columns.rs packed.
"use strict";
(() => {
  const $ = (selector) => document.querySelector(selector);
  const NODE_HEIGHT = 56, SLOTS = 6, LEFT = 124, TOP = 24;
  const MS = 1e6, S = 1e9;
  let data, view, lanes, height, pinned = null, keyFilter = -1, marked = new Set(), colors = {};

  // ---- decoding ----

  async function read() {
    const text = atob($("#run").textContent.trim());
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const all = new Uint8Array(await new Response(stream).arrayBuffer());
    const length = new DataView(all.buffer).getUint32(0, true);
    const head = JSON.parse(new TextDecoder().decode(all.subarray(4, 4 + length)));
    let at = 4 + length;
    const columns = {};
    for (const [name, count] of head.columns) {
      const steps = name[0] === "+";
      const column = new Float64Array(count);
      let last = 0;
      for (let i = 0; i < count; i++) {
        let number = 0, scale = 1, byte;
        do {
          byte = all[at++];
          number += (byte & 127) * scale;
          scale *= 128;
        } while (byte > 127);
        number = number % 2 ? -(number + 1) / 2 : number / 2;
        column[i] = steps ? (last += number) : number;
      }
      columns[steps ? name.slice(1) : name] = column;
    }
    head.columns = columns;
    return head;
  }

  // ---- model ----

  const F = ["get", "put", "del"], OUTCOMES = ["ok", "fail", "info"];
  const op = (i) => {
    const c = data.columns;
    const what = c["o.kind"][i];
    return {
      i, index: c["o.index"][i], time: c["o.time"][i], process: c["o.process"][i],
      f: F[Math.floor(what / 3)], outcome: OUTCOMES[what % 3], key: data.keys[c["o.key"][i]],
      end: c["o.completion"][i] ? c["o.index"][i] + c["o.completion"][i] : null,
      until: c["o.completion"][i] ? c["o.time"][i] + c["o.duration"][i] : null,
      value: data.value[i] < 0 ? null : data.values[data.value[i]],
      version: c["o.epoch"][i] ? c["o.epoch"][i] + "." + c["o.seq"][i] : null,
      error: error(i),
    };
  };
  function error(i) {
    const c = data.columns;
    if (!c["o.error"][i]) return null;
    const text = data.errors[c["o.error"][i] - 1];
    const txn = c["o.error.epoch"][i] + "." + c["o.error.seq"][i];
    return text.replace(/%t|%%/g, (match) => (match === "%t" ? txn : "%"));
  }
  // The lines of the history file for an operation.
  function history(o) {
    const start = { index: o.index, time: o.time, process: o.process, type: "invoke", f: o.f, key: o.key };
    if (o.f === "put") start.value = o.value;
    const lines = [JSON.stringify(start)];
    if (o.end !== null) {
      const end = { index: o.end, time: o.until, process: o.process, type: o.outcome, f: o.f, key: o.key };
      if (o.f === "put" || (o.f === "get" && (o.outcome === "ok" || o.value !== null))) end.value = o.value;
      if (o.version) end.version = o.version;
      if (o.error !== null) end.error = o.error;
      lines.push(JSON.stringify(end));
    }
    return lines;
  }
  const describe = (o) =>
    o.f === "put" ? "put " + o.value
      : o.f === "get" ? (o.outcome === "ok" ? "get = " + (o.value === null ? "nothing" : o.value) : "get") : "del";
  const traceOf = (txn) => data.traces.find((trace) => trace.txn === txn);

  function prepare() {
    const c = data.columns;
    // 0 is no value, 1 the next new value, and 1 + n the value n places before the next new one.
    let known = 0;
    data.value = Array.from(c["o.value"], (code) =>
      code === 0 ? -1 : code === 1 ? known++ : known + 1 - code);
    const clients = Math.min(data.clients, 400);
    lanes = [];
    height = TOP;
    const add = (lane, h) => {
      lanes.push(Object.assign(lane, { y: height, h }));
      height += h;
    };
    for (const fault of new Set(data.faults.map((fault) => fault.fault)))
      add({ kind: "fault", name: fault, items: data.faults.filter((w) => w.fault === fault) }, 20);
    const h = Math.max(4, Math.min(17, Math.floor(600 / clients)));
    const ops = Array.from({ length: clients }, () => []);
    for (let i = 0; i < c["o.index"].length; i++) {
      const lane = c["o.process"][i] % data.clients;
      if (lane < clients) ops[lane].push(i);
    }
    height += 6;
    ops.forEach((items, n) => add({ kind: "client", name: h > 9 || n % 5 === 0 ? "client " + n : "", items }, h));
    const nodes = ["master"];
    for (let n = 1; n <= data.replicas; n++) nodes.push("r" + n);
    height += 6;
    for (const name of nodes) {
      if (!c[name + ".seq"]) continue;
      const lane = { kind: "node", name, col: (field) => c[name + "." + field] };
      lane.end = name === "master" ? masterEnd(lane) : Float64Array.from(lane.col("from"), (t, i) => t + lane.col("duration")[i]);
      lane.slot = rowsOf(lane);
      lane.rows = Array.from({ length: SLOTS }, () => []);
      lane.slot.forEach((slot, i) => lane.rows[slot].push(i));
      lane.down = data.faults.filter((w) => w.inactive && w.nodes.includes(name));
      add(lane, NODE_HEIGHT);
    }
    height += 4;
    const names = $("#names");
    for (const lane of lanes) {
      const label = document.createElement("span");
      label.textContent = lane.name;
      label.style.top = lane.y + lane.h / 2 + "px";
      if (lane.kind === "node") label.style.fontWeight = "600";
      names.append(label);
    }
    const keys = $("select[name=key]");
    data.keys.map((key, n) => [key, n]).sort((a, b) => a[0].localeCompare(b[0], undefined, { numeric: true }))
      .forEach(([key, n]) => keys.add(new Option(key, n)));
    const traces = $("select[name=transaction]");
    if (traces) for (const trace of data.traces) traces.add(new Option(trace.txn + "  " + trace.write, trace.txn));
  }
  const masterEnd = (lane) => Float64Array.from(lane.col("from"), (t, i) =>
    t + Math.max(...["appended", "committed", "acknowledged", "aborted"].map((field) => lane.col(field)[i]), 0));
  // Puts each interval into the first free row.
  function rowsOf(lane) {
    const free = new Float64Array(SLOTS).fill(-Infinity);
    return Array.from(lane.col("from"), (from, i) => {
      let slot = free.findIndex((until) => until <= from);
      if (slot < 0) slot = i % SLOTS;
      free[slot] = Math.max(free[slot], lane.end[i]);
      return slot;
    });
  }

  // ---- drawing ----

  const canvas = $("#canvas"), overview = $("#overview");
  function theme() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["paper", "raised", "ink", "soft", "faint", "ok", "fail", "info", "pending", "in-doubt",
      "applied", "aborted", "force", "down", "fault", "accent", "invalid", "hit"])
      colors[name] = style.getPropertyValue("--" + name).trim();
    colors.hatch = hatch(colors.down);
  }
  function hatch(color) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 6;
    const g = tile.getContext("2d");
    g.strokeStyle = color;
    g.globalAlpha = 0.75;
    g.beginPath();
    for (const d of [-6, 0, 6]) { g.moveTo(d, 6); g.lineTo(d + 6, 0); }
    g.stroke();
    return tile;
  }
  function fit(element, h) {
    const ratio = devicePixelRatio || 1, w = element.clientWidth;
    if (element.width !== Math.round(w * ratio) || element.height !== Math.round(h * ratio)) {
      element.width = Math.round(w * ratio);
      element.height = Math.round(h * ratio);
      element.style.height = h + "px";
    }
    const g = element.getContext("2d");
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, w, h);
    g.font = "11px system-ui, sans-serif";
    g.textBaseline = "middle";
    return [g, w];
  }
  const width = () => canvas.clientWidth - LEFT;
  const x = (t) => LEFT + ((t - view[0]) / (view[1] - view[0])) * width();
  const time = (px) => view[0] + ((px - LEFT) / width()) * (view[1] - view[0]);
  const firstIndex = (array, test) => {
    let low = 0, high = array.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (test(array[middle])) high = middle; else low = middle + 1;
    }
    return low;
  };

  let queued = false;
  function draw() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => { queued = false; paint(); });
  }
  function paint() {
    // The canvas has no size while the page or this section is hidden.
    if (width() <= 0) return;
    const [g, w] = fit(canvas, height);
    const right = w;
    axis(g, right);
    g.save();
    g.beginPath();
    g.rect(LEFT, 0, right - LEFT, height);
    g.clip();
    for (const fault of data.faults) {
      const a = x(fault.from), b = Math.max(x(fault.to), a + 1);
      if (b < LEFT || a > right) continue;
      g.fillStyle = colors.fault;
      g.fillRect(a, TOP, b - a, height - TOP);
    }
    for (const lane of lanes) {
      g.strokeStyle = colors.faint;
      g.lineWidth = 1;
      g.beginPath();
      g.moveTo(LEFT, lane.y + lane.h - 0.5);
      g.lineTo(right, lane.y + lane.h - 0.5);
      g.stroke();
      if (lane.kind === "fault") faults(g, lane, right);
      else if (lane.kind === "client") operations(g, lane, right);
      else node(g, lane, right);
    }
    g.restore();
    paintOverview();
  }
  function axis(g, right) {
    const span = view[1] - view[0];
    let step = 10 ** Math.floor(Math.log10((span / width()) * 110));
    for (const factor of [2, 2.5, 2]) if ((step / span) * width() < 80) step *= factor;
    const digits = Math.max(0, Math.min(6, Math.ceil(-Math.log10(step / S) - 1e-9)));
    g.fillStyle = colors.soft;
    g.strokeStyle = colors.faint;
    g.textAlign = "center";
    for (let t = Math.ceil(view[0] / step) * step; t <= view[1]; t += step) {
      const at = x(t);
      g.beginPath();
      g.moveTo(at, TOP - 5);
      g.lineTo(at, height);
      g.globalAlpha = 0.6;
      g.stroke();
      g.globalAlpha = 1;
      const label = (t / S).toFixed(digits) + " s";
      if (at > LEFT + 14 && at < right - 20) g.fillText(label, at, 10);
    }
    g.textAlign = "left";
  }
  function faults(g, lane, right) {
    for (const fault of lane.items) {
      const a = x(fault.from), b = Math.max(x(fault.to), a + 2);
      if (b < LEFT || a > right) continue;
      g.fillStyle = colors.down;
      g.globalAlpha = fault === pinned ? 1 : 0.8;
      g.fillRect(a, lane.y + 5, b - a, lane.h - 11);
      g.globalAlpha = 1;
      if (fault.recovered) {
        g.fillStyle = colors.down;
        g.fillRect(b, lane.y + lane.h / 2 - 1, Math.max(0, x(fault.recovered) - b), 1);
      }
      const label = fault.action + " " + fault.nodes.join(" ");
      if (b - a > g.measureText(label).width + 8) {
        g.fillStyle = colors.paper;
        g.fillText(label, Math.max(a, LEFT) + 4, lane.y + lane.h / 2);
      }
    }
  }
  function operations(g, lane, right) {
    const c = data.columns, starts = c["o.time"], keys = c["o.key"], what = c["o.kind"];
    let n = Math.max(0, firstIndex(lane.items, (i) => starts[i] >= view[0]) - 1);
    const last = [-1, -1, -1];
    const thick = lane.h - 3, top = lane.y + 1;
    for (; n < lane.items.length; n++) {
      const i = lane.items[n];
      const a = x(starts[i]);
      if (a > right) break;
      const outcome = what[i] % 3;
      const until = c["o.completion"][i] ? starts[i] + c["o.duration"][i] : data.end;
      const b = Math.max(x(until), a + 1.2);
      const other = keyFilter >= 0 && keys[i] !== keyFilter;
      const hit = marked.has(i) || (pinned && pinned.i === i);
      if (b < LEFT || (b < last[outcome] + 0.7 && !hit)) continue;
      last[outcome] = b;
      g.globalAlpha = other ? 0.13 : 1;
      const wide = b - a - (b - a > 4 ? 1 : 0);
      if (outcome === 0) {
        g.fillStyle = colors.ok;
        g.globalAlpha *= Math.floor(what[i] / 3) === 0 ? 0.5 : 0.9;
        g.fillRect(a, top, wide, thick);
      } else if (outcome === 1) {
        if (wide > 4) {
          g.strokeStyle = colors.fail;
          g.strokeRect(a + 0.5, top + 2.5, wide - 1, thick - 4);
        } else {
          g.fillStyle = colors.fail;
          g.fillRect(a, top + thick / 2, wide, thick / 2);
        }
      } else {
        g.fillStyle = colors.info;
        g.beginPath();
        g.moveTo(a, top);
        g.lineTo(a + wide, top);
        g.lineTo(a + wide + 5, top + thick / 2);
        g.lineTo(a + wide, top + thick);
        g.lineTo(a, top + thick);
        g.fill();
      }
      if (hit) {
        g.globalAlpha = 1;
        g.strokeStyle = colors.invalid;
        g.lineWidth = 2;
        g.strokeRect(a - 1, top - 0.5, wide + 2, thick + 1);
        g.lineWidth = 1;
      }
      if (wide > 46 && lane.h > 11) {
        const o = op(i), text = o.key + " " + describe(o);
        if (g.measureText(text).width < wide - 6) {
          g.globalAlpha = other ? 0.3 : 1;
          g.fillStyle = outcome === 1 || o.f === "get" ? colors.ink : colors.paper;
          g.fillText(text, Math.max(a, LEFT) + 4, top + thick / 2 + 0.5);
        }
      }
    }
    g.globalAlpha = 1;
  }
  function node(g, lane, right) {
    const slot = 7.4, top = lane.y + 3;
    for (const fault of lane.down) {
      const a = x(fault.from), b = x(fault.to);
      if (b < LEFT || a > right) continue;
      g.fillStyle = g.createPattern(colors.hatch, "repeat");
      g.fillRect(a, lane.y + 1, Math.max(b - a, 2), lane.h - 3);
    }
    const from = lane.col("from"), key = lane.col("key");
    lane.rows.forEach((row, n) => {
      // A row is sorted by start. An interval that starts before the view may extend into it.
      let at = Math.max(0, firstIndex(row, (i) => from[i] * 1000 >= view[0]) - 1);
      const y = top + n * slot;
      let last = -1;
      for (; at < row.length; at++) {
        const i = row[at];
        const a = x(from[i] * 1000);
        if (a > right) break;
        const b = Math.max(x(lane.end[i] * 1000), a + 1);
        const hit = pinned && pinned.lane === lane && pinned.i === i;
        if (b < LEFT || (b < last + 0.7 && !hit)) continue;
        last = b;
        g.globalAlpha = keyFilter >= 0 && key && key[i] !== keyFilter ? 0.13 : 1;
        bar(g, lane, i, a, b, y, slot - 1.6);
        if (hit) {
          g.strokeStyle = colors.invalid;
          g.strokeRect(a - 1, y - 1, b - a + 2, slot);
        }
        if (b - a > 70) {
          const text = lane.col("epoch")[i] + "." + lane.col("seq")[i] + (key ? " " + data.keys[key[i]] : "");
          g.fillStyle = colors.ink;
          g.font = "8.5px system-ui, sans-serif";
          g.fillText(text, Math.max(a, LEFT) + 3, y + slot / 2 - 0.6);
          g.font = "11px system-ui, sans-serif";
        }
      }
    });
    g.globalAlpha = 1;
    const forced = lane.col("force"), took = lane.col("force.duration");
    if (forced) {
      g.fillStyle = colors.force;
      let last = -1;
      for (let i = Math.max(0, firstIndex(forced, (t) => t * 1000 >= view[0]) - 1); i < forced.length; i++) {
        const a = x(forced[i] * 1000);
        if (a > right) break;
        const b = Math.max(a + 1, x((forced[i] + took[i]) * 1000));
        if (b < last + 0.7) continue;
        last = b;
        g.fillRect(a, lane.y + lane.h - 8, b - a - (b - a > 3 ? 0.8 : 0), 3);
      }
    }
    g.fillStyle = colors.ink;
    for (const t of lane.col("start") || []) {
      const at = x(t * 1000);
      if (at < LEFT || at > right) continue;
      g.beginPath();
      g.moveTo(at, lane.y + lane.h - 8);
      g.lineTo(at + 4, lane.y + lane.h - 1);
      g.lineTo(at - 4, lane.y + lane.h - 1);
      g.fill();
    }
  }
  function bar(g, lane, i, a, b, y, h) {
    const part = (from, to, color, alpha) => {
      g.fillStyle = color;
      const before = g.globalAlpha;
      g.globalAlpha = before * (alpha || 1);
      g.fillRect(from, y, Math.max(to - from, 0.8), h);
      g.globalAlpha = before;
    };
    const from = lane.col("from")[i];
    const at = (field) => (lane.col(field)[i] < 0 ? null : x((from + lane.col(field)[i]) * 1000));
    if (lane.name === "master") {
      const appended = at("appended"), decided = at("committed"), aborted = at("aborted");
      part(a, appended ?? aborted ?? b, colors.pending);
      if (appended !== null) part(appended, decided ?? b, colors["in-doubt"]);
      if (decided !== null) part(decided, at("acknowledged") ?? decided + 2, colors.applied, 0.45);
      if (aborted !== null && decided === null) part(aborted - 1, aborted + 1, colors.aborted);
      return;
    }
    const inDoubt = at("in_doubt"), how = lane.col("release")[i];
    part(a, inDoubt ?? b, colors.pending);
    if (inDoubt !== null) part(inDoubt, b, colors["in-doubt"]);
    if (b - a > 3 && how) part(b - 2, b, [null, colors.applied, colors.aborted, colors.down][how]);
  }
  function paintOverview() {
    const [g, w] = fit(overview, 46);
    const bins = overviewBins(w);
    const most = Math.max(1, ...bins.map((bin) => bin[0] + bin[1] + bin[2]));
    const at = (t) => (t / data.end) * w;
    for (const fault of data.faults) {
      g.fillStyle = colors.fault;
      g.fillRect(at(fault.from), 0, Math.max(1.5, at(fault.to) - at(fault.from)), 46);
    }
    bins.forEach((bin, px) => {
      let y = 46;
      ["ok", "fail", "info"].forEach((outcome, n) => {
        const h = bin[n] ? Math.max((bin[n] / most) * 40, n === 2 ? 2 : 0.5) : 0;
        g.fillStyle = colors[outcome];
        g.globalAlpha = 0.75;
        g.fillRect(px * 2, y - h, 1.6, h);
        y -= h;
      });
    });
    g.globalAlpha = 1;
    const a = at(view[0]), b = Math.max(at(view[1]), a + 3);
    g.fillStyle = colors.paper;
    g.globalAlpha = 0.62;
    g.fillRect(0, 0, a, 46);
    g.fillRect(b, 0, w - b, 46);
    g.globalAlpha = 1;
    g.strokeStyle = colors.accent;
    g.lineWidth = 2;
    g.strokeRect(a + 1, 1, b - a - 2, 44);
    g.lineWidth = 1;
  }
  let binned = null;
  function overviewBins(w) {
    const count = Math.ceil(w / 2);
    if (binned && binned.length === count) return binned;
    binned = Array.from({ length: count }, () => [0, 0, 0]);
    const c = data.columns;
    for (let i = 0; i < c["o.time"].length; i++)
      binned[Math.min(count - 1, Math.floor((c["o.time"][i] / (data.end || 1)) * count))][c["o.kind"][i] % 3]++;
    return binned;
  }

  // ---- navigation ----

  function look(from, to) {
    const span = Math.min(Math.max(to - from, 20000), data.end * 1.02 + 1);
    const middle = (from + to) / 2;
    let start = middle - span / 2;
    start = Math.max(-data.end * 0.01, Math.min(start, data.end * 1.01 - span));
    view = [start, start + span];
    draw();
  }
  const zoom = (factor, at) => {
    const t = at === undefined ? (view[0] + view[1]) / 2 : at;
    look(t - (t - view[0]) * factor, t + (view[1] - t) * factor);
  };
  const pan = (share) => {
    const span = view[1] - view[0];
    look(view[0] + share * span, view[1] + share * span);
  };
  const around = (from, to) => {
    const room = Math.max((to - from) * 0.25, 2 * MS);
    look(from - room, to + room);
  };
  const setStatus = (text) => { $("output[name=status]").textContent = text; };

  // ---- details ----

  const seconds = (t) => (t / S).toFixed(6) + " s";
  function showDetails(item) {
    const box = $("#detail");
    box.textContent = "";
    box.classList.toggle("pinned", item !== null && item === pinned);
    if (!item) { box.textContent = "Hover over an operation, a fault or a transaction to see its details."; return; }
    const lines = [];
    let txn = null;
    if (item.kind === "op") {
      const o = op(item.i);
      lines.push(...history(o));
      txn = o.version;
      const took = o.until === null ? "has no completion" : "took " + ((o.until - o.time) / MS).toFixed(3) + " ms";
      lines.push("client " + (o.process % data.clients) + ", operation " + took +
        (o.outcome === "info" ? "; may or may not have taken effect" : o.outcome === "fail" ? "; had no effect" : ""));
    } else if (item.kind === "fault") {
      const line = data.nemesis.find((line) => line.startsWith('{"index":' + item.fault.index + ","));
      lines.push(line || item.fault.fault);
      lines.push(item.fault.fault + ": " + item.fault.action + " " + item.fault.nodes.join(" ") + " from " +
        seconds(item.fault.from) + " for " + ((item.fault.to - item.fault.from) / MS).toFixed(1) + " ms");
      txn = item.fault.txn;
    } else if (item.kind === "interval") {
      [txn] = describeInterval(item, lines);
    } else if (item.kind === "text") {
      lines.push(...item.lines);
      txn = item.txn;
    }
    box.append(lines.join("\n"));
    if (txn && traceOf(txn)) {
      const link = document.createElement("a");
      link.href = "#txn=" + txn;
      link.textContent = "messages of " + txn;
      box.append("\n", link);
    } else if (txn) {
      const remark = document.createElement("span");
      remark.className = "remark";
      remark.textContent = "\ntransaction " + txn + "; this page omits its messages, the journals have them";
      box.append(remark);
    }
  }
  function describeInterval(item, lines) {
    const { lane, i } = item, col = (field) => lane.col(field)[i];
    const txn = col("epoch") + "." + col("seq");
    const after = (field) => (col(field) / 1000).toFixed(3) + " ms later";
    lines.push(lane.name + ", transaction " + txn + (lane.col("key") ? ", key " + data.keys[col("key")] : ""));
    if (lane.name === "master") {
      lines.push("begun " + seconds(col("from") * 1000));
      if (col("appended") >= 0) lines.push("COMMIT appended " + after("appended"));
      if (col("committed") >= 0) lines.push("COMMIT durable, the commit point, " + after("committed"));
      if (col("aborted") >= 0) lines.push("abort sent " + after("aborted"));
      if (col("acknowledged") >= 0) lines.push("acknowledged by all replicas " + after("acknowledged"));
    } else {
      lines.push("key locked, PREPARE appended " + seconds(col("from") * 1000));
      if (col("in_doubt") >= 0) lines.push("PREPARE durable, in doubt from here, " + after("in_doubt"));
      lines.push(["still locked at the end", "applied and unlocked", "aborted and unlocked", "locked when the node crashed"][col("release")] +
        " " + after("duration"));
    }
    return [txn];
  }
  function hit(px, py) {
    const lane = lanes.find((lane) => py >= lane.y && py < lane.y + lane.h);
    if (!lane || px < LEFT) return null;
    const t = time(px), slack = ((view[1] - view[0]) / width()) * 4;
    if (lane.kind === "fault") {
      const fault = lane.items.find((w) => t >= w.from - slack && t <= w.to + slack);
      return fault ? { kind: "fault", fault } : null;
    }
    if (lane.kind === "client") {
      const c = data.columns, starts = c["o.time"];
      const near = firstIndex(lane.items, (i) => starts[i] > t);
      for (const n of [near - 1, near]) {
        const i = lane.items[n];
        if (i === undefined) continue;
        const until = c["o.completion"][i] ? starts[i] + c["o.duration"][i] : data.end;
        if (t >= starts[i] - slack && t <= until + slack) return { kind: "op", i };
      }
      return null;
    }
    const row = lane.rows[Math.min(SLOTS - 1, Math.max(0, Math.floor((py - lane.y - 3) / 7.4)))];
    const from = lane.col("from");
    const near = firstIndex(row, (i) => from[i] * 1000 > t);
    for (const n of [near - 1, near]) {
      const i = row[n];
      if (i !== undefined && t >= from[i] * 1000 - slack && t <= lane.end[i] * 1000 + slack)
        return { kind: "interval", lane, i };
    }
    const down = lane.down.find((w) => t >= w.from && t <= w.to);
    return down ? { kind: "fault", fault: down } : null;
  }

  // ---- search ----

  function firstError() {
    const broken = data.counterexamples[0];
    if (broken && broken.ops.length) return showCounterexample(broken);
    if (data.focus && data.first_transaction) { around(...data.focus); chooseTransaction(data.first_transaction); setStatus("transaction " + data.first_transaction); return; }
    const what = data.columns["o.kind"];
    let i = what.findIndex((w) => w % 3 === 2);
    if (i < 0) i = what.findIndex((w) => w % 3 === 1);
    if (i < 0) { setStatus("every operation succeeded"); return; }
    showOp(i, "the first operation with outcome " + OUTCOMES[what[i] % 3]);
  }
  function showCounterexample(broken) {
    marked = new Set(broken.ops.concat(broken.at === null ? [] : [broken.at]));
    const ops = [...marked].map(op);
    around(Math.min(...ops.map((o) => o.time)), Math.max(...ops.map((o) => o.until ?? o.time)));
    filter(data.keys.indexOf(broken.key));
    if (broken.at !== null) pin({ kind: "op", i: broken.at });
    setStatus("the counterexample, key " + broken.key);
  }
  function showOp(i, text) {
    const o = op(i);
    around(o.time, o.until ?? o.time);
    pin({ kind: "op", i });
    setStatus(text || "operation " + o.index);
  }
  function pin(item) {
    pinned = item;
    showDetails(item);
    draw();
  }
  function filter(key) {
    keyFilter = key;
    $("select[name=key]").value = key < 0 ? "" : key;
    draw();
  }
  function showTxn(txn) {
    const [epoch, seq] = txn.split(".").map(Number);
    let found = false;
    for (const lane of lanes) {
      if (lane.kind !== "node" || found) continue;
      const i = lane.col("seq").findIndex((s, i) => s === seq && lane.col("epoch")[i] === epoch);
      if (i >= 0) {
        found = true;
        around(lane.col("from")[i] * 1000, lane.end[i] * 1000);
        pin({ kind: "interval", lane, i });
      }
    }
    chooseTransaction(txn);
    setStatus(found ? "transaction " + txn : "this page has no transaction " + txn);
  }
  function showLine(name) {
    const quote = data.lines.find((quote) => quote[0] === name);
    if (!quote) { setStatus("this page does not quote journal line " + name); return; }
    const [, t, text] = quote;
    around(t - 3 * MS, t + 3 * MS);
    pin({ kind: "text", lines: [name.replace(":", " journal line ") + ", " + seconds(t), text], txn: null });
    $("#timeline").scrollIntoView();
  }
  function find(text) {
    text = text.trim();
    if (!text) return;
    const key = data.keys.indexOf(text);
    if (key >= 0) {
      filter(key);
      const i = data.columns["o.key"].indexOf(key);
      if (i >= 0 && (op(i).time > view[1] || op(i).time < view[0])) showOp(i);
      setStatus("filtered by key " + text);
    } else if (/^\d+\.\d+$/.test(text)) showTxn(text);
    else if (/^p\d+$/.test(text)) {
      const i = data.columns["o.process"].indexOf(Number(text.slice(1)));
      if (i < 0) setStatus("no process " + text.slice(1)); else showOp(i, "the first operation of process " + text.slice(1));
    } else if (/^\d+$/.test(text)) {
      const i = firstIndex(data.columns["o.index"], (index) => index > Number(text)) - 1;
      const also = Array.from(data.columns["o.index"]).findIndex((index, n) => index + data.columns["o.completion"][n] === Number(text));
      showOp(also >= 0 ? also : Math.max(0, i));
    } else {
      const value = data.values.indexOf(text);
      const i = value < 0 ? -1 : data.value.indexOf(value);
      if (i < 0) setStatus("no key, transaction, process, index or value matches " + text); else showOp(i, "the operation that wrote " + text);
    }
  }
  function hash() {
    const [, what, value] = decodeURIComponent(location.hash).match(/^#(\w+)=(.+)$/) || [];
    if (!what) return;
    if (what === "txn") {
      showTxn(value);
      (traceOf(value) ? $("#messages") : $("#timeline")).scrollIntoView();
    } else if (what === "line") showLine(value);
    else if (what === "time") {
      const fault = data.faults.find((w) => w.from === Number(value));
      around(Number(value), fault ? fault.to : Number(value));
      if (fault) pin({ kind: "fault", fault });
      $("#timeline").scrollIntoView();
    } else if (what === "index") {
      find(value);
      $("#timeline").scrollIntoView();
    }
  }

  // ---- messages ----

  function chooseTransaction(txn) {
    const trace = traceOf(txn);
    if (!trace || !$("#diagram")) return;
    $("select[name=transaction]").value = txn;
    diagram(trace);
  }
  const SVG = "http://www.w3.org/2000/svg";
  function make(parent, name, attributes, text) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }
  // Time runs downwards. Rows show the order of events; long gaps are labelled.
  function diagram(trace) {
    const box = $("#diagram");
    box.textContent = "";
    const nodes = ["master"];
    for (let n = 1; n <= data.replicas; n++) nodes.push("r" + n);
    const points = [];
    trace.events.forEach((event) => points.push({ t: event.t, event }));
    trace.messages.forEach((message) => {
      if (message.sent) points.push({ t: message.sent[0], message, end: "sent" });
      if (message.received) points.push({ t: message.received[0], message, end: "received" });
    });
    points.sort((a, b) => a.t - b.t || (a.end === "received" ? 0 : 1) - (b.end === "received" ? 0 : 1));
    const gaps = [];
    let y = 44, last = null;
    for (const point of points) {
      if (last !== null && point.t - last > 40 * MS) {
        gaps.push([y + 22, (point.t - last) / MS]);
        y += 26;
      }
      y += last !== null && point.t === last && !point.event && point.end === "received" ? 13 : 21;
      point.y = y;
      last = point.t;
    }
    const total = y + 24, left = 96, wide = 1072;
    const gap = (wide - left - 150) / Math.max(1, nodes.length - 1);
    const at = (node) => left + 60 + gap * nodes.indexOf(node);
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${wide} ${total}`);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", "Messages of transaction " + trace.txn);
    box.append(svg);
    const place = (t) => {
      const after = points.find((point) => point.t >= t);
      return after ? after.y : total - 12;
    };
    for (const node of nodes) {
      make(svg, "text", { x: at(node), y: 18, "text-anchor": "middle", class: "head" }, node);
      make(svg, "line", { x1: at(node), x2: at(node), y1: 28, y2: total - 8, class: "life" });
      for (const fault of data.faults) {
        if (!fault.inactive || !fault.nodes.includes(node)) continue;
        if (!points.length || fault.to < points[0].t || fault.from > last) continue;
        const from = fault.from <= points[0].t ? 28 : place(fault.from), to = fault.to >= last ? total - 8 : place(fault.to);
        make(svg, "line", { x1: at(node), x2: at(node), y1: from, y2: to, class: "inactive" });
      }
    }
    for (const [y, ms] of gaps)
      make(svg, "text", { x: left - 14, y, class: "t gap" }, ms >= 1000 ? (ms / 1000).toFixed(2) + " s later" : ms.toFixed(0) + " ms later");
    const short = (text) => text.replaceAll(" " + trace.txn, "").replace("the transaction", "it");
    const clip = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);
    let shown = null;
    const stamp = (point) => {
      if (point.t === shown) return;
      shown = point.t;
      make(svg, "text", { x: left - 14, y: point.y + 4, class: "t" }, "+" + ((point.t - points[0].t) / MS).toFixed(3));
    };
    const cited = new Set(data.lines.map((quote) => quote[0]));
    const linkLine = (g, name) => {
      g.dataset.line = name;
      if (cited.has(name)) g.classList.add("cited");
      g.addEventListener("click", () => {
        if (cited.has(name)) { showLine(name); return; }
        pin({ kind: "text", lines: [g.querySelector("title").textContent, name.replace(":", " journal line ")], txn: trace.txn });
      });
    };
    for (const point of points) {
      stamp(point);
      if (point.message) { point.message[point.end + "Y"] = point.y; continue; }
      const event = point.event;
      const g = make(svg, "g", { class: "event " + event.kind });
      const text = clip(short(event.text), 44);
      const frame = make(g, "rect", { y: point.y - 9, height: 18, rx: 3 });
      const label = make(g, "text", { y: point.y + 4 }, text);
      const w = label.getComputedTextLength() + 12;
      const right = at(event.node) + 8;
      const sx = right + w > wide - 4 ? at(event.node) - 8 - w : right;
      frame.setAttribute("x", sx);
      frame.setAttribute("width", w);
      label.setAttribute("x", sx + 6);
      make(g, "title", {}, event.node + ", " + seconds(event.t) + ": " + event.text);
      if (event.line !== null) linkLine(g, event.node + ":" + event.line);
    }
    for (const message of trace.messages) {
      const kind = /decide-abort|vote-no|abort/.test(message.kind + " " + message.text) ? "abort" : /decide|commit/.test(message.kind + " " + message.text) ? "commit" : "";
      const g = make(svg, "g", { class: kind + (message.received ? "" : " lost") });
      const dir = at(message.to) > at(message.from) ? 1 : -1;
      const y2 = message.receivedY ?? message.sentY + 14, y1 = message.sentY ?? message.receivedY - 10;
      const x1 = message.sent ? at(message.from) : at(message.to) - dir * 60;
      const x2 = message.received ? at(message.to) - dir * 3 : at(message.from) + (at(message.to) - at(message.from)) * 0.55;
      make(g, "line", { x1, y1, x2, y2, class: "arrow" });
      const angle = (Math.atan2(y2 - y1, x2 - x1) * 180) / Math.PI;
      if (message.received) make(g, "path", { d: "M0 0 l-8 -4 v8 z", class: "tip", transform: `translate(${x2} ${y2}) rotate(${angle})` });
      else make(g, "text", { x: x2 + dir * 8, y: y2 + 4, "text-anchor": "middle" }, "✕");
      const text = clip(short(message.text), 30);
      const lx = x1 + dir * 10, ly = y1 + ((y2 - y1) / Math.max(1, Math.abs(x2 - x1))) * 10 - 4;
      const label = make(g, "text", { x: lx, y: ly, "text-anchor": dir > 0 ? "start" : "end" }, text);
      label.setAttribute("style", "paint-order:stroke;stroke:var(--paper);stroke-width:3px");
      const took = message.sent && message.received ? ((message.received[0] - message.sent[0]) / MS).toFixed(3) + " ms" : message.received ? "a duplicate" : "never received";
      make(g, "title", {}, `${message.from} to ${message.to}: ${message.text} (${took})`);
      linkLine(g, message.sent ? message.from + ":" + message.sent[1] : message.to + ":" + message.received[1]);
    }
    if (trace.left_out) {
      const remark = document.createElement("p");
      remark.className = "hint";
      remark.textContent = trace.left_out + " more events in the middle are omitted.";
      box.append(remark);
    }
  }

  // ---- input ----

  function bindInput() {
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => {
      drag = { at: event.clientX, view: [...view], moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (drag) {
        const by = ((event.clientX - drag.at) / width()) * (drag.view[1] - drag.view[0]);
        if (Math.abs(event.clientX - drag.at) > 3) drag.moved = true;
        if (drag.moved) {
          canvas.classList.add("panning");
          look(drag.view[0] - by, drag.view[1] - by);
        }
      } else if (!pinned) showDetails(hit(...place(event)));
    });
    canvas.addEventListener("pointerup", (event) => {
      canvas.classList.remove("panning");
      if (drag && !drag.moved) {
        marked = new Set();
        pin(hit(...place(event)));
      }
      drag = null;
    });
    canvas.addEventListener("dblclick", (event) => zoom(0.4, time(place(event)[0])));
    canvas.addEventListener("wheel", (event) => {
      if (event.ctrlKey || event.metaKey) {
        event.preventDefault();
        zoom(1.0015 ** event.deltaY, time(place(event)[0]));
      } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
        event.preventDefault();
        pan((event.deltaX || event.deltaY) / width());
      }
    }, { passive: false });
    let brush = null;
    const over = (event) => ((event.clientX - overview.getBoundingClientRect().left) / overview.clientWidth) * data.end;
    overview.addEventListener("pointerdown", (event) => {
      brush = over(event);
      overview.setPointerCapture(event.pointerId);
    });
    overview.addEventListener("pointermove", (event) => {
      if (brush !== null) look(Math.min(brush, over(event)), Math.max(brush, over(event)));
    });
    overview.addEventListener("pointerup", (event) => {
      if (brush !== null && Math.abs(over(event) - brush) < data.end / 200) {
        const span = (view[1] - view[0]) / 2;
        look(brush - span, brush + span);
      }
      brush = null;
    });
    const jump = (direction) => {
      const middle = (view[0] + view[1]) / 2;
      const next = direction > 0 ? data.faults.find((w) => (w.from + w.to) / 2 > middle + 1)
        : data.faults.findLast((w) => (w.from + w.to) / 2 < middle - 1);
      if (!next) { setStatus("no more faults in this direction"); return; }
      const span = Math.max(next.to - next.from, 20 * MS) * 0.75;
      look((next.from + next.to) / 2 - span, (next.from + next.to) / 2 + span);
      pin({ kind: "fault", fault: next });
    };
    const actions = {
      "first-error": firstError, "previous-fault": () => jump(-1), "next-fault": () => jump(1), "zoom-in": () => zoom(0.5), "zoom-out": () => zoom(2),
      "whole-run": () => { marked = new Set(); filter(-1); pin(null); look(0, data.end); setStatus(""); },
      "show-transaction": () => { showTxn($("select[name=transaction]").value); $("#timeline").scrollIntoView(); },
    };
    document.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      if (button.dataset.action) actions[button.dataset.action]();
      if (button.dataset.counterexample) {
        const broken = data.counterexamples[button.dataset.counterexample];
        if (broken.ops.length) showCounterexample(broken);
        $("#timeline").scrollIntoView();
      }
    });
    document.querySelectorAll("form").forEach((form) => form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (form.elements.find) find(form.elements.find.value);
    }));
    $("select[name=key]").addEventListener("change", (event) => filter(event.target.value === "" ? -1 : Number(event.target.value)));
    const traces = $("select[name=transaction]");
    if (traces) traces.addEventListener("change", () => chooseTransaction(traces.value));
    document.addEventListener("keydown", (event) => {
      if (/INPUT|SELECT|TEXTAREA/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) {
        if (event.key === "Escape") event.target.blur();
        return;
      }
      const act = {
        ArrowLeft: () => pan(-0.15), ArrowRight: () => pan(0.15), "+": actions["zoom-in"], "=": actions["zoom-in"], "-": actions["zoom-out"],
        0: actions["whole-run"], e: actions["first-error"], n: actions["next-fault"], p: actions["previous-fault"],
        "/": () => $("input[name=find]").focus(), Escape: () => { marked = new Set(); pin(null); },
      }[event.key];
      if (act) { event.preventDefault(); act(); }
    });
    addEventListener("hashchange", hash);
    // Following the current link again does not fire hashchange.
    document.addEventListener("click", (event) => {
      const link = event.target.closest("a");
      if (link && link.hash && link.hash === location.hash) hash();
    });
    addEventListener("resize", draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { theme(); draw(); });
  }

  async function start() {
    const began = performance.now();
    document.documentElement.classList.add("scripted");
    if (typeof DecompressionStream === "undefined") {
      $("#detail").textContent = "The timeline needs a browser with DecompressionStream; the rest of the page is complete.";
      return;
    }
    data = await read();
    prepare();
    theme();
    bindInput();
    view = [0, data.end];
    if (data.first_transaction) chooseTransaction(data.first_transaction);
    const broken = data.counterexamples[0];
    if (broken && broken.ops.length) showCounterexample(broken);
    else if (data.focus) around(...data.focus);
    else look(0, data.end);
    hash();
    paint();
    // For the tests, and for exploration in the console.
    globalThis.run = { ready_ms: performance.now() - began, data, op, history, paint, view: () => view, details: () => $("#detail").textContent };
    document.documentElement.dataset.ready = "yes";
  }
  start();
})();
