// QFormerViz.wordEvidence(root, shown, {before, ask, theme}): the queries and patches that a word of the answer depends on.
// shown: frames (one, or those of a video), timestamps, grid, words, probabilities, gains, visual, colours, methods [{title,
// unit, shows, hides, layer, and by word: queries (of all frames, one after another), patches by frame, notes, seconds}]. A
// map that was not computed yet is null.
// A chosen query is selected on the stage. ask("submit", {method, word}) requests a map from the server, ask("apply", ...)
// a check of the map on the screen. Without `ask`, only the maps in `shown` can be seen.
(function (global) {
  "use strict";
  const QFV = (global.QFormerViz = global.QFormerViz || {});
  const { bar, button, choice, el, field, label, number, overlay, percent, words } = QFV.parts;
  const MOST_ROWS = 12;
  const LEAST_SHARE = 0.01; // of the largest weight; a query below it has almost no effect
  // A gain in nats as a ratio of probabilities, to two digits.
  function likelier(gain) {
    const ratio = Math.exp(Math.abs(gain));
    if (ratio < 1.05) return "as likely with the image as without";
    const times = ratio > 1e6 ? "over a million" : Number(ratio.toPrecision(2)).toLocaleString("en");
    return times + " times " + (gain > 0 ? "likelier" : "less likely") + " with the image than without";
  }
  const signed = (v) => (v < 0 ? "−" : "+") + number(Math.abs(v));

  class WordEvidence {
    constructor(root, shown, { before, ask, theme }) {
      this.shown = shown;
      this.ask = ask;
      const sameAnswer = before && before.text === shown.words.join(" ");
      const linked = Number(global.qfvLinkedWord ?? NaN);
      global.qfvLinkedWord = null;
      const start = linked in shown.words ? linked : shown.first;
      // A link names only a word that the visitor chose.
      this.state = { word: sameAnswer ? before.word : start, chosen: sameAnswer ? before.chosen : linked in shown.words,
        method: sameAnswer ? before.method : 0, asked: sameAnswer ? before.asked : "", text: shown.words.join(" ") };
      this.chips = shown.words.map((word, t) => {
        const chip = el("button", { type: "button", role: "radio", class: "qfv-chip" + (shown.visual[t] ? "" : " qfv-chip-language"),
          title: this.fact(t) + "; " + this.nats(t), onclick: () => this.set({ word: t, chosen: true }) }, el("span", {}, word), el("small", {}, percent(shown.probabilities[t])));
        return chip;
      });
      this.list = el("div", { class: "qfv-chips", role: "radiogroup", "aria-label": "Words of the answer" }, ...this.chips);
      this.list.addEventListener("keydown", (event) => this.key(event));
      this.method = choice("Method", shown.methods.map((m, i) => [i, m.title]), (v) => this.set({ method: Number(v) }));
      this.about = el("p", { class: "qfv-note" });
      this.status = el("p", { class: "qfv-why-told", role: "status" });
      this.canvases = shown.frames.map(() => el("canvas", { role: "img" }));
      this.legend = el("span", { class: "qfv-note" });
      const pictures = shown.frames.map((frame, i) => {
        const box = el("div", { class: "qfv-triple-picture" }, el("img", { src: frame.src, alt: "" }), ...overlay(this.canvases[i], frame));
        box.style.aspectRatio = String(Math.min(Math.max(frame.width / frame.height, 1 / 3), 6));
        return shown.timestamps.length ? el("div", {}, box, el("small", { class: "qfv-note" }, shown.timestamps[i])) : box;
      });
      const picture = el("div", { class: pictures.length > 1 ? "qfv-why-film" : "" }, ...pictures);
      this.bars = el("div", { class: "qfv-moved" });
      this.heading = el("b", {});
      this.rest = el("p", { class: "qfv-note" });
      this.check = button("Check this map", "Hide the strongest patches of this map, show them alone, and see how likely the word stays", () => this.begin("apply"));
      this.compute = button("Run", "", () => this.begin("submit"));
      this.body = el("div", { class: "qfv-why-body" }, el("figure", { class: "qfv-less-more" }, picture, this.legend),
        el("div", {}, this.heading, this.bars, this.rest));
      this.root = el("div", { class: "qfv qfv-why", "data-theme": theme || "host" }, this.list, this.status, field("Method", this.method), this.about,
        el("div", { class: "qfv-why-ask" }, this.compute, this.check), this.body);
      root.append(this.root);
      global.qfvWord = () => this.root.isConnected && this.state.chosen ? this.state.word : null;
      this.set({});
      this.suggest();
    }

    // Suggests the query that matters most for the whole answer to the stage, which takes it until the visitor chooses one.
    suggest() {
      const { queries } = this.shown.methods[0];
      if (queries.some((row) => row === null)) return;
      const totals = queries[0].map((_, q) => queries.reduce((sum, row) => sum + row[q], 0));
      const most = totals.indexOf(Math.max(...totals));
      if (totals[most] <= 0) return;
      const query = this.place(most, totals.length)[1];
      document.dispatchEvent(new CustomEvent("qfv:suggest", { detail: { query, picture: this.shown.frames[0].src } }));
    }

    begin(event) {
      const { method, word } = this.state;
      this.ask(event, { method: this.shown.methods[method].name, word });
    }

    fact(t) {
      const { probabilities, gains, visual } = this.shown;
      return "probability " + percent(probabilities[t]) + ", " + likelier(gains[t]) + (visual[t] ? "" : ", already settled by the words before it");
    }

    nats(t) {
      return "image gain " + signed(this.shown.gains[t]) + " nats";
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
      this.status.textContent = "“" + shown.words[state.word] + "”: " + this.fact(state.word) + "."
        + (visual ? "" : " There is no map to draw for it.")
        + (missing ? (quick ? " It is being computed." : this.ask ? " This method has not run yet, and may take a while: press the button." : " This method was not run for it.") : "");
      this.status.title = this.nats(state.word);
      const what = "Run " + method.title + (method.single ? " for “" + shown.words[state.word] + "”" : "");
      this.compute.textContent = what;
      this.compute.title = what;
      this.compute.hidden = known || !visual || !this.ask;
      this.check.hidden = !known || !visual || !this.ask;
      this.body.hidden = !visual || (!known && !quick);
      this.body.classList.toggle("qfv-waits", Boolean(quick)); // keeps its room while the map is computed
      const request = state.method + "/" + (method.single ? state.word : "");
      if (quick && state.asked !== request) {
        state.asked = request;
        this.begin("submit");
      }
      if (visual && known) this.draw(method);
      if (global.qfvHandle && global.qfvHandle.address) global.qfvHandle.address();
      global.qfvWordMap = visual && known ? method.patches[state.word].flat() : null;
    }

    draw(method) {
      const { shown, state } = this;
      const [rows, columns] = shown.grid;
      const frames = method.patches[state.word];
      const queries = method.queries[state.word];
      const top = frames.flat().reduce((high, v) => Math.max(high, Math.abs(v)), 0);
      const peak = frames.flat().indexOf(Math.max(...frames.flat()));
      const timestamp = frames.length > 1 ? " of " + shown.timestamps[Math.floor(peak / frames[0].length)] : "";
      const place = words.patch({ columns }, peak % frames[0].length) + timestamp;
      frames.forEach((patches, i) => {
        QFV.paint.signed(this.canvases[i], patches, columns, rows, top, QFV.paint.table(shown.colours));
        const when = shown.timestamps.length ? " in " + shown.timestamps[i] : "";
        this.canvases[i].setAttribute("aria-label", "Patches of “" + shown.words[state.word] + "” by " + method.title + when + ", most at " + place);
      });
      const where = method.layered ? " Attention of the queries: layer " + method.layer + ", mean of its heads." : "";
      const note = method.notes[state.word];
      this.legend.textContent = "Orange counts for the word, purple against it. Largest value: " + number(top) + " " + method.unit + ". Orange is strongest at " + place + "."
        + where + (note ? " " + note : "");
      const numbered = frames.length > 1 ? ", frame·query" : "";
      this.heading.textContent = queries ? "Queries by weight (" + method.unit + numbered + ")" : "This method rates patches without going through single queries.";
      const values = queries || [];
      const sorted = [...values.keys()].sort((a, b) => Math.abs(values[b]) - Math.abs(values[a]) || a - b);
      const least = LEAST_SHARE * Math.abs(values[sorted[0]] ?? 0);
      const order = sorted.filter((q) => Math.abs(values[q]) >= least).slice(0, MOST_ROWS);
      this.rest.textContent = queries && order.length < values.length
        ? values.length - order.length + " others: " + (order.length < MOST_ROWS ? "almost no effect" : "less effect") : "";
      this.bars.replaceChildren(...order.map((q) => {
        const { track, set: setLength } = bar();
        setLength(Math.abs(values[q]) / (Math.abs(values[order[0]]) || 1));
        const [frame, query] = this.place(q, values.length);
        const name = (frames.length > 1 ? frame + 1 + "·" : "") + label(query);
        const go = button("", "Query " + name + " " + signed(values[q]) + " of weight. Show it on the canvas.", () => this.show(q, frame, query),
          { "data-query": q, class: "qfv-button" + (values[q] < 0 ? " qfv-against" : "") });
        go.append(el("span", {}, name), " ", track, el("span", {}, signed(values[q])));
        return go;
      }));
    }

    // [frame, query] of a query that is numbered over all frames.
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
