"use strict";

/* Pictures that a reader moves: what the six of them share. No library, nothing from elsewhere.

   A page holds <div class="explorable" data-explorable="NAME"> with its data as JSON in it, written by
   mtlbook/explorables.py. The file NAME.js calls Explorables.define(NAME, { controls, compute, say,
   draw }): compute is a pure function of the data and the settings, and tests hold it against the
   package. What stood in the box for readers without scripts is replaced. */

window.Explorables = window.Explorables || (() => {
  const known = {};
  const range = (n) => Array.from({ length: n }, (_, i) => i);

  function element(name, attributes = {}, ...children) {
    const node = attributes.svg
      ? document.createElementNS("http://www.w3.org/2000/svg", name)
      : document.createElement(name);
    for (const [key, value] of Object.entries(attributes))
      if (key !== "svg" && value !== undefined) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  const svg = (name, attributes = {}, ...children) =>
    element(name, { ...attributes, svg: true }, ...children);

  /* 0.00123 -> "1.2e−3"; a true minus. */
  function number(value, digits = 2) {
    const size = Math.abs(value);
    const small = size > 0 && (size < 0.5 * 10 ** -digits || size >= 1e6);
    const text = small ? value.toExponential(1).replace("e+", "e") : value.toFixed(digits);
    return text.replace(/-/g, "−").replace(/^−(0(\.0*)?)$/, "$1");
  }

  // ------------------------------------------------------------------------------------ controls

  /* { name, label, value } and, of a slider, min, max, step and say(value); of a choice, options. */
  function control(of, id, change) {
    const line = element("div", { class: "control" });
    if (of.options) {
      const group = element("fieldset", {}, element("legend", {}, of.label));
      const inputs = of.options.map(([value, text]) => {
        const input = element("input", { type: "radio", name: `${id}-${of.name}`, value });
        input.addEventListener("change", () => change(value));
        group.append(element("label", {}, input, ` ${text}`));
        return input;
      });
      line.append(group);
      return { line, show: (value) => inputs.forEach((i) => { i.checked = i.value === value; }) };
    }
    const say = of.say || ((value) => number(value));
    const { min, max, step } = of;
    const key = `${id}-${of.name}`;
    const input = element("input", { type: "range", id: key, min, max, step });
    input.value = of.value;
    const shown = element("output", { for: key });
    const show = (value) => {
      input.value = value;
      shown.textContent = say(Number(value));
      input.setAttribute("aria-valuetext", shown.textContent);
    };
    input.addEventListener("input", () => change(Number(input.value)));
    line.append(element("label", { for: key }, of.label), input, shown);
    return { line, show };
  }

  // -------------------------------------------------------------------------------------- charts

  /* One chart in `view`, at most `columns` side by side; its letters keep their size. */
  function chart(view, of) {
    const columns = view.width >= 270 * (of.columns || 1) ? of.columns || 1 : 1;
    const width = Math.floor((view.width - 12 * (columns - 1)) / columns);
    const height = of.height || 230;
    const edge = { left: of.left || 46, right: 12, top: of.title ? 26 : 10, bottom: 42 };
    const node = svg("svg", {
      class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": of.label,
    });
    const scale = (domain, by = (v) => v, from, to) => {
      const [low, high] = domain.map(by);
      return (value) => from + ((by(value) - low) / (high - low)) * (to - from);
    };
    const x = scale(of.x, of.xBy, edge.left, width - edge.right);
    const y = scale(of.y, of.yBy, height - edge.bottom, edge.top);
    const add = (name, attributes, ...children) => {
      const made = svg(name, attributes, ...children);
      node.append(made);
      return made;
    };
    const text = (words, attributes) => add("text", attributes, words);
    const bottom = height - edge.bottom;
    for (const tick of of.xTicks || ticks(of.x)) {
      add("line", { class: "grid", x1: x(tick), x2: x(tick), y1: edge.top, y2: bottom });
      text(plain(tick), { class: "tick", x: x(tick), y: bottom + 16, "text-anchor": "middle" });
    }
    for (const tick of of.yTicks || ticks(of.y)) {
      add("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y(tick), y2: y(tick) });
      text(plain(tick), { class: "tick", x: edge.left - 6, y: y(tick) + 4, "text-anchor": "end" });
    }
    const middle = (edge.left + width - edge.right) / 2;
    text(of.xLabel, { class: "name", x: middle, y: height - 8, "text-anchor": "middle" });
    if (of.yLabel) {
      const turned = `translate(13 ${(edge.top + bottom) / 2}) rotate(-90)`;
      text(of.yLabel, { class: "name", transform: turned, "text-anchor": "middle" });
    }
    if (of.title) text(of.title, { class: "title", x: edge.left, y: 16 });
    const inside = `clip-${view.id}-${view.charts++}`;
    add("clipPath", { id: inside }, svg("rect", {
      x: edge.left, y: edge.top, width: width - edge.right - edge.left, height: bottom - edge.top,
    }));
    view.node.append(node);
    const path = (points) =>
      points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(2)} ${y(b).toFixed(2)}`).join("");
    return {
      x, y, width, height, edge, add, text,
      line: (points, kind, more = {}) =>
        add("path", { class: `line ${kind}`, d: path(points), "clip-path": `url(#${inside})`, ...more }),
      area: (points, kind) =>
        add("path", { class: `area ${kind}`, d: `${path(points)}Z`, "clip-path": `url(#${inside})` }),
      dot: (a, b, kind, r = 4) => add("circle", { class: `dot ${kind}`, cx: x(a), cy: y(b), r }),
    };
  }

  const plain = (value) =>
    (Math.abs(value) >= 1e4 ? value.toExponential(0).replace("e+", "e") : String(value))
      .replace("-", "−");

  function ticks([low, high], wanted = 4) {
    const rough = (high - low) / wanted;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((m) => m * power >= rough);
    const first = Math.ceil(low / step);
    return range(Math.floor(high / step + 1e-9) - first + 1).map((i) =>
      Number(((first + i) * step).toPrecision(12)));
  }

  // ------------------------------------------------------------------------------- points to drag

  /* A point that pointer and arrow keys move: `move` gets new values in the chart's units. */
  function handle(view, on, of) {
    const { x, y, key, label, step = 0.05 } = of;
    const node = on.dot(x, y, "handle", 9);
    const put = (a, b) => of.move(
      Math.min(Math.max(a, of.low), of.high), Math.min(Math.max(b, of.low), of.high));
    const said = `${number(x)}, ${number(y)}`;
    for (const [name, value] of Object.entries({
      tabindex: 0, role: "slider", "data-key": key, "aria-label": label, "aria-valuetext": said,
      "aria-valuenow": x.toFixed(2), "aria-valuemin": of.low, "aria-valuemax": of.high,
    })) node.setAttribute(name, value);
    node.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
      const [a, b] = by[event.key] || [];
      if (a === undefined) return;
      event.preventDefault();
      put(x + a * step, y + b * step);
    });
    node.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      node.focus();
      const { left, top } = node.ownerSVGElement.getBoundingClientRect();
      const invert = (pixel, scale) => (pixel - scale(0)) / (scale(1) - scale(0));
      view.dragging = (e) => put(invert(e.clientX - left, on.x), invert(e.clientY - top, on.y));
    });
  }

  // --------------------------------------------------------------------------------------- a box

  function mount(box, of, id) {
    const data = JSON.parse(box.querySelector("script[type='application/json']").textContent);
    const controls = of.controls(data);
    const settings = Object.fromEntries(controls.map((c) => [c.name, c.value]));
    const start = { ...settings };
    const held = element("div", { class: "controls" });
    const figure = element("div", { class: "drawing" });
    const said = element("div", { class: "said", "aria-live": "polite" });
    const reset = element("button", { type: "button" }, "Start again");
    const view = { node: figure, id, charts: 0, width: 0, dragging: null };
    const lines = controls.filter((c) => c.label).map((c) =>
      [c, control(c, id, (value) => set({ [c.name]: value }))]);

    function set(changes) {
      Object.assign(settings, changes);
      render();
    }

    function render() {
      const focus = figure.contains(document.activeElement) && document.activeElement.dataset.key;
      view.width = Math.max(240, Math.min(figure.clientWidth || 640, 760));
      const result = of.compute(data, settings);
      box.result = result;
      figure.replaceChildren();
      view.charts = 0;
      of.draw(view, result, settings, data, set);
      said.replaceChildren(...of.say(result, settings, data).map(([name, value, kind]) =>
        element("div", { class: kind || "" }, `${name}: `, element("strong", {}, value))));
      for (const [c, { show }] of lines) show(settings[c.name]);
      if (focus) figure.querySelector(`[data-key="${focus}"]`)?.focus();
    }

    held.append(...lines.map(([, { line }]) => line), reset);
    reset.addEventListener("click", () => set(start));
    window.addEventListener("pointermove", (event) => view.dragging?.(event));
    for (const end of ["pointerup", "pointercancel"])
      window.addEventListener(end, () => { view.dragging = null; });
    box.querySelector(".still")?.remove();
    box.append(held, figure, said);
    box.settings = settings;
    new ResizeObserver(() => {
      if (Math.abs(Math.min(figure.clientWidth, 760) - view.width) > 1) render();
    }).observe(box);
    render();
  }

  function define(name, of) {
    known[name] = of;
    document.querySelectorAll(`.explorable[data-explorable=${name}]`).forEach((box, i) => {
      if (!box.settings) mount(box, of, `${name}-${i}`);
    });
  }

  return { known, define, chart, handle, number, range, svg, element };
})();
