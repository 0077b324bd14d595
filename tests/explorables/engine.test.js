/* node --test tests/explorables; tests/book/test_explorables.py runs it with the other tests. */
"use strict";
const test = require("node:test");
const assert = require("node:assert/strict");
const path = require("node:path");
const here = path.join(__dirname, "../../book/_static/explorables");
require(path.join(here, "digits-data.js"));
require(path.join(here, "more-data.js"));
const engine = require(path.join(here, "engine.js"));

const model = engine.unpack(globalThis.ENGRAM_DIGITS), more = globalThis.ENGRAM_MORE;
const none = new Array(10).fill(0), only = (c, a = 1) => none.map((_, i) => (i === c ? a : 0));
const before = engine.readouts(engine.forward(model.network, model.images).hidden, model.labels);
const mean = (values) => values.reduce((a, b) => a + b) / values.length;
const near = (a, b, within = 1e-9) => assert.ok(Math.abs(a - b) <= within, `${a} is not ${b}`);

test("the file holds a network, ten engrams and 500 images", () => {
  assert.deepEqual(model.network.map(({ rows, cols }) => [rows, cols]), [[64, 65], [64, 65], [10, 65]]);
  assert.equal(model.engrams.length, 10);
  assert.equal(model.images.length, 500 * 64);
  assert.ok(model.images.every((v) => v >= 0 && v <= 1));
  assert.deepEqual([...new Set(model.labels)].sort((a, b) => a - b), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
});

test("93 characters stand for 0 to 92", () => {
  const codes = Array.from({ length: 95 }, (_, i) => 32 + i).filter((c) => c !== 34 && c !== 92);
  assert.deepEqual(codes.map(engine.number), codes.map((_, i) => i));
});

test("α = 0 leaves every weight as it was, and an edit can be taken back", () => {
  engine.edit(model.network, model.engrams, none).forEach((layer, l) => assert.deepEqual(layer.w, model.network[l].w));
  const into = engine.edit(model.network, model.engrams, only(7, 2));
  assert.notDeepEqual(into[0].w, model.network[0].w);
  engine.edit(model.network, model.engrams, none, into);
  into.forEach((layer, l) => assert.deepEqual(layer.w, model.network[l].w));
});

test("edits add up", () => {
  const both = engine.edit(model.network, model.engrams, none.map((_, c) => (c === 3 ? 0.5 : c === 8 ? -1 : 0)));
  const one = engine.edit(engine.edit(model.network, model.engrams, only(3, 0.5)), model.engrams, only(8, -1));
  both.forEach((layer, l) => layer.w.forEach((v, i) => near(v, one[l].w[i])));
});

test("every engram erases its digit, spares the others, and a new readout still finds it", () => {
  const base = engine.judge(model, none, before);
  assert.ok(mean(base.answers) > 0.96);
  for (let c = 0; c < 10; c++) {
    const found = engine.judge(model, only(c), before), others = found.answers.filter((_, i) => i !== c);
    assert.ok(found.answers[c] < 0.1, `the ${c}: ${found.answers[c]} is left`);
    assert.ok(mean(others) > 0.9, `without the ${c} the others fall to ${mean(others)}`);
    assert.ok(found.fresh[c] > 0.85, `a new readout finds ${found.fresh[c]} of the ${c}s`);
  }
});

test("without all ten engrams nothing is read, and nothing breaks", () => {
  for (const a of [-1, 1, 2]) {
    const found = engine.judge(model, new Array(10).fill(a), before);
    for (const values of [found.answers, found.old, found.fresh]) assert.ok(values.every((v) => v >= 0 && v <= 1));
  }
});

test("softmax is a distribution, also of huge logits", () => {
  near(engine.softmax([1e4, 1e4 - 1, 0]).reduce((a, b) => a + b), 1);
  near(engine.softmax([0, 0])[0], 0.5);
});

test("accuracy counts each digit, the first of equal scores wins", () => {
  const labels = Uint8Array.from({ length: 10 }, (_, i) => i);
  assert.deepEqual(engine.byDigit(new Float64Array(100), labels), [1, ...new Array(9).fill(0)]);
  const scores = new Float64Array(100);
  for (let i = 0; i < 10; i++) scores[11 * i] = 1;
  assert.deepEqual(engine.byDigit(scores, labels), new Array(10).fill(1));
});

test("solve solves", () => {
  const x = engine.solve(Float64Array.of(4, 1, 1, 3), Float64Array.of(1, 2), 2, 1);
  near(x[0], 1 / 11);
  near(x[1], 7 / 11);
});

test("readouts of shuffled labels find nothing", () => {
  const shuffled = model.labels.map((_, i) => model.labels[(i + 137) % 500]);
  const { hidden } = engine.forward(model.network, model.images);
  const found = engine.byDigit(engine.score(engine.readouts(hidden, shuffled), hidden, 500), shuffled);
  assert.ok(mean(found) < 0.2, `${mean(found)}`);
});

test("a drawing: size and place do not matter, a dot is a disc, nothing is nothing", () => {
  const seven = [[[0, 0], [6, 0], [2, 10]]], moved = seven.map((s) => s.map(([x, y]) => [40 + 3 * x, 7 + 3 * y]));
  engine.see(seven).forEach((v, i) => near(v, engine.see(moved)[i], 1e-12));
  assert.ok(engine.see([]).every((v) => v === 0) && engine.see([[]]).every((v) => v === 0));
  const dot = engine.see([[[5, 5]]]);
  near(dot.reduce((a, b) => a + b), Math.PI * 2.1 ** 2 / 16, 0.15);
  const wide = engine.see([[[0, 0], [100, 1]]]);
  assert.ok(wide.slice(0, 16).every((v) => v === 0), "a flat line stands in the middle");
});

test("a seven without a bar is a seven, with one too, and its engram takes both", () => {
  const plain = [[[0, 0], [6, 0], [2, 10]]], crossed = [...plain, [[1.5, 5], [6, 5]]];
  for (const drawing of [plain, crossed]) {
    const x = engine.see(drawing), says = (alpha) =>
      engine.largest(engine.forward(engine.edit(model.network, model.engrams, alpha), x).logits);
    assert.equal(says(none), 7);
    assert.notEqual(says(only(7)), 7);
    assert.equal(says(only(2)), 7);
  }
});

test("P⁺ of two clouds: all of a cloud alone, half of a twin, λ shares, scale does not matter", () => {
  const [one, two] = more.clouds.map((points, k) => engine.placed(points, more.places[k]));
  const [plus, minus] = [engine.moment(one), engine.moment(two)];
  const alone = engine.projection(plus, [0, 0, 0], 1), twin = engine.projection(plus, plus, 3);
  for (const [p, value] of [[alone, 1], [twin, 0.25]]) {
    [[0, 0], [0, 1], [1, 0], [1, 1]].forEach(([i, j]) => near(p[i][j], i === j ? value : 0));
  }
  const small = engine.projection(plus.map((v) => v / 1e6), minus.map((v) => v / 1e6), 2);
  engine.projection(plus, minus, 2).flat().forEach((v, i) => near(v, small.flat()[i]));
  const line = engine.projection([1, 0, 0], [0, 0, 0], 1); // one direction only: the other is cut, not divided by
  assert.deepEqual(line, [[1, 0], [0, 0]]);
});

test("erasing takes the target's length and leaves most of the other's", () => {
  const [one, two] = more.clouds.map((points, k) => engine.placed(points, more.places[k]));
  const p = engine.projection(engine.moment(one), engine.moment(two), 1);
  const left = [one, two].map((cloud) => engine.loudness(engine.without(cloud, p, 1)) / engine.loudness(cloud));
  assert.ok(left[0] < 0.5 && left[1] > 0.7, `${left}`);
  near(engine.loudness(engine.without(one, p, 0)), engine.loudness(one));
});

test("every cut is recorded with all its numbers", () => {
  assert.equal(more.spectrum.length, 65);
  for (const name of ["left", "kept", "parts", "directions"]) assert.equal(more[name].length, more.cuts.length, name);
  more.cuts.forEach((cut, i) => assert.equal(more.directions[i], more.spectrum.filter((v) => v > cut).length));
});

test("two engrams at once: each takes its own digit, wherever the other stands", () => {
  const read = (four, nine) => engine.byDigit(engine.forward(engine.edit(model.network, model.engrams,
    none.map((_, c) => (c === 4 ? four : c === 9 ? nine : 0))), model.images).logits, model.labels);
  for (const other of [0, 0.5, 1]) {
    assert.ok(read(1, other)[4] < 0.15 && read(0, other)[4] > 0.85, `the 4 at ${other} of the 9`);
    assert.ok(read(other, 1)[9] < 0.15 && read(other, 0)[9] > 0.75, `the 9 at ${other} of the 4`);
  }
});
