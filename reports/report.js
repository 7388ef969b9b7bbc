// Draws the charts in the colours of the page, and again when those change.
"use strict";
(() => {
  const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const charts = [...document.querySelectorAll(".chart")].map(div => [div, JSON.parse(document.getElementById(div.id + "-data").textContent)]);

  function draw() {
    const narrow = window.innerWidth < 600;
    for (const [div, figure] of charts) {
      const layout = {
        ...figure.layout,
        height: Number(div.dataset.height),
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: color("--text"), family: "system-ui, sans-serif", size: narrow ? 10 : 12 },
        margin: { l: narrow ? 44 : 64, r: 8, t: 8, b: 44 },
        hoverlabel: { align: "left" },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: color("--dim"), activecolor: color("--link") },
        dragmode: narrow ? false : "zoom",
      };
      for (const key of Object.keys(layout)) {
        if (/^[xy]axis/.test(key)) layout[key] = { ...layout[key], gridcolor: color("--line"), zerolinecolor: color("--line"), linecolor: color("--line") };
      }
      Plotly.react(div, figure.data, layout, { responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover" });
    }
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", draw);
  addEventListener("afterprint", draw);
})();
