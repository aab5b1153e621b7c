// Runs once in the gr.HTML component: mounts the canvas and feeds it whenever the server sends a payload.
const host = element.querySelector(".qfv-host");
let handle = null;
const show = () => {
  if (!props.value || !window.QFormerViz) return;
  const payload = JSON.parse(props.value);
  if (handle && handle.setPayload) handle.setPayload(payload);
  else { host.textContent = ""; handle = window.QFormerViz.mount(host, payload, { hash: true, context: window.qfvContext }); }
  window.qfvHandle = handle;
  const facts = (payload.meta && payload.meta.facts) || {};
  host.dataset.image = String(facts.image || "ready");
};
host.innerHTML = "<div class='qfv-empty'><b>Nothing to see yet</b><span>Upload an image, pick an example or "
  + "make a scene. What each query attends to appears here.</span></div>";
watch("value", show);
show();
