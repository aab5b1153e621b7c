// QFormerViz.imageSets(root, shown): one query's map on every image of a set, and the mean of these maps.
// shown: images (payloads of the stage with one head, the mean), content_dependence [layers and their mean][queries],
// colours. The query and the layer are those of the stage. The server is not asked.
(function (global) {
  "use strict";
  const QFV = (global.QFormerViz = global.QFormerViz || {});
  const { el, number, overlay, percent, words } = QFV.parts;

  class ImageSets {
    constructor(root, shown, maps) {
      Object.assign(this, { shown, maps });
      this.state = { query: 0, layer: "mean" };
      this.colours = QFV.paint.table(shown.colours);
      this.meanTile = this.tile(null);
      this.tiles = shown.images.map(({ image }) => this.tile(image));
      this.status = el("p", { role: "status" });
      this.root = el("div", { class: "qfv qfv-across", "data-theme": "host" }, this.status,
        el("div", { class: "qfv-album" }, ...[this.meanTile, ...this.tiles].map((tile) => tile.node)));
      root.append(this.root);
      this.abort = new AbortController();
      document.addEventListener("qfv:select", (event) => event.detail && this.set(event.detail), { signal: this.abort.signal });
      this.set((global.qfvHandle && global.qfvHandle.get()) || {});
    }

    tile(image) {
      const canvas = el("canvas", { role: "img" });
      const caption = el("figcaption", { class: "qfv-note" });
      const picture = el("div", { class: "qfv-triple-picture" }, ...(image ? [el("img", { src: image.src, alt: "" }), ...overlay(canvas, image)] : [canvas]));
      picture.style.aspectRatio = String(image ? Math.min(Math.max(image.width / image.height, 0.6), 1.8) : this.maps[0].columns / this.maps[0].rows);
      return { canvas, caption, node: el("figure", {}, picture, caption) };
    }

    set(change) {
      const [first] = this.maps;
      const { query = this.state.query, layer = this.state.layer } = change;
      this.state = { query: query < first.queries ? query : 0, layer: first.crossLayers.includes(layer) ? layer : "mean" };
      this.render();
    }

    render() {
      const { query, layer } = this.state;
      const [{ columns, rows, crossLayers, patches }] = this.maps;
      const all = this.maps.map((maps) => maps.of(maps.block(layer, 0), query));
      const mean = new Float32Array(patches);
      for (const map of all) for (let p = 0; p < patches; p++) mean[p] += map[p] / all.length;
      const draw = ({ canvas, caption }, map, opacity, name) => {
        const { peak, peakAt } = QFV.maps.describe(map);
        const text = name + number(peak) + " at " + words.patch({ columns }, peakAt);
        QFV.paint.raster(canvas, map, columns, rows, peak, this.colours, opacity);
        caption.textContent = text;
        canvas.setAttribute("aria-label", words.queries([query]) + ": " + text);
      };
      draw(this.meanTile, mean, null, "mean of all: ");
      this.tiles.forEach((tile, i) => draw(tile, all[i], 0.75, ""));
      const row = layer === "mean" ? crossLayers.length : crossLayers.indexOf(layer);
      this.status.textContent = words.queries([query]) + ", " + words.layer(this.maps[0], layer) + ", mean of heads. Content-dependent: "
        + percent(this.shown.content_dependence[row][query]) + " (0 = always the same place). Each image has its own scale.";
    }

    destroy() {
      this.abort.abort();
      this.root.remove();
    }
  }

  QFV.imageSets = function (root, shown) {
    let view = null;
    let gone = false;
    const ready = Promise.all(shown.images.map((payload) => QFV.maps.load(payload))).then((maps) => {
      if (!gone) view = new ImageSets(root, shown, maps);
    });
    return { ready, get: () => view && { ...view.state }, destroy: () => ((gone = true), view && view.destroy()) };
  };
})(window);
