// What pages do beyond links and forms: charts drawn from the tables beside them, and the menu of narrow screens.
// Everything here is an addition: without it the tables, links and forms are all there.
"use strict";

const PALETTE = ["#2f6bff", "#e0702d", "#1d9a6c", "#b14fc5", "#c93a4b", "#0f8fa8", "#8a7a1f", "#6b6f7b"];
const OTHERS = 7;

function numberIn(cell) {
  return Number(cell.dataset.value ?? cell.textContent.replace(/[^0-9.\-]/g, ""));
}

function shown(value, unit) {
  if (unit === "$") {
    const digits = value !== 0 && Math.abs(value) < 1 ? 4 : 2;
    return (value < 0 ? "-$" : "$") + Math.abs(value).toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  }
  return value.toLocaleString("en") + (unit ? " " + unit : "");
}

// The rows of a table's body: {labels, series: [{label, values}]}. Columns and rows with data-apart (totals) are left out.
function read(table) {
  const heads = [...table.tHead.rows[0].cells];
  const columns = heads.map((head, at) => ({ head, at })).filter(({ head, at }) => at > 0 && head.dataset.apart === undefined);
  const rows = [...table.tBodies[0].rows].filter((row) => row.dataset.apart === undefined);
  return {
    labels: rows.map((row) => row.cells[0].dataset.label ?? row.cells[0].textContent.trim()),
    series: columns.map(({ head, at }) => ({
      label: head.textContent.trim(),
      values: rows.map((row) => numberIn(row.cells[at])),
    })),
  };
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function draw(figure) {
  const canvas = figure.querySelector("canvas");
  const table = figure.querySelector("table");
  if (!canvas || !table || !table.tBodies[0].rows.length || typeof Chart === "undefined") return;
  Chart.getChart(canvas)?.destroy();
  figure.querySelector(".drawing").hidden = false;
  const { labels, series } = read(table);
  const kind = figure.dataset.chart;
  const unit = figure.dataset.unit;
  const isLine = kind === "line";
  const text = color("--quiet");
  const lines = color("--line");
  new Chart(canvas, {
    type: isLine ? "line" : "bar",
    data: {
      labels,
      datasets: series.map(({ label, values }, number) => ({
        label,
        data: values,
        backgroundColor: PALETTE[Math.min(number, OTHERS)],
        borderColor: PALETTE[Math.min(number, OTHERS)],
        borderWidth: isLine ? 2 : 0,
        pointRadius: isLine ? 2 : 0,
        maxBarThickness: 48,
      })),
    },
    options: {
      animation: false,
      responsive: true,
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      scales: {
        x: { stacked: kind === "stacked", ticks: { color: text, maxRotation: 0, autoSkipPadding: 12 }, grid: { display: false } },
        y: {
          stacked: kind === "stacked",
          beginAtZero: true,
          ticks: { color: text, callback: (value) => shown(value, unit) },
          grid: { color: lines },
        },
      },
      plugins: {
        legend: { display: series.length > 1, position: "bottom", labels: { color: text, boxWidth: 12 } },
        tooltip: { callbacks: { label: (item) => ` ${item.dataset.label}: ${shown(item.parsed.y, unit)}` } },
      },
    },
  });
}

function drawAll(within) {
  within.querySelectorAll("figure.chart").forEach(draw);
}

document.addEventListener("DOMContentLoaded", () => {
  drawAll(document);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(document));
});
document.addEventListener("htmx:afterSettle", (event) => drawAll(event.detail.elt.closest("main") ?? document));
