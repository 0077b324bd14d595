/* Two engrams at once: a point on the plane of α of the 4 and α of the 9 is a network; drag it, or use the arrow keys. */
(function () {
  "use strict";
  const engine = globalThis.EngramEngine, { make, soon, percent, minus, enliven } = globalThis.EngramPage;
  const PAIR = [4, 9], LOW = -1, HIGH = 3, SIZE = 320, EDGE = 30, DIGITS = [...Array(10).keys()];
  const unit = (SIZE - 2 * EDGE) / (HIGH - LOW);
  const across = (a) => EDGE + unit * (a - LOW), down = (a) => SIZE - EDGE - unit * (a - LOW);
  const within = (a) => Math.max(LOW, Math.min(HIGH, Math.round(a * 20) / 20));

  function start(box) {
    const model = engine.unpack(globalThis.ENGRAM_DIGITS), alpha = new Array(10).fill(0);
    const into = engine.edit(model.network, model.engrams, alpha), show = soon(update);
    let at = [0, 0];

    const plane = make("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, role: "group", "aria-label": "The plane of two strengths" });
    const line = (d, width) => plane.append(make("path", { d, fill: "none", stroke: "currentColor", "stroke-opacity": 0.5, "stroke-width": width }));
    for (const a of [-1, 0, 1, 2, 3]) {
      line(`M${across(a)} ${down(LOW)}V${down(HIGH)}M${across(LOW)} ${down(a)}H${across(HIGH)}`, 0.4);
      plane.append(make("text", { x: across(a), y: SIZE - 12, "text-anchor": "middle", fill: "currentColor", "font-size": 11, text: minus(a) }),
        make("text", { x: EDGE - 6, y: down(a) + 4, "text-anchor": "end", fill: "currentColor", "font-size": 11, text: minus(a) }));
    }
    line(`M${across(0)} ${down(0)}H${across(1)}V${down(1)}H${across(0)}Z`, 2);
    const handle = make("circle", { r: 12, class: "touch-handle", fill: "#d55e00", "fill-opacity": 0.35, stroke: "#d55e00",
      "stroke-width": 2, tabindex: 0, role: "button", "aria-roledescription": "handle" });
    const move = (a, b) => { at = [within(a), within(b)]; show(); };
    const point = (event) => {
      const frame = plane.getBoundingClientRect(), scale = SIZE / frame.width;
      move(((event.clientX - frame.left) * scale - EDGE) / unit + LOW, (SIZE - EDGE - (event.clientY - frame.top) * scale) / unit + LOW);
    };
    handle.addEventListener("pointerdown", (event) => { handle.setPointerCapture(event.pointerId); event.preventDefault(); handle.focus(); });
    handle.addEventListener("pointermove", (event) => { if (handle.hasPointerCapture(event.pointerId)) point(event); });
    handle.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-0.25, 0], ArrowRight: [0.25, 0], ArrowUp: [0, 0.25], ArrowDown: [0, -0.25] }[event.key];
      if (!step) return;
      event.preventDefault();
      move(at[0] + step[0], at[1] + step[1]);
    });
    plane.append(handle);

    const rows = DIGITS.map((d) => {
      const bar = make("i"), share = make("span", { class: "touch-number" });
      const row = make("div", { class: PAIR.includes(d) ? "touch-bar is-out" : "touch-bar" }, make("b", { text: d }),
        make("span", { class: "touch-track", "aria-hidden": "true" }, bar), share);
      return { row, bar, share };
    });
    const result = make("p", { class: "touch-result", role: "status" });
    const corner = (text, a, b) => make("button", { type: "button", text, click: () => move(a, b) });
    box.append(
      make("div", { class: "touch-buttons", role: "group", "aria-label": "Corners of the plane" }, corner("As trained", 0, 0),
        corner("Without the 4", 1, 0), corner("Without the 9", 0, 1), corner("Without both", 1, 1), corner("Both at 3", 3, 3)),
      result,
      make("div", { class: "touch-planes" },
        make("div", {}, make("p", { text: "α of the 4 to the right, α of the 9 up: drag the point, or move it with the arrow keys." }), plane),
        make("div", {}, make("p", { text: "Test images read there, digit by digit." }), ...rows.map((r) => r.row))));

    function update() {
      PAIR.forEach((d, k) => { alpha[d] = at[k]; });
      const read = engine.byDigit(engine.forward(engine.edit(model.network, model.engrams, alpha, into), model.images).logits, model.labels);
      read.forEach((v, d) => {
        rows[d].bar.style.width = `${100 * v}%`;
        rows[d].share.textContent = percent(v);
      });
      handle.setAttribute("cx", across(at[0]));
      handle.setAttribute("cy", down(at[1]));
      handle.setAttribute("aria-label", `α of the 4 ${minus(at[0])}, α of the 9 ${minus(at[1])}. Arrow keys move it.`);
      const others = DIGITS.filter((d) => !PAIR.includes(d)).reduce((sum, d) => sum + read[d], 0) / 8;
      result.textContent = `α of the 4 is ${minus(at[0])}, of the 9 ${minus(at[1])}. The 4 is read in ${percent(read[4])} of its images, ` +
        `the 9 in ${percent(read[9])}, the other eight in ${percent(others)}.`;
    }
    update();
  }

  enliven("plane", start);
})();
