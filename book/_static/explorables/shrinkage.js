"use strict";

/* What a time t of descent along a penalty alone leaves of a singular value. */
Explorables.define("shrinkage", (() => {
  const { chart, number, range } = Explorables;

  /* s' = -s / (s^2 + eps), whose s^2 / 2 + eps ln s falls at unit speed. */
  function logdet(s, t, eps) {
    if (s <= 0) return 0;
    const height = (u) => 0.5 * Math.exp(2 * u) + eps * u; // u = ln s
    const goal = height(Math.log(s)) - t;
    let high = Math.log(s);
    let low = Math.min(high, goal / eps) - 1; // the square is positive: the root lies below goal / eps
    while (height(low) > goal) low -= 1 + Math.abs(low);
    for (const _ of range(200)) {
      const middle = (low + high) / 2;
      if (height(middle) > goal) high = middle;
      else low = middle;
    }
    return Math.exp((low + high) / 2);
  }

  const laws = (data, { time, eps }) => {
    const length = Math.hypot(...data.values);
    return {
      trace: (s) => Math.max(s - time, 0),
      frobenius: (s) => s * Math.max(1 - time / length, 0),
      decay: (s) => s * Math.exp(-time),
      logdet: (s) => logdet(s, time, 10 ** eps),
    };
  };
  const kinds = {
    trace: ["trace norm", "blue"], frobenius: ["Frobenius norm", "orange"],
    decay: ["weight decay", "pink"], logdet: ["log-determinant", "green"],
  };

  return {
    compute: (data, settings) => Object.fromEntries(Object.entries(laws(data, settings)).map(
      ([name, law]) => [name, data.values.map(law)])),
    controls: () => [
      { name: "time", label: "time t", min: 0, max: 6, step: 0.05, value: 1.5 },
      {
        name: "eps", label: "ε of the log-determinant", min: -3, max: 0, step: 0.25, value: -1,
        say: (value) => number(10 ** value, 3),
      },
    ],
    say: (r) => Object.entries(r).map(([name, values]) => [
      `${kinds[name][0]}: singular values above 0.01, and the largest`,
      `${values.filter((s) => s > 0.01).length}, ${number(values[0])}`, kinds[name][1],
    ]),
    draw(view, r, settings, data) {
      const most = 1.05 * data.values[0];
      const grid = range(201).map((i) => (most * i) / 200);
      for (const [name, law] of Object.entries(laws(data, settings))) {
        const [title, kind] = kinds[name];
        const on = chart(view, {
          title, columns: 2, height: 190, x: [0, most], y: [0, most],
          xLabel: "singular value before", yLabel: "after",
          label: `${title}: from ${data.values.map((s) => number(s)).join(", ")} to `
            + r[name].map((s) => number(s)).join(", "),
        });
        on.line([[0, 0], [most, most]], "faint");
        on.line(grid.map((s) => [s, law(s)]), kind);
        data.values.forEach((s, i) => on.dot(s, r[name][i], kind));
      }
    },
  };
})());
