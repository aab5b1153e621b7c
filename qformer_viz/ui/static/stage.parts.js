// The elements that the views are built of, and their words. Data enters as text or attributes, never as markup.
(function (global) {
  "use strict";
  const QFV = (global.QFormerViz = global.QFormerViz || {});

  function el(tag, props, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(props || {})) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((c) => c !== null && c !== undefined));
    return node;
  }

  function number(v) {
    if (v === 0) return "0";
    const digits = v >= 0.1 ? 3 : v >= 0.001 ? 4 : v >= 0.0001 ? 5 : null;
    return digits ? v.toFixed(digits) : v.toExponential(1);
  }
  const percent = (v) => (100 * v).toFixed(1) + " %";
  const label = (q) => String(q).padStart(2, "0");

  // A radio group as a row of buttons, with one tab stop.
  function segmented(name, items, onPick) {
    const buttons = items.map((item) =>
      el("button", { type: "button", role: "radio", class: "qfv-seg", title: item.title, "data-value": item.value,
        onclick: () => onPick(item.value) }, item.text),
    );
    const group = el("div", { class: "qfv-segs", role: "radiogroup", "aria-label": name }, ...buttons);
    group.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      const at = buttons.findIndex((b) => b.getAttribute("aria-checked") === "true");
      const next = (at + step + buttons.length) % buttons.length;
      buttons[next].focus();
      onPick(items[next].value);
    });
    const show = (value) => {
      items.forEach((item, i) => {
        buttons[i].setAttribute("aria-checked", String(item.value === value));
        buttons[i].tabIndex = item.value === value ? 0 : -1;
      });
    };
    return { group, show };
  }

  function choice(name, items, onPick) {
    const select = el("select", { "aria-label": name, onchange: () => onPick(select.value) });
    for (const [value, text] of items) select.append(el("option", { value }, text));
    return select;
  }

  function field(text, ...controls) {
    return el("div", { class: "qfv-field" }, el("span", { class: "qfv-name", "aria-hidden": "true" }, text), ...controls);
  }

  // A button is named by its text, and its title explains it. A button that shows only a symbol is named by its title.
  function button(text, title, onclick, extra) {
    return el("button", { type: "button", class: "qfv-button", title, "aria-label": /\p{L}/u.test(text) ? null : title, onclick, ...extra }, text);
  }

  // A horizontal bar. `set` makes it `share` of its track long.
  function bar() {
    const fill = el("span", { class: "qfv-fill" });
    const track = el("span", { class: "qfv-track", "aria-hidden": "true" }, fill);
    return { track, set: (share) => (fill.style.transform = "scaleX(" + Math.min(Math.max(share, 0), 1) + ")") };
  }

  // Places the canvas element of a map on its image, over the model's input. Returns it with a shade over the rest.
  function overlay(canvas, image) {
    if (!image.box) return [canvas];
    const [left, top, right, bottom] = image.box.map((share) => 100 * share);
    const [l, t, r, b] = [left, top, right, bottom].map((v) => Math.min(Math.max(v, 0), 100) + "%");
    Object.assign(canvas.style, { left: left + "%", top: top + "%", right: "auto", bottom: "auto", width: right - left + "%", height: bottom - top + "%" });
    const shade = el("span", { class: "qfv-unseen", "aria-hidden": "true" });
    shade.style.clipPath = "polygon(evenodd, 0 0, 100% 0, 100% 100%, 0 100%, 0 0, " + [[l, t], [r, t], [r, b], [l, b], [l, t]].map((p) => p.join(" ")).join(", ") + ")";
    return [canvas, shade];
  }

  const words = {
    layer: (maps, layer) =>
      layer !== "mean" ? "layer " + layer : maps.layers > 1 ? "mean of layers " + maps.crossLayers.join(", ") : "its one layer",
    head: (maps, head) => (head === "mean" ? "mean of " + maps.heads + " heads" : "head " + head),
    queries: (queries) =>
      queries.length === 1
        ? "Query " + label(queries[0])
        : "Mean of queries " + queries.slice(0, 8).map(label).join(", ") + (queries.length > 8 ? " and " + (queries.length - 8) + " more" : ""),
    scale: (maps, scale, frames = 1) =>
      ({
        raw: "raw probability, 0 to 1",
        shared: "one scale for all " + maps.queries + " maps of this layer and head" + (frames > 1 ? ", in all frames" : ""),
        map: "this map’s own maximum; do not compare maps",
      })[scale],
    patch: (maps, p) => "row " + (Math.floor(p / maps.columns) + 1) + ", column " + ((p % maps.columns) + 1),
  };

  QFV.parts = { bar, button, choice, el, field, label, number, overlay, percent, segmented, words };
})(window);
