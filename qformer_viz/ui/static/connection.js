// Repeats requests while the server is busy or away, and keeps the page as it is when the connection breaks.
(() => {
  "use strict";
  const RETRY_TIME = 300_000; // ms for which a refused request is repeated
  const LONGEST_PAUSE = 4_000; // ms between two tries
  const NO_ANSWER = "The server does not answer. Trying again.";
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const path = (input) => new URL(input?.url ?? input, location.href).pathname;
  const root = () => (window.gradio_config?.root || location.origin).replace(/\/$/, "");
  const plainFetch = window.fetch.bind(window);

  // One line at the foot of the page, announced by screen readers, for as long as a request waits.
  const waiting = new Set();
  const showWaiting = (request, text) => {
    waiting.delete(request);
    if (text) waiting.add(request);
    let line = document.querySelector("#qfv-waiting");
    if (!line) {
      line = document.createElement("div");
      line.id = "qfv-waiting";
      line.setAttribute("role", "status");
      document.body.append(line);
    }
    if (text || !waiting.size) line.textContent = text;
  };

  // The message for a full queue, from the server's "Queue is full. Max size is 200 and size is 203."
  const busyMessage = (detail) => {
    const size = /size is (\d+)\.?$/.exec(String(detail ?? ""));
    const place = size ? `: place ${Number(size[1]) + 1} in the queue` : "";
    return `The server is busy${place}. Trying again.`;
  };

  // The response to `request`. It is sent again while the server is busy or does not answer.
  const withRetries = async (request) => {
    const until = performance.now() + RETRY_TIME;
    try {
      for (let tries = 0; ; tries += 1) {
        let message = NO_ANSWER;
        try {
          const reply = await request();
          if (reply.status !== 503 || performance.now() > until) return reply;
          message = busyMessage((await reply.json().catch(() => ({}))).detail);
        } catch (error) {
          if (error.name === "AbortError" || performance.now() > until) throw error;
        }
        showWaiting(request, message);
        await pause(Math.min(LONGEST_PAUSE, 500 * 2 ** tries) * (0.5 + Math.random()));
      }
    } finally {
      showWaiting(request, "");
    }
  };

  // Every event of the page is a request to join the queue. A refused one is repeated, so no chain of events breaks off.
  const unfinished = new Set();
  const joinQueue = async (input, options) => {
    const reply = await withRetries(() => plainFetch(input instanceof Request ? input.clone() : input, options));
    const { event_id: id } = await reply.clone().json().catch(() => ({}));
    if (id) unfinished.add(id);
    return reply;
  };
  window.fetch = (input, options) => {
    if (path(input).endsWith("/queue/join")) return joinQueue(input, options);
    if (path(input).endsWith("/queue/data")) return streamResults(input, options);
    return plainFetch(input, options);
  };

  // The results of all events arrive in one stream. When the server goes away and the stream breaks off, Gradio opens no
  // other: it waits for the server and loads the page again, empty. This stream reports every unfinished event as failed
  // and closes properly instead. The page stays as it is, and the next event opens a new stream.
  const LOST = "The server went away before this was done. Try again.";
  const streamResults = async (input, options) => {
    const reply = await plainFetch(input, options);
    const signal = options?.signal ?? input.signal;
    const reader = reply.body.getReader();
    const decoder = new TextDecoder();
    let rest = ""; // the line that the last chunk did not complete
    const markFinished = (chunk) => {
      const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
      rest = lines.pop();
      for (const each of lines.filter((text) => text.includes("process_completed"))) {
        const id = /"event_id":\s*"(\w+)"/.exec(each);
        if (id) unfinished.delete(id[1]);
      }
    };
    const encoded = (message) => new TextEncoder().encode(`data: ${JSON.stringify(message)}\n\n`);
    const body = new ReadableStream({
      async pull(controller) {
        try {
          const { done, value } = await reader.read();
          if (!done) {
            markFinished(value);
            controller.enqueue(value);
            return;
          }
        } catch (error) {
          if (signal?.aborted) return controller.error(error);
        }
        for (const id of unfinished) {
          controller.enqueue(encoded({ msg: "process_completed", event_id: id, output: { error: LOST }, success: false }));
        }
        unfinished.clear();
        controller.enqueue(encoded({ msg: "close_stream" }));
        controller.close();
      },
      cancel: (reason) => reader.cancel(reason),
    });
    return new Response(body, { status: reply.status, statusText: reply.statusText, headers: reply.headers });
  };

  // The server's path of the image in the image box, "" for none. An image that the server has deleted meanwhile is
  // uploaded again, from what the browser still shows.
  window.qfvPicturePath = async () => {
    const image = document.querySelector("#image img");
    if (!image?.naturalWidth) return "";
    const known = decodeURIComponent(path(image.src).split("/file=")[1] ?? "");
    const there = known && (await withRetries(() => plainFetch(image.src, { method: "HEAD" }))).ok;
    return there ? known : upload(image);
  };
  const upload = async (image) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext("2d").drawImage(image, 0, 0);
    const form = new FormData();
    form.append("files", await new Promise((done) => canvas.toBlob(done, "image/png")), "picture.png");
    const reply = await withRetries(() => plainFetch(`${root()}/gradio_api/upload`, { method: "POST", body: form }));
    return reply.ok ? (await reply.json())[0] : "";
  };
})();
