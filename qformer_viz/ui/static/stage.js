// QFormerViz.mount(root, payload, options): the stage, which shows the cross-attention of one image. Drawn in the browser.
// options: theme "host" (dark inside an element of class dark) or "auto" (the reader's preference); hash true keeps the
// selection in the page's address; header true shows the model's name; context(payload) gives more fields for the address;
// back() leaves the maps of another model.
(function (global) {
  "use strict";
  const QFV = (global.QFormerViz = global.QFormerViz || {});
  const { el, label, percent, words } = QFV.parts;
  const MAX_OUTLINES = 8;
  // Without a layer, the last one with cross-attention is shown. Without a query, the one with the most focused map there.
  // On scenes with known objects that map is almost always on an object. The mean over layers is on one no more often
  // (tests/models/test_bundled.py).
  const DEFAULTS = { queries: [], layer: null, head: "mean", patch: null, pinned: false, sort: "index",
    palette: "viridis", scale: "shared", drawing: "cells", opacity: 0.75, grey: false, frame: 0 };

  class Stage {
    constructor(root, options) {
      this.options = options;
      this.root = el("div", { class: "qfv", "data-theme": options.theme || "host" });
      root.append(this.root);
      this.state = { ...DEFAULTS, ...(options.hash ? QFV.link.read(location.hash) : {}) };
      this.chosen = this.state.queries.length > 0; // true once the visitor chose a query; until then it is chosen anew for every image and answer
      this.suggested = null;
      this.compare = false;
      this.version = 0;
      this.abort = new AbortController();
      const listen = { signal: this.abort.signal };
      document.addEventListener("qfv:set", (event) => this.change(event.detail || {}, "set"), listen);
      document.addEventListener("qfv:suggest", (event) => this.suggest(event.detail), listen);
      if (options.hash) {
        global.addEventListener("hashchange", () => this.change(QFV.link.read(location.hash), "link"), listen);
      }
      this.root.addEventListener("keydown", (event) => this.key(event));
      this.resize = new ResizeObserver(() => this.paintStage());
    }

    async setPayload(payload) {
      const version = ++this.version;
      if (!payload) return this.empty();
      const frames = QFV.video.frames(payload);
      const allMaps = await Promise.all(frames.map(QFV.maps.load));
      if (version !== this.version) return; // a later payload has taken over
      const again = Boolean(this.payload); // a patch or a frame of the last image means nothing in this one
      const frame = again && this.payload.image.src !== payload.image.src ? 0 : this.state.frame;
      this.payload = payload;
      this.frames = frames;
      this.allMaps = allMaps;
      this.maps = allMaps[0];
      this.sheetKey = null;
      this.compare = false;
      if (!this.chosen) this.state.queries = this.automatic();
      this.state = this.valid(again ? { ...this.state, patch: null, frame } : { ...this.state, pinned: this.state.patch !== null });
      this.selectFrame();
      this.parts = QFV.layout.build(this, payload, this.maps);
      QFV.link.header(this);
      this.root.replaceChildren(...[this.header, this.visiting, this.parts.node].filter(Boolean));
      this.prepare();
      this.render();
      this.address();
    }

    empty() {
      const before = this.payload;
      this.payload = this.maps = this.parts = null;
      this.resize.disconnect();
      if (before) this.address(); // without anything of the image that was removed
      this.root.replaceChildren(el("div", { class: "qfv-empty" }, el("b", {}, "No image yet"),
        el("span", {}, "Choose an image. The attention of each query is drawn here.")));
    }

    prepare() {
      const { stage, sheet, note } = this.parts;
      // In an image thinner than 6 : 1 the patches would be too small to point at. It is drawn wider, with a note in the caption.
      const aspect = this.payload.image.width / this.payload.image.height;
      this.aspect = Math.min(Math.max(aspect, 1 / 3), 6);
      this.stretched = this.aspect !== aspect;
      this.root.style.setProperty("--qfv-aspect", this.aspect);
      const [left, top, right, bottom] = this.box() || [0, 0, 1, 1];
      this.mapAspect = (this.aspect * (right - left)) / (bottom - top);
      this.root.style.setProperty("--qfv-frame", Math.min(Math.max(aspect, 0.6), 1.8));
      this.root.style.setProperty("--qfv-thumb", Math.min(Math.max(this.mapAspect, 0.6), 1.8));
      note.textContent = QFV.link.note(this.payload.meta);
      this.resize.disconnect();
      this.resize.observe(stage.node);
      stage.node.addEventListener("pointermove", (e) => e.pointerType !== "touch" && this.hover(this.patchAt(e)));
      stage.node.addEventListener("pointerleave", () => this.hover(null));
      stage.node.addEventListener("click", (e) => this.pin(this.patchAt(e)));
      sheet.list.addEventListener("click", (event) => {
        const item = event.target.closest(".qfv-item");
        if (item) this.pick(Number(item.dataset.query), event, "sheet");
      });
    }

    // Takes { query, picture }: the query that matters most for the answer about this image; null when it is not known.
    suggest(suggested) {
      this.suggested = suggested;
      const ours = this.maps && (!suggested || suggested.picture === this.payload.image.src);
      if (ours && !this.chosen) this.change({ queries: this.automatic() }, "automatic");
    }

    // The suggested query of this image as a list; if there is none, valid() takes the one with the most focused map. The
    // maps of another model, or of a text, have no suggested query.
    automatic() {
      const { query, picture } = this.suggested || {};
      return query !== undefined && picture === this.payload.image.src && !this.payload.meta.visiting ? [query] : [];
    }

    // Keeps the query that is shown as the visitor's choice, or returns to the automatic one.
    choose(chosen) {
      this.chosen = chosen;
      if (chosen) this.render();
      else this.change({ queries: this.automatic() }, "automatic");
    }

    // A copy of `state` in which everything that this payload does not have is replaced by a default.
    valid(state) {
      const { maps, payload } = this;
      const out = { ...state };
      const whole = (v, n) => Number.isInteger(v) && v >= 0 && v < n;
      out.queries = [...new Set([].concat(out.queries))].filter((q) => whole(q, maps.queries));
      if (!out.queries.length && this.chosen) out.queries = this.state.queries.filter((q) => whole(q, maps.queries));
      if (out.layer !== "mean" && !maps.crossLayers.includes(out.layer)) out.layer = maps.crossLayers.at(-1);
      if (!out.queries.length) {
        const { entropy } = maps.block(out.layer, "mean");
        out.queries = [entropy.indexOf(Math.min(...entropy))];
      }
      if (!whole(out.head, maps.heads)) out.head = "mean";
      if (!whole(out.patch, maps.patches)) out.patch = null;
      if (out.patch === null) out.pinned = false;
      if (!whole(out.frame, this.allMaps.length)) out.frame = 0;
      if (!payload.palettes[out.palette]) out.palette = Object.keys(payload.palettes)[0];
      return out;
    }

    // The one place where the selection or its drawing changes.
    change(change, source) {
      const next = { ...this.state };
      for (const name of Object.keys(DEFAULTS)) if (change[name] !== undefined) next[name] = change[name];
      if (change.query !== undefined && change.queries === undefined) next.queries = [change.query];
      const named = change.queries !== undefined || (change.query !== undefined && change.query !== this.state.queries[0]);
      if (named && source !== "automatic") this.chosen = true;
      if (change.patch !== undefined && change.pinned === undefined) next.pinned = change.patch !== null;
      if (!this.maps) {
        this.state = next;
        return;
      }
      this.state = this.valid(next);
      this.selectFrame();
      this.render();
      if (source !== "hover") this.announce(source);
    }

    // Makes the maps of the chosen frame those that everything except the strip shows.
    selectFrame() {
      this.maps = this.allMaps[this.state.frame];
    }

    // The maps of every frame, of the chosen layer and head.
    blocks() {
      return this.allMaps.map((maps) => maps.block(this.state.layer, this.state.head));
    }

    // The largest weight in the chosen layer and head, over all frames.
    top() {
      return Math.max(...this.blocks().map((block) => block.top));
    }

    announce(source) {
      this.address();
      this.root.dispatchEvent(new CustomEvent("qfv:select", { bubbles: true, detail: { ...this.get(), source } }));
    }

    // The view as the fragment of this page's address.
    fragment() {
      return "#" + QFV.link.write(this.state, this.options.context && this.payload ? this.options.context(this.payload) : {});
    }

    address() {
      // Only a query that the visitor chose is kept in the address. Otherwise it is chosen anew when the address is opened.
      if (this.options.hash) history.replaceState(null, "", this.chosen ? this.fragment() : this.fragment().replace(/q=[^&]*&/, ""));
    }

    get() {
      const state = { ...this.state, queries: [...this.state.queries], query: this.state.queries[0], chosen: this.chosen };
      return { ...state, fragment: QFV.link.write(state) };
    }

    order() {
      const block = this.block();
      const all = Array.from({ length: this.maps.queries }, (_, q) => q);
      const blocks = this.state.sort === "shift" && this.allMaps.length > 1 ? this.blocks() : null;
      const by = { entropy: (q) => block.entropy[q], cls: (q) => -block.cls[q],
        shift: blocks && ((q) => -QFV.video.meanShift(this.allMaps, blocks, q)) }[this.state.sort];
      return by ? all.sort((a, b) => by(a) - by(b) || a - b) : all;
    }

    block() {
      return this.maps.block(this.state.layer, this.state.head);
    }

    step(by) {
      const order = this.order();
      const at = order.indexOf(this.state.queries[this.state.queries.length - 1]);
      this.change({ queries: [order[(at + by + order.length) % order.length]] }, "step");
    }

    stepLayer(by) {
      const all = [...this.maps.crossLayers, "mean"];
      this.change({ layer: all[(all.indexOf(this.state.layer) + by + all.length) % all.length] }, "step");
    }

    pick(query, event, source) {
      const { queries } = this.state;
      if (!(this.compare || event.shiftKey || event.ctrlKey || event.metaKey)) return this.change({ queries: [query] }, source);
      const without = queries.filter((q) => q !== query);
      this.change({ queries: without.length === queries.length ? [...queries, query] : without.length ? without : queries }, source);
    }

    toggleCompare() {
      this.compare = !this.compare;
      this.render();
    }

    patchAt(event) {
      const box = this.parts.stage.canvas.getBoundingClientRect();
      const [left, top, right, bottom] = this.box() || [0, 0, 1, 1];
      const x = Math.floor((((event.clientX - box.left) / box.width - left) / (right - left)) * this.maps.columns);
      const y = Math.floor((((event.clientY - box.top) / box.height - top) / (bottom - top)) * this.maps.rows);
      const inside = x >= 0 && y >= 0 && x < this.maps.columns && y < this.maps.rows;
      return inside ? y * this.maps.columns + x : null;
    }

    // The area of the map on the image: left, top, right, bottom as shares of its size. Null if it covers the whole image.
    box() {
      return this.frames[this.state.frame].image.box || null;
    }

    hover(patch) {
      if (!this.state.pinned && patch !== this.state.patch) this.change({ patch, pinned: false }, "hover");
    }

    pin(patch) {
      const same = this.state.pinned && this.state.patch === patch;
      this.change(same ? { patch: null } : { patch, pinned: true }, "patch");
    }

    movePatch(dx, dy) {
      const { columns, rows } = this.maps;
      const at = this.state.patch ?? this.block().peakAt[this.state.queries[0]];
      const start = this.state.patch === null ? [0, 0] : [dx, dy];
      const x = Math.min(Math.max((at % columns) + start[0], 0), columns - 1);
      const y = Math.min(Math.max(Math.floor(at / columns) + start[1], 0), rows - 1);
      this.change({ patch: y * columns + x, pinned: true }, "patch");
    }

    key(event) {
      if (!this.maps || event.altKey || event.metaKey || event.target.closest("select, input")) return;
      const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      const item = event.target.closest(".qfv-item");
      if (arrow && item && event.ctrlKey) this.focusItem(item, arrow[0] || arrow[1]);
      else if (arrow && event.shiftKey) this.movePatch(...arrow);
      else if (arrow) {
        if (arrow[0]) this.step(arrow[0]);
        else this.stepLayer(arrow[1]);
        if (item) this.parts.sheet.items[this.state.queries[0]].node.focus();
      } else if (item && (event.key === " " || event.key === "Enter")) {
        this.pick(Number(item.dataset.query), { shiftKey: event.key === " " }, "sheet");
      } else if (item && (event.key === "Home" || event.key === "End")) {
        this.change({ queries: [this.order().at(event.key === "Home" ? 0 : -1)] }, "sheet");
        this.parts.sheet.items[this.state.queries[0]].node.focus();
      } else if (event.key === "Escape") {
        if (this.state.patch !== null) this.change({ patch: null }, "patch");
        else if (this.state.queries.length > 1) this.change({ queries: [this.state.queries[0]] }, "sheet");
        else return;
      } else return;
      event.preventDefault();
      event.stopPropagation();
    }

    focusItem(item, by) {
      const order = this.order();
      const at = order.indexOf(Number(item.dataset.query));
      this.parts.sheet.items[order[(at + by + order.length) % order.length]].node.focus();
    }

    // Everything that the drawing functions need of what is on the screen.
    scene() {
      const { state, maps } = this;
      const block = this.block();
      const values = maps.mean(block, state.queries);
      const top = { raw: 1, shared: this.top(), map: Math.max(...values) }[state.scale];
      const several = state.queries.length > 1 && state.queries.length <= MAX_OUTLINES;
      const outlines = several ? state.queries.map((q, i) => this.outline(block, q, i)) : [];
      return { block, values, top, outlines, box: this.box(), columns: maps.columns, rows: maps.rows, opacity: state.opacity,
        colours: QFV.paint.table(this.payload.palettes[state.palette]), smooth: state.drawing === "smooth",
        grid: state.patch !== null, patch: state.patch, pinned: state.pinned };
    }

    outline(block, query, i) {
      const { columns, rows } = this.maps;
      const members = QFV.maps.core(this.maps.of(block, query));
      const at = block.peakAt[query];
      return { query, colour: this.payload.outlines[i], label: label(query),
        segments: QFV.paint.border(members, columns, rows), at: { x: at % columns, y: Math.floor(at / columns) } };
    }

    // The title and the caption of what is drawn, for the legend, the status line and saved files.
    describe(scene) {
      const { state, maps } = this;
      const title = words.queries(state.queries) + " · " + words.layer(maps, state.layer) + " · " + words.head(maps, state.head)
        + (this.allMaps.length > 1 ? " · " + this.frames[state.frame].moment + " (" + (state.frame + 1) + " of " + this.allMaps.length + ")" : "");
      const parts = ["Attention weight; " + words.scale(maps, state.scale, this.allMaps.length)];
      if (scene.smooth) parts.push("Interpolated between patches, for display only");
      if (scene.outlines.length) parts.push("Outlines: the patches that hold half of each query’s attention on patches");
      if (this.stretched) parts.push("Image not drawn at its own aspect ratio, which is too thin to see patches in");
      const { note } = this.frames[state.frame].image;
      if (note) parts.push(note.replace(/\.$/, ""));
      const padding = scene.box ? QFV.paint.inPadding(scene.box, maps.columns, maps.rows).reduce((sum, p) => sum + scene.values[p], 0) : 0;
      if (padding > 0) parts.push(percent(padding) + " of the attention is on patches of padding");
      const cls = state.queries.reduce((sum, q) => sum + scene.block.cls[q], 0) / state.queries.length;
      return { title, caption: parts.join(". ") + ".", cls };
    }

    render() {
      if (!this.parts) return;
      const start = performance.now();
      this.current = this.scene();
      this.paintStage();
      QFV.panels.update(this, this.current);
      this.lastRedrawMs = performance.now() - start;
    }

    paintStage() {
      if (!this.parts || !this.current) return;
      const { canvas, node } = this.parts.stage;
      const ratio = global.devicePixelRatio || 1;
      const width = Math.round(node.clientWidth * ratio);
      const height = Math.round(node.clientHeight * ratio);
      if (!width || !height) return;
      if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
      const context = canvas.getContext("2d");
      context.clearRect(0, 0, width, height);
      QFV.paint.stage(context, width, height, this.current, ratio);
    }

    async save(kind) {
      const name = "qformer-viz_" + (kind === "sheet" ? "sheet" : this.state.queries.slice(0, 4).map((q) => "q" + label(q)).join("-"));
      const where = "_layer-" + this.state.layer + "_head-" + this.state.head + (this.allMaps.length > 1 ? "_frame-" + (this.state.frame + 1) : "");
      QFV.files.download(await QFV.files[kind](this), name + where + (kind === "svg" ? ".svg" : ".png"));
    }

    copyLink() {
      return QFV.link.copy(location.href.split("#")[0] + this.fragment());
    }

    stats() {
      const { entropy, effective, cls, peak } = this.block();
      return { entropy: [...entropy], effective: [...effective], cls: [...cls], peak: [...peak] };
    }

    destroy() {
      this.version++;
      this.abort.abort();
      this.resize.disconnect();
      this.root.remove();
    }
  }

  QFV.mount = function (root, payload, options) {
    const view = new Stage(root, options || {});
    const fail = (error) => view.root.replaceChildren(el("div", { class: "qfv-empty", role: "alert" },
      el("b", {}, "This view could not be drawn"), el("span", {}, String(error.message || error))));
    const handle = {
      select: (change) => view.change(change, "select"),
      get: () => view.get(),
      stats: () => view.stats(),
      setPayload: (next) => (handle.ready = view.setPayload(next).catch(fail)),
      destroy: () => view.destroy(),
      address: () => view.address(),
      get lastRedrawMs() {
        return view.lastRedrawMs;
      },
    };
    handle.setPayload(payload);
    return handle;
  };
})(window);
