/* The cut on a real spectrum: moves a line through the two small multiples, which stay. All numbers are recorded. */
(function () {
  "use strict";
  const { make, paint, percent, enliven } = globalThis.EngramPage, more = globalThis.ENGRAM_MORE;
  const mean = (values) => values.reduce((a, b) => a + b) / values.length;
  const power = (log) => {
    const whole = Math.floor(log), times = Math.round(10 ** (log - whole) * 10) / 10;
    return `${times === 1 ? "" : `${times} · `}10${[...String(whole)].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] || "⁻").join("")}`;
  };

  function start(box, figure) {
    figure.classList.add("touch-keeps");
    const slider = make("input", { type: "range", min: 0, max: more.cuts.length - 1, step: 1, autocomplete: "off",
      value: more.cuts.indexOf(-3), "aria-label": "the cut, rcond", input: show });
    const value = make("span", { class: "touch-number" }), result = make("p", { class: "touch-result", role: "status" });
    const [whole, part] = ["a test image", "what P⁺ keeps of it"].map((text) => {
      const canvas = make("canvas", { width: 8, height: 8, role: "img", "aria-label": text });
      return { canvas, box: make("div", {}, canvas, make("span", { text })) };
    });
    box.append(make("div", { class: "touch-set" }, make("span", { text: "the cut, rcond", "aria-hidden": "true" }), slider, value),
      result, make("div", { class: "touch-images" }, whole.box, part.box));
    const lines = [...figure.querySelectorAll("svg")].map((svg) =>
      svg.appendChild(make("line", { x1: 40, x2: 320, stroke: "currentColor", "stroke-width": 1.6, "stroke-dasharray": "6 3" })));
    const dots = figure.querySelectorAll(".touch-spectrum circle");

    function show() {
      const i = +slider.value, cut = more.cuts[i], y = more.axis[0] - cut * more.axis[1];
      for (const line of lines) for (const end of ["y1", "y2"]) line.setAttribute(end, y);
      dots.forEach((dot, k) => dot.classList.toggle("is-cut", more.spectrum[k] <= cut));
      value.textContent = power(cut);
      slider.setAttribute("aria-valuetext", power(cut));
      result.textContent = `${more.directions[i]} of 65 directions stay. The erased digit is read in ` +
        `${percent(mean(more.left[i]))} of its images, the others in ${percent(mean(more.kept[i]))} (means over ten edits).`;
      paint(part.canvas, more.parts[i]);
    }
    paint(whole.canvas, more.image);
    show();
  }

  enliven("cut", start);
})();
