// Zoom, search and keyboard of flame graphs; without it they are still drawn.
"use strict";
for (const box of document.querySelectorAll(".flames")) {
  const graphs = [...box.querySelectorAll(".flame")];
  const select = box.querySelector("select");
  const search = box.querySelector("input");
  const found = box.querySelector("output");
  const reset = box.querySelector("button.reset");
  const number = (frame, name) => Number(frame.dataset[name]);
  const shown = () => graphs.find(graph => !graph.hidden);

  function zoom(graph, target) {
    const x0 = target ? number(target, "x") : 0;
    const w0 = target ? number(target, "w") : 100;
    const level = target ? number(target, "l") : 0;
    for (const frame of graph.children) {
      const x = number(frame, "x"), w = number(frame, "w"), l = number(frame, "l");
      const above = l < level && x <= x0 + 1e-6 && x + w >= x0 + w0 - 1e-6;
      const inside = l >= level && x >= x0 - 1e-6 && x + w <= x0 + w0 + 1e-6;
      frame.hidden = !(above || inside);
      frame.classList.toggle("above", above && target !== null);
      frame.style.left = (above ? 0 : 100 * (x - x0) / w0) + "%";
      frame.style.width = (above ? 100 : 100 * w / w0) + "%";
    }
  }

  function mark() {
    const text = search.value.trim().toLowerCase();
    for (const graph of graphs) {
      let share = 0, until = -1;
      const matches = [];
      for (const frame of graph.children) {
        const matched = text !== "" && frame.textContent.toLowerCase().includes(text);
        frame.classList.toggle("match", matched);
        if (matched) matches.push(frame);
      }
      // what is inside another match is counted with it
      matches.sort((a, b) => number(a, "x") - number(b, "x") || number(a, "l") - number(b, "l"));
      for (const frame of matches) {
        if (number(frame, "x") >= until - 1e-6) {
          share += number(frame, "w");
          until = number(frame, "x") + number(frame, "w");
        }
      }
      if (!graph.hidden) found.value = text ? `${matches.length} frames, ${share.toFixed(1)} %` : "";
    }
  }

  function neighbour(graph, frame, key) {
    const x = number(frame, "x"), w = number(frame, "w"), l = number(frame, "l");
    const others = [...graph.children].filter(one => !one.hidden);
    const at = (one, name) => number(one, name);
    if (key === "ArrowUp") return others.find(one => at(one, "l") === l - 1 && at(one, "x") <= x + 1e-6 && at(one, "x") + at(one, "w") >= x + w - 1e-6);
    if (key === "ArrowDown") return others.filter(one => at(one, "l") === l + 1 && at(one, "x") >= x - 1e-6 && at(one, "x") < x + w).sort((a, b) => at(b, "w") - at(a, "w"))[0];
    const row = others.filter(one => at(one, "l") === l).sort((a, b) => at(a, "x") - at(b, "x"));
    return row[row.indexOf(frame) + (key === "ArrowRight" ? 1 : -1)];
  }

  for (const graph of graphs) {
    graph.addEventListener("click", event => {
      const frame = event.target.closest("button");
      if (frame) zoom(graph, number(frame, "l") === 0 ? null : frame);
    });
    graph.addEventListener("keydown", event => {
      const frame = event.target.closest("button");
      if (event.key === "Escape") zoom(graph, null);
      if (!frame || !event.key.startsWith("Arrow")) return;
      const next = neighbour(graph, frame, event.key);
      event.preventDefault();
      if (!next) return;
      frame.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }
  if (select) select.addEventListener("change", () => {
    graphs.forEach((graph, index) => { graph.hidden = index !== Number(select.value); });
    mark();
  });
  search.addEventListener("input", mark);
  reset.addEventListener("click", () => { search.value = ""; mark(); zoom(shown(), null); });
}
