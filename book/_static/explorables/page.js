/* What the explorables' pages share: building elements, small images, numbers as text. */
(function () {
  "use strict";

  /** make("p", {class: "x", text: "y"}, child, ...): an element. `text` sets its text; a function is a listener. */
  function make(name, given = {}, ...children) {
    const svg = ["svg", "circle", "line", "path", "g", "text"].includes(name);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(given)) {
      if (key === "text") node.textContent = value;
      else if (typeof value === "function") node.addEventListener(key, value);
      else if (value !== false) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children);
    return node;
  }

  /** 64 shares of ink as a picture of 8 × 8, white on black. */
  function paint(canvas, pixels) {
    const context = canvas.getContext("2d"), image = context.createImageData(8, 8);
    pixels.forEach((v, i) => image.data.set([...new Array(3).fill(255 * Math.min(1, Math.max(0, v))), 255], 4 * i));
    context.putImageData(image, 0, 0);
  }

  /** Do it once before the next picture, however often it is asked for. */
  function soon(work) {
    let asked = false;
    return () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => { asked = false; work(); });
    };
  }

  const percent = (v) => `${Math.round(100 * v)}\u202f%`; // a thin space that does not break
  const minus = (v, digits = 2) => String(+v.toFixed(digits)).replace("-", "−");

  /** The figure of an explorable, once; `start` gets a box for what is alive. */
  function enliven(name, start) {
    for (const figure of document.querySelectorAll(`[data-explorable="${name}"]:not(.is-live)`)) {
      const box = make("div", { class: "touch-live" });
      figure.prepend(box);
      start(box, figure);
      figure.classList.add("is-live");
    }
  }

  globalThis.EngramPage = { make, paint, soon, percent, minus, enliven };
})();
