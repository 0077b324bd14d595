/* Two clouds in the plane: drag them, turn one, choose λ and α, and see what the edit leaves of each. */
(function () {
  "use strict";
  const engine = globalThis.EngramEngine, { make, soon, percent, minus, enliven } = globalThis.EngramPage;
  const more = globalThis.ENGRAM_MORE, WIDTH = 320, UNIT = 56, COLOURS = ["#d55e00", "#0072b2"], NAMES = ["orange", "blue"];
  const across = (v) => WIDTH / 2 + UNIT * v, down = (v) => WIDTH / 2 - UNIT * v;

  function plane(label) {
    const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${WIDTH}`, role: "group", "aria-label": label });
    svg.append(make("path", { d: `M0 ${WIDTH / 2}H${WIDTH}M${WIDTH / 2} 0V${WIDTH}`, stroke: "currentColor", "stroke-opacity": 0.35 }));
    const dots = more.clouds.map((cloud, k) => cloud.map(() => svg.appendChild(make("circle", { r: 3, fill: COLOURS[k] }))));
    return { svg, put: (clouds) => clouds.forEach((cloud, k) => cloud.forEach(([x, y], i) => {
      dots[k][i].setAttribute("cx", across(x));
      dots[k][i].setAttribute("cy", down(y));
    })) };
  }

  function start(box) {
    const fresh = () => more.places.map((place) => ({ ...place, middle: [...place.middle] }));
    let places = fresh();
    const inputs = plane("The two clouds as the layer sees them"), answers = plane("The answers of the layer after the edit");
    const show = soon(update), result = make("p", { class: "touch-result", role: "status" });

    const sets = {};
    const set = (name, text, min, max, step, value, say) => {
      const out = make("span", { class: "touch-number" });
      const slider = make("input", { type: "range", min, max, step, value, autocomplete: "off", "aria-label": text, input: show });
      sets[name] = { slider, out, say, value };
      return make("div", { class: "touch-set" }, make("span", { text, "aria-hidden": "true" }), slider, out);
    };
    const lambda = (v) => (v < 0 ? minus(10 ** v, 2) : minus(10 ** v, 1));
    const handles = places.map((_, k) => {
      const handle = make("circle", { r: 13, class: "touch-handle", fill: COLOURS[k], "fill-opacity": 0.25, stroke: COLOURS[k],
        "stroke-width": 2, tabindex: 0, role: "button", "aria-roledescription": "handle" });
      const move = (x, y) => {
        places[k].middle = [x, y].map((v) => Math.max(-2, Math.min(2, v)));
        show();
      };
      handle.addEventListener("pointerdown", (event) => { handle.setPointerCapture(event.pointerId); event.preventDefault(); handle.focus(); });
      handle.addEventListener("pointermove", (event) => {
        if (!handle.hasPointerCapture(event.pointerId)) return;
        const frame = inputs.svg.getBoundingClientRect(), scale = WIDTH / frame.width;
        move(((event.clientX - frame.left) * scale - WIDTH / 2) / UNIT, (WIDTH / 2 - (event.clientY - frame.top) * scale) / UNIT);
      });
      handle.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
        if (!step) return;
        event.preventDefault();
        move(places[k].middle[0] + step[0], places[k].middle[1] + step[1]);
      });
      inputs.svg.append(handle);
      return handle;
    });
    box.append(
      set("angle", "angle of the orange cloud", -90, 90, 1, places[0].angle, (v) => `${minus(v, 0)}°`),
      set("lambda", "λ, how much blue counts", -2, 2, 0.1, 0, lambda),
      set("alpha", "α, how much is taken", -1, 2, 0.05, 1, (v) => minus(v)),
      result,
      make("div", { class: "touch-planes" },
        make("div", {}, make("p", { text: "What the layer sees: drag a cloud, or move its ring with the arrow keys." }), inputs.svg),
        make("div", {}, make("p", { text: "Its answers without α times the engram of orange." }), answers.svg)),
      make("div", { class: "touch-buttons" }, make("button", { type: "button", text: "Reset", click: () => {
        places = fresh();
        for (const { slider, value } of Object.values(sets)) slider.value = value;
        show();
      } })));

    function update() {
      for (const { slider, out, say } of Object.values(sets)) {
        out.textContent = say(+slider.value);
        slider.setAttribute("aria-valuetext", out.textContent);
      }
      places[0].angle = +sets.angle.slider.value;
      const clouds = more.clouds.map((points, k) => engine.placed(points, places[k]));
      const p = engine.projection(engine.moment(clouds[0]), engine.moment(clouds[1]), 10 ** +sets.lambda.slider.value);
      const left = clouds.map((cloud) => engine.without(cloud, p, +sets.alpha.slider.value));
      inputs.put(clouds);
      answers.put(left);
      handles.forEach((handle, k) => {
        const [x, y] = places[k].middle;
        handle.setAttribute("cx", across(x));
        handle.setAttribute("cy", down(y));
        handle.setAttribute("aria-label", `Middle of the ${NAMES[k]} cloud, at ${minus(x, 1)}, ${minus(y, 1)}. Arrow keys move it.`);
      });
      const [one, two] = clouds.map((cloud, k) => engine.loudness(left[k]) / engine.loudness(cloud));
      const row = (v) => v.map((n) => minus(n)).join("  ");
      result.textContent = `The answers to orange are ${percent(one)} as long as they were, to blue ${percent(two)}. ` +
        `P⁺ = [${row(p[0])} ; ${row(p[1])}].`;
    }
    update();
  }

  enliven("clouds", start);
})();
