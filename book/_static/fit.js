// A formula that is wider than its place is set smaller, down to LEAST of its size, as on a phone;
// what is wider still scrolls.
const LEAST = 0.6;

function fit() {
  const all = [...document.querySelectorAll("article mjx-container")].map((box) => {
    box.dataset.size ??= box.style.fontSize;
    box.style.fontSize = box.dataset.size;
    return { box, place: box.closest("span.math") ?? box, math: box.querySelector("mjx-math") };
  });
  const parts = all.map(({ place, math }) =>
    math && place.clientWidth ? place.clientWidth / math.getBoundingClientRect().width : 1);
  all.forEach(({ box }, i) => {
    if (parts[i] < 0.999)
      box.style.fontSize = `${parseFloat(box.dataset.size) * Math.max(LEAST, parts[i] - 0.005)}%`;
  });
}

addEventListener("load", () => {
  // printed lines break, as sentences do; columns would be lost by it, and scroll
  for (const pre of document.querySelectorAll(".cell_output pre"))
    pre.classList.toggle("columns", /\S {2,}\S/.test(pre.textContent));
  window.MathJax?.startup?.promise?.then(() => {
    fit();
    addEventListener("resize", fit);
    // what a click opens was not to be measured before
    addEventListener("toggle", fit, true);
    addEventListener("click", (event) => event.target.closest(".toggle, .toggle-button") && fit());
  });
});
