// Runs once in the gr.HTML component: mounts the canvas and feeds it whenever the server sends a payload.
const host = element.querySelector(".qfv-host");
let handle = null;
let source = null;
let frame = 0;
// Which frame of a film the other tabs are to be about; a still picture has one, and the server is not asked.
const tell = () => {
  const now = handle.get().frame;
  if (now !== frame) trigger("submit", { frame: (frame = now) });
};
host.addEventListener("qfv:select", tell);
const show = () => {
  if (!window.QFormerViz || (!props.value && !handle)) return;
  const payload = props.value ? JSON.parse(props.value) : null;
  // Another picture, or none, has taken the place of the example that is framed in the strip.
  if (!payload || !payload.meta.visiting) document.body.classList.toggle("qfv-no-example", !(payload && payload.meta.example));
  if (!payload) { // the picture has gone
    handle.setPayload(null);
    source = null;
    frame = 0;
    delete host.dataset.image;
    return;
  }
  if (handle && handle.setPayload) handle.setPayload(payload);
  else { host.textContent = ""; handle = window.QFormerViz.mount(host, payload, { hash: true, context: window.qfvContext, back: () => document.querySelector("#match-back").click() }); }
  window.qfvHandle = handle;
  if (payload.image.src !== source) [source, frame] = [payload.image.src, 0];
  handle.ready.then(tell);
  const facts = (payload.meta && payload.meta.facts) || {};
  host.dataset.image = String(facts.image || "ready");
};
watch("value", show);
show();
