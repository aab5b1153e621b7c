// Runs once in the gr.HTML component of a tab: mounts the view that its host names on each answer of the server. A view
// of the same thing goes on where the last one was; it asks the server by events of the component.
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
