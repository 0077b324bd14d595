/* Small additions to the theme: definitions on hover and focus, folded text opened for print. No dependency, no network. */
(() => {
  "use strict";

  // --- definitions: a link to the glossary shows its definition while the pointer or the focus is on it ---
  let tip = null, owner = null, timer = 0;

  function close() {
    clearTimeout(timer);
    if (owner) owner.removeAttribute("aria-describedby");
    if (tip) tip.hidden = true;
    owner = null;
  }

  function place() {
    const link = owner.getBoundingClientRect(), box = tip.getBoundingClientRect(), gap = 6;
    const left = Math.max(gap, Math.min(link.left, document.documentElement.clientWidth - box.width - gap));
    const below = link.bottom + gap + box.height <= window.innerHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${Math.max(gap, below ? link.bottom + gap : link.top - gap - box.height)}px`;
  }

  function open(link) {
    if (owner === link) return clearTimeout(timer);
    close();
    if (!tip) {
      tip = document.createElement("div");
      tip.id = "engram-definition";
      tip.setAttribute("role", "tooltip");
      tip.addEventListener("mouseenter", () => clearTimeout(timer));
      tip.addEventListener("mouseleave", leave);
      document.body.append(tip);
    }
    owner = link;
    tip.textContent = link.dataset.definition;
    tip.className = "mathjax_process";
    tip.hidden = false;
    link.setAttribute("aria-describedby", tip.id);
    place();
    const math = window.MathJax;
    if (tip.textContent.includes("\\(") && math && math.typesetPromise) {
      math.typesetClear([tip]);
      math.typesetPromise([tip]).then(() => owner && place());
    }
  }

  function leave() { clearTimeout(timer); timer = setTimeout(close, 150); } // time to move onto the definition

  const term = (event) => event.target.closest && event.target.closest("a.engram-term");
  document.addEventListener("mouseover", (event) => { const link = term(event); if (link) open(link); });
  document.addEventListener("mouseout", (event) => { if (term(event)) leave(); });
  document.addEventListener("focusin", (event) => { const link = term(event); if (link) open(link); else close(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
  document.addEventListener("scroll", () => {
    if (!owner) return;
    const link = owner.getBoundingClientRect();
    if (link.bottom < 0 || link.top > window.innerHeight) close(); else place();
  }, { passive: true });

  // --- what scrolls in a box of its own can be scrolled with the keyboard ---
  // Our figures and tables say so in their HTML. These boxes are made by the theme, Sphinx and MathJax: they become a tab
  // stop with a name while they overflow. The theme does that for some, without a name, and only after the window changes.
  const boxes = "pre, div.highlight, div.math, mjx-container, .output, .text_html, .pst-scrollable-table-container";
  const scrolls = (box) => {
    const style = getComputedStyle(box), free = (overflow) => overflow === "auto" || overflow === "scroll";
    return (free(style.overflowX) && box.scrollWidth > box.clientWidth + 1) ||
           (free(style.overflowY) && box.scrollHeight > box.clientHeight + 1);
  };
  const kind = (box) => box.matches("div.math, mjx-container") ? "formula" :
    box.matches(":has(> table)") ? "table" : box.closest(".cell_output") ? "output" : "code";
  function reachable() {
    const found = [...document.querySelectorAll(boxes)].map((box) => [box, scrolls(box)]); // measured before it changes
    for (const [box, yes] of found) {
      if (yes) {
        box.tabIndex = 0;
        box.setAttribute("role", "group");
        box.setAttribute("aria-label", `Scrollable ${kind(box)}`);
        box.dataset.reachable = "";
      } else if ("reachable" in box.dataset) {
        for (const name of ["tabindex", "role", "aria-label", "data-reachable"]) box.removeAttribute(name);
      }
    }
  }
  document.fonts.addEventListener("loadingdone", reachable);
  window.addEventListener("load", () => {
    // Whatever lets a line grow or a box shrink moves the text below it: the window, zoom, a font, a fold that opens.
    new ResizeObserver(reachable).observe(document.querySelector("article") || document.body);
    if (window.MathJax && window.MathJax.startup) window.MathJax.startup.promise.then(reachable);
  });

  // --- print: hints and solutions are opened, code takes its colours for white paper; folded code stays folded ---
  const root = document.documentElement;
  let opened = [], theme = "";
  window.addEventListener("beforeprint", () => {
    theme = root.dataset.theme;
    root.dataset.theme = "light";
    opened = [...document.querySelectorAll("article details:not([class]):not([open])")];
    for (const box of opened) box.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const box of opened) box.open = false;
    root.dataset.theme = theme;
  });
})();
