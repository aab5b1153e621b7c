// The script of the app's page. A click in a figure selects on the stage. Figures can be saved. A download starts at once.
// While the server works, Send becomes Stop. A link opens an example.
(() => {
  "use strict";
  const number = (label) => parseInt(String(label), 10);
  // The selection that a label stands for: "07" is query 7; "2·07" is query 7 of the second frame of a video.
  const selectionOf = (label) => {
    const [frame, query] = String(label).split("·").map(number);
    return query === undefined ? { queries: [frame] } : { queries: [query], frame: frame - 1 };
  };

  // What lies under a point of the screen: the names on the two axes, or the text of the nearest dot. The events of Plotly
  // name what was hovered last. That is wrong when a click follows within 50 ms of the pointer's arrival.
  const pointAt = (plot, [left, top]) => {
    const box = plot.getBoundingClientRect();
    const axis = (name) => plot._fullLayout[name[0] + "axis" + name.slice(1)];
    for (const trace of plot._fullData) {
      const [xAxis, yAxis] = [axis(trace.xaxis), axis(trace.yaxis)];
      const [x, y] = [left - box.left - xAxis._offset, top - box.top - yAxis._offset];
      if (x < 0 || y < 0 || x > xAxis._length || y > yAxis._length) continue;
      if (trace.type !== "scatter") return { x: xAxis.p2d(x), y: yAxis.p2d(y), cell: trace.type === "heatmap" };
      const distance = (i) => Math.hypot(xAxis.d2p(trace.x[i]) - x, yAxis.d2p(trace.y[i]) - y);
      const nearest = [...trace.x.keys()].sort((i, j) => distance(i) - distance(j))[0];
      if (distance(nearest) < 24) return { x: trace.text?.[nearest] };
    }
    return null;
  };

  // A click in a figure selects its queries, layer or head on the stage. The server is not asked.
  const selectOnClick = (plot) => {
    if (plot.qfvListening || typeof plot.on !== "function") return;
    plot.qfvListening = true;
    let pressed = null;
    plot.addEventListener("pointerdown", (event) => (pressed = [event.clientX, event.clientY]), true);
    plot.addEventListener("click", (event) => {
      const point = pressed && event.target.closest(".nsewdrag") ? pointAt(plot, pressed) : null;
      if (!point || point.x === undefined) return;
      const inside = (...ids) => ids.some((id) => plot.closest("#" + id));
      const layer = /^layer (\d+)$/.exec(String(point.y));
      if (inside("heads-own")) return; // the stage shows cross-attention only
      if (inside("heads-cross", "precision-plot")) {
        const head = point.x === "all" ? "mean" : number(point.x);
        document.dispatchEvent(new CustomEvent("qfv:set", { detail: { layer: Number(layer[1]), head } }));
        return;
      }
      const twoQueries = inside("similarity-plot", "heads-attention");
      const detail = twoQueries ? { queries: [...new Set([number(point.x), number(point.y)])] } : selectionOf(point.x);
      detail.queries = detail.queries.filter(Number.isInteger); // text tokens are no queries
      if (!detail.queries.length) return;
      if (point.cell && inside("statistics-plot", "across-plot")) detail.layer = layer ? Number(layer[1]) : "mean";
      document.dispatchEvent(new CustomEvent("qfv:set", { detail }));
    });
  };

  // In a figure of signed values, zero is white on a light page. On a dark page white would glare, so zero gets the colour
  // of the page.
  const SIGNED = "signed"; // the mark that view/figures.py gives such a figure
  const backgroundOf = (node) => {
    const colour = getComputedStyle(node).backgroundColor;
    return /, 0\)$/.test(colour) && node.parentElement ? backgroundOf(node.parentElement) : colour;
  };
  const darken = (plot) => {
    if (!document.body.classList.contains("dark")) return;
    const zero = backgroundOf(plot);
    const scale = [[0, "#8ecbff"], [0.25, "#2f78b7"], [0.5, zero], [0.75, "#bd4f3d"], [1, "#ffb199"]];
    plot.data.forEach((trace, i) => {
      if (trace.meta !== SIGNED || trace.colorscale[2][1] === zero) return;
      trace.qfvLight = trace.colorscale;
      window.Plotly.restyle(plot, { colorscale: [scale] }, [i]);
    });
  };

  // Saves a figure for a document: black on white, also from a dark page. The file is named after the figure's element.
  const save = (plot, format) => {
    const data = plot.data.map((trace) => (trace.qfvLight ? { ...trace, colorscale: trace.qfvLight } : trace));
    const paper = { paper_bgcolor: "#fff", plot_bgcolor: "#fff", font: { ...plot.layout.font, color: "#1c2127" } };
    const size = { width: plot.clientWidth, height: plot.clientHeight, scale: format === "png" ? 3 : 1 };
    const place = plot.closest("[id]:not(.js-plotly-plot)").id;
    window.Plotly.downloadImage({ data, layout: { ...plot.layout, ...paper } }, { ...size, format, filename: "qformer-viz_" + place });
  };
  const addSaveButtons = (plot) => {
    if (plot.querySelector(":scope > .qfv-save") || !plot.querySelector(".main-svg")) return;
    const row = document.createElement("div");
    row.className = "qfv-save";
    for (const format of ["png", "svg"]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = format.toUpperCase();
      button.title = button.ariaLabel = "Save this figure as " + format.toUpperCase();
      button.addEventListener("click", () => save(plot, format));
      row.append(button);
    }
    plot.append(row);
    plot.on("plotly_afterplot", () => darken(plot));
    darken(plot);
  };
  const updateFigures = () => document.querySelectorAll(".js-plotly-plot").forEach((plot) => {
    selectOnClick(plot);
    addSaveButtons(plot);
  });

  // Starts the download of a file that Gradio has just cached.
  window.qfvDownload = (file) => {
    if (!file) return;
    const link = document.createElement("a");
    link.href = file.url;
    link.download = file.orig_name || "";
    document.body.append(link);
    link.click();
    link.remove();
  };

  window.qfvBusy = (on) => {
    document.body.classList.toggle("qfv-busy", on);
    if (!on && linked.opened && !linked.explained && window.qfvLinkedWord !== null) {
      linked.explained = true;
      document.querySelector("#why-run").click();
    }
  };

  // A link names an example, a selection and sometimes a word of the caption. It never holds an upload.
  const fragment = new URLSearchParams(location.hash.slice(1));
  const linked = { example: fragment.get("example"), opened: false, explained: false };
  window.qfvLinkedWord = fragment.get("word"); // null once the view of the words has used it
  window.qfvContext = (payload) => {
    const example = payload.meta.example;
    const word = window.qfvWord ? window.qfvWord() : null;
    return example ? { example, word: word ?? window.qfvLinkedWord } : {};
  };
  const openLinkedExample = () => {
    if (!linked.example || linked.opened) return;
    const buttons = [...document.querySelectorAll("#examples button.thumbnail-item")];
    const chosen = buttons.find((button) => button.textContent.trim() === linked.example);
    if (!chosen) return;
    linked.opened = true;
    chosen.click();
  };

  // Saves the stage as PNG or SVG by its own buttons, which draw exactly what is on the screen.
  window.qfvSaveView = (kind) => {
    const title = { png: "Save this view as PNG", svg: "Save this view as SVG" }[kind];
    const button = document.querySelector(`#canvas button[title="${title}"]`);
    if (button) button.click();
  };

  // For keyboards and screen readers: the conversation can be scrolled by the arrow keys, each message names its speaker,
  // and each example is named by its title instead of a number.
  const labelForAccess = () => {
    const log = document.querySelector("#chat [role=log]:not([tabindex])");
    if (log) log.tabIndex = 0;
    for (const message of document.querySelectorAll("#chat [data-testid=user], #chat [data-testid=bot]")) {
      const speaker = message.dataset.testid === "user" ? "You" : "The model";
      if (message.role !== "group") message.role = "group";
      if (message.ariaLabel !== speaker) message.ariaLabel = speaker;
    }
    for (const button of document.querySelectorAll("#examples button.thumbnail-item")) {
      const name = button.textContent.trim();
      if (name && button.ariaLabel !== name) button.ariaLabel = name;
    }
  };

  const onPageChange = () => {
    updateFigures();
    labelForAccess();
    openLinkedExample();
  };
  new MutationObserver(onPageChange).observe(document.documentElement, { childList: true, subtree: true });
})();
