"use strict";

/* F(X) = |X - A|^2 / 2 + gamma |X|_*, started at A. Both steps keep A's singular vectors, so that each
   singular value moves by itself; a sub-gradient step may take it through zero. */
Explorables.define("hover", (() => {
  const { chart, number, range } = Explorables;
  const soft = (s, by) => Math.sign(s) * Math.max(Math.abs(s) - by, 0);

  function compute({ values }, { eta, gamma, steps }) {
    const objective = (s) => s.reduce(
      (sum, v, i) => sum + 0.5 * (v - values[i]) ** 2 + gamma * Math.abs(v), 0);
    const run = (step) => {
      const path = [values];
      for (const k of range(steps)) path.push(path[k].map(step));
      return path;
    };
    const sub = run((s, i) => (1 - eta) * s + eta * (values[i] - gamma * Math.sign(s)));
    const proximal = run((s, i) => soft((1 - eta) * s + eta * values[i], eta * gamma));
    const least = objective(values.map((a) => soft(a, gamma)));
    const gap = (path) => Math.max(objective(path[steps]) - least, 0);
    const rank = (path) => path[steps].filter((s) => Math.abs(s) > 1e-9).length;
    return {
      sub, proximal, least,
      gaps: [gap(sub), gap(proximal)],
      ranks: [rank(sub), rank(proximal)],
      best: values.filter((a) => a > gamma).length,
      bound: values.filter((a) => a < gamma).map((a) => [-eta * (gamma - a), eta * (gamma + a)])[0],
    };
  }

  return {
    compute,
    controls: () => [
      { name: "eta", label: "step size η", min: 0.02, max: 0.98, step: 0.02, value: 0.3 },
      { name: "gamma", label: "penalty γ", min: 0, max: 3, step: 0.05, value: 1.2 },
      {
        name: "steps", label: "number of steps", min: 1, max: 80, step: 1, value: 40,
        say: (value) => String(value),
      },
    ],
    say: (r) => [
      ["sub-gradient: objective above its minimum", number(r.gaps[0], 4), "red"],
      ["proximal: objective above its minimum", number(r.gaps[1], 4), "blue"],
      ["singular values that are not zero, sub-gradient", String(r.ranks[0]), "red"],
      ["the same, proximal", `${r.ranks[1]} (the minimum has ${r.best})`, "blue"],
    ],
    draw(view, r, { steps }) {
      const all = [...r.sub.flat(), ...r.proximal.flat()];
      const y = [Math.min(0, ...all) - 0.3, Math.max(...all) + 0.3];
      for (const [title, path, kind] of [
        ["sub-gradient steps", r.sub, "red"], ["proximal steps", r.proximal, "blue"],
      ]) {
        const on = chart(view, {
          title, columns: 2, x: [0, Math.max(steps, 4)], y, xLabel: "step",
          yLabel: title === "sub-gradient steps" ? "singular value, with its sign" : "",
          label: `${title}: ${path[0].length} singular values over ${steps} steps; at the end `
            + path[steps].map((s) => number(s)).join(", "),
        });
        if (kind === "red" && r.bound) {
          const [low, high] = r.bound;
          on.area([[0, low], [1000, low], [1000, high], [0, high]], "orange");
        }
        for (const i of range(path[0].length))
          on.line(path.map((s, k) => [k, s[i]]), kind);
      }
    },
  };
})());
