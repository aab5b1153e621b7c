// QFormerViz.patchBrush(root, shown, {ask}): paint over patches of an image, or of the frames of a video, to hide them.
// shown: frames (one, or those of a video), timestamps, grid, from {name: [title, explanation]}. ask("submit", {patches,
// where}) requests an answer without these patches. Patches are numbered row by row, frame after frame.
(function (global) {
  "use strict";
  const QFV = (global.QFormerViz = global.QFormerViz || {});
  const { button, choice, el, field, overlay, segmented, words } = QFV.parts;

  class PatchBrush {
    constructor(root, shown, { ask }) {
      const [rows, columns] = shown.grid;
      const count = shown.frames.length;
      Object.assign(this, { shown, ask, rows, columns, each: rows * columns, hidden: new Uint8Array(count * rows * columns), cursor: 0,
        brush: null, everywhere: count > 1 });
      this.canvases = shown.frames.map((_, frame) => this.surface(frame));
      const pictures = shown.frames.map((image, frame) => {
        const picture = el("div", { class: "qfv-triple-picture qfv-painter-picture" }, el("img", { src: image.src, alt: "", draggable: "false" }), ...overlay(this.canvases[frame], image));
        picture.style.aspectRatio = String(Math.min(Math.max(image.width / image.height, 1 / 3), 6));
        return count > 1 ? el("div", {}, picture, el("small", { class: "qfv-note" }, shown.timestamps[frame])) : picture;
      });
      this.scope = segmented("Paint in", [
        { value: true, text: "Every frame", title: "Paint the same patches in every frame" },
        { value: false, text: "One frame", title: "Paint in the frame under the brush alone" }], (value) => this.setScope(value));
      this.status = el("p", { class: "qfv-note", role: "status" });
      this.where = choice("Hide them from", Object.entries(shown.from).map(([name, [title]]) => [name, title]), () => this.explain());
      this.meaning = el("p", { class: "qfv-note" });
      this.strongest = button("Strongest tenth of the map in Why", "Hide the tenth of the patches with the highest values for the chosen word", () => this.hideStrongest());
      this.root = el("div", { class: "qfv qfv-painter", "data-theme": "host" },
        el("figure", { class: count > 1 ? "qfv-why-film" : "" }, ...pictures),
        el("div", {},
          el("b", {}, "Paint over patches to hide them"),
          this.status,
          count > 1 ? field("Paint in", this.scope.group) : null,
          el("div", { class: "qfv-why-ask" }, this.strongest,
            button("Invert", "Hide what is shown, and show what is hidden", () => this.change((h) => !h)),
            button("Clear", "Show every patch", () => this.change(() => 0))),
          field("Hidden from", this.where), this.meaning,
          button("Answer again without them", "Ask the last question again with these patches hidden", () => this.submit())));
      root.append(this.root);
      this.explain();
      this.setScope(this.everywhere);
      this.draw();
    }

    surface(frame) {
      const { columns, rows, shown } = this;
      const name = shown.frames.length > 1 ? shown.timestamps[frame] + " to paint on" : "Image to paint on";
      const canvas = el("canvas", { width: 16 * columns, height: 16 * rows, tabindex: 0, role: "application",
        "aria-label": name + ": arrow keys move, space hides or shows a patch" });
      canvas.addEventListener("pointerdown", (event) => this.down(event, frame));
      canvas.addEventListener("pointermove", (event) => this.brush !== null && this.paint(event, frame));
      for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (this.brush = null));
      canvas.addEventListener("keydown", (event) => this.key(event, frame));
      canvas.addEventListener("focus", () => this.draw());
      // The status line stays as it is: a shorter one would move the button away while it is being pressed.
      canvas.addEventListener("blur", () => this.drawFrame(canvas, frame));
      return canvas;
    }

    setScope(everywhere) {
      this.everywhere = everywhere;
      this.scope.show(everywhere);
    }

    // Hides (1) or shows (0) the patch at the cursor, in this frame or in all.
    set(frame, value) {
      for (let f = 0; f < this.canvases.length; f++) if (this.everywhere || f === frame) this.hidden[f * this.each + this.cursor] = value;
    }

    explain() {
      this.meaning.textContent = this.shown.from[this.where.value][1];
    }

    patch(event, frame) {
      const box = this.canvases[frame].getBoundingClientRect();
      const x = Math.floor(((event.clientX - box.left) / box.width) * this.columns);
      const y = Math.floor(((event.clientY - box.top) / box.height) * this.rows);
      return x < 0 || y < 0 || x >= this.columns || y >= this.rows ? null : y * this.columns + x;
    }

    down(event, frame) {
      const at = this.patch(event, frame);
      if (at === null) return;
      event.preventDefault();
      const canvas = this.canvases[frame];
      canvas.focus();
      try {
        canvas.setPointerCapture(event.pointerId);
      } catch {
        // The pointer was lifted meanwhile. One patch is painted all the same.
      }
      this.brush = this.hidden[frame * this.each + at] ? 0 : 1;
      this.paint(event, frame);
    }

    paint(event, frame) {
      const at = this.patch(event, frame);
      if (at === null) return;
      this.cursor = at;
      this.set(frame, this.brush);
      this.draw();
    }

    key(event, frame) {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (step) {
        const row = Math.min(Math.max(Math.floor(this.cursor / this.columns) + step[0], 0), this.rows - 1);
        const column = Math.min(Math.max((this.cursor % this.columns) + step[1], 0), this.columns - 1);
        this.cursor = row * this.columns + column;
      } else if (event.key === " ") this.set(frame, this.hidden[frame * this.each + this.cursor] ? 0 : 1);
      else return;
      event.preventDefault();
      this.draw();
    }

    change(rule) {
      this.hidden = this.hidden.map((h) => (rule(h) ? 1 : 0));
      this.draw();
    }

    hideStrongest() {
      const map = global.qfvWordMap;
      if (!map || map.length !== this.hidden.length) {
        this.status.textContent = "There is no map in Why yet. Explain the last answer there, and choose a word and a method.";
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
      this.canvases.forEach((canvas, frame) => this.drawFrame(canvas, frame));
      const count = this.hidden.reduce((sum, h) => sum + h, 0);
      const frame = this.canvases.indexOf(document.activeElement);
      const video = this.canvases.length > 1;
      const place = frame < 0 ? "" : " At " + words.patch({ columns: this.columns }, this.cursor) + (video ? " of " + this.shown.timestamps[frame] : "")
        + (this.hidden[frame * this.each + this.cursor] ? ", hidden." : ", shown.");
      this.status.textContent = count + " of " + this.hidden.length + " patches" + (video ? " of " + this.canvases.length + " frames" : "") + " hidden." + place;
    }

    drawFrame(canvas, frame) {
      const context = canvas.getContext("2d");
      const side = 16;
      context.clearRect(0, 0, canvas.width, canvas.height);
      for (let p = 0; p < this.each; p++) {
        const [x, y] = [(p % this.columns) * side, Math.floor(p / this.columns) * side];
        if (this.hidden[frame * this.each + p]) {
          context.fillStyle = "rgba(20, 22, 30, .88)";
          context.fillRect(x, y, side, side);
        }
        context.strokeStyle = "rgba(255, 255, 255, .3)";
        context.lineWidth = 0.5;
        context.strokeRect(x + 0.25, y + 0.25, side - 0.5, side - 0.5);
      }
      if (document.activeElement === canvas) {
        context.strokeStyle = "#fff";
        context.lineWidth = 2;
        context.strokeRect((this.cursor % this.columns) * side + 1, Math.floor(this.cursor / this.columns) * side + 1, side - 2, side - 2);
      }
    }

    destroy() {
      this.root.remove();
    }
  }

  QFV.patchBrush = (root, shown, options) => new PatchBrush(root, shown, options || {});
})(window);
