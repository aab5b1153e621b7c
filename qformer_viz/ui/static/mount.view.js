// Gradio runs this once in the component of a tab. It mounts the view that the host element names, anew for each value from
// the server. The new view gets the state of the last one. It sends requests to the server as events of the component.
const host = element.querySelector(".qfv-host");
let view = null;
const show = () => {
  const before = view && view.state;
  if (view) view.destroy();
  view = null;
  host.textContent = "";
  if (!props.value && host.dataset.view === "wordEvidence") document.dispatchEvent(new CustomEvent("qfv:suggest", { detail: null }));
  if (props.value && window.QFormerViz) view = window.QFormerViz[host.dataset.view](host, JSON.parse(props.value), { before, ask: trigger });
};
watch("value", show);
show();
