// QFormerViz.mapComparison(root, pair): the maps of two questions, or of two models, on one scale, and their difference.
// pair: titles [2], second (the name of the second one in a sentence), maps [2] (payloads of the stage), colours (a diverging
// scale, from less to more).
// The query, the layer and the head are those of the stage; a choice here changes them there. The server is not asked.
(function (global) {
  "use strict";
  const QFV = (global.QFormerViz = global.QFormerViz || {});
  const { bar, button, choice, el, field, label, number, overlay, percent, words } = QFV.parts;
  const MOST_ROWS = 8;

  // The share of a query's attention that is on other tokens in the second map: half the sum of all differences, with CLS.
  function attentionShift(maps, blocks, query) {
    const [a, b] = maps.map((m, i) => m.of(blocks[i], query));
    let sum = Math.abs(blocks[0].cls[query] - blocks[1].cls[query]);
    for (let p = 0; p < a.length; p++) sum += Math.abs(a[p] - b[p]);
    return sum / 2;
  }

  class MapComparison {
    constructor(root, pair, maps) {
      Object.assign(this, { pair, maps });
      this.state = { query: 0, layer: "mean", head: "mean" };
      const [first] = maps;
      const set = (name, value) => this.set({ [name]: value === "mean" ? value : Number(value) });
      this.query = choice("Query", Array.from({ length: first.queries }, (_, q) => [q, label(q)]), (v) => set("query", v));
      this.layer = choice("Layer", [...first.crossLayers, "mean"].map((v) => [v, v]), (v) => set("layer", v));
      this.head = choice("Head", ["mean", ...Array(first.heads).keys()].map((v) => [v, v]), (v) => set("head", v));
      this.figures = [...pair.titles, "Second − first"].map((title, i) => this.figure(title, pair.maps[Math.min(i, 1)].image, i));
      this.status = el("p", { class: "qfv-note", role: "status" });
      this.mostShifted = el("div", { class: "qfv-moved" });
      this.root = el("div", { class: "qfv qfv-difference", "data-theme": "host" },
        el("div", { class: "qfv-difference-controls" }, field("Query", this.query), field("Layer", this.layer), field("Head", this.head)),
        el("div", { class: "qfv-triple" }, ...this.figures.map((f) => f.node)), this.status,
        el("b", { class: "qfv-moved-title" }, "Queries that moved most"), this.mostShifted);
      root.append(this.root);
      this.abort = new AbortController();
      const follow = (event) => event.detail && this.set(event.detail, true);
      document.addEventListener("qfv:select", follow, { signal: this.abort.signal });
      this.set({ ...((global.qfvHandle && global.qfvHandle.get()) || {}) }, true);
    }

    figure(title, image, i) {
      const canvas = el("canvas", { role: "img" });
      const legend = el("span", { class: "qfv-note" });
      const picture = el("div", { class: "qfv-triple-picture" }, el("img", { src: image.src, alt: "" }), ...overlay(canvas, image));
      picture.style.aspectRatio = String(Math.min(Math.max(image.width / image.height, 1 / 3), 6));
      return { canvas, legend, title, node: el("figure", { class: i === 2 ? "qfv-less-more" : "" }, el("figcaption", {}, title), picture, legend) };
    }

    set(change, silent) {
      const [maps] = this.maps;
      const next = { ...this.state };
      for (const name of Object.keys(next)) if (change[name] !== undefined) next[name] = change[name];
      if (!(next.query < maps.queries)) next.query = 0;
      if (!maps.crossLayers.includes(next.layer)) next.layer = "mean";
      if (!(next.head < maps.heads)) next.head = "mean";
      this.state = next;
      this.render();
      if (!silent) document.dispatchEvent(new CustomEvent("qfv:set", { detail: next }));
    }

    render() {
      const { query, layer, head } = this.state;
      [this.query.value, this.layer.value, this.head.value] = [query, layer, head];
      const blocks = this.maps.map((m) => m.block(layer, head));
      const values = this.maps.map((m, i) => m.of(blocks[i], query));
      const top = Math.max(blocks[0].peak[query], blocks[1].peak[query]);
      const colours = QFV.paint.table(this.pair.maps[0].palettes.viridis);
      values.forEach((map, i) => {
        const { canvas, legend, title } = this.figures[i];
        QFV.paint.raster(canvas, map, this.maps[i].columns, this.maps[i].rows, top, colours, 0.75);
        legend.textContent = "0 to " + number(top) + "; CLS " + percent(blocks[i].cls[query]);
        canvas.setAttribute("aria-label", words.queries([query]) + ", " + title);
      });
      const difference = values[1].map((v, p) => v - values[0][p]);
      const most = difference.reduce((high, v) => Math.max(high, Math.abs(v)), 0);
      const last = this.figures[2];
      QFV.paint.signed(last.canvas, difference, this.maps[0].columns, this.maps[0].rows, most, QFV.paint.table(this.pair.colours));
      last.legend.textContent = "Purple: less, down to −" + number(most) + "; orange: more, up to " + number(most);
      last.canvas.setAttribute("aria-label", words.queries([query]) + ", difference");
      const shares = Array.from({ length: this.maps[0].queries }, (_, q) => attentionShift(this.maps, blocks, q));
      const mean = shares.reduce((a, b) => a + b, 0) / shares.length;
      this.status.textContent = words.queries([query]) + ", " + words.layer(this.maps[0], layer) + ", " + words.head(this.maps[0], head)
        + ": " + this.pair.second + " moved " + percent(shares[query]) + " of its attention; mean over queries " + percent(mean) + ".";
      const order = [...shares.keys()].sort((a, b) => shares[b] - shares[a] || a - b).slice(0, MOST_ROWS);
      this.mostShifted.replaceChildren(...order.map((q) => {
        const { track, set } = bar();
        set(shares[q] / (shares[order[0]] || 1));
        const go = button("", "Query " + label(q) + " " + percent(shares[q]) + " moved. Show it.", () => this.set({ query: q }), { "aria-pressed": String(q === query) });
        go.append(el("span", {}, label(q)), " ", track, el("span", {}, percent(shares[q])));
        return go;
      }));
    }

    destroy() {
      this.abort.abort();
      this.root.remove();
    }
  }

  QFV.mapComparison = function (root, pair) {
    let view = null;
    let gone = false;
    const ready = Promise.all(pair.maps.map((payload) => QFV.maps.load(payload))).then((maps) => {
      if (!gone) view = new MapComparison(root, pair, maps);
    });
    return { ready, get: () => view && { ...view.state }, destroy: () => ((gone = true), view && view.destroy()) };
  };
})(window);
