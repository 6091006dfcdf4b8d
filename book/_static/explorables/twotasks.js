"use strict";

/* One weight for each of two tasks: a prior of variance 1 and correlation rho, an estimate for each from
   its own samples (noise of variance 1), and what Bayes makes of both. */
Explorables.define("twotasks", (() => {
  const { chart, handle, number, range } = Explorables;

  const inverse = ([a, b, c]) => { // of the symmetric [[a, b], [b, c]]
    const det = a * c - b * b;
    return [c / det, -b / det, a / det];
  };

  function compute(_, { rho, n1, n2, y1, y2 }) {
    const prior = [1, rho, 1];
    const [p, q, r] = inverse(prior);
    const posterior = inverse([p + n1, q, r + n2]);
    const mean = [
      posterior[0] * n1 * y1 + posterior[1] * n2 * y2,
      posterior[1] * n1 * y1 + posterior[2] * n2 * y2,
    ];
    const alone = [(n1 / (n1 + 1)) * y1, (n2 / (n2 + 1)) * y2];
    return { prior, posterior, mean, alone };
  }

  /* The ellipse of one standard deviation. */
  function ellipse([a, b, c], [x, y], times = 1) {
    const l = Math.sqrt(a); // Cholesky
    const m = b / l;
    const k = Math.sqrt(Math.max(c - m * m, 0));
    return range(73).map((i) => {
      const angle = (i * Math.PI) / 36;
      const [u, v] = [times * Math.cos(angle), times * Math.sin(angle)];
      return [x + l * u, y + m * u + k * v];
    });
  }

  const samples = (name, label, value) => ({
    name, label, value, min: 0, max: 40, step: 1, say: (v) => String(v),
  });

  return {
    compute,
    controls: ({ estimates, samples: [n1, n2] }) => [
      { name: "rho", label: "correlation ρ of the tasks", min: -0.98, max: 0.98, step: 0.02, value: 0.8 },
      samples("n1", "samples of task 1", n1),
      samples("n2", "samples of task 2", n2),
      { name: "y1", value: estimates[0] },
      { name: "y2", value: estimates[1] },
    ],
    say: ({ mean, alone, posterior }, { y1, y2 }) => [
      ["estimates from own samples", `${number(y1)}, ${number(y2)}`, "orange"],
      ["posterior mean", `${number(mean[0])}, ${number(mean[1])}`, "blue"],
      ["without the other task (ρ = 0)", `${number(alone[0])}, ${number(alone[1])}`, ""],
      ["posterior correlation",
        number(posterior[1] / Math.sqrt(posterior[0] * posterior[2])), "blue"],
    ],
    draw(view, { prior, posterior, mean, alone }, { n1, n2, y1, y2, rho }, _, set) {
      const side = Math.min(view.width, 440);
      const on = chart({ ...view, width: side }, {
        height: side - 20, x: [-2.6, 2.6], y: [-2.6, 2.6], xLabel: "weight of task 1",
        yLabel: "weight of task 2",
        label: `Prior with correlation ${number(rho)}; estimates ${number(y1)}, ${number(y2)}; `
          + `posterior mean ${number(mean[0])}, ${number(mean[1])}`,
      });
      for (const times of [1, 2]) on.line(ellipse(prior, [0, 0], times), "grey");
      if (n1 && n2) on.line(ellipse([1 / n1, 0, 1 / n2], [y1, y2]), "orange dashed");
      on.area(ellipse(posterior, mean), "blue");
      on.line(ellipse(posterior, mean), "blue");
      on.line([[y1, y2], mean], "faint");
      on.dot(...alone, "hollow", 5);
      on.dot(...mean, "blue", 5);
      handle(view, on, {
        key: "data", label: "Estimates of both tasks: drag, or use the arrow keys", low: -2.5,
        high: 2.5, x: y1, y: y2, move: (a, b) => set({ y1: a, y2: b }),
      });
    },
  };
})());
