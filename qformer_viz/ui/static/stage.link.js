// The selection as a fragment of the page's address, the note under the map and the header of a saved page.
(function (global) {
  "use strict";
  const QFV = (global.QFormerViz = global.QFormerViz || {});
  const { el } = QFV.parts;
  const numeric = (text) => (text !== null && /^\d{1,5}$/.test(text) ? Number(text) : null);

  // context: more fields of the fragment, name to value. A field that is null or undefined is left out.
  function write(state, context) {
    const out = "q=" + state.queries.join(",") + "&layer=" + state.layer + "&head=" + state.head;
    const more = Object.entries({ frame: state.frame || null, patch: state.pinned ? state.patch : null, ...context }).filter(([, value]) => value !== null && value !== undefined);
    return [out, ...more.map(([name, value]) => name + "=" + encodeURIComponent(value))].join("&");
  }

  function read(hash) {
    const given = new URLSearchParams(hash.replace(/^#/, ""));
    const out = {};
    const queries = (given.get("q") || "").split(",").map(numeric).filter((q) => q !== null);
    if (queries.length) out.queries = queries;
    if (given.has("layer")) out.layer = given.get("layer") === "mean" ? "mean" : numeric(given.get("layer"));
    if (given.has("head")) out.head = numeric(given.get("head")) ?? "mean";
    if (given.has("frame")) out.frame = numeric(given.get("frame")) ?? 0;
    if (numeric(given.get("patch")) !== null) out.patch = numeric(given.get("patch"));
    return out;
  }

  async function copy(text) {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const box = el("textarea", { class: "qfv-offscreen" });
    box.value = text;
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
  }

  function note(meta) {
    const scopes = { "image and question": "this image and question", "image and text": "this image and text" };
    const scope = scopes[meta.scope] ?? "this image, whatever the question";
    return "Shows which patches each query attends to, for " + scope + ", not for single words of an answer. " +
      "Attention is not an explanation until it has been checked.";
  }

  function header(view) {
    const { meta } = view.payload;
    const facts = [meta.model, meta.precision].filter(Boolean);
    view.header = view.options.header && facts.length
      ? el("div", { class: "qfv-header" }, ...facts.map((f) => el("span", {}, String(f))))
      : null;
    // Maps of another model than the one that chats: its name and, where the page has one, the button back.
    const back = view.options.back && el("button", { type: "button", class: "qfv-button", onclick: view.options.back }, "Back to the model that chats");
    view.visiting = meta.visiting ? el("div", { class: "qfv-visiting", role: "status" }, el("b", {}, String(meta.visiting)), back) : null;
  }

  QFV.link = { copy, header, note, read, write };
})(window);
