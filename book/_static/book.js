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
  const boxes = "mjx-container, div.math, .output, .text_html, .engram-panel, .engram-table-box, .pst-scrollable-table-container";
  function reachable() {
    for (const box of document.querySelectorAll(boxes)) {
      const scrolls = box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX !== "visible";
      if (scrolls && !box.hasAttribute("tabindex")) {
        box.tabIndex = 0;
        box.dataset.reachable = "";
      } else if (!scrolls && "reachable" in box.dataset) {
        box.removeAttribute("tabindex");
        delete box.dataset.reachable;
      }
    }
  }
  let soon = 0;
  const later = () => { clearTimeout(soon); soon = setTimeout(reachable, 100); };
  window.addEventListener("load", () => {
    reachable();
    if (window.MathJax && window.MathJax.startup) window.MathJax.startup.promise.then(reachable);
  });
  window.addEventListener("resize", later);
  document.addEventListener("toggle", later, true); // what was folded has a size now

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
