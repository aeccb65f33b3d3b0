// The live chart: one Plotly.react with constant uirevision, so zoom, hidden traces and hover survive every update.
// While only the last two traces (the ring and the point at hand) move, Plotly.animate puts them there, several times cheaper,
// and the style sheet lets them glide.
// trigger values: "pick" (the id of a clicked run), "pin" (the same with shift held).
// state value "drag": what a slider elsewhere on the page said while it was dragged, so that this chart's fragment answers it at once.
const SVG_ICON = { width: 24, height: 24, path: "M4 4h16v16H4zM6 16l4-5 3 3 3-4 2 3v5H6z" };
const HOME_ICON = { width: 24, height: 24, path: "M12 4l9 8h-3v8h-5v-5h-2v5H6v-8H3z" };
const CSV_ICON = { width: 24, height: 24, path: "M3 5h18v3H3zM3 10h18v3H3zM3 15h18v3H3z" };
const LATER_MS = 1000; // plotly.js ends after an event what it began in it, and fails where the chart was purged meanwhile

export default function ({ data, parentElement, setTriggerValue, setStateValue }) {
  const root = parentElement.querySelector(".paretochart");
  root.chart ??= make(root);
  const turn = (root.chart.turn = (root.chart.turn ?? 0) + 1);
  root.chart.draw(JSON.parse(data.json), setTriggerValue, setStateValue);
  return () => { if (root.chart.turn === turn) root.chart.remove(); }; // what an older call leaves behind is still in use
}

