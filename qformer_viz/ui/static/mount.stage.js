// Gradio runs this once in the component of the stage. It mounts the stage and draws every payload that the server sends.
const host = element.querySelector(".qfv-host");
let handle = null;
let source = null;
let frame = 0;
// Sends the chosen frame of a video to the server, for the tabs. A single image has one frame, so nothing is sent.
const sendFrame = () => {
  const now = handle.get().frame;
  if (now !== frame) trigger("submit", { frame: (frame = now) });
};
host.addEventListener("qfv:select", sendFrame);
const show = () => {
  if (!window.QFormerViz || (!props.value && !handle)) return;
  const payload = props.value ? JSON.parse(props.value) : null;
  // The frame around an example goes when another image, or none, is on the stage.
  if (!payload || !payload.meta.visiting) document.body.classList.toggle("qfv-no-example", !(payload && payload.meta.example));
  if (!payload) { // the image was removed
    handle.setPayload(null);
    source = null;
    frame = 0;
    delete host.dataset.image;
    return;
  }
  if (handle && handle.setPayload) handle.setPayload(payload);
  else {
    const back = () => document.querySelector("#match-back").click();
    host.textContent = "";
    handle = window.QFormerViz.mount(host, payload, { hash: true, context: window.qfvContext, back });
  }
  window.qfvHandle = handle;
  if (payload.image.src !== source) [source, frame] = [payload.image.src, 0];
  handle.ready.then(sendFrame);
  const facts = (payload.meta && payload.meta.facts) || {};
  host.dataset.image = String(facts.image || "ready");
};
watch("value", show);
show();
