// The frames of a video: a strip of frames with the map of the chosen queries on each, and the movement between frames.
(function (global) {
  "use strict";
  const QFV = (global.QFormerViz = global.QFormerViz || {});
  const { el, overlay } = QFV.parts;

  // Every frame of a payload as a payload of its own.
  function frames(payload) {
    return [payload, ...(payload.film || []).map((frame) => ({ ...payload, ...frame }))];
  }

  // Half the summed difference of two maps, each normalised over patches (total variation): 0 the same, 1 nothing shared.
  function attentionShift(one, other) {
    const sum = (values) => values.reduce((a, b) => a + b, 0) || 1;
    const [a, b] = [sum(one), sum(other)];
    let difference = 0;
    for (let p = 0; p < one.length; p++) difference += Math.abs(one[p] / a - other[p] / b);
    return difference / 2;
  }

  // The shift of a query's map from frame to frame, on average.
  function meanShift(allMaps, blocks, query) {
    let total = 0;
    for (let i = 1; i < allMaps.length; i++) {
      total += attentionShift(allMaps[i - 1].of(blocks[i - 1], query), allMaps[i].of(blocks[i], query));
    }
    return total / (allMaps.length - 1);
  }

  function strip(view) {
    if (view.frames.length < 2) return null;
    const last = view.frames.length - 1;
    const items = view.frames.map((frame, i) => {
      const canvas = el("canvas", { "aria-hidden": "true" });
      const shift = el("small", {});
      const node = el("button", { type: "button", role: "radio", class: "qfv-frame", "data-frame": i, onclick: () => view.change({ frame: i }, "control") },
        el("span", { class: "qfv-framebox" }, el("img", { src: frame.image.src, alt: "" }), ...overlay(canvas, frame.image)), el("span", {}, frame.moment), shift);
      return { node, canvas, shift };
    });
    const group = el("div", { class: "qfv-film", role: "radiogroup", "aria-label": "Frames of the video" }, ...items.map((i) => i.node));
    const about = view.options.context ? "Canvas and tabs show the frame that is chosen here. " : "The canvas shows the frame that is chosen here. ";
    const node = el("div", { class: "qfv-strip" }, group,
      el("p", { class: "qfv-hint" }, about + "“moved” compares the map with that of the frame before: 0 is the same map, 1 means no patch in common."));
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
    if (!view.parts.strip) return;
    const { state, allMaps } = view;
    const blocks = view.blocks();
    const means = allMaps.map((maps, i) => maps.mean(blocks[i], state.queries));
    view.parts.strip.items.forEach((item, i) => {
      const { columns, rows } = allMaps[i];
      const top = state.scale === "map" ? Math.max(...means[i]) : scene.top;
      QFV.paint.raster(item.canvas, means[i], columns, rows, top, scene.colours, state.opacity);
      item.canvas.classList.toggle("qfv-smooth", scene.smooth);
      const change = i ? "moved " + attentionShift(means[i - 1], means[i]).toFixed(2) : "";
      item.shift.textContent = change;
      item.node.setAttribute("aria-checked", String(i === state.frame));
      item.node.tabIndex = i === state.frame ? 0 : -1;
      item.node.title = "Frame " + (i + 1) + " of " + allMaps.length + ", " + view.frames[i].moment
        + (change ? "; the map has " + change + " since the frame before (0: the same map, 1: no patch in common)" : "");
    });
  }

  QFV.video = { frames, meanShift, strip, update };
})(window);