function make(root) {
  let plotly, trigger, report, wanted, frame = null, base = null, moving = "", worn = "", high = "", busy = Promise.resolve(), waiting = null, gone = false;
  const size = new ResizeObserver(() => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(() => { if (root._fullLayout && root.clientWidth) plotly.Plots.resize(root); });
  });
  size.observe(root);
  const hear = (event) => {
    if (!wanted?.listens) return;
    event.preventDefault();
    report("drag", event.detail);
  };
  window.addEventListener("paretoscope-drag", hear);

  let table = null;
  const colours = () => {
    const style = getComputedStyle(root);
    const read = (name) => style.getPropertyValue(name).trim();
    const [ink, paper] = [read("--st-text-color"), read("--st-background-color")];
    if (table?.$ink !== ink || table.$paper !== paper) table = { $ink: ink, $paper: paper, $muted: mix(ink, paper, 0.55), $grid: mix(ink, paper, 0.12), $font: read("--st-font") };
    return table;
  };
  const paint = (figure, table) => {
    const walk = (node) => {
      if (typeof node === "string") return table[node] ?? node;
      if (Array.isArray(node)) return node.map(walk);
      if (node && typeof node === "object") return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, walk(value)]));
      return node;
    };
    return walk(figure);
  };

  // The whole of plotly.js takes the place of its flat part when a chart of three dimensions asks for it; the one that drew tidies up.
  const changeHands = () => {
    if (plotly && plotly !== window.Plotly && root._fullLayout) {
      plotly.purge(root);
      zoomed.clear();
      base = null;
    }
    plotly = window.Plotly;
    searchOnce(plotly.PlotSchema);
  };

  const apply = async () => {
    // Drawing now would take the frame out of a hand that draws one; a hand that left the window is not waited for.
    for (let waits = 0; root._dragging && !gone && waits < 200; waits++) await new Promise((done) => setTimeout(done, 50));
    if (gone) return;
    changeHands();
    const table = colours();
    const tail = paint(wanted.moving, table);
    const fixed = [table.$ink, table.$paper, tail.length, wanted.fixed].join();
    const look = JSON.stringify(tail.map(({ name, marker, error_y }) => [name, marker, error_y?.color]));
    const places = tail.map(({ x, y, error_y, text, customdata }) => ({ x, y, text, customdata, ...(error_y ? { error_y } : {}) }));
    const now = JSON.stringify(places);
    const tall = JSON.stringify(wanted.tall ?? null);
    if (fixed === base && now === moving && look === worn && tall === high) return;
    if (fixed === base && root._fullData && tail.length && tail.every((trace) => trace.x[0] != null) && !moving.includes("null")) {
      const numbers = [root.data.length - 2, root.data.length - 1];
      if (tall !== high) await grow(wanted.tall);
      if (look !== worn) {
        const each = (pick) => tail.map(pick);
        await plotly.restyle(root, {
          name: each((trace) => trace.name), "marker.symbol": each((trace) => trace.marker.symbol), "marker.color": each((trace) => trace.marker.color),
          "marker.line.color": each((trace) => trace.marker.line.color),
        }, numbers);
      }
      await plotly.animate(root, { data: places, traces: numbers }, {
        mode: "immediate", transition: { duration: 0 }, frame: { duration: 0, redraw: false },
      }).catch(() => {}); // a newer position interrupts an older one
    } else {
      const first = !root._fullLayout;
      const { data, layout } = paint(JSON.parse(wanted.fixed), table);
      for (const trace of data) still.set(trace, null);
      data.push(...tail);
      if (wanted.tall) layout.yaxis.range = [...wanted.tall];
      layout.font = { ...layout.font, family: table.$font };
      if (layout.hoverlabel) layout.hoverlabel.font = { ...layout.hoverlabel.font, family: table.$font };
      layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: table.$muted, activecolor: table.$ink }; // by default a grey block on a clear paper
      keepZoom(layout);
      keepHidden(data);
      if (layout.xaxis && zoomed.has("xaxis") && close(layout.xaxis.range)) layout.xaxis.tickmode = "auto";
      await plotly.react(root, data, layout, settings(wanted.name));
      if (first) listen();
    }
    [base, moving, worn, high] = [fixed, now, look, tall];
    root.dataset.drawn = String(Number(root.dataset.drawn || 0) + 1);
  };
  // plotly.js forgets a zoom when the range that it is given changes, so a zoomed axis is given the range that it has.
  const zoomed = new Set();
  let own = {};
  const keepZoom = (layout) => {
    own = {};
    for (const name of ["xaxis", "yaxis"]) {
      const before = root._fullLayout?.[name];
      if (!layout[name]) continue;
      if (layout[name].range) own[`${name}.range`] = layout[name].range;
      else own[`${name}.autorange`] = true;
      if (before?.uirevision !== layout[name].uirevision) zoomed.delete(name);
      if (zoomed.has(name)) layout[name].range = [...before.range];
    }
  };
  const grow = async (range) => {
    own["yaxis.range"] = [...range];
    if (zoomed.has("yaxis")) return;
    await plotly.relayout(root, { "yaxis.range": [...range] });
    zoomed.delete("yaxis"); // this was not a hand's doing
  };
  // A trace that was hidden by its legend stays hidden, even when it was gone for a while.
  const hidden = new Set();
  const keepHidden = (data) => {
    for (const trace of root._fullData ?? []) trace.visible === "legendonly" ? hidden.add(trace.uid) : hidden.delete(trace.uid);
    for (const trace of data) if (hidden.has(trace.uid)) trace.visible = "legendonly";
  };
  const reset = () => {
    zoomed.clear();
    plotly.relayout(root, structuredClone(own)).then(() => zoomed.clear());
  };
  // Ticks in words serve the whole frame; for what was zoomed into, plotly chooses them.
  const close = (range) => range && range[1] - range[0] < 0.8;
  const listen = () => {
    root.on("plotly_click", (event) => {
      const id = event.points[0]?.customdata?.[0];
      if (id) trigger(event.event?.shiftKey ? "pin" : "pick", id);
    });
    root.on("plotly_doubleclick", reset);
    root.on("plotly_relayout", (change) => {
      for (const name of ["xaxis", "yaxis"]) if (Object.keys(change).some((key) => key.startsWith(`${name}.range`))) zoomed.add(name);
      const axis = root._fullLayout.xaxis;
      if (!axis || axis.type !== "log") return;
      const mode = zoomed.has("xaxis") && close(axis.range) ? "auto" : "array";
      if (axis.tickmode !== mode && axis.tickvals) plotly.relayout(root, { "xaxis.tickmode": mode });
    });
  };
  const settings = (name) => ({
    displaylogo: false, responsive: false, scrollZoom: false, doubleClick: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "resetScale2d"],
    toImageButtonOptions: { format: "png", filename: name, scale: 2 },
    modeBarButtonsToAdd: [
      { name: "reset", title: "Show everything (double click)", icon: HOME_ICON, click: reset },
      { name: "svg", title: "Download as SVG", icon: SVG_ICON, click: (gd) => plotly.downloadImage(gd, { format: "svg", filename: name }) },
      { name: "csv", title: "Download the points as CSV", icon: CSV_ICON, click: (gd) => save(`${name}.csv`, csv(gd)) },
    ],
  });

  return {
    draw(data, setTriggerValue, setStateValue) {
      trigger = setTriggerValue;
      report = setStateValue;
      wanted = data;
      gone = false;
      root.style.height = data.height;
      root.setAttribute("aria-label", data.label);
      if (waiting) return;
      const begin = () => {
        if (!(wanted.deep ? window.PlotlyWhole : window.Plotly)) { waiting = setTimeout(begin, 20); return; }
        waiting = null;
        busy = busy.then(apply).catch((error) => console.error(error));
      };
      begin();
    },
    remove() {
      clearTimeout(waiting);
      waiting = null;
      size.disconnect();
      window.removeEventListener("paretoscope-drag", hear);
      gone = true;
      busy.then(() => setTimeout(() => { if (gone && root._fullLayout) plotly.purge(root); }, LATER_MS));
    },
  };
}

