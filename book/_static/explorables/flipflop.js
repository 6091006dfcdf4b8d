"use strict";

/* Q / D after each sweep of flip-flop. The package has run it from identities. Starting with the first
   covariance e^u times as large changes no shape, only scales, and those by the map of the page. */
Explorables.define("flipflop", (() => {
  const { chart, number, range } = Explorables;
  const sum = (u) => u.reduce((a, b) => a + b, 0);

  /* ln scales after one sweep, relative to the package's run. */
  function sweep(u, order, fixed) {
    if (fixed) return u.map(() => 0);
    if (order === "simultaneous") return u.map((v) => v - sum(u));
    const next = [...u];
    for (const k of range(u.length)) next[k] -= sum(next);
    return next;
  }

  function compute({ runs }, { modes, order, traces, start, sweeps }) {
    const base = runs[modes][order][traces];
    let u = range(Number(modes)).map((k) => (k ? 0 : start * Math.LN10));
    const logs = base.slice(0, sweeps + 1).map((log, n) => {
      if (n) u = sweep(u, order, traces === "fixed");
      return log - sum(u) / Math.LN10;
    });
    return { logs };
  }

  const symlog = (v) => Math.sign(v) * Math.log10(1 + Math.abs(v));

  return {
    compute,
    controls: ({ sweeps }) => [
      {
        name: "order", label: "order of the updates", value: "simultaneous",
        options: [["sequential", "sequential"], ["simultaneous", "simultaneous"]],
      },
      {
        name: "traces", label: "traces", value: "free",
        options: [["free", "free"], ["fixed", "fixed after each update"]],
      },
      {
        name: "modes", label: "modes of the tensor", value: "3",
        options: [["2", "2"], ["3", "3"], ["4", "4"]],
      },
      { name: "start", label: "log₁₀ of the first covariance’s scale", min: -2, max: 2, step: 0.1, value: 0 },
      {
        name: "sweeps", label: "number of sweeps", min: 1, max: sweeps, step: 1, value: sweeps,
        say: (v) => String(v),
      },
    ],
    say: ({ logs }, { modes }) => [
      ["log₁₀ of Q / D after the last sweep (0 is right)", number(logs.at(-1)), "red"],
      ["the scale map multiplies the common scale’s logarithm, simultaneously, by",
        String(1 - Number(modes)).replace("-", "−"), ""],
    ],
    draw(view, { logs }, { order, traces, sweeps }, data) {
      const far = 10 ** Math.ceil(Math.log10(Math.max(10, ...logs.map(Math.abs))));
      const sides = range(Math.log10(far)).map((i) => 10 ** (i + 1));
      const on = chart(view, {
        height: 270, left: 60, x: [0, data.sweeps], y: [-far, far], yBy: symlog,
        xTicks: range(data.sweeps + 1),
        yTicks: [...sides.map((v) => -v), -1, 0, 1, ...sides], xLabel: "sweeps",
        yLabel: "log₁₀ of Q / D",
        label: `${order} updates, traces ${traces}: log of Q / D over ${sweeps} sweeps: `
          + logs.map((v) => number(v, 1)).join(", "),
      });
      on.line([[0, 0], [data.sweeps, 0]], "green dashed");
      on.line(logs.map((v, n) => [n, v]), "red");
      logs.forEach((v, n) => on.dot(n, v, "red"));
    },
  };
})());
