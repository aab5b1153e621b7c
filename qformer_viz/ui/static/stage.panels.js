// Updates everything around the image: controls, legend, numbers, ranking, contact sheet, status line.
(function (global) {
  "use strict";
  const QFV = (global.QFormerViz = global.QFormerViz || {});
  const { bar, el, label, number, percent, words } = QFV.parts;
  const MAX_ROWS = 8;

  function updateControls(view) {
    const { controls, display, sheet } = view.parts;
    const { state } = view;
    controls.current.textContent = state.queries.length === 1 ? label(state.queries[0]) : state.queries.length + " of " + view.maps.queries;
    controls.auto.setAttribute("aria-pressed", String(!view.chosen));
    controls.compare.setAttribute("aria-pressed", String(view.compare));
    controls.layers.show(state.layer);
    controls.heads.show(state.head);
    display.draw.show(state.drawing);
    display.palette.value = state.palette;
    display.scale.value = state.scale;
    display.opacity.value = Math.round(100 * state.opacity);
    display.grey.checked = state.grey;
    sheet.sort.show(state.sort);
    const { image } = view.parts.stage;
    const source = view.frames[state.frame].image.src;
    if (image.getAttribute("src") !== source) image.src = source;
    image.classList.toggle("qfv-grey", state.grey);
  }

  function updateLegend(view, scene) {
    const { stage } = view.parts;
    const key = view.state.palette + "/" + scene.opacity;
    if (stage.colourBar.dataset.drawn !== key) {
      const ramp = Float32Array.from({ length: 256 }, (_, i) => i / 255);
      QFV.paint.raster(stage.colourBar, ramp, 256, 1, 1, scene.colours, scene.opacity); // with the opacity of the map
      stage.colourBar.dataset.drawn = key;
    }
    [0, scene.top / 2, scene.top].forEach((v, i) => (stage.ticks[i].textContent = number(v)));
    const even = 1 / (view.maps.patches + 1);
    stage.even.hidden = even > scene.top;
    stage.even.style.left = (100 * even) / scene.top + "%";
    stage.even.title = "Even spread over all image tokens: " + number(even);
    const value = scene.patch === null ? null : scene.values[scene.patch];
    stage.marker.hidden = value === null;
    if (value !== null) stage.marker.style.left = 100 * Math.min(1, scene.top > 0 ? value / scene.top : 0) + "%";
    stage.caption.textContent = view.describe(scene).caption;
    stage.tip.hidden = value === null;
    if (value !== null) updateTip(view, scene, value);
  }

  function updateTip(view, scene, value) {
    const { tip } = view.parts.stage;
    const [left, top, right, bottom] = scene.box || [0, 0, 1, 1];
    const [sx, sy] = [(right - left) / scene.columns, (bottom - top) / scene.rows];
    const x = left + (scene.patch % scene.columns) * sx;
    const y = top + Math.floor(scene.patch / scene.columns) * sy;
    tip.textContent = number(value) + " at " + words.patch(view.maps, scene.patch);
    tip.style.left = x < 0.5 ? 100 * (x + sx) + "%" : "auto";
    tip.style.right = x < 0.5 ? "auto" : 100 * (1 - x) + "%";
    tip.style.top = y < 0.8 ? 100 * (y + sy) + "%" : "auto";
    tip.style.bottom = y < 0.8 ? "auto" : 100 * (1 - y) + "%";
  }

  function row(name, colour, values) {
    const length = bar();
    length.set(values.cls);
    const swatch = colour ? el("span", { class: "qfv-swatch" }) : null;
    if (swatch) swatch.style.background = colour;
    return el("tr", {},
      el("th", { scope: "row" }, swatch, name),
      el("td", { class: "qfv-cls" }, length.track, percent(values.cls)),
      el("td", {}, values.entropy.toFixed(2)),
      el("td", {}, values.effective.toFixed(0)),
      el("td", {}, number(values.peak)));
  }

  function updateNumbers(view, scene) {
    const { queries } = view.state;
    const { block } = scene;
    const of = (q) => ({ cls: block.cls[q], entropy: block.entropy[q], effective: block.effective[q], peak: block.peak[q] });
    const outlined = (q) => (scene.outlines.find((o) => o.query === q) || {}).colour;
    const rows = queries.slice(0, MAX_ROWS).map((q) => row(label(q), outlined(q), of(q)));
    if (queries.length > 1) {
      const whole = { ...QFV.maps.describe(scene.values), cls: view.describe(scene).cls };
      rows.push(row(queries.length > MAX_ROWS ? "mean of " + queries.length : "mean", null, whole));
    }
    view.parts.read.body.replaceChildren(...rows);
  }

  function updateRanking(view, scene) {
    const { rank } = view.parts;
    const { maps, state } = view;
    const shown = scene.patch !== null;
    rank.title.textContent = shown ? "Queries that attend most to this patch" : "Queries that attend to a patch";
    rank.hint.textContent = shown
      ? "At " + words.patch(maps, scene.patch) + (state.pinned ? ". Pinned: Escape or a second click releases it." : ". Click to pin.")
      : "Point at the image, or tap it: the queries are ranked by their attention weight there.";
    rank.list.classList.toggle("qfv-idle", !shown);
    if (!shown) return;
    const at = (q) => scene.block.values[q * maps.patches + scene.patch];
    const order = Array.from({ length: maps.queries }, (_, q) => q).sort((a, b) => at(b) - at(a) || a - b);
    rank.rows.forEach((r, i) => {
      const q = order[i];
      r.node.dataset.query = q;
      r.node.classList.toggle("qfv-on", state.queries.includes(q));
      r.node.setAttribute("aria-label", "Query " + label(q) + " " + number(at(q)) + " of its attention. Select it.");
      r.name.textContent = label(q);
      r.value.textContent = number(at(q));
      r.length.set(scene.block.top > 0 ? at(q) / scene.block.top : 0);
    });
  }

  // The CSS position and size of a background that shows this area of an image.
  function cut([left, top, right, bottom]) {
    const place = (from, to) => (100 * from) / (1 - (to - from) || 1e-6) + "%";
    return place(left, right) + " " + place(top, bottom) + " / " + 100 / (right - left) + "% " + 100 / (bottom - top) + "%";
  }

  // The thumbnails depend on layer, head, colours and scale, but not on the query, so most redraws skip them.
  function updateSheet(view, scene) {
    const { sheet } = view.parts;
    const { state, maps } = view;
    const byShift = view.allMaps.length > 1 && state.sort === "shift";
    const key = [state.layer, state.head, state.palette, state.scale, state.drawing, state.frame, byShift].join("/");
    if (view.sheetKey !== key) {
      view.sheetKey = key;
      const blocks = byShift && view.blocks();
      const top = view.top();
      sheet.list.style.setProperty("--qfv-cut", scene.box ? cut(scene.box) : "");
      sheet.list.style.setProperty("--qfv-picture", 'url("' + view.frames[state.frame].image.src + '")');
      sheet.key.textContent = byShift ? "movement of the map from frame to frame, 0 to 1 · bar: share on CLS" : "entropy in nats · bar: share on CLS";
      sheet.items.forEach((item, q) => {
        const most = { raw: 1, shared: top, map: scene.block.peak[q] }[state.scale];
        QFV.paint.raster(item.canvas, maps.of(scene.block, q), maps.columns, maps.rows, most, scene.colours, 1);
        item.canvas.classList.toggle("qfv-smooth", scene.smooth);
        const figure = (byShift ? QFV.video.meanShift(view.allMaps, blocks, q) : scene.block.entropy[q]).toFixed(2);
        item.entropy.textContent = figure;
        item.cls.set(scene.block.cls[q]);
        item.node.title = "Query " + label(q) + " " + figure + (byShift ? " of movement, " : " nats of entropy, ") + percent(scene.block.cls[q]) + " on CLS";
        item.node.setAttribute("aria-label", item.node.title);
      });
    }
    const order = view.order();
    const sorted = order.join();
    if (sheet.list.dataset.order !== sorted) {
      const focused = sheet.list.contains(document.activeElement) ? document.activeElement : null;
      sheet.list.append(...order.map((q) => sheet.items[q].node));
      sheet.list.dataset.order = sorted;
      if (focused) focused.focus();
    }
    sheet.items.forEach((item, q) => {
      const at = state.queries.indexOf(q);
      item.node.setAttribute("aria-selected", String(at >= 0));
      item.node.tabIndex = q === state.queries[0] ? 0 : -1;
      const outline = scene.outlines.find((o) => o.query === q);
      item.node.style.setProperty("--qfv-mark", outline ? outline.colour : "");
    });
  }

  function updateStatus(view, scene) {
    const { title, cls } = view.describe(scene);
    const peak = QFV.maps.describe(scene.values);
    view.parts.status.textContent = title + ". Strongest at " + words.patch(view.maps, peak.peakAt) + " with " +
      number(peak.peak) + "; " + percent(cls) + " on CLS.";
  }

  QFV.panels = {
    update(view, scene) {
      updateControls(view);
      updateLegend(view, scene);
      updateNumbers(view, scene);
      updateRanking(view, scene);
      updateSheet(view, scene);
      QFV.video.update(view, scene);
      updateStatus(view, scene);
    },
  };
})(window);
