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
  const unfinished = new Set();
  const join = async (input, options) => {
    const reply = await patiently(() => send(input instanceof Request ? input.clone() : input, options));
    const { event_id: id } = await reply.clone().json().catch(() => ({}));
    if (id) unfinished.add(id);
    return reply;
  };
  window.fetch = (input, options) => {
    if (path(input).endsWith("/queue/join")) return join(input, options);
    if (path(input).endsWith("/queue/data")) return results(input, options);
    return send(input, options);
  };

  // What came of the events arrives in one stream. Where it breaks off, because the server has gone, Gradio opens no other:
  // it waits until the server is back and loads the page anew, with nothing on it. Here the events that are not finished are
  // said to have failed and the stream to be over, so that the next event opens another and the page stays as it is.
  const LOST = "The server went away before this was done. Try again.";
  const results = async (input, options) => {
    const reply = await send(input, options);
    const signal = options?.signal ?? input.signal;
    const reader = reply.body.getReader();
    const decoder = new TextDecoder();
    let line = "";
    const read = (chunk) => {
      const lines = (line + decoder.decode(chunk, { stream: true })).split("\n");
      line = lines.pop();
      for (const each of lines.filter((text) => text.includes("process_completed"))) {
        const id = /"event_id":\s*"(\w+)"/.exec(each);
        if (id) unfinished.delete(id[1]);
      }
    };
    const said = (message) => new TextEncoder().encode(`data: ${JSON.stringify(message)}\n\n`);
    const body = new ReadableStream({
      async pull(controller) {
        try {
          const { done, value } = await reader.read();
          if (!done) {
            read(value);
            controller.enqueue(value);
            return;
          }
        } catch (error) {
          if (signal?.aborted) return controller.error(error);
        }
        for (const id of unfinished) {
          controller.enqueue(said({ msg: "process_completed", event_id: id, output: { error: LOST }, success: false }));
        }
        unfinished.clear();
        controller.enqueue(said({ msg: "close_stream" }));
        controller.close();
      },
      cancel: (reason) => reader.cancel(reason),
    });
    return new Response(body, { status: reply.status, statusText: reply.statusText, headers: reply.headers });
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
