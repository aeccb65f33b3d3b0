// Draws the report's charts from the JSON beside them; for print they take the width of the page, and the height that report.css gives them there.
const charts = [...document.querySelectorAll(".chart")];
for (const chart of charts) {
  const { data, layout } = JSON.parse(chart.previousElementSibling.textContent);
  Plotly.newPlot(chart, data, layout, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] });
}
const PAPER = { width: 680, height: 340 }; // A4 between its margins; 9 cm
const onPaper = (chart) => (chart.classList.contains("low") ? { width: PAPER.width } : PAPER);
addEventListener("beforeprint", () => charts.forEach((chart) => Plotly.relayout(chart, onPaper(chart))));
addEventListener("afterprint", () => charts.forEach((chart) => Plotly.relayout(chart, { width: null, height: null, autosize: true })));
