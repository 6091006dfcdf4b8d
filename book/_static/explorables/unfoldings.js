"use strict";

/* Where an entry of a stack goes in each unfolding, and what that unfolding's singular values are. */
Explorables.define("unfoldings", (() => {
  const { chart, number, range, svg } = Explorables;
  const product = (list) => list.reduce((a, b) => a * b, 1);

  /* "mode-2" -> its one axis; "cut-2" -> axes 0 and 1: those of the rows, counted from 0. */
  const rowsOf = (unfolding) => {
    const [kind, at] = unfolding.split("-");
    return kind === "mode" ? [Number(at) - 1] : range(Number(at));
  };

  /* The index along each axis of the entry at a place in memory, row-major. */
  const indexOf = (place, shape) => shape.map((size, axis) =>
    Math.floor(place / product(shape.slice(axis + 1))) % size);

  const rowMajor = (index, shape, axes) => axes.reduce((at, axis) => at * shape[axis] + index[axis], 0);

  function compute({ shape, stacks }, { unfolding, place, stack }) {
    const rows = rowsOf(unfolding);
    const columns = range(shape.length).filter((axis) => !rows.includes(axis));
    const at = (entry) => {
      const index = indexOf(entry, shape);
      return [rowMajor(index, shape, rows), rowMajor(index, shape, columns)];
    };
    const size = [rows, columns].map((axes) => product(axes.map((axis) => shape[axis])));
    const places = range(product(shape)).map(at);
    const values = stacks[stack].spectra[unfolding];
    return {
      size, places, index: indexOf(place, shape), at: at(place), values,
      rank: values.filter((s) => s > 1e-9 * values[0]).length,
      norm: values.reduce((a, b) => a + b, 0),
    };
  }

  /* A matrix of small squares; colours are tasks (the last axis), the entry at `place` is framed. */
  function matrix(view, [rows, columns], places, place, tasks, title) {
    const side = Math.min(30, Math.floor((view.width - 8) / columns));
    const node = svg("svg", {
      class: "chart", width: view.width, height: rows * side + 30, role: "img",
      "aria-label": `${title}: ${rows} by ${columns}, the entry in row ${places[place][0] + 1}, `
        + `column ${places[place][1] + 1}`,
    });
    node.append(svg("text", { class: "title", x: 2, y: 16 }, title));
    places.forEach(([row, column], entry) => {
      const [x, y] = [column * side + 2, row * side + 25];
      node.append(svg("rect", {
        class: `cell task${entry % tasks} ${entry === place ? "chosen" : ""}`,
        x, y, width: side - 2, height: side - 2,
      }));
      if (side >= 17) node.append(svg("text", {
        class: "entry", x: x + side / 2 - 1, y: y + side / 2 + 3, "text-anchor": "middle",
      }, String(entry)));
    });
    const [row, column] = places[place];
    node.append(svg("rect", {
      class: "frame", x: column * side + 1, y: row * side + 24, width: side, height: side,
    }));
    view.node.append(node);
  }

  return {
    compute,
    controls: ({ shape, stacks, unfoldings }) => [
      {
        name: "unfolding", label: "rows against columns", value: unfoldings.at(-2)[0],
        options: unfoldings,
      },
      {
        name: "place", label: "entry (place in memory)", min: 0, max: product(shape) - 1, step: 1,
        value: 8, say: (v) => String(v),
      },
      {
        name: "stack", label: "what the tasks have in common", value: Object.keys(stacks)[0],
        options: Object.keys(stacks).map((name) => [name, name]),
      },
    ],
    say: (r, _, { shape }) => [
      ["index of the entry, axes from the first to the task, from 1",
        r.index.map((i) => i + 1).join(", "), ""],
      ["its row and column", `${r.at[0] + 1}, ${r.at[1] + 1} of ${r.size[0]} × ${r.size[1]}`, ""],
      ["rank of this unfolding", `${r.rank} of at most ${Math.min(...r.size)}`, "blue"],
      ["its trace norm / the length of all", number(r.norm / Math.hypot(...r.values)), "blue"],
    ],
    draw(view, r, { place, unfolding }, { shape, unfoldings }) {
      const tasks = shape.at(-1);
      const name = Object.fromEntries(unfoldings)[unfolding];
      matrix(view, [shape[0], product(shape.slice(1))],
        range(product(shape)).map((entry) => [
          Math.floor(entry / product(shape.slice(1))), entry % product(shape.slice(1))]),
        place, tasks, `the stack as it lies in memory, in ${shape[0]} lines`);
      matrix(view, r.size, r.places, place, tasks, name);
      const on = chart(view, {
        title: "singular values", height: 170, x: [0.5, r.values.length + 0.5],
        y: [0, 1.05 * r.values[0]],
        xTicks: range(r.values.length).map((i) => i + 1), xLabel: "number", yLabel: "",
        label: `singular values of ${name}: ${r.values.map((s) => number(s)).join(", ")}`,
      });
      r.values.forEach((s, i) =>
        on.area([[i + 0.7, 0], [i + 0.7, s], [i + 1.3, s], [i + 1.3, 0]], "bar"));
    },
  };
})());
