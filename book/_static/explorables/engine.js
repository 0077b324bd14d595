/* What the explorables compute, without a page: unpack, edit, read, judge. tests/explorables asks it in node, and
   tests/book/test_explorables.py compares it with engramlib. No dependency, no network.

   A network is a list of layers {rows, cols, w}: W and b side by side, row by row, the last column is the bias. */
(function (root) {
  "use strict";

  const DIGITS = 10, SIDE = 8, BOX = 32, PEN = 2.1, LEVELS = 46;

  // --- the file ---

  /** The number that a printable character stands for: 0 for the blank, on over all but the quote and the backslash. */
  function number(code) {
    return code - 32 - (code > 34 ? 1 : 0) - (code > 92 ? 1 : 0);
  }

  /** What digits-data.js holds: {network, engrams, images: Float64Array of 64 a row, labels}. */
  function unpack(data) {
    const sizes = data.sizes, nets = [];
    let code = 0, row = 0;
    for (let net = 0; net <= DIGITS; net++) {
      const layers = [];
      for (let l = 0; l + 1 < sizes.length; l++) {
        const rows = sizes[l + 1], cols = sizes[l] + 1, w = new Float64Array(rows * cols);
        for (let r = 0; r < rows; r++) {
          const scale = Math.pow(2, -number(data.exponents.charCodeAt(row++)) / 8);
          for (let c = 0; c < cols; c++) w[r * cols + c] = (number(data.codes.charCodeAt(code++)) - LEVELS) * scale;
        }
        layers.push({ rows, cols, w });
      }
      nets.push(layers);
    }
    return {
      network: nets[0],
      engrams: nets.slice(1),
      images: Float64Array.from(data.images, (letter) => (letter.charCodeAt(0) - 97) / 16),
      labels: Uint8Array.from(data.labels, Number),
    };
  }

  // --- the edit ---

  /** W − Σ_c α_c W_c in every layer. `into`: layers to write to, so that a moving slider makes no garbage. */
  function edit(network, engrams, alpha, into) {
    return network.map((layer, l) => {
      const w = into ? into[l].w : new Float64Array(layer.w.length);
      w.set(layer.w);
      for (let c = 0; c < engrams.length; c++) {
        const a = alpha[c], e = engrams[c][l].w;
        if (a) for (let i = 0; i < w.length; i++) w[i] -= a * e[i];
      }
      return { rows: layer.rows, cols: layer.cols, w };
    });
  }

  // --- reading ---

  /** Rows of `x` through one layer, ReLU or not: n × rows. Four rows of weights at a time: their sums do not wait for
      one another, which is three times as fast as one by one. */
  function through(layer, x, n, relu) {
    const { rows, cols, w } = layer, d = cols - 1, y = new Float64Array(n * rows);
    for (let r = 0; r < rows; r += 4) {
      const several = Math.min(4, rows - r), a = r * cols;
      const b = several > 1 ? a + cols : a, c = several > 2 ? b + cols : a, e = several > 3 ? c + cols : a;
      for (let i = 0; i < n; i++) {
        const from = i * d, to = i * rows + r;
        let s = w[a + d], t = w[b + d], u = w[c + d], v = w[e + d];
        for (let j = 0; j < d; j++) {
          const value = x[from + j];
          s += w[a + j] * value;
          t += w[b + j] * value;
          u += w[c + j] * value;
          v += w[e + j] * value;
        }
        y[to] = s;
        if (several > 1) y[to + 1] = t;
        if (several > 2) y[to + 2] = u;
        if (several > 3) y[to + 3] = v;
      }
    }
    if (relu) for (let i = 0; i < y.length; i++) if (y[i] < 0) y[i] = 0;
    return y;
  }

  /** {hidden, logits} of images, 64 numbers each; hidden is what the last layer sees. */
  function forward(network, images) {
    const n = images.length / (network[0].cols - 1), last = network.length - 1;
    let x = images;
    for (let l = 0; l < last; l++) x = through(network[l], x, n, true);
    return { hidden: x, logits: through(network[last], x, n, false) };
  }

  function softmax(logits) {
    let top = -Infinity, sum = 0;
    for (const v of logits) top = Math.max(top, v);
    const p = Array.from(logits, (v) => Math.exp(v - top));
    for (const v of p) sum += v;
    return p.map((v) => v / sum);
  }

  /** The place of the largest of `scores[from] ... scores[from + 9]`, the first if several are. */
  function largest(scores, from = 0) {
    let best = 0;
    for (let c = 1; c < DIGITS; c++) if (scores[from + c] > scores[from + best]) best = c;
    return best;
  }

  /** Share of each digit's images that `scores` (n × 10) put first. */
  function byDigit(scores, labels) {
    const right = new Array(DIGITS).fill(0), all = new Array(DIGITS).fill(0);
    for (let i = 0; i < labels.length; i++) {
      all[labels[i]]++;
      if (largest(scores, DIGITS * i) === labels[i]) right[labels[i]]++;
    }
    return right.map((n, c) => n / all[c]);
  }

  // --- a linear readout of the hidden layer ---

  /** Solve A X = B for symmetric positive definite A (d × d), B (d × k), by Cholesky; X takes the place of B. */
  function solve(a, b, d, k) {
    for (let i = 0; i < d; i++) {
      for (let j = 0; j <= i; j++) {
        let sum = a[i * d + j];
        for (let m = 0; m < j; m++) sum -= a[i * d + m] * a[j * d + m];
        a[i * d + j] = i === j ? Math.sqrt(Math.max(sum, 1e-300)) : sum / a[j * d + j];
      }
    }
    for (let c = 0; c < k; c++) {
      for (let i = 0; i < d; i++) {
        let sum = b[i * k + c];
        for (let m = 0; m < i; m++) sum -= a[i * d + m] * b[m * k + c];
        b[i * k + c] = sum / a[i * d + i];
      }
      for (let i = d - 1; i >= 0; i--) {
        let sum = b[i * k + c];
        for (let m = i + 1; m < d; m++) sum -= a[m * d + i] * b[m * k + c];
        b[i * k + c] = sum / a[i * d + i];
      }
    }
    return b;
  }

  /** Two readouts of `features` (n × d), (d + 1) × 10 each: ridge regression on the digits as 0 and 1. The first is
      fitted to the odd rows, to be judged on the even ones, the second the other way round. */
  function readouts(features, labels) {
    const n = labels.length, d = features.length / n, m = d + 1;
    let power = n;
    for (const v of features) power += v * v;
    const ridge = 1e-3 * power / 2 / m;
    return [0, 1].map((fold) => {
      const a = new Float64Array(m * m), b = new Float64Array(m * DIGITS), h = new Float64Array(m);
      h[d] = 1;
      for (let i = 1 - fold; i < n; i += 2) {
        for (let j = 0; j < d; j++) h[j] = features[i * d + j];
        for (let j = 0; j < m; j++) {
          const v = h[j];
          if (!v) continue;
          for (let q = 0; q <= j; q++) a[j * m + q] += v * h[q];
          b[j * DIGITS + labels[i]] += v;
        }
      }
      for (let j = 0; j < m; j++) a[j * m + j] += ridge;
      return solve(a, b, m, DIGITS);
    });
  }

  /** Scores of `features`, n × 10: row i by the readout that was not fitted to it; `both`: the mean of the two. */
  function score(readouts, features, n, both = false) {
    const d = features.length / n, out = new Float64Array(n * DIGITS);
    for (let i = 0; i < n; i++) {
      for (const r of both ? readouts : [readouts[i % 2]]) {
        for (let j = 0; j <= d; j++) {
          const v = j < d ? features[i * d + j] : 1;
          if (v) for (let c = 0; c < DIGITS; c++) out[i * DIGITS + c] += v * r[j * DIGITS + c];
        }
      }
    }
    return out;
  }

  /** Everything a slider changes, for the test images: {network, answers, old, fresh}, the last three one number a
      digit: read by the network, found by the readouts `before`, found by new ones; and `fitted`, the new ones. */
  function judge(model, alpha, before, into) {
    const network = edit(model.network, model.engrams, alpha, into);
    const { hidden, logits } = forward(network, model.images), n = model.labels.length;
    const fitted = readouts(hidden, model.labels);
    return {
      network, fitted,
      answers: byDigit(logits, model.labels),
      old: before ? byDigit(score(before, hidden, n), model.labels) : null,
      fresh: byDigit(score(fitted, hidden, n), model.labels),
    };
  }

  // --- a drawing ---

  /** What the network sees of strokes, lists of [x, y] in any units: 64 shares of ink. The larger side of the ink's
      box fills 32 points, the other is centred; a pixel says which share of its 4 × 4 points is within the pen. */
  function see(strokes, pen = PEN) {
    const out = new Float64Array(SIDE * SIDE), low = [Infinity, Infinity], high = [-Infinity, -Infinity];
    for (const stroke of strokes) for (const p of stroke) for (const k of [0, 1]) {
      low[k] = Math.min(low[k], p[k]);
      high[k] = Math.max(high[k], p[k]);
    }
    const side = Math.max(high[0] - low[0], high[1] - low[1]);
    if (!(side >= 0)) return out;
    const scale = side > 0 ? (BOX - 2 * pen) / side : 0;
    const place = (p) => [0, 1].map((k) => (p[k] - (low[k] + high[k]) / 2) * scale + BOX / 2);
    const inked = new Uint8Array(BOX * BOX);
    for (const stroke of strokes) {
      for (let i = 0; i < Math.max(1, stroke.length - 1) && stroke.length; i++) {
        const [ax, ay] = place(stroke[i]), [bx, by] = place(stroke[Math.min(i + 1, stroke.length - 1)]);
        const dx = bx - ax, dy = by - ay, length = Math.max(dx * dx + dy * dy, 1e-12);
        const [left, right] = [Math.min(ax, bx) - pen, Math.max(ax, bx) + pen].map((v) => Math.min(BOX, Math.max(0, v)));
        const [top, bottom] = [Math.min(ay, by) - pen, Math.max(ay, by) + pen].map((v) => Math.min(BOX, Math.max(0, v)));
        for (let y = Math.floor(top); y < Math.ceil(bottom); y++) {
          for (let x = Math.floor(left); x < Math.ceil(right); x++) {
            const px = x + 0.5 - ax, py = y + 0.5 - ay;
            const t = Math.min(1, Math.max(0, (px * dx + py * dy) / length));
            if ((px - t * dx) ** 2 + (py - t * dy) ** 2 <= pen * pen) inked[y * BOX + x] = 1;
          }
        }
      }
    }
    const width = BOX / SIDE;
    for (let i = 0; i < BOX * BOX; i++) {
      const y = Math.floor(i / BOX), x = i % BOX;
      out[Math.floor(y / width) * SIDE + Math.floor(x / width)] += inked[i] / (width * width);
    }
    return out;
  }

  // --- two clouds in the plane ---

  /** Points turned by `angle` (degrees), stretched to `size` and moved to `middle`. */
  function placed(points, { angle, size, middle }) {
    const t = angle * Math.PI / 180, c = Math.cos(t), s = Math.sin(t);
    return points.map(([x, y]) => [c * x * size[0] - s * y * size[1] + middle[0],
      s * x * size[0] + c * y * size[1] + middle[1]]);
  }

  /** Σ = Σᵢ xᵢ xᵢᵀ as [a, b, c] for [[a, b], [b, c]]. */
  function moment(points) {
    return points.reduce(([a, b, c], [x, y]) => [a + x * x, b + x * y, c + y * y], [0, 0, 0]);
  }

  /** P⁺ = Σ⁺ (Σ⁺ + λ Σ⁻)†, [[p, q], [r, s]]; eigenvalues at or below rcond times the largest count as zero. */
  function projection(plus, minus, lambda, rcond = 1e-6) {
    const [a, b, c] = [0, 1, 2].map((i) => plus[i] + lambda * minus[i]);
    const mean = (a + c) / 2, apart = Math.hypot((a - c) / 2, b), angle = Math.atan2(2 * b, a - c) / 2;
    const inverse = [0, 0, 0];
    [[mean + apart, angle], [mean - apart, angle + Math.PI / 2]].forEach(([value, turn]) => {
      if (!(value > rcond * (mean + apart))) return;
      const x = Math.cos(turn), y = Math.sin(turn);
      inverse[0] += x * x / value;
      inverse[1] += x * y / value;
      inverse[2] += y * y / value;
    });
    const [p, q, s] = plus, [u, v, w] = inverse;
    return [[p * u + q * v, p * v + q * w], [q * u + s * v, q * v + s * w]];
  }

  /** (I − α P) x for every point: the answers of a layer W = I without α W⁺. */
  function without(points, p, alpha) {
    return points.map(([x, y]) => [x - alpha * (p[0][0] * x + p[0][1] * y), y - alpha * (p[1][0] * x + p[1][1] * y)]);
  }

  /** How long the points are, root mean square. */
  function loudness(points) {
    return Math.sqrt(points.reduce((sum, [x, y]) => sum + x * x + y * y, 0) / points.length);
  }

  const engine = { number, unpack, edit, forward, softmax, largest, byDigit, solve, readouts, score, judge, see, placed,
    moment, projection, without, loudness, DIGITS, SIDE };
  if (typeof module === "object" && module.exports) module.exports = engine;
  else root.EngramEngine = engine;
})(typeof globalThis === "object" ? globalThis : self);
