/* For tests/book/test_explorables.py: `node ask.js < questions.json` prints the engine's answers, [name, arguments]
   each. `model` stands for what digits-data.js holds. */
"use strict";
const path = require("node:path");
const here = path.join(__dirname, "../../book/_static/explorables");
require(path.join(here, "digits-data.js"));
const engine = require(path.join(here, "engine.js"));
const model = engine.unpack(globalThis.ENGRAM_DIGITS);

const answers = {
  ...engine,
  images: () => model.images,
  logits: (alpha) => engine.forward(engine.edit(model.network, model.engrams, alpha), model.images).logits,
  judge: (alpha) => {
    const before = engine.readouts(engine.forward(model.network, model.images).hidden, model.labels);
    const { answers, old, fresh } = engine.judge(model, alpha, before);
    return { answers, old, fresh };
  },
  milliseconds: (times) => {
    const into = engine.edit(model.network, model.engrams, new Array(10).fill(0));
    const before = engine.readouts(engine.forward(model.network, model.images).hidden, model.labels);
    const taken = Array.from({ length: times }, (_, i) => {
      const start = performance.now();
      engine.judge(model, new Array(10).fill((i % 7) / 5), before, into);
      return performance.now() - start;
    });
    return taken.sort((a, b) => a - b)[times >> 1];
  },
};

let text = "";
process.stdin.on("data", (part) => { text += part; });
process.stdin.on("end", () => {
  const plain = (key, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value);
  console.log(JSON.stringify(JSON.parse(text).map(([name, given]) => answers[name](...given)), plain));
});