// plotly.js searches every trace for its arrays whenever one of them moves, which is half of what moving takes. Those of a fixed trace stay as they are.
const still = new WeakMap(); // fixed trace → the names of its arrays, null until they were searched for

function searchOnce(schema) {
  if (schema.searchesOnce) return;
  const search = schema.findArrayAttributes;
  schema.searchesOnce = true;
  schema.findArrayAttributes = (trace) => {
    const known = still.get(trace._input);
    if (known) return known;
    const found = search(trace);
    if (known === null) still.set(trace._input, found);
    return found;
  };
}

function mix(one, other, share) {
  const parse = (text) => {
    const canvas = document.createElement("canvas").getContext("2d");
    canvas.fillStyle = text;
    const hex = canvas.fillStyle;
    return hex.startsWith("#") ? [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)) : hex.match(/[\d.]+/g).slice(0, 3).map(Number);
  };
  const [a, b] = [parse(one), parse(other)];
  return `rgb(${a.map((value, at) => Math.round(value * share + b[at] * (1 - share))).join(",")})`;
}

function csv(gd) {
  const quote = (value) => `"${String(value ?? "").replace(/<br>/g, "; ").replace(/<[^>]+>/g, "").replaceAll('"', '""')}"`;
  const cells = gd._fullData.find((trace) => trace.type === "heatmap"); // with its numbers decoded
  if (cells?.text) { // a table of words by column and row
    const rows = cells.y.map((y, at) => [quote(y), ...cells.text[at].map((word) => quote(word.replace("−", "-")))].join(","));
    return [["", ...cells.x].map(quote).join(","), ...rows].join("\n") + "\n";
  }
  if (cells) return cells.z.map((row) => Array.from(row, (value) => value / cells.zmax).join(",")).join("\n") + "\n"; // a picture of shares
  if (!gd.data.some((trace) => trace.customdata)) { // a chart of lines
    const rows = gd.data.flatMap((trace) => trace.x.map((x, at) => [quote(trace.name), typeof x === "string" ? quote(x.replace(/<br>/g, " ")) : x, trace.y[at]].join(",")));
    return [["series", gd.layout.xaxis.title?.text ?? "x", "value"].map(quote).join(","), ...rows].join("\n") + "\n";
  }
  const { scene } = gd.layout, titles = scene ? [scene.xaxis.title.text, scene.yaxis.title.text] : [gd._fullLayout.xaxis?.title?.text ?? "x"];
  const lines = [["series", "run", ...titles, "top1_percent", "description"].map(quote).join(",")];
  for (const trace of gd.data) {
    if (!trace.customdata) continue;
    trace.x.forEach((x, at) => { if (x != null) lines.push([quote(trace.name), quote(trace.customdata[at]?.[0]), x, trace.y[at], ...(scene ? [trace.z[at]] : []), quote(trace.text?.[at])].join(",")); });
  }
  return lines.join("\n") + "\n";
}

function save(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
