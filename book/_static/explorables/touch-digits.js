/* Draw a digit, slide ten engrams: the page. What it computes is in engine.js. */
(function () {
  "use strict";
  const engine = globalThis.EngramEngine, { make, paint, soon, percent, minus, enliven } = globalThis.EngramPage;
  const SIZE = 224, DIGITS = [...Array(10).keys()];
  const STATES = [[-1, "doubled"], [-0.05, "strengthened"], [0.05, "as trained"], [0.95, "weakened"], [1.05, "erased"],
    [2, "turned round"]];
  const state = (a) => (a === -1 ? STATES[0] : a <= -0.05 ? STATES[1] : STATES.slice(2).find(([to]) => a < to) || STATES[5])[1];

  function start(box) {
    const model = engine.unpack(globalThis.ENGRAM_DIGITS), count = model.labels.length;
    const before = engine.readouts(engine.forward(model.network, model.images).hidden, model.labels);
    const into = engine.edit(model.network, model.engrams, new Array(10).fill(0));
    const alpha = new Array(10).fill(0);
    let strokes = [], drawing = null, x = null, shown = null;

    // --- what is drawn or taken ---
    const pad = make("canvas", { class: "touch-pad", width: 2 * SIZE, height: 2 * SIZE, role: "img",
      "aria-label": "Field to draw a digit with mouse, pen or finger. With the keyboard, take a test image below." });
    const eight = make("canvas", { class: "touch-eight", width: 8, height: 8, role: "img", "aria-label": "What the network sees: 8 by 8 pixels" });
    const says = make("output", { "aria-live": "polite" });
    const kind = make("select", { "aria-label": "which digit the test image shows", change: () => take(1) },
      make("option", { value: "", text: "any digit" }), ...DIGITS.map((d) => make("option", { value: d, text: `a ${d}` })));
    const draw = make("div", { class: "touch-draw" }, make("p", { class: "touch-hint", text: "Draw here, or take a test image." }), pad,
      make("div", { class: "touch-buttons" }, make("button", { type: "button", text: "Clear", click: clear }),
        make("button", { type: "button", text: "Test image", click: () => take(1) }), kind),
      make("div", { class: "touch-says" }, eight, says));

    const pen = pad.getContext("2d");
    pen.lineCap = pen.lineJoin = "round";
    const place = (event) => {
      const frame = pad.getBoundingClientRect();
      return [(event.clientX - frame.left) * SIZE / frame.width, (event.clientY - frame.top) * SIZE / frame.height];
    };
    function ink() {
      pen.setTransform(2, 0, 0, 2, 0, 0);
      pen.fillStyle = "#000";
      pen.fillRect(0, 0, SIZE, SIZE);
      pen.strokeStyle = "#fff";
      pen.lineWidth = 22;
      for (const stroke of strokes) {
        pen.beginPath();
        pen.moveTo(...stroke[0]);
        for (const point of stroke.length > 1 ? stroke.slice(1) : stroke) pen.lineTo(...point);
        pen.stroke();
      }
    }
    const look = soon(() => { ink(); x = strokes.length ? engine.see(strokes) : null; answer(); });
    pad.addEventListener("pointerdown", (event) => {
      if (shown !== null) { shown = null; strokes = []; }
      pad.setPointerCapture(event.pointerId);
      strokes.push(drawing = [place(event)]);
      look();
      event.preventDefault();
    });
    pad.addEventListener("pointermove", (event) => {
      if (!drawing) return;
      for (const one of event.getCoalescedEvents?.() || [event]) drawing.push(place(one));
      look();
    });
    for (const end of ["pointerup", "pointercancel"]) pad.addEventListener(end, () => { drawing = null; });

    function clear() {
      shown = null;
      strokes = [];
      look();
    }
    /** The next test image, of the digit that is chosen. */
    function take(step) {
      let i = shown === null ? -1 : shown;
      for (let tries = 0; tries < count; tries++) {
        i = (i + step + count) % count;
        if (kind.value === "" || model.labels[i] === +kind.value) break;
      }
      shown = i;
      strokes = [];
      x = model.images.slice(64 * i, 64 * i + 64);
      const small = document.createElement("canvas");
      small.width = small.height = 8;
      paint(small, x);
      pen.setTransform(2, 0, 0, 2, 0, 0);
      pen.imageSmoothingEnabled = false;
      pen.drawImage(small, 0, 0, SIZE, SIZE);
      answer();
    }

    // --- ten sliders, each with two bars ---
    const rows = DIGITS.map((d) => {
      const slider = make("input", { type: "range", min: -1, max: 2, step: 0.05, value: 0, autocomplete: "off",
        "aria-label": `α of the ${d}: how much of its engram is subtracted`, input: () => { alpha[d] = +slider.value; all(); } });
      const value = make("span", { class: "touch-number", text: "0" }), now = make("i"), right = make("i");
      const tick = make("em"), share = make("span");
      const row = make("div", { class: "touch-row" }, make("b", { text: d, "aria-hidden": "true" }), slider, value,
        make("span", { class: "touch-track", "aria-hidden": "true" }, now),
        make("span", { class: "touch-acc" }, make("span", { class: "touch-track", "aria-hidden": "true" }, right, tick), share));
      return { row, slider, value, now, right, tick, share };
    });
    const preset = (text, of) => make("button", { type: "button", text, click: () => { set(DIGITS.map(of)); } });
    const erase = make("button", { type: "button", click: () => { set(DIGITS.map((d) => +(d === reads))); } });
    const buttons = make("div", { class: "touch-buttons", role: "group", "aria-label": "Settings of the ten sliders" },
      erase, preset("Erase 3, 5, 8", (d) => +[3, 5, 8].includes(d)), preset("Only 7 stays", (d) => +(d !== 7)),
      preset("Double the 8", (d) => -(d === 8)), preset("Reset", () => 0));
    const lines = ["its own answers", "a readout fitted before", "a readout fitted now"].map((name) => {
      const bar = make("i"), value = make("span", { class: "touch-number" });
      const line = make("div", { class: "touch-line" }, make("span", { text: name }),
        make("span", { class: "touch-track", "aria-hidden": "true" }, bar), value);
      return { line, bar, value };
    });
    const about = make("p");
    const meter = make("div", { class: "touch-meter", role: "group", "aria-label": "Probe meter" }, about, ...lines.map((l) => l.line),
      make("p", { class: "touch-hint", text: "First bar short, third bar long: the answer is gone, and what it was made of is not." }));
    const head = make("div", { class: "touch-row touch-head", "aria-hidden": "true" }, make("span", { text: "α, taken out" }),
      make("span", { text: "answer now" }), make("span", { text: "test images read" }));
    const sliders = make("div", { class: "touch-sliders" }, head, ...rows.map((r) => r.row), buttons, meter);
    box.append(make("div", { class: "touch-columns" }, draw, sliders));

    // --- what follows from them ---
    let reads = 7, judged = null;
    function set(values) {
      values.forEach((v, d) => { alpha[d] = v; rows[d].slider.value = v; });
      all();
    }
    const all = soon(() => {
      judged = engine.judge(model, alpha, before, into);
      rows.forEach((r, d) => {
        r.value.textContent = minus(alpha[d]);
        r.slider.setAttribute("aria-valuetext", `${minus(alpha[d])}, ${state(alpha[d])}; ${percent(judged.answers[d])} of the ${d}s read`);
        r.row.classList.toggle("is-out", alpha[d] >= 0.5);
        r.right.style.width = `${100 * judged.answers[d]}%`;
        r.tick.style.left = `${100 * judged.fresh[d]}%`;
        r.share.textContent = percent(judged.answers[d]);
      });
      const out = DIGITS.filter((d) => alpha[d] >= 0.5), among = out.length ? out : DIGITS;
      about.textContent = out.length ? `Of the ${out.length > 1 ? "digits" : "digit"} taken out (${out.join(", ")}), found by:` :
        "Of all ten digits, found by:";
      lines.forEach(({ bar, value }, i) => {
        const found = [judged.answers, judged.old, judged.fresh][i];
        const mean = among.reduce((sum, d) => sum + found[d], 0) / among.length;
        bar.style.width = `${100 * mean}%`;
        value.textContent = percent(mean);
      });
      answer();
    });
    function answer() {
      erase.textContent = `Erase the ${reads}`;
      if (!judged) return;
      if (!x) {
        eight.getContext("2d").clearRect(0, 0, 8, 8);
        rows.forEach((r) => { r.now.style.width = "0"; });
        says.replaceChildren(make("p", { text: "Draw a digit in the field." }));
        return;
      }
      paint(eight, Array.from(x));
      const trained = engine.forward(model.network, x), edited = engine.forward(judged.network, x);
      const p = engine.softmax(edited.logits), now = engine.largest(edited.logits);
      const probe = engine.largest(engine.score(judged.fitted, edited.hidden, 1, true));
      reads = engine.largest(trained.logits);
      erase.textContent = `Erase the ${reads}`;
      rows.forEach((r, d) => { r.now.style.width = `${100 * p[d]}%`; });
      const lines = [make("strong", { text: `It reads ${now}` }), ` (${percent(p[now])}).`];
      const rest = alpha.some((a) => a) ? `As trained: ${reads}. A new readout: ${probe}.` :
        shown === null ? "Now take that digit out." : `A test image of a ${model.labels[shown]}.`;
      says.replaceChildren(make("p", {}, ...lines), make("p", { text: rest }));
    }

    kind.value = "7";
    take(1);
    kind.value = "";
    all();
  }

  enliven("digits", start);
})();
