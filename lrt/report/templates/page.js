"use strict";
// Sorting, the strength slider, heatmaps and the colour switch. Without this script the page shows all of its
// text and numbers; text is only ever set through textContent.

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// ---- light and dark: the system's choice until the switch is used
function colours() {
  const root = document.documentElement, button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const paint = () => button.setAttribute("aria-pressed", String(dark()));
  // a browser may forbid storage to files: the switch then holds for this page alone
  const stored = (use) => { try { return use(localStorage); } catch { return null; } };
  const before = stored((storage) => storage.getItem("lrt-theme"));
  if (before === "dark" || before === "light") root.dataset.theme = before;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    stored((storage) => storage.setItem("lrt-theme", root.dataset.theme));
    paint();
  });
  system.addEventListener("change", paint);
  paint();
  button.hidden = false;
}

function sections() {
  const nav = document.querySelector(".bar nav");
  for (const heading of document.querySelectorAll("h2[id]")) {
    nav.append(element("a", heading.dataset.short ?? heading.textContent, { href: `#${heading.id}` }));
  }
}

// ---- tables: a heading sorts up, then down, then as it was
const collator = new Intl.Collator("en", { numeric: true });

function sortKey(cell) {
  if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
  const text = cell.textContent.trim();
  return text === "" || text === "–" ? null : text;
}

function compareKeys(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return collator.compare(a, b);
}

function sortable(table) {
  const body = table.tBodies[0], original = [...body.rows], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = element("button", undefined, { type: "button", class: "sort" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = { null: "ascending", ascending: "descending", descending: null }[head.getAttribute("aria-sort")];
      for (const other of heads) other.removeAttribute("aria-sort");
      if (order === null) return body.append(...original);
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const keyed = original.map((row) => [sortKey(row.cells[column]), row]);
      // gaps come last in either order
      keyed.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compareKeys(a, b)));
      body.append(...keyed.map(([, row]) => row));
    });
  });
}

// what scrolls can be reached and scrolled by keyboard
function focusable(box) {
  const update = () => {
    if (box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };
  new ResizeObserver(update).observe(box);
}

// ---- generated texts: one strength at a time
function generations(box) {
  const slider = box.querySelector("input[type=range]"), output = box.querySelector("output");
  const labels = JSON.parse(slider.dataset.labels);
  const show = () => {
    for (const texts of box.querySelectorAll("[data-at]")) texts.hidden = texts.dataset.at !== slider.value;
    output.textContent = labels[slider.value];
    slider.setAttribute("aria-valuetext", labels[slider.value]);
  };
  slider.addEventListener("input", show);
  box.querySelector(".slider").hidden = false;
  box.classList.add("live");
  show();
}

// ---- heatmaps: arrow keys walk over the cells, and a cell opens its numbers
function heatmap(box) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const buttons = [...box.querySelectorAll("td button")], panel = box.querySelector(".numbers");
  const rows = [...box.querySelectorAll("tbody tr")].map((row) => [...row.querySelectorAll("td")].map((cell) => cell.querySelector("button")));
  const metric = box.querySelector("select");

  const colour = () => {
    const { texts, heights } = data.metrics[metric.value];
    for (const button of buttons) {
      const cell = button.dataset.cell;
      button.querySelector("span").textContent = texts[cell];
      button.style.setProperty("--height", heights[cell] ?? 0);
      button.setAttribute("aria-label", `${data.cells[cell].title}: ${texts[cell]}`);
    }
  };
  const open = (button) => {
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    const cell = data.cells[button.dataset.cell];
    const figures = element("dl");
    for (const each of data.metrics) {
      figures.append(element("dt", each.title), element("dd", each.texts[button.dataset.cell]));
    }
    const parts = [element("p", cell.title, { class: "title" }), figures];
    if (cell.vectors.length) {
      const table = element("table"), head = element("tr"), body = element("tbody");
      for (const name of data.columns) head.append(element("th", name, { scope: "col" }));
      for (const [name, ...values] of cell.vectors) {
        const row = element("tr");
        row.append(element("th", name, { scope: "row" }), ...values.map((value) => element("td", value)));
        body.append(row);
      }
      const top = element("thead");
      top.append(head);
      table.append(top, body);
      parts.push(table);
    }
    panel.replaceChildren(...parts);
  };
  const move = (button) => {
    for (const other of buttons) other.tabIndex = other === button ? 0 : -1;
    button.focus();
  };
  box.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const at = rows.findIndex((row) => row.includes(event.target));
    if (!step || at < 0) return;
    event.preventDefault();
    const next = rows[at + step[0]]?.[rows[at].indexOf(event.target) + step[1]];
    if (next) move(next);
  });
  buttons.forEach((button, i) => {
    button.tabIndex = i ? -1 : 0;
    button.addEventListener("click", () => { move(button); open(button); });
  });
  metric.addEventListener("change", colour);
  box.querySelector(".metric").hidden = data.metrics.length < 2;
  colour();
}

colours();
sections();
document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll(".generations").forEach(generations);
document.querySelectorAll(".heatmap").forEach(heatmap);
document.querySelectorAll(".scroll, pre").forEach(focusable);
