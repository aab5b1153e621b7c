// Builds the elements of the stage for a payload. stage.js and stage.panels.js fill and update them.
(function (global) {
  "use strict";
  const QFV = (global.QFormerViz = global.QFormerViz || {});
  const { bar, button, choice, el, field, label, segmented } = QFV.parts;

  const KEYS =
    "Keys: left and right change the query, up and down the layer, Shift with arrows moves over patches, Escape clears.";

  function controls(view, maps) {
    const act = (change) => view.change(change, "control");
    const previous = button("◂", "Previous query", () => view.step(-1), { class: "qfv-button qfv-icon" });
    const next = button("▸", "Next query", () => view.step(1), { class: "qfv-button qfv-icon" });
    const current = el("output", { class: "qfv-current" });
    const compare = button("Compare", "Add queries to the selection by clicking (or Shift-click)", () => view.toggleCompare());
    const auto = button("Auto", "Choose the query automatically: the one that matters most for the answer or, until that is known, the one with the most focused map",
      () => view.choose(!view.chosen));
    const layers = segmented(
      "Cross-attention layer",
      [...maps.crossLayers.map((l) => ({ value: l, text: String(l), title: "Layer " + l })),
        { value: "mean", text: "mean", title: "Mean of all cross-attention layers" }],
      (layer) => act({ layer }),
    );
    const heads = segmented(
      "Head",
      [...Array.from({ length: maps.heads }, (_, h) => ({ value: h, text: String(h), title: "Head " + h })),
        { value: "mean", text: "mean", title: "Mean of all heads" }],
      (head) => act({ head }),
    );
    const node = el("div", { class: "qfv-bar" },
      field("Query", el("div", { class: "qfv-stepper", role: "group", "aria-label": "Query" }, previous, current, next), auto, compare),
      field("Layer", layers.group),
      field("Head", heads.group));
    return { node, current, auto, compare, layers, heads };
  }

  function stage() {
    const image = el("img", { class: "qfv-image", alt: "", draggable: "false" });
    const canvas = el("canvas", { class: "qfv-overlay", "aria-hidden": "true" });
    const tip = el("div", { class: "qfv-tip", hidden: true });
    const node = el("div", { class: "qfv-stage", tabindex: "0", role: "group", "aria-label": "Attention map" }, image, canvas, tip);
    const colourBar = el("canvas", { class: "qfv-scale", width: 256, height: 1, "aria-hidden": "true" });
    const marker = el("span", { class: "qfv-marker", hidden: true });
    const even = el("span", { class: "qfv-even" });
    const ticks = [0, 1, 2].map(() => el("span"));
    const caption = el("div", { class: "qfv-caption" });
    const legend = el("div", { class: "qfv-legend" },
      el("div", { class: "qfv-scalebox" }, colourBar, even, marker), el("div", { class: "qfv-ticks" }, ...ticks), caption);
    return { node, image, canvas, tip, colourBar, marker, even, ticks, caption, legend };
  }

  function display(view, payload) {
    const act = (change) => view.change(change, "control");
    const draw = segmented("Drawing", [
      { value: "cells", text: "patches", title: "True patches: one rectangle per value" },
      { value: "smooth", text: "smooth", title: "Interpolated between patch centres, for display only" },
    ], (drawing) => act({ drawing }));
    const palette = choice("Colours", Object.keys(payload.palettes).map((p) => [p, p]), (name) => act({ palette: name }));
    const scale = choice("Scale", [["shared", "shared over all maps"], ["map", "per map"], ["raw", "raw, 0 to 1"]], (mode) => act({ scale: mode }));
    const opacity = el("input", { type: "range", min: 0, max: 100, step: 1, "aria-label": "Opacity of the map",
      oninput: () => act({ opacity: Number(opacity.value) / 100 }) });
    const grey = el("input", { type: "checkbox", onchange: () => act({ grey: grey.checked }) });
    const saves = [
      button("PNG", "Save this view as PNG", () => view.save("png")),
      button("SVG", "Save this view as SVG", () => view.save("svg")),
      button("Sheet", "Save the contact sheet as PNG", () => view.save("sheet")),
    ];
    if (view.options.hash) saves.push(button("Copy link", view.options.context ? "Copy a link to this view: the example and the selection. It never holds an upload" : "Copy a link to this selection", () => view.copyLink()));
    const node = el("div", { class: "qfv-display" },
      field("Draw", draw.group), field("Colours", palette), field("Scale", scale), field("Opacity", opacity),
      el("label", { class: "qfv-check" }, grey, "grey image"), field("Save", ...saves));
    return { node, draw, palette, scale, opacity, grey };
  }

  function numbers(maps) {
    const body = el("tbody");
    const head = ["Query", "On CLS", "Entropy", "≈ Patches", "Peak"].map((text) => el("th", { scope: "col" }, text));
    head[1].title = "Share of attention on the CLS token, which the map does not show";
    head[2].title = "Entropy in nats over patches, without CLS";
    head[3].title = "exp(entropy): the number of patches, of " + maps.patches + ", over which evenly spread attention has this entropy";
    head[4].title = "Largest attention weight on one patch";
    const table = el("table", { class: "qfv-table" }, el("thead", {}, el("tr", {}, ...head)), body);
    return { node: el("section", { class: "qfv-read", "aria-label": "Numbers of the shown queries" }, table), body };
  }

  function ranking(view, maps) {
    const title = el("h2", { class: "qfv-title" });
    const hint = el("p", { class: "qfv-hint" });
    const rows = Array.from({ length: Math.min(8, maps.queries) }, () => {
      const name = el("span", { class: "qfv-who" });
      const value = el("span", { class: "qfv-num" });
      const length = bar();
      const node = el("button", { type: "button", class: "qfv-rank" }, name, " ", length.track, value);
      node.addEventListener("click", (event) => view.pick(Number(node.dataset.query), event, "rank"));
      return { node, name, value, length };
    });
    const list = el("div", { class: "qfv-ranks" }, ...rows.map((r) => r.node));
    return { node: el("section", { class: "qfv-patch", "aria-label": "Queries ranked for a patch" }, title, hint, list), title, hint, list, rows };
  }

  function sheet(view, maps) {
    const sort = segmented("Sort queries", [
      { value: "index", text: "index", title: "In the order of the language model’s input" },
      { value: "entropy", text: "entropy", title: "Most focused first" },
      { value: "cls", text: "CLS", title: "Largest share on CLS first" },
      ...(view.allMaps.length > 1 ? [{ value: "shift", text: "movement", title: "Largest movement of the map from frame to frame first" }] : []),
    ], (by) => view.change({ sort: by }, "control"));
    const items = Array.from({ length: maps.queries }, (_, q) => {
      const canvas = el("canvas", { class: "qfv-thumb", width: maps.columns, height: maps.rows, "aria-hidden": "true" });
      const entropy = el("span", { class: "qfv-small" });
      const cls = bar();
      const node = el("div", { class: "qfv-item", role: "option", tabindex: "-1", "data-query": q },
        canvas, el("span", { class: "qfv-under" }, el("b", {}, label(q)), " ", entropy), cls.track);
      return { node, canvas, entropy, cls };
    });
    const list = el("div", { class: "qfv-list", role: "listbox", "aria-multiselectable": "true", "aria-orientation": "horizontal",
      "aria-label": "Contact sheet of all queries" }, ...items.map((i) => i.node));
    const key = el("span", { class: "qfv-key" });
    const node = el("section", { class: "qfv-sheet" },
      el("div", { class: "qfv-sheethead" }, el("h2", { class: "qfv-title" }, "All " + maps.queries + " queries"),
        key, field("Sort", sort.group)), list);
    return { node, sort, items, key, list };
  }

  function build(view, payload, maps) {
    const parts = {
      controls: controls(view, maps),
      stage: stage(),
      display: display(view, payload),
      read: numbers(maps),
      rank: ranking(view, maps),
      sheet: sheet(view, maps),
      strip: QFV.video.strip(view),
      status: el("p", { class: "qfv-status", role: "status", "aria-live": "polite" }),
      note: el("p", { class: "qfv-note" }),
    };
    const keys = el("p", { class: "qfv-keys" }, KEYS);
    keys.id = "qfv-keys-" + Math.random().toString(36).slice(2);
    parts.stage.node.setAttribute("aria-describedby", keys.id);
    parts.node = el("div", { class: "qfv-explorer" },
      parts.controls.node, parts.status, ...(parts.strip ? [parts.strip.node] : []),
      el("div", { class: "qfv-body" },
        el("div", { class: "qfv-side" },
          el("div", { class: "qfv-main" }, parts.stage.node, parts.stage.legend, parts.note, keys), parts.display.node),
        el("div", { class: "qfv-side" }, parts.sheet.node, parts.read.node, parts.rank.node)));
    return parts;
  }

  QFV.layout = { build };
})(window);
