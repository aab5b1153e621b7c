// What the page does when the server is busy, gone for a moment, or has let go of this visitor.
(() => {
  "use strict";
  const PATIENCE = 300_000; // ms that a refused request is tried again
  const LONGEST = 4_000; // ms between two tries
  const GONE = "The server does not answer. Trying again.";
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const path = (input) => new URL(input?.url ?? input, location.href).pathname;
  const root = () => (window.gradio_config?.root || location.origin).replace(/\/$/, "");
  const send = window.fetch.bind(window);

  // One line at the foot of the page, read out by screen readers, for as long as requests wait.
  const waiting = new Set();
  const tell = (who, text) => {
    waiting.delete(who);
    if (text) waiting.add(who);
    let line = document.querySelector("#qfv-waiting");
    if (!line) {
      line = document.createElement("div");
      line.id = "qfv-waiting";
      line.setAttribute("role", "status");
      document.body.append(line);
    }
    if (text || !waiting.size) line.textContent = text;
  };

  // "Queue is full. Max size is 200 and size is 203."
  const busy = (detail) => {
    const size = /size is (\d+)\.?$/.exec(String(detail ?? ""));
    const place = size ? `: place ${Number(size[1]) + 1} in the queue` : "";
    return `The server is busy${place}. Trying again.`;
  };

  // What `request` gets, once the server takes it: a busy or absent one is asked again.
  const patiently = async (request) => {
    const who = {};
    const until = performance.now() + PATIENCE;
    try {
      for (let tries = 0; ; tries += 1) {
        let why = GONE;
        try {
          const reply = await request();
          if (reply.status !== 503 || performance.now() > until) return reply;
          why = busy((await reply.json().catch(() => ({}))).detail);
        } catch (error) {
          if (error.name === "AbortError" || performance.now() > until) throw error;
        }
        tell(who, why);
        await pause(Math.min(LONGEST, 500 * 2 ** tries) * (0.5 + Math.random()));
      }
    } finally {
      tell(who, "");
    }
  };

  // Every event of the page is a request to join the queue. None is lost, so no chain of events is cut.
  window.fetch = (input, options) => {
    if (path(input).endsWith("/app_id")) return reconnect();
    if (!path(input).endsWith("/queue/join")) return send(input, options);
    return patiently(() => send(input instanceof Request ? input.clone() : input, options));
  };

  // Once the server is gone, Gradio asks for its number every two seconds and reloads the page when it answers: all that
  // the page shows would be lost. It is told that the server is gone still; the next question goes on from the page.
  const connection = {};
  const reconnect = async () => {
    const answers = await send(`${root()}/gradio_api/app_id`, { cache: "no-store" }).then((reply) => reply.ok, () => false);
    tell(connection, answers ? "" : GONE);
    for (const toast of answers ? document.querySelectorAll(".toast-body.error") : []) {
      toast.querySelector(".toast-close")?.click();
    }
    throw new TypeError("the page is kept");
  };

  // The path of the picture in the image box, "" for none. What the server has deleted meanwhile is uploaded again, as
  // the browser still shows it.
  window.qfvPicturePath = async () => {
    const image = document.querySelector("#image img");
    if (!image?.naturalWidth) return "";
    const known = decodeURIComponent(path(image.src).split("/file=")[1] ?? "");
    const there = known && (await patiently(() => send(image.src, { method: "HEAD" }))).ok;
    return there ? known : upload(image);
  };
  const upload = async (image) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext("2d").drawImage(image, 0, 0);
    const form = new FormData();
    form.append("files", await new Promise((done) => canvas.toBlob(done, "image/png")), "picture.png");
    const reply = await patiently(() => send(`${root()}/gradio_api/upload`, { method: "POST", body: form }));
    return reply.ok ? (await reply.json())[0] : "";
  };
})();
