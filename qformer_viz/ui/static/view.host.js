// Runs once in the gr.HTML component of a tab: mounts the view that its host names on each answer of the server.
const host = element.querySelector(".qfv-host");
let view = null;
const show = () => {
  if (view) view.destroy();
  view = null;
  host.textContent = "";
  if (props.value && window.QFormerViz) view = window.QFormerViz[host.dataset.view](host, JSON.parse(props.value));
};
watch("value", show);
show();
