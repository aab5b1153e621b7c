// Saves the view as PNG or SVG and the contact sheet as PNG, made in the browser. Always black on white, for documents.
(function (global) {
  "use strict";
  const QFV = (global.QFormerViz = global.QFormerViz || {});
  const { label, number, percent } = QFV.parts;
  const FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif";
  const WIDTH = 1200;
  const PAD = 32;
  const DIM = "rgb(20 24 32 / .7)"; // over the image under a thumbnail, as in stage.css

  function blank(width, height) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [Math.round(width), Math.round(height)];
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    return { canvas, context };
  }

  const finish = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

  function write(context, text, x, y, size, options) {
    const { weight = 400, align = "left", colour = "#1c2127" } = options || {};
    context.font = weight + " " + size + "px " + FONT;
    context.textAlign = align;
    context.fillStyle = colour;
    context.fillText(text, x, y);
  }

  // Breaks a text at spaces into lines no wider than `width` at font size `size`.
  function wrap(text, width, size) {
    const { context } = blank(1, 1);
    context.font = "400 " + size + "px " + FONT;
    const lines = [""];
    for (const word of text.split(" ")) {
      const longer = (lines.at(-1) + " " + word).trim();
      if (context.measureText(longer).width <= width) lines[lines.length - 1] = longer;
      else lines.push(word);
    }
    return lines;
  }

  // The text under a saved view, shared by PNG and SVG.
  function footer(view, width) {
    const scene = view.current;
    const { title, caption, cls } = view.describe(scene);
    const meta = view.payload.meta;
    const source = ["QFormer-Viz", meta.model, meta.precision].filter(Boolean).join(" · ");
    const numbers = percent(cls) + " of the attention is on CLS and not in the map.";
    return { scene, title, ticks: [0, scene.top / 2, scene.top].map(number), lines: [...wrap(caption + " " + numbers, width, 20), ...wrap(source, width, 20)] };
  }

  const footerHeight = (lines) => 150 + 28 * lines.length;

  // Draws the colour bar with the opacity of the map that it belongs to.
  function colourBar(context, colours, x, y, width, height, opacity) {
    const ramp = Float32Array.from({ length: 256 }, (_, i) => i / 255);
    context.drawImage(QFV.paint.raster(document.createElement("canvas"), ramp, 256, 1, 1, colours, opacity), x, y, width, height);
  }

  async function png(view) {
    const high = WIDTH / view.aspect;
    const { scene, title, ticks, lines } = footer(view, WIDTH);
    const { canvas, context } = blank(WIDTH + 2 * PAD, high + PAD + footerHeight(lines));
    const picture = view.parts.stage.image;
    await picture.decode();
    context.save();
    context.translate(PAD, PAD);
    if (view.state.grey) context.filter = "grayscale(1)";
    context.drawImage(picture, 0, 0, WIDTH, high);
    context.filter = "none";
    QFV.paint.stage(context, WIDTH, high, { ...scene, grid: false }, 2);
    context.restore();
    const y = PAD + high + 48;
    write(context, title, PAD, y, 26, { weight: 600 });
    colourBar(context, scene.colours, PAD, y + 20, WIDTH, 14, scene.opacity);
    ticks.forEach((t, i) => write(context, t, PAD + (i * WIDTH) / 2, y + 60, 20, { align: ["left", "center", "right"][i] }));
    lines.forEach((line, i) => write(context, line, PAD, y + 94 + 28 * i, 20, { colour: "#56606b" }));
    return finish(canvas);
  }

  function svgNode(tag, attributes, text) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  // Shades the part of the image that the model does not get, and adds the clip path that cuts off patches of padding.
  function unseen(add, high, box) {
    const [left, top, right, low] = box.map((share, i) => PAD + Math.min(Math.max(share, 0), 1) * (i % 2 ? high : WIDTH));
    add("clipPath", { id: "picture" }).append(svgNode("rect", { x: PAD, y: PAD, width: WIDTH, height: high }));
    add("pattern", { id: "unseen", width: 14, height: 14, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" })
      .append(svgNode("rect", { width: 2, height: 14, fill: "#fff", "fill-opacity": 0.35 }));
    const d = "M" + PAD + " " + PAD + "h" + WIDTH + "v" + high + "h-" + WIDTH + "ZM" + left + " " + top + "H" + right + "V" + low + "H" + left + "Z";
    add("path", { d, "fill-rule": "evenodd", fill: "#14161e", "fill-opacity": 0.59 });
    add("path", { d, "fill-rule": "evenodd", fill: "url(#unseen)" });
  }

  async function svg(view) {
    const high = WIDTH / view.aspect;
    const { scene, title, ticks, lines } = footer(view, WIDTH);
    const [width, height] = [WIDTH + 2 * PAD, Math.round(high + PAD + footerHeight(lines))];
    const root = svgNode("svg", { viewBox: "0 0 " + width + " " + height, width, height, "font-family": FONT });
    const add = (tag, attributes, text) => root.appendChild(svgNode(tag, attributes, text));
    add("title", {}, title);
    add("rect", { width, height, fill: "#fff" });
    const picture = add("image", { x: PAD, y: PAD, width: WIDTH, height: high, preserveAspectRatio: "none", href: view.frames[view.state.frame].image.src });
    if (view.state.grey) picture.setAttribute("style", "filter:grayscale(1)");
    const [left, top, right, low] = scene.box || [0, 0, 1, 1];
    const [sx, sy] = [(WIDTH * (right - left)) / scene.columns, (high * (low - top)) / scene.rows];
    const [x0, y0] = [PAD + WIDTH * left, PAD + high * top];
    if (scene.box) unseen(add, high, scene.box);
    const clip = scene.box ? { "clip-path": "url(#picture)" } : {};
    const cells = root.appendChild(svgNode("g", { "shape-rendering": "crispEdges", ...clip }));
    scene.values.forEach((v, p) => {
      const x = x0 + (p % scene.columns) * sx;
      const y = y0 + Math.floor(p / scene.columns) * sy;
      cells.appendChild(svgNode("rect", { x, y, width: sx, height: sy, fill: QFV.paint.css(scene.colours, v, scene.top),
        "fill-opacity": QFV.paint.cover(v, scene.top, scene.opacity).toFixed(3) }));
    });
    scene.outlines.forEach((outline, i) => {
      const drawn = QFV.paint.lines(outline.segments, sx, sy, QFV.paint.inset(i, 2));
      const d = drawn.map((line) => line.map((v, axis) => ((axis % 2 ? y0 : x0) + v).toFixed(1))).map(([a, b, c, e]) => "M" + a + " " + b + "L" + c + " " + e).join("");
      add("path", { d, stroke: "#000", "stroke-width": 8, fill: "none", "stroke-linecap": "round" });
      add("path", { d, stroke: outline.colour, "stroke-width": 4, fill: "none", "stroke-linecap": "round" });
      const at = { x: x0 + (outline.at.x + 0.5) * sx, y: y0 + (outline.at.y + 0.5) * sy };
      add("rect", { x: at.x - 22, y: at.y - 16, width: 44, height: 32, rx: 6, fill: outline.colour });
      add("text", { x: at.x, y: at.y + 8, "font-size": 22, "font-weight": 600, "text-anchor": "middle", fill: QFV.paint.ink(outline.colour) }, outline.label);
    });
    const y = PAD + high + 48;
    add("text", { x: PAD, y, "font-size": 26, "font-weight": 600 }, title);
    const ramp = root.appendChild(svgNode("linearGradient", { id: "scale" }));
    for (let i = 0; i <= 32; i++) ramp.appendChild(svgNode("stop", { offset: i / 32, "stop-color": QFV.paint.css(scene.colours, i, 32), "stop-opacity": QFV.paint.cover(i, 32, scene.opacity).toFixed(3) }));
    add("rect", { x: PAD, y: y + 20, width: WIDTH, height: 14, fill: "url(#scale)" });
    ticks.forEach((t, i) => add("text", { x: PAD + (i * WIDTH) / 2, y: y + 60, "font-size": 20, "text-anchor": ["start", "middle", "end"][i] }, t));
    lines.forEach((line, i) => add("text", { x: PAD, y: y + 94 + 28 * i, "font-size": 20, fill: "#56606b" }, line));
    return new Blob([new XMLSerializer().serializeToString(root)], { type: "image/svg+xml" });
  }

  async function sheet(view) {
    const { scene, ticks } = footer(view, WIDTH);
    const { maps, state } = view;
    const columns = 8;
    const gap = 14;
    const cell = (WIDTH - gap * (columns - 1)) / columns;
    const thumb = cell / Math.min(Math.max(view.mapAspect, 0.6), 1.8);
    const rows = Math.ceil(maps.queries / columns);
    const perMap = state.scale === "map";
    const title = "All " + maps.queries + " queries · " + view.describe(scene).title.split(" · ").slice(1).join(" · ");
    const { note } = view.frames[state.frame].image;
    const text = "Attention weight; " + QFV.parts.words.scale(maps, state.scale, view.allMaps.length) + ". H: entropy in nats over patches; CLS: share of attention on the CLS token." + (note ? " " + note : "");
    const meta = view.payload.meta;
    const lines = [...wrap(text, WIDTH, 18), ...wrap(["QFormer-Viz", meta.model, meta.precision].filter(Boolean).join(" · "), WIDTH, 18)];
    const [head, under] = [60, 66]; // above all thumbnails, below each
    const { canvas, context } = blank(WIDTH + 2 * PAD, PAD + head + rows * (thumb + under) + 80 + 26 * lines.length);
    write(context, title, PAD, PAD + 26, 26, { weight: 600 });
    const picture = view.parts.stage.image;
    await picture.decode();
    const [left, top, right, low] = scene.box || [0, 0, 1, 1];
    const [wide, high] = [picture.naturalWidth, picture.naturalHeight];
    view.order().forEach((q, i) => {
      const x = PAD + (i % columns) * (cell + gap);
      const y = PAD + head + Math.floor(i / columns) * (thumb + under);
      context.drawImage(picture, left * wide, top * high, (right - left) * wide, (low - top) * high, x, y, cell, thumb);
      context.fillStyle = DIM;
      context.fillRect(x, y, cell, thumb);
      context.imageSmoothingEnabled = scene.smooth;
      context.drawImage(view.parts.sheet.items[q].canvas, x, y, cell, thumb);
      context.imageSmoothingEnabled = true;
      write(context, label(q), x, y + thumb + 21, 17, { weight: 600 });
      const small = { align: "right", colour: "#56606b" };
      write(context, "H " + scene.block.entropy[q].toFixed(2), x + cell, y + thumb + 21, 14, small);
      write(context, "CLS " + Math.round(100 * scene.block.cls[q]) + " %", x + cell, y + thumb + 41, 14, small);
    });
    const y = PAD + head + rows * (thumb + under) + 10;
    colourBar(context, scene.colours, PAD, y, WIDTH, 12, 1);
    const ends = perMap ? ["0", "half of each map’s maximum", "each map’s maximum"] : { raw: ["0", "0.5", "1"], shared: [0, view.top() / 2, view.top()].map(number) }[state.scale];
    ends.forEach((t, i) => write(context, t || ticks[i], PAD + (i * WIDTH) / 2, y + 34, 18, { align: ["left", "center", "right"][i] }));
    lines.forEach((line, i) => write(context, line, PAD, y + 66 + 26 * i, 18, { colour: "#56606b" }));
    return finish(canvas);
  }

  function download(blob, name) {
    const url = URL.createObjectURL(blob);
    const anchor = QFV.parts.el("a", { href: url, download: name });
    document.body.append(anchor);
    anchor.click();
    anchor.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  QFV.files = { download, png, sheet, svg };
})(window);
