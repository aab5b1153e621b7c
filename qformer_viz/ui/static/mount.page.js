// The script of a saved page: mounts the stage and, if an answer was explained, the view of its words.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("qfv-data").textContent);
  const framed = location.protocol === "about:"; // in a notebook there is no address to keep the selection in
  const QFV = window.QFormerViz;
  window.qfvHandle = QFV.mount(document.getElementById("qfv"), data, { theme: "auto", hash: !framed });
  if (data.words) {
    const frames = [data, ...data.film];
    const timestamps = frames.length > 1 ? frames.map((frame) => frame.moment) : [];
    const shown = { ...data.words, frames: frames.map((frame) => frame.image), timestamps };
    QFV.wordEvidence(document.getElementById("qfv-why"), shown, { theme: "auto" });
  }
})();
