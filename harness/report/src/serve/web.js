// The list of runs: filtering, sorting, comparing. The page of a running test: live counts.
"use strict";
(() => {
  const $ = (selector) => document.querySelector(selector);

  function runs(table) {
    const body = table.tBodies[0];
    const filter = $("input[name=filter]"), status = $("output[name=status]"), form = $("form.tools");
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of body.rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      status.textContent = words.length ? shown + " of " + body.rows.length : "";
    });
    table.tHead.addEventListener("click", (event) => {
      const head = event.target.closest("th");
      if (!head || !event.target.closest("button")) return;
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const cell = (row) => {
        const of = row.cells[head.cellIndex];
        return of.dataset.sort ?? of.textContent.replace(/^[^\p{L}\d]+/u, "");
      };
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [cell(a), cell(b)], [n, m] = [parseFloat(x), parseFloat(y)];
        const order = head.classList.contains("n") ? (isNaN(n) ? -1 : n) - (isNaN(m) ? -1 : m) : x.localeCompare(y);
        return up ? order : -order;
      });
      body.append(...rows);
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const selected = [...body.querySelectorAll("input:checked")].map((box) => box.value);
      if (selected.length !== 2) {
        status.textContent = "select two runs; " + selected.length + (selected.length === 1 ? " is selected" : " are selected");
        return;
      }
      location.href = "/compare?a=" + encodeURIComponent(selected[0]) + "&b=" + encodeURIComponent(selected[1]);
    });
  }

  function live(section) {
    const run = section.dataset.run;
    const source = new EventSource("/live/" + run + "/events");
    source.onmessage = (event) => {
      const snapshot = JSON.parse(event.data);
      $("#clock").textContent = (snapshot.time / 1e9).toFixed(1);
      const counts = Object.entries(snapshot.counts);
      $("#total").textContent = counts.reduce((sum, [, n]) => sum + n[0], 0);
      $("#faults-total").textContent = snapshot.faults_total;
      rows($("#counts"), counts.map(([f, [invoked, ok, fail, info]]) => [f, invoked, ok, fail, info]), 1);
      rows($("#faults"), snapshot.faults.map((fault) => [
        (fault.from / 1e9).toFixed(1), fault.title, fault.fault, fault.at || "at any time",
        fault.in_doubt ?? "–", ((fault.to - fault.from) / 1e6).toFixed(0)]), 9);
      rate(snapshot.seconds);
      $("#state").textContent = snapshot.judging ? "Being judged" : "Running";
      if (snapshot.done) {
        source.close();
        $("#state").textContent = "Checked";
        location.href = "/run/" + run + "/";
      }
    };
    source.onerror = () => { if (source.readyState === 2) $("#state").textContent = "Disconnected"; };
  }
  function rows(body, lines) {
    body.replaceChildren(...lines.map((cells) => {
      const row = document.createElement("tr");
      cells.forEach((cell, n) => {
        const td = row.insertCell();
        td.textContent = cell;
        if (body.closest("table").tHead.rows[0].cells[n].classList.contains("n")) td.className = "n";
      });
      return row;
    }));
  }
  function rate(seconds) {
    const canvas = $("#rate"), ratio = devicePixelRatio || 1, w = canvas.clientWidth, h = 120;
    canvas.width = w * ratio;
    canvas.height = h * ratio;
    canvas.style.height = h + "px";
    const g = canvas.getContext("2d");
    g.scale(ratio, ratio);
    const shown = seconds.slice(-120), most = Math.max(1, ...shown.map((s) => s[0] + s[1] + s[2]));
    const style = getComputedStyle(document.documentElement), wide = Math.min(24, w / Math.max(shown.length, 30));
    shown.forEach((second, at) => {
      let y = h;
      ["ok", "fail", "info"].forEach((outcome, n) => {
        const tall = (second[n] / most) * (h - 18);
        g.fillStyle = style.getPropertyValue("--" + outcome).trim();
        g.fillRect(at * wide, y - tall, wide - 1.5, tall);
        y -= tall;
      });
    });
    g.fillStyle = style.getPropertyValue("--soft").trim();
    g.font = "12px system-ui, sans-serif";
    g.fillText(most + " per second at most", 8, 14);
  }

  if ($("#runs")) runs($("#runs"));
  if ($("#live")) live($("#live"));
  // Before this, the page is there, but answers to nothing.
  document.documentElement.dataset.ready = "yes";
})();
