// The attention maps of a payload: unpacks, averages and describes them. It draws nothing and touches no page.
(function (global) {
  "use strict";
  const QFV = (global.QFormerViz = global.QFormerViz || {});

  function bytes(base64) {
    const raw = atob(base64);
    const out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  }

  async function inflate(data) {
    const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function probabilities(base64) {
    const raw = bytes(base64);
    const out = new Float32Array(raw.length / 2);
    for (let i = 0; i < out.length; i++) out[i] = ((raw[2 * i] + 256 * raw[2 * i + 1]) / 65535) ** 2;
    return out;
  }

  class Maps {
    constructor(payload, codes) {
      [this.layers, this.heads, this.queries, this.patches] = payload.shape;
      [this.rows, this.columns] = payload.grid;
      this.crossLayers = payload.cross_layers;
      this.codes = codes;
      this.peaks = probabilities(payload.peaks);
      this.cls = probabilities(payload.cls);
      this.square = new Float32Array(payload.levels + 1);
      for (let c = 0; c <= payload.levels; c++) this.square[c] = (c / payload.levels) ** 2;
      const expected = this.layers * this.heads * this.queries * this.patches;
      if (codes.length !== expected || this.rows * this.columns !== this.patches) {
        throw new Error("payload holds " + codes.length + " values, its shape promises " + expected);
      }
      this.cache = new Map();
    }

    // The maps of all queries in one layer and head (each a number or "mean"), with their entropy, peak and share on CLS.
    // Kept once computed.
    block(layer, head) {
      const key = layer + "/" + head;
      if (!this.cache.has(key)) this.cache.set(key, this.compute(layer, head));
      return this.cache.get(key);
    }

    compute(layer, head) {
      const every = (n) => Array.from({ length: n }, (_, i) => i);
      const layers = layer === "mean" ? every(this.layers) : [this.crossLayers.indexOf(layer)];
      const heads = head === "mean" ? every(this.heads) : [head];
      const values = new Float32Array(this.queries * this.patches);
      const cls = new Float32Array(this.queries);
      const weight = 1 / (layers.length * heads.length);
      for (const l of layers) {
        for (const h of heads) {
          for (let q = 0; q < this.queries; q++) {
            const row = (l * this.heads + h) * this.queries + q;
            const scale = this.peaks[row] * weight;
            const from = row * this.patches;
            const to = q * this.patches;
            for (let p = 0; p < this.patches; p++) values[to + p] += scale * this.square[this.codes[from + p]];
            cls[q] += weight * this.cls[row];
          }
        }
      }
      const described = every(this.queries).map((q) => describe(this.of({ values }, q)));
      const column = (name) => described.map((d) => d[name]);
      return {
        values,
        cls,
        entropy: column("entropy"),
        effective: column("effective"),
        peak: column("peak"),
        peakAt: column("peakAt"),
        top: Math.max(...column("peak")),
      };
    }

    of(block, query) {
      return block.values.subarray(query * this.patches, (query + 1) * this.patches);
    }

    // The average of several queries' maps.
    mean(block, queries) {
      if (queries.length === 1) return this.of(block, queries[0]);
      const out = new Float32Array(this.patches);
      for (const q of queries) {
        const one = this.of(block, q);
        for (let p = 0; p < out.length; p++) out[p] += one[p] / queries.length;
      }
      return out;
    }
  }

  // The entropy in nats of a map normalised over patches, its exponential (the effective number of patches), and the peak.
  function describe(values) {
    let sum = 0;
    let logs = 0;
    let peakAt = 0;
    for (let p = 0; p < values.length; p++) {
      const v = values[p];
      if (v > values[peakAt]) peakAt = p;
      if (v > 0) {
        sum += v;
        logs += v * Math.log(v);
      }
    }
    const entropy = sum > 0 ? Math.max(0, Math.log(sum) - logs / sum) : Math.log(values.length);
    return { entropy, effective: Math.exp(entropy), peak: values[peakAt], peakAt };
  }

  // The smallest set of patches that holds half of a map's attention on patches, as one 0 or 1 per patch.
  function core(values) {
    const order = Array.from(values.keys()).sort((a, b) => values[b] - values[a]);
    const half = values.reduce((a, b) => a + b, 0) / 2;
    const members = new Uint8Array(values.length);
    for (let i = 0, held = 0; i < order.length && held < half; i++) {
      held += values[order[i]];
      members[order[i]] = 1;
    }
    return members;
  }

  QFV.maps = {
    core,
    describe,
    load: async (payload) => new Maps(payload, await inflate(bytes(payload.maps))),
  };
})(window);
