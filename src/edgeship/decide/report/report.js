(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  for (const table of all("table[data-sortable]")) {
    const heads = all("thead th", table);
    heads.forEach((head, column) => {
      if (head.classList.contains("plot")) return;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent.trim();
      button.title = "Sort by this column";
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => {
          const cell = row.cells[column];
          const raw = cell.dataset.sort;
          return raw === undefined || raw === "" || isNaN(raw) ? (cell.classList.contains("num") ? NaN : cell.textContent.trim()) : Number(raw);
        };
        const order = (a, b) => {
          const x = key(a), y = key(b);
          if (typeof x === "string" || typeof y === "string") return (up ? 1 : -1) * String(x).localeCompare(String(y));
          if (isNaN(x)) return isNaN(y) ? 0 : 1;
          if (isNaN(y)) return -1;
          return up ? x - y : y - x;
        };
        table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
      });
    });
  }

  for (const box of all(".copy")) {
    if (!navigator.clipboard) break;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(box.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    box.append(button);
  }

  for (const box of all(".filtered")) {
    const panel = box.querySelector(".filters");
    if (!panel) continue;
    const choices = all("select", panel), figures = all("figure.pair", box), said = panel.querySelector("output");
    const tags = new Map(figures.map((figure) => [figure, Object.fromEntries(
      choices.map((choice) => [choice.dataset.filter, JSON.parse(figure.dataset[choice.dataset.filter] || "[]")]))]));
    const apply = () => {
      let shown = 0;
      for (const figure of figures) {
        const fits = choices.every((choice) => !choice.value || tags.get(figure)[choice.dataset.filter].includes(choice.value));
        figure.hidden = !fits;
        shown += fits;
      }
      said.textContent = shown === figures.length ? "" : `${shown} of ${figures.length} shown`;
    };
    choices.forEach((choice) => choice.addEventListener("change", apply));
    panel.hidden = false;
    addEventListener("beforeprint", () => figures.forEach((figure) => { figure.hidden = false; }));
    addEventListener("afterprint", apply);
  }

  const folds = all("details");
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = folds.filter((fold) => !fold.open);
    opened.forEach((fold) => { fold.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((fold) => { fold.open = false; }));

  const links = new Map(all(".contents a").map((link) => [link.hash.slice(1), link]));
  if (links.size && "IntersectionObserver" in window) {
    const visible = new Set();
    const observer = new IntersectionObserver((entries) => {
      for (const entry of entries) entry.isIntersecting ? visible.add(entry.target.id) : visible.delete(entry.target.id);
      const current = [...links.keys()].find((id) => visible.has(id));
      links.forEach((link, id) => id === current ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"));
    }, { rootMargin: "-10% 0px -60% 0px" });
    links.forEach((_, id) => observer.observe(document.getElementById(id)));
  }
})();
