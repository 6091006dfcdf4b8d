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

// On a phone, figures are shown in pieces, which their pictures name (mtlbook/narrow.py): each part of
// a piece is a window on the whole picture. Letters are never lower than LOWEST pixels.
const LOWEST = 9, LARGEST = 0.85;

function takeApart(image) {
  const { naturalWidth: wide, naturalHeight: high } = image;
  const least = Math.min(LOWEST / (image.dataset.letters * 96 / 72), LARGEST);
  const box = document.createElement("div");
  box.className = "pieces";
  for (const parts of JSON.parse(image.dataset.pieces)) {
    const width = parts.reduce((sum, part) => sum + part[2], 0) * wide;
    const top = Math.min(...parts.map((part) => part[1]));
    const piece = box.appendChild(document.createElement("span"));
    piece.style = `width: ${LARGEST * width}px; min-width: ${least * width}px`;
    for (const [x, y, w, h] of parts) {
      const pane = piece.appendChild(document.createElement("span"));
      pane.style = `width: ${100 * w * wide / width}%; aspect-ratio: ${w * wide} / ${h * high};`
        + `margin-top: ${100 * (y - top) * high / width}%`;
      const copy = pane.appendChild(image.cloneNode());
      copy.style = `width: ${100 / w}%; left: ${-100 * x / w}%; top: ${-100 * y / h}%`;
      if (box.querySelector("img") !== copy) copy.alt = "";  // the first one speaks for all
    }
  }
  image.classList.add("whole");
  image.after(box);
}

// What stood on the left of another comes first then, and the caption says so.
const SIDES = /\b[Oo]n the (?:left|right)\b|\b(?:Left|Middle|Right)(?=[:,])|(?<=\()(?:left|middle|right)\b/;
const ORDER = ["first", "second", "third"];

function tellInOrder(image) {
  const caption = image.closest("figure")?.querySelector("figcaption");
  const heights = JSON.parse(image.dataset.pieces).map((parts) => Math.max(...parts.map((part) => part[3])));
  // legends and titles of the whole figure are pieces, too
  const pieces = heights.filter((height) => height > 0.4 * Math.max(...heights)).length;
  if (!caption || pieces < 2 || pieces > ORDER.length) return;
  const places = { left: 0, middle: 1, right: pieces - 1 };
  const texts = document.createTreeWalker(caption, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(), found; text; text = texts.nextNode()) {
    if (!(found = SIDES.exec(text.data))) continue;
    const [side] = found, word = ORDER[places[side.toLowerCase().split(" ").at(-1)]];
    const other = side.includes(" ") ? `${side[0] === "O" ? "In" : "in"} the ${word}`
      : side[0] === side[0].toUpperCase() ? word[0].toUpperCase() + word.slice(1) : word;
    const rest = text.splitText(found.index);
    rest.data = rest.data.slice(side.length);
    for (const [name, said] of [["side-by-side", side], ["in-order", other]]) {
      const span = document.createElement("span");
      [span.className, span.textContent] = [name, said];
      rest.before(span);
    }
    texts.currentNode = rest.previousSibling.lastChild;  // what is left is the next one
  }
}

addEventListener("load", () => {
  // one list, made before there are copies
  document.querySelectorAll("img[data-pieces]").forEach((image) => {
    takeApart(image);
    tellInOrder(image);
  });
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
