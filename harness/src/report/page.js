// What can be moved on the page of a run: the timeline, the search, the messages of a transaction.
// Reads the columns that columns.rs has packed. Finds nothing out: it draws what is there.
"use strict";
(() => {
  const $ = (selector) => document.querySelector(selector);
  const NODE_HEIGHT = 56, SLOTS = 6, LEFT = 124, TOP = 24;
  const MS = 1e6, S = 1e9;
  let data, view, lanes, height, pinned = null, keyFilter = -1, marked = new Set(), colors = {};

  // ---- reading ----

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

  // ---- what things are ----

  const F = ["get", "put", "del"], FATE = ["ok", "fail", "info"];
  const op = (i) => {
    const c = data.columns;
    const what = c["o.what"][i];
    return {
      i, index: c["o.index"][i], time: c["o.time"][i], process: c["o.process"][i],
      f: F[Math.floor(what / 3)], fate: FATE[what % 3], key: data.keys[c["o.key"][i]],
      end: c["o.end"][i] ? c["o.index"][i] + c["o.end"][i] : null,
      until: c["o.end"][i] ? c["o.time"][i] + c["o.for"][i] : null,
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
  // The lines of the history, as they stand in it.
  function history(o) {
    const start = { index: o.index, time: o.time, process: o.process, type: "invoke", f: o.f, key: o.key };
    if (o.f === "put") start.value = o.value;
    const lines = [JSON.stringify(start)];
    if (o.end !== null) {
      const end = { index: o.end, time: o.until, process: o.process, type: o.fate, f: o.f, key: o.key };
      if (o.f === "put" || (o.f === "get" && (o.fate === "ok" || o.value !== null))) end.value = o.value;
      if (o.version) end.version = o.version;
      if (o.error !== null) end.error = o.error;
      lines.push(JSON.stringify(end));
    }
    return lines;
  }
  const words = (o) =>
    o.f === "put" ? "put " + o.value
      : o.f === "get" ? (o.fate === "ok" ? "get = " + (o.value === null ? "nothing" : o.value) : "get") : "del";
  const story = (txn) => data.stories.find((story) => story.txn === txn);

  function prepare() {
    const c = data.columns;
    // A value that is new is the next one; another is so many back.
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
    for (const fault of new Set(data.windows.map((window) => window.fault)))
      add({ kind: "fault", name: fault, items: data.windows.filter((w) => w.fault === fault) }, 20);
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
      lane.end = name === "master" ? reignEnd(lane) : Float64Array.from(lane.col("from"), (t, i) => t + lane.col("for")[i]);
      lane.slot = slots(lane);
      lane.rows = Array.from({ length: SLOTS }, () => []);
      lane.slot.forEach((slot, i) => lane.rows[slot].push(i));
      lane.down = data.windows.filter((w) => w.silent && w.nodes.includes(name));
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
    const stories = $("select[name=story]");
    if (stories) for (const told of data.stories) stories.add(new Option(told.txn + "  " + told.write, told.txn));
  }
  const reignEnd = (lane) => Float64Array.from(lane.col("from"), (t, i) =>
    t + Math.max(...["appended", "decided", "ended", "aborted"].map((field) => lane.col(field)[i]), 0));
  // Each transaction in the first row that is free.
  function slots(lane) {
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
    for (const name of ["paper", "raised", "ink", "soft", "faint", "ok", "fail", "info", "pend", "doubt",
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
    const ratio = window.devicePixelRatio || 1, w = element.clientWidth;
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
  const least = (array, test) => {
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
    // Nothing to draw on: the page is not shown, or not this part of it.
    if (width() <= 0) return;
    const [g, w] = fit(canvas, height);
    const right = w;
    axis(g, right);
    g.save();
    g.beginPath();
    g.rect(LEFT, 0, right - LEFT, height);
    g.clip();
    for (const window of data.windows) {
      const a = x(window.from), b = Math.max(x(window.to), a + 1);
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
    small();
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
    for (const window of lane.items) {
      const a = x(window.from), b = Math.max(x(window.to), a + 2);
      if (b < LEFT || a > right) continue;
      g.fillStyle = colors.down;
      g.globalAlpha = window === pinned ? 1 : 0.8;
      g.fillRect(a, lane.y + 5, b - a, lane.h - 11);
      g.globalAlpha = 1;
      if (window.back) {
        g.fillStyle = colors.down;
        g.fillRect(b, lane.y + lane.h / 2 - 1, Math.max(0, x(window.back) - b), 1);
      }
      const label = window.action + " " + window.nodes.join(" ");
      if (b - a > g.measureText(label).width + 8) {
        g.fillStyle = colors.paper;
        g.fillText(label, Math.max(a, LEFT) + 4, lane.y + lane.h / 2);
      }
    }
  }
  function operations(g, lane, right) {
    const c = data.columns, starts = c["o.time"], keys = c["o.key"], what = c["o.what"];
    let n = Math.max(0, least(lane.items, (i) => starts[i] >= view[0]) - 1);
    const last = [-1, -1, -1];
    const thick = lane.h - 3, top = lane.y + 1;
    for (; n < lane.items.length; n++) {
      const i = lane.items[n];
      const a = x(starts[i]);
      if (a > right) break;
      const fate = what[i] % 3;
      const until = c["o.end"][i] ? starts[i] + c["o.for"][i] : data.end;
      const b = Math.max(x(until), a + 1.2);
      const other = keyFilter >= 0 && keys[i] !== keyFilter;
      const hit = marked.has(i) || (pinned && pinned.i === i);
      if (b < LEFT || (b < last[fate] + 0.7 && !hit)) continue;
      last[fate] = b;
      g.globalAlpha = other ? 0.13 : 1;
      const wide = b - a - (b - a > 4 ? 1 : 0);
      if (fate === 0) {
        g.fillStyle = colors.ok;
        g.globalAlpha *= Math.floor(what[i] / 3) === 0 ? 0.5 : 0.9;
        g.fillRect(a, top, wide, thick);
      } else if (fate === 1) {
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
        const o = op(i), text = o.key + " " + words(o);
        if (g.measureText(text).width < wide - 6) {
          g.globalAlpha = other ? 0.3 : 1;
          g.fillStyle = fate === 1 || o.f === "get" ? colors.ink : colors.paper;
          g.fillText(text, Math.max(a, LEFT) + 4, top + thick / 2 + 0.5);
        }
      }
    }
    g.globalAlpha = 1;
  }
  function node(g, lane, right) {
    const slot = 7.4, top = lane.y + 3;
    for (const window of lane.down) {
      const a = x(window.from), b = x(window.to);
      if (b < LEFT || a > right) continue;
      g.fillStyle = g.createPattern(colors.hatch, "repeat");
      g.fillRect(a, lane.y + 1, Math.max(b - a, 2), lane.h - 3);
    }
    const from = lane.col("from"), key = lane.col("key");
    lane.rows.forEach((row, n) => {
      // Rows are in order of their beginnings; one that began long before may reach into the view.
      let at = Math.max(0, least(row, (i) => from[i] * 1000 >= view[0]) - 1);
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
    const forced = lane.col("force"), took = lane.col("force.for");
    if (forced) {
      g.fillStyle = colors.force;
      let last = -1;
      for (let i = Math.max(0, least(forced, (t) => t * 1000 >= view[0]) - 1); i < forced.length; i++) {
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
      const appended = at("appended"), decided = at("decided"), aborted = at("aborted");
      part(a, appended ?? aborted ?? b, colors.pend);
      if (appended !== null) part(appended, decided ?? b, colors.doubt);
      if (decided !== null) part(decided, at("ended") ?? decided + 2, colors.applied, 0.45);
      if (aborted !== null && decided === null) part(aborted - 1, aborted + 1, colors.aborted);
      return;
    }
    const voted = at("voted"), how = lane.col("how")[i];
    part(a, voted ?? b, colors.pend);
    if (voted !== null) part(voted, b, colors.doubt);
    if (b - a > 3 && how) part(b - 2, b, [null, colors.applied, colors.aborted, colors.down][how]);
  }
  function small() {
    const [g, w] = fit(overview, 46);
    const bins = overviewBins(w);
    const most = Math.max(1, ...bins.map((bin) => bin[0] + bin[1] + bin[2]));
    const at = (t) => (t / data.end) * w;
    for (const window of data.windows) {
      g.fillStyle = colors.fault;
      g.fillRect(at(window.from), 0, Math.max(1.5, at(window.to) - at(window.from)), 46);
    }
    bins.forEach((bin, px) => {
      let y = 46;
      ["ok", "fail", "info"].forEach((fate, n) => {
        const h = bin[n] ? Math.max((bin[n] / most) * 40, n === 2 ? 2 : 0.5) : 0;
        g.fillStyle = colors[fate];
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
      binned[Math.min(count - 1, Math.floor((c["o.time"][i] / (data.end || 1)) * count))][c["o.what"][i] % 3]++;
    return binned;
  }

  // ---- moving ----

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
  const say = (text) => { $("output[name=said]").textContent = text; };

  // ---- telling ----

  const seconds = (t) => (t / S).toFixed(6) + " s";
  function tell(item) {
    const box = $("#detail");
    box.textContent = "";
    box.classList.toggle("pinned", item !== null && item === pinned);
    if (!item) { box.textContent = "Point at something."; return; }
    const lines = [];
    let txn = null;
    if (item.kind === "op") {
      const o = op(item.i);
      lines.push(...history(o));
      txn = o.version;
      const took = o.until === null ? "never ended" : "took " + ((o.until - o.time) / MS).toFixed(3) + " ms";
      lines.push("client " + (o.process % data.clients) + ", operation " + took +
        (o.fate === "info" ? "; may or may not have happened" : o.fate === "fail" ? "; certainly did not happen" : ""));
    } else if (item.kind === "window") {
      const line = data.nemesis.find((line) => line.startsWith('{"index":' + item.window.index + ","));
      lines.push(line || item.window.fault);
      lines.push(item.window.fault + ": " + item.window.action + " " + item.window.nodes.join(" ") + " from " +
        seconds(item.window.from) + " for " + ((item.window.to - item.window.from) / MS).toFixed(1) + " ms");
      txn = item.window.txn;
    } else if (item.kind === "held") {
      [txn] = held(item, lines);
    } else if (item.kind === "text") {
      lines.push(...item.lines);
      txn = item.txn;
    }
    box.append(lines.join("\n"));
    if (txn && story(txn)) {
      const link = document.createElement("a");
      link.href = "#txn=" + txn;
      link.textContent = "messages of " + txn;
      box.append("\n", link);
    } else if (txn) {
      const note = document.createElement("span");
      note.className = "note";
      note.textContent = "\ntransaction " + txn + "; its messages are in the journals, not on this page";
      box.append(note);
    }
  }
  function held(item, lines) {
    const { lane, i } = item, col = (field) => lane.col(field)[i];
    const txn = col("epoch") + "." + col("seq");
    const after = (field) => (col(field) / 1000).toFixed(3) + " ms later";
    lines.push(lane.name + ", transaction " + txn + (lane.col("key") ? ", key " + data.keys[col("key")] : ""));
    if (lane.name === "master") {
      lines.push("begun " + seconds(col("from") * 1000));
      if (col("appended") >= 0) lines.push("COMMIT appended " + after("appended"));
      if (col("decided") >= 0) lines.push("COMMIT durable, the commit point, " + after("decided"));
      if (col("aborted") >= 0) lines.push("told to be aborted " + after("aborted"));
      if (col("ended") >= 0) lines.push("acknowledged by all " + after("ended"));
    } else {
      lines.push("key locked, PREPARE appended " + seconds(col("from") * 1000));
      if (col("voted") >= 0) lines.push("PREPARE durable, in doubt from here, " + after("voted"));
      lines.push(["still so at the end", "applied and unlocked", "aborted and unlocked", "the node went down with it"][col("how")] +
        " " + after("for"));
    }
    return [txn];
  }
  function hit(px, py) {
    const lane = lanes.find((lane) => py >= lane.y && py < lane.y + lane.h);
    if (!lane || px < LEFT) return null;
    const t = time(px), slack = ((view[1] - view[0]) / width()) * 4;
    if (lane.kind === "fault") {
      const window = lane.items.find((w) => t >= w.from - slack && t <= w.to + slack);
      return window ? { kind: "window", window } : null;
    }
    if (lane.kind === "client") {
      const c = data.columns, starts = c["o.time"];
      const near = least(lane.items, (i) => starts[i] > t);
      for (const n of [near - 1, near]) {
        const i = lane.items[n];
        if (i === undefined) continue;
        const until = c["o.end"][i] ? starts[i] + c["o.for"][i] : data.end;
        if (t >= starts[i] - slack && t <= until + slack) return { kind: "op", i };
      }
      return null;
    }
    const row = lane.rows[Math.min(SLOTS - 1, Math.max(0, Math.floor((py - lane.y - 3) / 7.4)))];
    const from = lane.col("from");
    const near = least(row, (i) => from[i] * 1000 > t);
    for (const n of [near - 1, near]) {
      const i = row[n];
      if (i !== undefined && t >= from[i] * 1000 - slack && t <= lane.end[i] * 1000 + slack)
        return { kind: "held", lane, i };
    }
    const down = lane.down.find((w) => t >= w.from && t <= w.to);
    return down ? { kind: "window", window: down } : null;
  }

  // ---- finding ----

  function firstError() {
    const broken = data.broken[0];
    if (broken && broken.ops.length) return showBroken(broken);
    if (data.focus && data.first) { around(...data.focus); chooseStory(data.first); say("around " + data.first); return; }
    const what = data.columns["o.what"];
    let i = what.findIndex((w) => w % 3 === 2);
    if (i < 0) i = what.findIndex((w) => w % 3 === 1);
    if (i < 0) { say("no operation failed"); return; }
    showOp(i, "the first that is " + FATE[what[i] % 3]);
  }
  function showBroken(broken) {
    marked = new Set(broken.ops.concat(broken.at === null ? [] : [broken.at]));
    const ops = [...marked].map(op);
    around(Math.min(...ops.map((o) => o.time)), Math.max(...ops.map((o) => o.until ?? o.time)));
    filter(data.keys.indexOf(broken.key));
    if (broken.at !== null) pin({ kind: "op", i: broken.at });
    say("the counterexample, key " + broken.key);
  }
  function showOp(i, text) {
    const o = op(i);
    around(o.time, o.until ?? o.time);
    pin({ kind: "op", i });
    say(text || "operation " + o.index);
  }
  function pin(item) {
    pinned = item;
    tell(item);
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
        pin({ kind: "held", lane, i });
      }
    }
    chooseStory(txn);
    say(found ? "transaction " + txn : "no node on this page tells of transaction " + txn);
  }
  function showLine(name) {
    const quote = data.quotes.find((quote) => quote[0] === name);
    if (!quote) { say("line " + name + " is in the journal, not on this page"); return; }
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
      say("only " + text);
    } else if (/^\d+\.\d+$/.test(text)) showTxn(text);
    else if (/^p\d+$/.test(text)) {
      const i = data.columns["o.process"].indexOf(Number(text.slice(1)));
      if (i < 0) say("no process " + text.slice(1)); else showOp(i, "the first of process " + text.slice(1));
    } else if (/^\d+$/.test(text)) {
      const i = least(data.columns["o.index"], (index) => index > Number(text)) - 1;
      const also = Array.from(data.columns["o.index"]).findIndex((index, n) => index + data.columns["o.end"][n] === Number(text));
      showOp(also >= 0 ? also : Math.max(0, i));
    } else {
      const value = data.values.indexOf(text);
      const i = value < 0 ? -1 : data.value.indexOf(value);
      if (i < 0) say("nothing is called " + text); else showOp(i, "the operation that wrote " + text);
    }
  }
  function hash() {
    const [, what, value] = decodeURIComponent(location.hash).match(/^#(\w+)=(.+)$/) || [];
    if (!what) return;
    if (what === "txn") {
      showTxn(value);
      (story(value) ? $("#messages") : $("#timeline")).scrollIntoView();
    } else if (what === "line") showLine(value);
    else if (what === "time") {
      const window = data.windows.find((w) => w.from === Number(value));
      around(Number(value), window ? window.to : Number(value));
      if (window) pin({ kind: "window", window });
      $("#timeline").scrollIntoView();
    } else if (what === "index") {
      find(value);
      $("#timeline").scrollIntoView();
    }
  }

  // ---- messages ----

  function chooseStory(txn) {
    const told = story(txn);
    if (!told || !$("#diagram")) return;
    $("select[name=story]").value = txn;
    diagram(told);
  }
  const SVG = "http://www.w3.org/2000/svg";
  function make(parent, name, attributes, text) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }
  // Time runs down; only the order is to scale, and long silences are told.
  function diagram(told) {
    const box = $("#diagram");
    box.textContent = "";
    const nodes = ["master"];
    for (let n = 1; n <= data.replicas; n++) nodes.push("r" + n);
    const points = [];
    told.notes.forEach((note) => points.push({ t: note.t, note }));
    told.arrows.forEach((arrow) => {
      if (arrow.sent) points.push({ t: arrow.sent[0], arrow, end: "sent" });
      if (arrow.got) points.push({ t: arrow.got[0], arrow, end: "got" });
    });
    points.sort((a, b) => a.t - b.t || (a.end === "got" ? 0 : 1) - (b.end === "got" ? 0 : 1));
    const gaps = [];
    let y = 44, last = null;
    for (const point of points) {
      if (last !== null && point.t - last > 40 * MS) {
        gaps.push([y + 22, (point.t - last) / MS]);
        y += 26;
      }
      y += last !== null && point.t === last && !point.note && point.end === "got" ? 13 : 21;
      point.y = y;
      last = point.t;
    }
    const total = y + 24, left = 96, wide = 1072;
    const gap = (wide - left - 150) / Math.max(1, nodes.length - 1);
    const at = (node) => left + 60 + gap * nodes.indexOf(node);
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${wide} ${total}`);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", "Messages of transaction " + told.txn);
    box.append(svg);
    const place = (t) => {
      const after = points.find((point) => point.t >= t);
      return after ? after.y : total - 12;
    };
    for (const node of nodes) {
      make(svg, "text", { x: at(node), y: 18, "text-anchor": "middle", class: "head" }, node);
      make(svg, "line", { x1: at(node), x2: at(node), y1: 28, y2: total - 8, class: "life" });
      for (const window of data.windows) {
        if (!window.silent || !window.nodes.includes(node)) continue;
        if (!points.length || window.to < points[0].t || window.from > last) continue;
        const from = window.from <= points[0].t ? 28 : place(window.from), to = window.to >= last ? total - 8 : place(window.to);
        make(svg, "line", { x1: at(node), x2: at(node), y1: from, y2: to, class: "gone" });
      }
    }
    for (const [y, ms] of gaps)
      make(svg, "text", { x: left - 14, y, class: "t gap" }, ms >= 1000 ? (ms / 1000).toFixed(2) + " s later" : ms.toFixed(0) + " ms later");
    const short = (text) => text.replaceAll(" " + told.txn, "").replace("the transaction", "it");
    const clip = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);
    let shown = null;
    const stamp = (point) => {
      if (point.t === shown) return;
      shown = point.t;
      make(svg, "text", { x: left - 14, y: point.y + 4, class: "t" }, "+" + ((point.t - points[0].t) / MS).toFixed(3));
    };
    const cited = new Set(data.quotes.map((quote) => quote[0]));
    const lead = (g, name) => {
      g.dataset.line = name;
      if (cited.has(name)) g.classList.add("hit");
      g.addEventListener("click", () => {
        if (cited.has(name)) { showLine(name); return; }
        pin({ kind: "text", lines: [g.querySelector("title").textContent, name.replace(":", " journal line ")], txn: told.txn });
      });
    };
    for (const point of points) {
      stamp(point);
      if (point.arrow) { point.arrow[point.end + "Y"] = point.y; continue; }
      const note = point.note;
      const g = make(svg, "g", { class: "note " + note.kind });
      const text = clip(short(note.text), 44);
      const frame = make(g, "rect", { y: point.y - 9, height: 18, rx: 3 });
      const label = make(g, "text", { y: point.y + 4 }, text);
      const w = label.getComputedTextLength() + 12;
      const right = at(note.node) + 8;
      const sx = right + w > wide - 4 ? at(note.node) - 8 - w : right;
      frame.setAttribute("x", sx);
      frame.setAttribute("width", w);
      label.setAttribute("x", sx + 6);
      make(g, "title", {}, note.node + ", " + seconds(note.t) + ": " + note.text);
      if (note.line !== null) lead(g, note.node + ":" + note.line);
    }
    for (const arrow of told.arrows) {
      const kind = /decide-abort|vote-no|abort/.test(arrow.kind + " " + arrow.text) ? "abort" : /decide|commit/.test(arrow.kind + " " + arrow.text) ? "commit" : "";
      const g = make(svg, "g", { class: kind + (arrow.got ? "" : " lost") });
      const dir = at(arrow.to) > at(arrow.from) ? 1 : -1;
      const y2 = arrow.gotY ?? arrow.sentY + 14, y1 = arrow.sentY ?? arrow.gotY - 10;
      const x1 = arrow.sent ? at(arrow.from) : at(arrow.to) - dir * 60;
      const x2 = arrow.got ? at(arrow.to) - dir * 3 : at(arrow.from) + (at(arrow.to) - at(arrow.from)) * 0.55;
      make(g, "line", { x1, y1, x2, y2, class: "arrow" });
      const angle = (Math.atan2(y2 - y1, x2 - x1) * 180) / Math.PI;
      if (arrow.got) make(g, "path", { d: "M0 0 l-8 -4 v8 z", class: "tip", transform: `translate(${x2} ${y2}) rotate(${angle})` });
      else make(g, "text", { x: x2 + dir * 8, y: y2 + 4, "text-anchor": "middle" }, "✕");
      const text = clip(short(arrow.text), 30);
      const lx = x1 + dir * 10, ly = y1 + ((y2 - y1) / Math.max(1, Math.abs(x2 - x1))) * 10 - 4;
      const label = make(g, "text", { x: lx, y: ly, "text-anchor": dir > 0 ? "start" : "end" }, text);
      label.setAttribute("style", "paint-order:stroke;stroke:var(--paper);stroke-width:3px");
      const took = arrow.sent && arrow.got ? ((arrow.got[0] - arrow.sent[0]) / MS).toFixed(3) + " ms" : arrow.got ? "a copy, or held back" : "never arrived";
      make(g, "title", {}, `${arrow.from} to ${arrow.to}: ${arrow.text} (${took})`);
      lead(g, arrow.sent ? arrow.from + ":" + arrow.sent[1] : arrow.to + ":" + arrow.got[1]);
    }
    if (told.left_out) {
      const note = document.createElement("p");
      note.className = "hint";
      note.textContent = told.left_out + " more between the beginning and the end are left out.";
      box.append(note);
    }
  }

  // ---- hands ----

  function hands() {
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
          canvas.classList.add("moving");
          look(drag.view[0] - by, drag.view[1] - by);
        }
      } else if (!pinned) tell(hit(...place(event)));
    });
    canvas.addEventListener("pointerup", (event) => {
      canvas.classList.remove("moving");
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
      const next = direction > 0 ? data.windows.find((w) => (w.from + w.to) / 2 > middle + 1)
        : data.windows.findLast((w) => (w.from + w.to) / 2 < middle - 1);
      if (!next) { say("no more faults this way"); return; }
      const span = Math.max(next.to - next.from, 20 * MS) * 0.75;
      look((next.from + next.to) / 2 - span, (next.from + next.to) / 2 + span);
      pin({ kind: "window", window: next });
    };
    const actions = {
      error: firstError, before: () => jump(-1), after: () => jump(1), in: () => zoom(0.5), out: () => zoom(2),
      all: () => { marked = new Set(); filter(-1); pin(null); look(0, data.end); say(""); },
      there: () => { showTxn($("select[name=story]").value); $("#timeline").scrollIntoView(); },
    };
    document.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      if (button.dataset.do) actions[button.dataset.do]();
      if (button.dataset.broken) {
        const broken = data.broken[button.dataset.broken];
        if (broken.ops.length) showBroken(broken);
        $("#timeline").scrollIntoView();
      }
    });
    document.querySelectorAll("form").forEach((form) => form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (form.elements.find) find(form.elements.find.value);
    }));
    $("select[name=key]").addEventListener("change", (event) => filter(event.target.value === "" ? -1 : Number(event.target.value)));
    const stories = $("select[name=story]");
    if (stories) stories.addEventListener("change", () => chooseStory(stories.value));
    document.addEventListener("keydown", (event) => {
      if (/INPUT|SELECT|TEXTAREA/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) {
        if (event.key === "Escape") event.target.blur();
        return;
      }
      const act = {
        ArrowLeft: () => pan(-0.15), ArrowRight: () => pan(0.15), "+": actions.in, "=": actions.in, "-": actions.out,
        0: actions.all, e: actions.error, n: actions.after, p: actions.before,
        "/": () => $("input[name=find]").focus(), Escape: () => { marked = new Set(); pin(null); },
      }[event.key];
      if (act) { event.preventDefault(); act(); }
    });
    window.addEventListener("hashchange", hash);
    // The same link again is wanted again.
    document.addEventListener("click", (event) => {
      const link = event.target.closest("a");
      if (link && link.hash && link.hash === location.hash) hash();
    });
    window.addEventListener("resize", draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { theme(); draw(); });
  }

  async function begin() {
    const began = performance.now();
    document.documentElement.classList.add("scripted");
    if (typeof DecompressionStream === "undefined") {
      $("#detail").textContent = "This browser cannot unpack the timeline (it has no DecompressionStream); the rest of the page is whole.";
      return;
    }
    data = await read();
    prepare();
    theme();
    hands();
    view = [0, data.end];
    if (data.first) chooseStory(data.first);
    const broken = data.broken[0];
    if (broken && broken.ops.length) showBroken(broken);
    else if (data.focus) around(...data.focus);
    else look(0, data.end);
    hash();
    paint();
    // For tests, and for whoever wants to know.
    window.run = { ready: performance.now() - began, data, op, history, paint, view: () => view, said: () => $("#detail").textContent };
    document.documentElement.dataset.ready = "yes";
  }
  begin();
})();
