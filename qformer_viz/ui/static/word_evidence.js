// QFormerViz.wordEvidence(root, shown, {before, ask, theme}): from a word of the answer to the queries and patches it came from.
// shown: frames (one, or those of a film), moments, grid, words, probabilities, gains, visual, colours, methods [{title, unit, shows, hides, layer, and by
// word: queries (of all frames, one after another), patches by frame, notes, seconds}], null where nothing was computed yet.
// A chosen query goes to the canvas. ask("submit" | "apply", {method, word}) has the server compute a map, or judge the
// one on screen; nothing else is asked of it. Without ask, what is not there cannot be had.
(function (global) {
  "use strict";
  const QFV = (global.QFormerViz = global.QFormerViz || {});
  const { bar, button, choice, el, field, label, laid, number, percent, words } = QFV.parts;
  const MOST = 12;
  const LEAST = 0.01;
  const signed = (v) => (v < 0 ? "−" : "+") + number(Math.abs(v));

  class WordEvidence {
    constructor(root, shown, { before, ask, theme }) {
      this.shown = shown;
      this.ask = ask;
      const same = before && before.text === shown.words.join(" ");
      const linked = Number(global.qfvLinkedWord ?? NaN);
      global.qfvLinkedWord = null;
      const start = linked in shown.words ? linked : shown.first;
      // A word that nobody chose is in no link.
      this.state = { word: same ? before.word : start, chosen: same ? before.chosen : linked in shown.words,
        method: same ? before.method : 0, asked: same ? before.asked : "", text: shown.words.join(" ") };
      this.chips = shown.words.map((word, t) => {
        const chip = el("button", { type: "button", role: "radio", class: "qfv-chip" + (shown.visual[t] ? "" : " qfv-chip-language"),
          title: this.fact(t), onclick: () => this.set({ word: t, chosen: true }) }, el("span", {}, word), el("small", {}, percent(shown.probabilities[t])));
        return chip;
      });
      this.list = el("div", { class: "qfv-chips", role: "radiogroup", "aria-label": "Words of the answer" }, ...this.chips);
      this.list.addEventListener("keydown", (event) => this.key(event));
      this.method = choice("Method", shown.methods.map((m, i) => [i, m.title]), (v) => this.set({ method: Number(v) }));
      this.about = el("p", { class: "qfv-note" });
      this.told = el("p", { class: "qfv-why-told", role: "status" });
      this.canvases = shown.frames.map(() => el("canvas", { role: "img" }));
      this.legend = el("span", { class: "qfv-note" });
      const pictures = shown.frames.map((frame, i) => {
        const box = el("div", { class: "qfv-triple-picture" }, el("img", { src: frame.src, alt: "" }), ...laid(this.canvases[i], frame));
        box.style.aspectRatio = String(Math.min(Math.max(frame.width / frame.height, 1 / 3), 6));
        return shown.moments.length ? el("div", {}, box, el("small", { class: "qfv-note" }, shown.moments[i])) : box;
      });
      const picture = el("div", { class: pictures.length > 1 ? "qfv-why-film" : "" }, ...pictures);
      this.bars = el("div", { class: "qfv-moved" });
      this.heading = el("b", {});
      this.rest = el("p", { class: "qfv-note" });
      this.check = button("Is this map true?", "Hide and show the patches that this map names, and see what the word does", () => this.begin("apply"));
      this.compute = button("Run", "", () => this.begin("submit"));
      this.body = el("div", { class: "qfv-why-body" }, el("figure", { class: "qfv-less-more" }, picture, this.legend),
        el("div", {}, this.heading, this.bars, this.rest));
      this.root = el("div", { class: "qfv qfv-why", "data-theme": theme || "host" }, this.list, this.told, field("Method", this.method), this.about,
        el("div", { class: "qfv-why-ask" }, this.compute, this.check), this.body);
      root.append(this.root);
      global.qfvWord = () => this.root.isConnected && this.state.chosen ? this.state.word : null;
      this.set({});
      this.suggest();
    }

    // The query that the whole answer loses most without goes to the canvas, until a visitor has chosen one there.
    suggest() {
      const { queries } = this.shown.methods[0];
      if (queries.some((row) => row === null)) return;
      const lost = queries[0].map((_, q) => queries.reduce((sum, row) => sum + row[q], 0));
      const most = lost.indexOf(Math.max(...lost));
      if (lost[most] <= 0) return;
      const query = this.place(most, lost.length)[1];
      document.dispatchEvent(new CustomEvent("qfv:suggest", { detail: { query, picture: this.shown.frames[0].src } }));
    }

    begin(event) {
      const { method, word } = this.state;
      this.ask(event, { method: this.shown.methods[method].name, word });
    }

    fact(t) {
      const { probabilities, gains, visual } = this.shown;
      const gain = "visual gain " + signed(gains[t]) + " nats";
      return "probability " + percent(probabilities[t]) + ", " + gain + (visual[t] ? "" : ": the words before it settle it, not the image");
    }

    key(event) {
      const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const count = this.chips.length;
      this.set({ word: (this.state.word + step + count) % count, chosen: true });
      this.chips[this.state.word].focus();
    }

    set(change) {
      Object.assign(this.state, change);
      const { shown, state } = this;
      const method = shown.methods[state.method];
      const visual = shown.visual[state.word];
      const known = method.patches[state.word] !== null;
      this.chips.forEach((chip, t) => {
        chip.setAttribute("aria-checked", String(t === state.word));
        chip.tabIndex = t === state.word ? 0 : -1;
      });
      this.method.value = state.method;
      const time = known ? " (" + method.seconds[state.word].toFixed(2) + " s)" : "";
      this.about.textContent = "Shows: " + method.shows + " Does not show: " + method.hides + time;
      const missing = visual && !known;
      const quick = missing && shown.quick && this.ask;
      this.told.textContent = "“" + shown.words[state.word] + "”: " + this.fact(state.word) + "."
        + (visual ? "" : " There is no map to draw for it.")
        + (missing ? (quick ? " It is being computed." : this.ask ? " This method has not run yet, and may take a while: press the button." : " This method was not run for it.") : "");
      const what = "Run " + method.title + (method.single ? " for “" + shown.words[state.word] + "”" : "");
      this.compute.textContent = what;
      this.compute.title = what;
      this.compute.hidden = known || !visual || !this.ask;
      this.check.hidden = !known || !visual || !this.ask;
      this.body.hidden = !visual || (!known && !quick);
      this.body.classList.toggle("qfv-waits", Boolean(quick)); // its room is kept for what comes at once
      const wanted = state.method + "/" + (method.single ? state.word : "");
      if (quick && state.asked !== wanted) {
        state.asked = wanted;
        this.begin("submit");
      }
      if (visual && known) this.draw(method);
      if (global.qfvHandle && global.qfvHandle.address) global.qfvHandle.address();
      global.qfvWhyMap = visual && known ? method.patches[state.word].flat() : null;
    }

    draw(method) {
      const { shown, state } = this;
      const [rows, columns] = shown.grid;
      const frames = method.patches[state.word];
      const queries = method.queries[state.word];
      const top = frames.flat().reduce((high, v) => Math.max(high, Math.abs(v)), 0);
      const peak = frames.flat().indexOf(Math.max(...frames.flat()));
      const moment = frames.length > 1 ? " of " + shown.moments[Math.floor(peak / frames[0].length)] : "";
      const place = words.patch({ columns }, peak % frames[0].length) + moment;
      frames.forEach((patches, i) => {
        QFV.paint.signed(this.canvases[i], patches, columns, rows, top, QFV.paint.table(shown.colours));
        const when = shown.moments.length ? " in " + shown.moments[i] : "";
        this.canvases[i].setAttribute("aria-label", "Patches of “" + shown.words[state.word] + "” by " + method.title + when + ", most at " + place);
      });
      const where = method.layered ? " Where the queries looked: layer " + method.layer + ", mean of its heads." : "";
      const note = method.notes[state.word];
      this.legend.textContent = "Orange speaks for the word, purple against it; up to " + number(top) + " " + method.unit + ", most at " + place + "."
        + where + (note ? " " + note : "");
      const numbered = frames.length > 1 ? ", frame·query" : "";
      this.heading.textContent = queries ? "Queries by weight (" + method.unit + numbered + ")" : "This method judges patches without going through single queries.";
      const values = queries || [];
      const sorted = [...values.keys()].sort((a, b) => Math.abs(values[b]) - Math.abs(values[a]) || a - b);
      const least = LEAST * Math.abs(values[sorted[0]] ?? 0);
      const order = sorted.filter((q) => Math.abs(values[q]) >= least).slice(0, MOST);
      this.rest.textContent = queries && order.length < values.length
        ? "The other " + (values.length - order.length) + " weigh less" + (order.length < MOST ? " than a hundredth of the first." : ".") : "";
      this.bars.replaceChildren(...order.map((q) => {
        const { track, set } = bar();
        set(Math.abs(values[q]) / (Math.abs(values[order[0]]) || 1));
        const [frame, query] = this.place(q, values.length);
        const name = (frames.length > 1 ? frame + 1 + "·" : "") + label(query);
        const go = button("", "Query " + name + " " + signed(values[q]) + " of weight. Show it on the canvas.", () => this.show(q, frame, query),
          { "data-query": q, class: "qfv-button" + (values[q] < 0 ? " qfv-against" : "") });
        go.append(el("span", {}, name), " ", track, el("span", {}, signed(values[q])));
        return go;
      }));
    }

    // (frame, query) of one of all frames' queries.
    place(q, count) {
      const each = count / this.shown.frames.length;
      return [Math.floor(q / each), q % each];
    }

    show(q, frame, query) {
      document.dispatchEvent(new CustomEvent("qfv:set", { detail: { queries: [query], frame, layer: this.shown.methods[this.state.method].layer, head: "mean" } }));
      for (const each of this.bars.children) each.setAttribute("aria-pressed", String(Number(each.dataset.query) === q));
    }

    destroy() {
      this.root.remove();
    }
  }

  QFV.wordEvidence = (root, shown, options) => new WordEvidence(root, shown, options || {});
})(window);
