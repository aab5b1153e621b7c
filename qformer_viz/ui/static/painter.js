// QFormerViz.painter(root, shown, {ask}): paint patches of an image to hide them.
// shown: image, grid, from {name: [title, what it means]}. ask("submit", {patches, where}) has the server answer without them.
(function (global) {
  "use strict";
  const QFV = (global.QFormerViz = global.QFormerViz || {});
  const { button, choice, el, field, words } = QFV.parts;

  class Painter {
    constructor(root, shown, { ask }) {
      const [rows, columns] = shown.grid;
      Object.assign(this, { shown, ask, rows, columns, hidden: new Uint8Array(rows * columns), at: 0, brush: null });
      this.canvas = el("canvas", { width: 16 * columns, height: 16 * rows, tabindex: 0, role: "application",
        "aria-label": "Image to paint on: arrow keys move, space hides or shows a patch" });
      const picture = el("div", { class: "qfv-triple-picture qfv-painter-picture" }, el("img", { src: shown.image.src, alt: "", draggable: "false" }), this.canvas);
      picture.style.aspectRatio = String(Math.min(Math.max(shown.image.width / shown.image.height, 1 / 3), 6));
      this.told = el("p", { class: "qfv-note", role: "status" });
      this.where = choice("Hide them from", Object.entries(shown.from).map(([name, [title]]) => [name, title]), () => this.explain());
      this.meaning = el("p", { class: "qfv-note" });
      this.strongest = button("Strongest tenth of the map in Why", "Hide the tenth of the patches that speak loudest for the chosen word", () => this.take());
      this.root = el("div", { class: "qfv qfv-painter", "data-theme": "host" },
        el("figure", {}, picture),
        el("div", {},
          el("b", {}, "Paint over patches to hide them"),
          this.told,
          el("div", { class: "qfv-why-ask" }, this.strongest,
            button("Invert", "Hide what is shown, and show what is hidden", () => this.change((h) => !h)),
            button("Clear", "Show every patch", () => this.change(() => 0))),
          field("Hidden from", this.where), this.meaning,
          button("Answer again without them", "Ask the last question again with these patches hidden", () => this.submit())));
      this.canvas.addEventListener("pointerdown", (event) => this.down(event));
      this.canvas.addEventListener("pointermove", (event) => this.brush !== null && this.paint(event));
      for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => (this.brush = null));
      this.canvas.addEventListener("keydown", (event) => this.key(event));
      for (const change of ["focus", "blur"]) this.canvas.addEventListener(change, () => this.draw());
      root.append(this.root);
      this.explain();
      this.draw();
    }

    explain() {
      this.meaning.textContent = this.shown.from[this.where.value][1];
    }

    patch(event) {
      const box = this.canvas.getBoundingClientRect();
      const x = Math.floor(((event.clientX - box.left) / box.width) * this.columns);
      const y = Math.floor(((event.clientY - box.top) / box.height) * this.rows);
      return x < 0 || y < 0 || x >= this.columns || y >= this.rows ? null : y * this.columns + x;
    }

    down(event) {
      const at = this.patch(event);
      if (at === null) return;
      event.preventDefault();
      this.canvas.focus();
      try { this.canvas.setPointerCapture(event.pointerId); } catch (_) { /* a pointer that is gone already */ }
      this.brush = this.hidden[at] ? 0 : 1;
      this.paint(event);
    }

    paint(event) {
      const at = this.patch(event);
      if (at === null) return;
      this.at = at;
      this.hidden[at] = this.brush;
      this.draw();
    }

    key(event) {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (step) {
        const row = Math.min(Math.max(Math.floor(this.at / this.columns) + step[0], 0), this.rows - 1);
        const column = Math.min(Math.max((this.at % this.columns) + step[1], 0), this.columns - 1);
        this.at = row * this.columns + column;
      } else if (event.key === " ") this.hidden[this.at] = this.hidden[this.at] ? 0 : 1;
      else return;
      event.preventDefault();
      this.draw();
    }

    change(rule) {
      this.hidden = this.hidden.map((h) => (rule(h) ? 1 : 0));
      this.draw();
    }

    take() {
      const map = global.qfvWhyMap;
      if (!map || map.length !== this.hidden.length) {
        this.told.textContent = "There is no map in Why yet. Explain the last answer there, and choose a word and a method.";
        return;
      }
      const order = [...map.keys()].sort((a, b) => map[b] - map[a] || a - b).slice(0, Math.max(1, Math.round(map.length / 10)));
      this.hidden.fill(0);
      for (const p of order) this.hidden[p] = 1;
      this.draw();
    }

    submit() {
      this.ask("submit", { patches: [...this.hidden.keys()].filter((p) => this.hidden[p]), where: this.where.value });
    }

    draw() {
      const context = this.canvas.getContext("2d");
      const side = 16;
      context.clearRect(0, 0, this.canvas.width, this.canvas.height);
      for (let p = 0; p < this.hidden.length; p++) {
        const [x, y] = [(p % this.columns) * side, Math.floor(p / this.columns) * side];
        if (this.hidden[p]) {
          context.fillStyle = "rgba(20, 22, 30, .88)";
          context.fillRect(x, y, side, side);
        }
        context.strokeStyle = "rgba(255, 255, 255, .3)";
        context.lineWidth = 0.5;
        context.strokeRect(x + 0.25, y + 0.25, side - 0.5, side - 0.5);
      }
      if (document.activeElement === this.canvas) {
        context.strokeStyle = "#fff";
        context.lineWidth = 2;
        context.strokeRect((this.at % this.columns) * side + 1, Math.floor(this.at / this.columns) * side + 1, side - 2, side - 2);
      }
      const count = this.hidden.reduce((sum, h) => sum + h, 0);
      const cursor = document.activeElement === this.canvas ? " At " + words.patch({ columns: this.columns }, this.at) + (this.hidden[this.at] ? ", hidden." : ", shown.") : "";
      this.told.textContent = count + " of " + this.hidden.length + " patches hidden." + cursor;
    }

    destroy() {
      this.root.remove();
    }
  }

  QFV.painter = (root, shown, options) => new Painter(root, shown, options || {});
})(window);
