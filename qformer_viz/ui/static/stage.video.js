// The frames of a film: a strip of them with the chosen queries' map on each, and how far a map moves between frames.
(function (global) {
  "use strict";
  const QFV = (global.QFormerViz = global.QFormerViz || {});
  const { el, laid } = QFV.parts;

  // Every frame of a payload as one of its own: its picture and what its maps are packed in.
  function frames(payload) {
    return [payload, ...(payload.film || []).map((frame) => ({ ...payload, ...frame }))];
  }

  // Half the summed difference of two maps, each as shares of its attention on patches: 0 the same, 1 nothing shared.
  function moved(one, other) {
    const sum = (values) => values.reduce((a, b) => a + b, 0) || 1;
    const [a, b] = [sum(one), sum(other)];
    let apart = 0;
    for (let p = 0; p < one.length; p++) apart += Math.abs(one[p] / a - other[p] / b);
    return apart / 2;
  }

  // How far a query's map moves from frame to frame, on average.
  function restless(films, blocks, query) {
    let total = 0;
    for (let i = 1; i < films.length; i++) total += moved(films[i - 1].of(blocks[i - 1], query), films[i].of(blocks[i], query));
    return total / (films.length - 1);
  }

  function strip(view) {
    if (view.frames.length < 2) return null;
    const last = view.frames.length - 1;
    const items = view.frames.map((frame, i) => {
      const canvas = el("canvas", { "aria-hidden": "true" });
      const told = el("small", {});
      const node = el("button", { type: "button", role: "radio", class: "qfv-frame", "data-frame": i, onclick: () => view.change({ frame: i }, "control") },
        el("span", { class: "qfv-framebox" }, el("img", { src: frame.image.src, alt: "" }), ...laid(canvas, frame.image)), el("span", {}, frame.moment), told);
      return { node, canvas, told };
    });
    const group = el("div", { class: "qfv-film", role: "radiogroup", "aria-label": "Frames of the film" }, ...items.map((i) => i.node));
    const about = view.options.context ? "Canvas and tabs are about the frame chosen here; " : "The canvas is about the frame chosen here; ";
    const node = el("div", { class: "qfv-strip" }, group,
      el("p", { class: "qfv-hint" }, about + "moved: how far the map has since the frame before, 0 the same, 1 nothing shared."));
    group.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      const next = Math.min(Math.max(view.state.frame + step, 0), last);
      view.change({ frame: next }, "control");
      items[next].node.focus();
    });
    return { node, items };
  }

  function update(view, scene) {
    const { strip } = view.parts;
    if (!strip) return;
    const { state, films } = view;
    const maps = films.map((film, i) => film.mean(view.blocks()[i], state.queries));
    strip.items.forEach((item, i) => {
      const { columns, rows } = films[i];
      const top = state.scale === "map" ? Math.max(...maps[i]) : scene.top;
      QFV.paint.raster(item.canvas, maps[i], columns, rows, top, scene.colours, state.opacity);
      item.canvas.classList.toggle("qfv-smooth", scene.smooth);
      const change = i ? "moved " + moved(maps[i - 1], maps[i]).toFixed(2) : "";
      item.told.textContent = change;
      item.node.setAttribute("aria-checked", String(i === state.frame));
      item.node.tabIndex = i === state.frame ? 0 : -1;
      item.node.title = "Frame " + (i + 1) + " of " + films.length + ", " + view.frames[i].moment
        + (change ? "; the map has " + change + " since the frame before (0 the same, 1 nothing shared)" : "");
    });
  }

  QFV.video = { frames, moved, restless, strip, update };
})(window);
