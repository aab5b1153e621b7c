// Drawing on any 2D context: colour tables, a map as patches or smoothed, outlines, the grid.
(function (global) {
  "use strict";
  const QFV = (global.QFormerViz = global.QFormerViz || {});
  const tables = new Map();
  const FINE = 8; // points along the side of a patch when smoothing

  // 256 colours, linear in sRGB between equally spaced control points, as palette.py computes them.
  function table(stops) {
    const key = stops.join();
    if (!tables.has(key)) {
      const rgb = stops.map((s) => [1, 3, 5].map((i) => parseInt(s.slice(i, i + 2), 16)));
      const out = new Uint8Array(256 * 3);
      for (let i = 0; i < 256; i++) {
        const at = (i * (rgb.length - 1)) / 255;
        const low = Math.min(Math.floor(at), rgb.length - 2);
        for (let c = 0; c < 3; c++) {
          out[3 * i + c] = Math.floor(rgb[low][c] + (at - low) * (rgb[low + 1][c] - rgb[low][c]) + 0.5);
        }
      }
      tables.set(key, out);
    }
    return tables.get(key);
  }

  function level(value, top) {
    return top > 0 ? Math.floor(Math.min(Math.max(value / top, 0), 1) * 255 + 0.5) : 0;
  }

  function css(colours, value, top) {
    const i = 3 * level(value, top);
    return "rgb(" + colours[i] + "," + colours[i + 1] + "," + colours[i + 2] + ")";
  }

  // The opacity of a value over the image: 0 at zero, `opacity` at the top, between them by the square root.
  function cover(value, top, opacity) {
    return top > 0 ? opacity * Math.sqrt(Math.min(Math.max(value / top, 0), 1)) : 0;
  }

  // Draws a map on a canvas element, one pixel per value. Without an opacity the pixels are opaque.
  function raster(canvas, values, columns, rows, top, colours, opacity = null) {
    if (canvas.width !== columns || canvas.height !== rows) {
      canvas.width = columns;
      canvas.height = rows;
    }
    const context = canvas.getContext("2d");
    const image = context.createImageData(columns, rows);
    for (let p = 0; p < values.length; p++) {
      const i = 3 * level(values[p], top);
      image.data[4 * p] = colours[i];
      image.data[4 * p + 1] = colours[i + 1];
      image.data[4 * p + 2] = colours[i + 2];
      image.data[4 * p + 3] = opacity === null ? 255 : Math.floor(255 * cover(values[p], top, opacity) + 0.5);
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  // Interpolates between patch centres, bilinearly. Values are interpolated, not colours, so that the legend stays right.
  function smooth(values, columns, rows) {
    const width = columns * FINE;
    const height = rows * FINE;
    const out = new Float32Array(width * height);
    for (let y = 0; y < height; y++) {
      const v = Math.min(Math.max((y + 0.5) / FINE - 0.5, 0), rows - 1);
      const y0 = Math.floor(v);
      const y1 = Math.min(y0 + 1, rows - 1);
      for (let x = 0; x < width; x++) {
        const u = Math.min(Math.max((x + 0.5) / FINE - 0.5, 0), columns - 1);
        const x0 = Math.floor(u);
        const x1 = Math.min(x0 + 1, columns - 1);
        const upper = values[y0 * columns + x0] * (x0 + 1 - u) + values[y0 * columns + x1] * (u - x0);
        const lower = values[y1 * columns + x0] * (x0 + 1 - u) + values[y1 * columns + x1] * (u - x0);
        out[y * width + x] = upper * (y0 + 1 - v) + lower * (v - y0);
      }
    }
    return { values: out, columns: width, rows: height };
  }

  // The border of a set of patches, as edges of patches. Each edge has its inward normal (nx, ny) and, for each end (a, b),
  // the share of an inset by which it is shortened: 1 at a convex corner, -1 at a concave one.
  function border(members, columns, rows) {
    const has = (x, y) => x >= 0 && y >= 0 && x < columns && y < rows && members[y * columns + x] === 1;
    const end = (beside, beyond) => (!beside ? 1 : beyond ? -1 : 0);
    const out = [];
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        if (!has(x, y)) continue;
        for (const s of [-1, 1]) {
          if (!has(x, y + s)) {
            const at = s < 0 ? y : y + 1;
            out.push({ x0: x, y0: at, x1: x + 1, y1: at, nx: 0, ny: -s,
              a: end(has(x - 1, y), has(x - 1, y + s)), b: end(has(x + 1, y), has(x + 1, y + s)) });
          }
          if (!has(x + s, y)) {
            const at = s < 0 ? x : x + 1;
            out.push({ x0: at, y0: y, x1: at, y1: y + 1, nx: -s, ny: 0,
              a: end(has(x, y - 1), has(x + s, y - 1)), b: end(has(x, y + 1), has(x + s, y + 1)) });
          }
        }
      }
    }
    return out;
  }

  // The edges as lines [x0, y0, x1, y1] on the image, moved inwards by `inset`. With different insets the outlines of
  // several queries over the same patches lie side by side.
  function lines(edges, sx, sy, inset) {
    return edges.map((e) => {
      const [x, y] = [e.nx * inset, e.ny * inset];
      const [ax, ay] = e.nx ? [0, e.a * inset] : [e.a * inset, 0];
      const [bx, by] = e.nx ? [0, e.b * inset] : [e.b * inset, 0];
      return [e.x0 * sx + x + ax, e.y0 * sy + y + ay, e.x1 * sx + x - bx, e.y1 * sy + y - by];
    });
  }

  function trace(context, drawn) {
    context.beginPath();
    for (const [x0, y0, x1, y1] of drawn) {
      context.moveTo(x0, y0);
      context.lineTo(x1, y1);
    }
  }

  function twoTone(context, draw, colour, width) {
    context.lineJoin = context.lineCap = "round";
    context.strokeStyle = "rgba(0,0,0,.75)";
    context.lineWidth = width * 2;
    draw();
    context.stroke();
    context.strokeStyle = colour;
    context.lineWidth = width;
    draw();
    context.stroke();
  }

  const scratch = document.createElement("canvas");

  // scene: values, columns, rows, top, colours, opacity, smooth, outlines [{segments (of border), colour, label, at}],
  //        grid (bool), patch (index or null), pinned (bool),
  //        box (the area of the map as shares of the image, or null for all of it; the rest is shaded).
  // unit: the width of a thin line in pixels.
  function stage(context, width, height, scene, unit) {
    if (scene.box) {
      const [left, top, right, bottom] = scene.box;
      context.save();
      unseen(context, width, height, scene.box, unit);
      context.beginPath();
      context.rect(0, 0, width, height);
      context.clip();
      context.translate(left * width, top * height);
      stage(context, (right - left) * width, (bottom - top) * height, { ...scene, box: null }, unit);
      return context.restore();
    }
    const { columns, rows } = scene;
    const sx = width / columns;
    const sy = height / rows;
    const map = scene.smooth ? smooth(scene.values, columns, rows) : scene;
    raster(scratch, map.values, map.columns, map.rows, scene.top, scene.colours, scene.opacity);
    context.save();
    context.imageSmoothingEnabled = Boolean(scene.smooth);
    context.drawImage(scratch, 0, 0, width, height);
    context.restore();
    if (scene.grid) {
      context.beginPath();
      for (let x = 1; x < columns; x++) {
        context.moveTo(x * sx, 0);
        context.lineTo(x * sx, height);
      }
      for (let y = 1; y < rows; y++) {
        context.moveTo(0, y * sy);
        context.lineTo(width, y * sy);
      }
      context.strokeStyle = "rgba(255,255,255,.28)";
      context.lineWidth = unit;
      context.stroke();
    }
    scene.outlines.forEach((outline, i) => {
      const drawn = lines(outline.segments, sx, sy, inset(i, unit));
      twoTone(context, () => trace(context, drawn), outline.colour, 2 * unit);
    });
    for (const outline of scene.outlines) tag(context, outline, sx, sy, unit, width, height);
    if (scene.patch !== null) {
      const x = (scene.patch % columns) * sx;
      const y = Math.floor(scene.patch / columns) * sy;
      const box = () => {
        context.beginPath();
        context.rect(x, y, sx, sy);
      };
      twoTone(context, box, "#fff", (scene.pinned ? 2.5 : 1.5) * unit);
    }
  }

  function unseen(context, width, height, box, unit) {
    const [left, top, right, bottom] = box.map((share, i) => Math.min(Math.max(share, 0), 1) * (i % 2 ? height : width));
    context.save();
    context.beginPath();
    context.rect(0, 0, width, height);
    context.rect(left, top, right - left, bottom - top);
    context.clip("evenodd");
    context.fillStyle = "rgba(20,22,30,.59)";
    context.fillRect(0, 0, width, height);
    context.beginPath();
    for (let x = -height; x < width; x += 10 * unit) {
      context.moveTo(x, height);
      context.lineTo(x + height, 0);
    }
    context.strokeStyle = "rgba(255,255,255,.35)";
    context.lineWidth = unit;
    context.stroke();
    context.restore();
  }

  // The indices of the patches that hold only padding.
  function inPadding(box, columns, rows) {
    const outside = (from, to, n, i) => from + ((to - from) * (i + 1)) / n <= 1e-6 || from + ((to - from) * i) / n >= 1 - 1e-6;
    const [left, top, right, bottom] = box;
    return Array.from({ length: columns * rows }, (_, p) => p)
      .filter((p) => outside(left, right, columns, p % columns) || outside(top, bottom, rows, Math.floor(p / columns)));
  }

  const inset = (i, unit) => (1.5 + 3 * i) * unit;

  function tag(context, outline, sx, sy, unit, width, height) {
    const w = 22 * unit;
    const h = 16 * unit;
    const x = Math.min(Math.max((outline.at.x + 0.5) * sx - w / 2, 0), width - w);
    const y = Math.min(Math.max((outline.at.y + 0.5) * sy - h / 2, 0), height - h);
    context.fillStyle = outline.colour;
    context.strokeStyle = "rgba(0,0,0,.75)";
    context.lineWidth = unit;
    context.beginPath();
    context.roundRect(x, y, w, h, 3 * unit);
    context.fill();
    context.stroke();
    context.fillStyle = ink(outline.colour);
    context.font = "600 " + 11 * unit + "px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(outline.label, x + w / 2, y + h / 2 + 0.5 * unit);
  }

  // Black or white, whichever has more contrast with the colour.
  function ink(colour) {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16) / 255);
    return 0.2126 * r ** 2.2 + 0.7152 * g ** 2.2 + 0.0722 * b ** 2.2 > 0.18 ? "#000" : "#fff";
  }

  // Draws signed values, one pixel per patch: a diverging scale, more opaque further from zero.
  function signed(canvas, values, columns, rows, top, colours) {
    [canvas.width, canvas.height] = [columns, rows];
    const context = canvas.getContext("2d");
    const image = context.createImageData(columns, rows);
    for (let p = 0; p < values.length; p++) {
      const share = top > 0 ? values[p] / top : 0;
      const i = 3 * level((share + 1) / 2, 1);
      for (let c = 0; c < 3; c++) image.data[4 * p + c] = colours[i + c];
      image.data[4 * p + 3] = Math.floor(230 * Math.sqrt(Math.abs(share)) + 0.5);
    }
    context.putImageData(image, 0, 0);
  }

  QFV.paint = { border, cover, css, ink, inPadding, inset, level, lines, raster, signed, smooth, stage, table };
})(window);
