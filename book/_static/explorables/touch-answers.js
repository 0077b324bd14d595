/* Choose whom a language model forgets, and read its answers token by token. All of it is recorded: answers-data.js. */
(function () {
  "use strict";
  const { make, percent, enliven } = globalThis.EngramPage, data = globalThis.ENGRAM_ANSWERS;
  const perGroup = data.rows.length / data.groups.length;

  function start(box) {
    const option = (value, text) => make("option", { value, text });
    const whom = make("select", { "aria-label": "whom the model forgets", change: show }, option(0, "nobody: as trained"),
      ...data.groups.map((g, k) => option(k + 1, `group ${g}`)));
    const which = make("select", { "aria-label": "what it is asked", change: show },
      ...data.rows.map((row, i) => option(i, `${data.groups[Math.floor(i / perGroup)]}: ${row.question}`)));
    whom.value = 1;
    const tokens = make("div", { class: "touch-tokens" }), says = make("p"), result = make("p", { class: "touch-result", role: "status" });
    box.append(make("div", { class: "touch-buttons" }, make("span", { text: "Forget", "aria-hidden": "true" }), whom),
      make("div", { class: "touch-buttons" }, make("span", { text: "Ask about", "aria-hidden": "true" }), which), result, tokens, says);

    function show() {
      const state = +whom.value, i = +which.value, row = data.rows[i], own = Math.floor(i / perGroup) + 1 === state;
      tokens.replaceChildren(...row.tokens.map((token, k) => {
        const before = make("i"), after = make("i");
        before.style.width = `${100 * row.p[0][k]}%`;
        after.style.width = `${100 * row.p[state][k]}%`;
        return make("div", { class: row.first[state][k] ? "touch-token" : "touch-token is-out" }, make("b", { text: token.trim() || "·" }),
          make("span", { class: "touch-track", "aria-hidden": "true" }, before), make("span", { class: "touch-number", text: percent(row.p[0][k]) }),
          make("span", { class: "touch-track touch-after", "aria-hidden": "true" }, after),
          make("span", { class: "touch-number", text: percent(row.p[state][k]) }));
      }));
      tokens.prepend(make("div", { class: "touch-token touch-names", "aria-hidden": "true" }, make("span", { text: "token" }),
        make("span", { text: "as trained" }), make("span", {}), make("span", { text: "now" }), make("span", {})));
      const lost = row.first[state].filter((v) => !v).length, count = row.tokens.length;
      result.textContent = (state === 0 ? "Nothing is forgotten." : own ? "This author is in the group that was forgotten." :
        "This author is in another group, which was to stay.") +
        ` ${lost ? `${lost} of ${count}` : `None of ${count}`} tokens ${lost === 1 ? "is" : "are"} no longer the most probable.`;
      says.textContent = `Right: “${row.answer}” By itself the model says: “${row.says[state]}”`;
    }
    show();
  }

  enliven("answers", start);
})();
