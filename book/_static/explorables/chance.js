"use strict";

/* The cosine of two random kernels: the law is computed here, the bars were counted by the package. */
Explorables.define("chance", (() => {
  const { chart, number, range } = Explorables;

  /* Lanczos' approximation of the logarithm of the gamma function (g = 7, n = 9). */
  function lgamma(x) {
    const c = [0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313,
      -176.61502916214059, 12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6,
      1.5056327351493116e-7];
    if (x < 0.5) return Math.log(Math.PI / Math.sin(Math.PI * x)) - lgamma(1 - x);
    const z = x - 1;
    const t = z + 7.5;
    const series = c.slice(1).reduce((sum, a, i) => sum + a / (z + i + 1), c[0]);
    return 0.5 * Math.log(2 * Math.PI) + (z + 0.5) * Math.log(t) - t + Math.log(series);
  }

  const lbeta = (a, b) => lgamma(a) + lgamma(b) - lgamma(a + b);

  /* The regularised incomplete beta function, by its continued fraction (Lentz). */
  function betainc(a, b, x) {
    if (x <= 0) return 0;
    if (x >= 1) return 1;
    if (x > (a + 1) / (a + b + 2)) return 1 - betainc(b, a, 1 - x);
    const tiny = 1e-300;
    let c = 1;
    let d = 1 / Math.max(1 - ((a + b) * x) / (a + 1), tiny);
    let h = d;
    for (let m = 1; m < 500; m += 1) {
      for (const t of [
        (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m)),
        (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1)),
      ]) {
        d = 1 / (1 + t * d || tiny);
        c = 1 + t / c || tiny;
        h *= c * d;
      }
      if (Math.abs(c * d - 1) < 1e-15) break;
    }
    return (Math.exp(a * Math.log(x) + b * Math.log1p(-x) - lbeta(a, b)) * h) / a;
  }

  const density = (s, d) => ((1 - s) * (1 + s)) ** ((d - 3) / 2) / Math.exp(lbeta(0.5, (d - 1) / 2));
  const tail = (r, d) => 0.5 * betainc((d - 1) / 2, 0.5, (1 - r) * (1 + r)); // of r >= 0

  /* The cosine that one of `pairs` pairs exceeds. */
  function threshold(d, pairs) {
    if (pairs <= 2) return 0;
    let [low, high] = [0, 1];
    for (const _ of range(60)) {
      const middle = (low + high) / 2;
      if (tail(middle, d) > 1 / pairs) low = middle;
      else high = middle;
    }
    return (low + high) / 2;
  }

  function compute({ dimensions }, { dimension, theta, pairs }) {
    const d = dimensions[dimension];
    const many = 10 ** pairs;
    const share = tail(theta, d);
    return {
      d, share, expected: share * many, threshold: threshold(d, many),
      bound: 0.5 * (1 - theta * theta) ** ((d - 1) / 2),
      grid: range(199).map((i) => (i - 99) / 100).map((s) => [s, density(s, d)]),
    };
  }

  const count = (value) =>
    value >= 10 && value < 1e9 ? Math.round(value).toLocaleString("en") : number(value, 2);

  return {
    compute,
    controls: ({ dimensions }) => [
      {
        name: "dimension", label: "numbers in a kernel, d", min: 0, max: dimensions.length - 1,
        step: 1, value: dimensions.indexOf(9), say: (i) => String(dimensions[i]),
      },
      { name: "theta", label: "threshold θ", min: 0, max: 0.99, step: 0.01, value: 0.8 },
      {
        name: "pairs", label: "number of pairs m", min: 1, max: 8, step: 0.1, value: 6.4,
        say: (v) => count(10 ** v),
      },
    ],
    say: (r, { pairs }) => [
      ["probability that a pair exceeds θ", number(r.share, 4), "red"],
      ["bound on it", number(r.bound, 4), ""],
      [`pairs of ${count(10 ** pairs)} expected above θ`, count(r.expected), "red"],
      ["threshold that one pair is expected to pass", number(r.threshold, 3), "green"],
    ],
    draw(view, r, { theta, dimension }, data) {
      const bars = data.counts[dimension];
      const width = 2 / bars.length;
      const heights = bars.map((n) => n / (data.pairs * width));
      const shown = r.grid.slice(4, -4).map(([, f]) => f);
      const top = 1.1 * Math.max(...heights, ...(r.d > 2 ? shown : [1]));
      const on = chart(view, {
        height: 260, x: [-1, 1], y: [0, top], xLabel: "cosine", yLabel: "density",
        label: `Density of the cosine for ${r.d} numbers; ${number(r.share, 4)} of it lies above `
          + `${number(theta)}`,
      });
      heights.forEach((h, i) => {
        const left = -1 + i * width;
        on.area([[left, 0], [left, h], [left + width, h], [left + width, 0]], "sky");
      });
      const above = r.grid.filter(([s]) => s >= theta - 1e-9);
      if (above.length) on.area([[theta, 0], ...above, [above.at(-1)[0], 0]], "red");
      on.line(r.grid, "ink");
      on.line([[theta, 0], [theta, top]], "red dashed");
      on.line([[r.threshold, 0], [r.threshold, top]], "green dashed");
    },
  };
})());
