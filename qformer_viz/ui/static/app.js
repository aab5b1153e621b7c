// The page's own script: figures select on the canvas, downloads start at once, Send turns into Stop.
(() => {
  "use strict";
  const number = (label) => parseInt(String(label), 10);
  // "07", or of a film "2·07": the query on the canvas, of a film in its frame.
  const named = (label) => {
    const [frame, query] = String(label).split("·").map(number);
    return query === undefined ? { queries: [frame] } : { queries: [query], frame: frame - 1 };
  };

  // What lies under a point of the screen: x and y as the axes name them, of a dot its text. Plotly's own events name what
  // was hovered last, which is something else, or nothing, where a click follows the pointer's arrival within 50 ms.
  const under = (plot, [left, top]) => {
    const box = plot.getBoundingClientRect();
    const axis = (name) => plot._fullLayout[name[0] + "axis" + name.slice(1)];
    for (const trace of plot._fullData) {
      const [across, down] = [axis(trace.xaxis), axis(trace.yaxis)];
      const [x, y] = [left - box.left - across._offset, top - box.top - down._offset];
      if (x < 0 || y < 0 || x > across._length || y > down._length) continue;
      if (trace.type !== "scatter") return { x: across.p2d(x), y: down.p2d(y), cell: trace.type === "heatmap" };
      const far = (i) => Math.hypot(across.d2p(trace.x[i]) - x, down.d2p(trace.y[i]) - y);
      const nearest = [...trace.x.keys()].sort((i, j) => far(i) - far(j))[0];
      if (far(nearest) < 24) return { x: trace.text?.[nearest] };
    }
    return null;
  };

  // A click in a plotly figure puts its queries on the canvas; the server is not asked.
  const listen = (plot) => {
    if (plot.qfvListening || typeof plot.on !== "function") return;
    plot.qfvListening = true;
    let at = null;
    plot.addEventListener("pointerdown", (event) => (at = [event.clientX, event.clientY]), true);
    plot.addEventListener("click", (event) => {
      const point = at && event.target.closest(".nsewdrag") ? under(plot, at) : null;
      if (!point || point.x === undefined) return;
      const inside = (...ids) => ids.some((id) => plot.closest("#" + id));
      const layer = /^layer (\d+)$/.exec(String(point.y));
      if (inside("heads-own")) return; // the canvas shows cross-attention
      if (inside("heads-cross", "precision-plot")) {
        const head = point.x === "all" ? "mean" : number(point.x);
        document.dispatchEvent(new CustomEvent("qfv:set", { detail: { layer: Number(layer[1]), head } }));
        return;
      }
      const both = inside("similarity-plot", "heads-attention");
      const detail = both ? { queries: [...new Set([number(point.x), number(point.y)])] } : named(point.x);
      detail.queries = detail.queries.filter(Number.isInteger); // a piece of text is no query
      if (!detail.queries.length) return;
      if (point.cell && inside("statistics-plot", "across-plot")) detail.layer = layer ? Number(layer[1]) : "mean";
      document.dispatchEvent(new CustomEvent("qfv:set", { detail }));
    });
  };

  // Nought of a signed figure is white on a light page and the page itself on a dark one, where white would glare.
  const SIGNED = "signed"; // as figures.py marks it
  const ground = (node) => {
    const colour = getComputedStyle(node).backgroundColor;
    return /, 0\)$/.test(colour) && node.parentElement ? ground(node.parentElement) : colour;
  };
  const darken = (plot) => {
    if (!document.body.classList.contains("dark")) return;
    const nought = ground(plot);
    const scale = [[0, "#8ecbff"], [0.25, "#2f78b7"], [0.5, nought], [0.75, "#bd4f3d"], [1, "#ffb199"]];
    plot.data.forEach((trace, i) => {
      if (trace.meta !== SIGNED || trace.colorscale[2][1] === nought) return;
      trace.qfvLight = trace.colorscale;
      window.Plotly.restyle(plot, { colorscale: [scale] }, [i]);
    });
  };

  // A figure as a file for a document: black on white whatever the page is, named after its place on the page.
  const save = (plot, format) => {
    const data = plot.data.map((trace) => (trace.qfvLight ? { ...trace, colorscale: trace.qfvLight } : trace));
    const paper = { paper_bgcolor: "#fff", plot_bgcolor: "#fff", font: { ...plot.layout.font, color: "#1c2127" } };
    const size = { width: plot.clientWidth, height: plot.clientHeight, scale: format === "png" ? 3 : 1 };
    const place = plot.closest("[id]:not(.js-plotly-plot)").id;
    window.Plotly.downloadImage({ data, layout: { ...plot.layout, ...paper } }, { ...size, format, filename: "qformer-viz_" + place });
  };
  const dress = (plot) => {
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
  const scan = () => document.querySelectorAll(".js-plotly-plot").forEach((plot) => {
    listen(plot);
    dress(plot);
  });

  // Gradio hands over the file it just cached; a link carries it to the browser's downloads.
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
    if (!on && wanted.opened && !wanted.explained && window.qfvLinkedWord !== null) {
      wanted.explained = true;
      document.querySelector("#why-run").click();
    }
  };

  // A link names an example, a selection and perhaps a word of its caption. An upload is in no link.
  const given = new URLSearchParams(location.hash.slice(1));
  const wanted = { example: given.get("example"), opened: false, explained: false };
  window.qfvLinkedWord = given.get("word"); // until the words are there to choose from
  window.qfvContext = (payload) => {
    const example = payload.meta.example;
    const word = window.qfvWord ? window.qfvWord() : null;
    return example ? { example, word: word ?? window.qfvLinkedWord } : {};
  };
  const reopen = () => {
    if (!wanted.example || wanted.opened) return;
    const buttons = [...document.querySelectorAll("#examples button.thumbnail-item")];
    const chosen = buttons.find((button) => button.textContent.trim() === wanted.example);
    if (!chosen) return;
    wanted.opened = true;
    chosen.click();
  };

  // PNG and SVG are the canvas's own: its buttons draw exactly what is on the screen.
  window.qfvSaveView = (kind) => {
    const title = { png: "Save this view as PNG", svg: "Save this view as SVG" }[kind];
    const button = document.querySelector(`#canvas button[title="${title}"]`);
    if (button) button.click();
  };

  // Whoever has no pointer scrolls the conversation by its arrow keys; whoever hears it hears who speaks; examples are
  // called what they show, not by number.
  const reach = () => {
    const log = document.querySelector("#chat [role=log]:not([tabindex])");
    if (log) log.tabIndex = 0;
    for (const said of document.querySelectorAll("#chat [data-testid=user], #chat [data-testid=bot]")) {
      const speaker = said.dataset.testid === "user" ? "You" : "The model";
      if (said.role !== "group") said.role = "group";
      if (said.ariaLabel !== speaker) said.ariaLabel = speaker;
    }
    for (const button of document.querySelectorAll("#examples button.thumbnail-item")) {
      const name = button.textContent.trim();
      if (name && button.ariaLabel !== name) button.ariaLabel = name;
    }
  };

  const changed = () => {
    scan();
    reach();
    reopen();
  };
  new MutationObserver(changed).observe(document.documentElement, { childList: true, subtree: true });
})();
