"use strict";
// The page is whole without this script. It adds a map of the prefixes, drawn from the table behind it, and columns
// that sort. Texts go into the page as textContent only: whatever a key is named, it is never markup.

const $ = (id) => document.getElementById(id);
const MEASURES = ["keys", "bytes", "memory"];
const count = (number) => number.toLocaleString("en-US");

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (bytes >= 1023.5 && unit + 1 < units.length) { bytes /= 1024; unit += 1; }
  const decimals = unit === 0 || bytes >= 99.95 ? 0 : bytes >= 9.995 ? 1 : 2;
  return bytes.toFixed(decimals) + " " + units[unit];
}

function share(part, whole) {
  const percent = part * 100 / whole;
  if (part === whole) return "100 %";
  return percent < 0.05 ? "< 0.1 %" : percent >= 99.95 ? "> 99.9 %" : percent.toFixed(1) + " %";
}

// --- Sorting -------------------------------------------------------------------------------------------------------

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (head.tagName !== "TH") return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const isText = head.classList.contains("text");
    const value = (row) => isText ? row.cells[column].textContent : Number(row.cells[column].dataset.v);
    button.addEventListener("click", () => {
      // Figures begin with the largest, names with the first; a second click turns them round.
      const was = head.getAttribute("aria-sort");
      const up = was ? was === "descending" : isText;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
      rows.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

// --- Boxes that scroll ---------------------------------------------------------------------------------------------

// A box is a stop for Tab only while there is something in it to scroll to.
const boxes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const box = target.closest(".box");
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; else box.removeAttribute("tabindex");
  }
});
for (const box of document.querySelectorAll(".box")) {
  boxes.observe(box);
  boxes.observe(box.firstElementChild);
}

// --- The map of prefixes -------------------------------------------------------------------------------------------

// A prefix as the table tells it. `depth` of a row says whose child it is.
function readTree(body) {
  const path = [];
  for (const row of body.rows) {
    const depth = Number(row.dataset.d);
    const [name, ...cells] = row.cells;
    const node = {
      name: name.querySelector(".own").textContent, path: name.textContent, children: [],
      parent: path[depth - 1] || null, other: "other" in row.dataset,
    };
    MEASURES.forEach((measure, at) => { node[measure] = Number(cells[at].dataset.v); });
    if (node.parent) node.parent.children.push(node);
    path.length = depth;
    path.push(node);
  }
  return path[0];
}

function sum(nodes, extra) {
  const out = { children: [], other: true, ...extra };
  for (const measure of MEASURES) out[measure] = nodes.reduce((total, node) => total + node[measure], 0);
  return out;
}

// What a prefix is made of: its longer prefixes, and the keys that are in none of them.
function parts(node) {
  if (node.children.length === 0) return [];
  const inside = sum(node.children);
  const rest = { name: "(single keys)", path: node.parent ? "Keys in " + node.path + " itself" : "Keys without a prefix", children: [], other: true };
  for (const measure of MEASURES) rest[measure] = Math.max(0, node[measure] - inside[measure]);
  return MEASURES.some((measure) => rest[measure] > 0) ? [...node.children, rest] : [...node.children];
}

// The largest parts, and one in place of all that would be too small to be touched. Where all are that small, some are
// drawn nevertheless: that there are many of them is what there is to see.
const MOST_TILES = 60;
function shownParts(node, measure, area, leastArea) {
  const all = parts(node).filter((part) => part[measure] > 0).sort((a, b) => b[measure] - a[measure]);
  const whole = all.reduce((total, part) => total + part[measure], 0);
  let shown = all.findIndex((part, at) => at >= MOST_TILES || part[measure] * area < leastArea * whole);
  if (shown < 0) return all;
  const none = shown === 0;
  if (none) shown = MOST_TILES;
  // One alone takes its neighbour along: a tile must stand for what can be seen.
  shown = Math.max(1, Math.min(shown, all.length - 2));
  if (all.length - shown < 2) return all;
  const small = all.slice(shown);
  const what = small.some((part) => part.other) ? " smaller and other parts" : " smaller parts";
  const path = count(small.length) + what + " of " + node.path;
  return [...all.slice(0, shown), sum(small, { name: "(smaller)", path, children: none ? [] : small, parent: node })];
}

// Squarified: parts are laid in rows along the shorter side of what is left, and a row ends where one part more would
// make its worst part longer and thinner. Returns [part, x, y, width, height] in the units of the area given.
function squarify(sorted, measure, x, y, width, height) {
  const whole = sorted.reduce((total, part) => total + part[measure], 0);
  const scale = width * height / whole;
  const out = [];
  let at = 0;
  while (at < sorted.length) {
    const side = Math.min(width, height);
    let area = 0, worst = Infinity, end = at;
    while (end < sorted.length) {
      const next = area + sorted[end][measure] * scale;
      const largest = sorted[at][measure] * scale, smallest = sorted[end][measure] * scale;
      const ratio = Math.max(side * side * largest / (next * next), next * next / (side * side * smallest));
      if (ratio > worst) break;
      worst = ratio; area = next; end += 1;
    }
    // The last row takes what is left, so that nothing is lost to rounding.
    const deep = end === sorted.length ? (width < height ? height : width) : area / side;
    let along = 0;
    for (; at < end; at += 1) {
      const long = side * (sorted[at][measure] * scale) / area;
      out.push(width < height ? [sorted[at], x + along, y, long, deep] : [sorted[at], x, y + along, deep, long]);
      along += long;
    }
    if (width < height) { y += deep; height -= deep; } else { x += deep; width -= deep; }
  }
  return out;
}

function drawMap(root) {
  const tiles = $("tiles"), told = $("told");
  let current = root;

  const measure = () => document.querySelector("input[name=measure]:checked").value;
  const opens = (node) => node.children.length > 0;
  const figure = (node, by) => by === "keys" ? count(node.keys) : size(node[by]);

  function tell(node) {
    const by = measure();
    const of = node === root || root[by] === 0 ? "" : " · " + share(node[by], root[by]) + " of all " + by;
    return node.path + " — " + count(node.keys) + (node.keys === 1 ? " key · " : " keys · ") + size(node.bytes)
      + " in file · " + size(node.memory) + " in memory" + of;
  }

  function shade(node) {
    if (node.other) return "rest";
    const each = node.memory / Math.max(1, node.keys);
    return each < 128 ? 0 : each < 1024 ? 1 : each < 8192 ? 2 : each < 65536 ? 3 : 4;
  }

  // How a part is divided, inside its tile where there is room.
  function drawInside(button, node, by, width, height) {
    const top = 38, across = width - 8, down = height - top - 6;
    if (!opens(node) || across < 70 || down < 40) return;
    const shown = shownParts(node, by, across * down, 60);
    for (const [part, x, y, w, h] of squarify(shown, by, 4, top, across, down)) {
      const inner = document.createElement("i");
      inner.dataset.shade = shade(part);
      place(inner, x, y, w, h, width, height);
      if (h >= 19 && (fits(part.name, w) || (w >= 60 && !part.other))) inner.textContent = part.name;
      button.append(inner);
    }
  }

  // In percent, so that the map keeps its shape in print and until it is drawn anew for another width.
  function place(element, x, y, w, h, width, height) {
    element.style.left = x * 100 / width + "%";
    element.style.top = y * 100 / height + "%";
    element.style.width = w * 100 / width + "%";
    element.style.height = h * 100 / height + "%";
  }

  // A figure is shown whole or not at all: half of one is another figure. Names may be cut.
  const fits = (text, width) => text.length * 7.4 + 12 <= width;

  function draw() {
    const by = measure(), width = tiles.clientWidth, height = tiles.clientHeight;
    tiles.replaceChildren();
    const shown = shownParts(current, by, width * height, 24 * 24);
    for (const [node, x, y, w, h] of squarify(shown, by, 0, 0, width, height)) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = opens(node) ? "tile in" : "tile";
      button.dataset.shade = shade(node);
      button.node = node;
      button.setAttribute("aria-label", tell(node) + (opens(node) ? ". Open" : ""));
      button.title = tell(node);
      place(button, x, y, w, h, width, height);
      if (h >= 22 && (w >= 60 || fits(node.name, w))) {
        const label = document.createElement("span"), name = document.createElement("strong");
        name.textContent = node.name;
        label.append(name);
        if (h >= 40 && fits(figure(node, by), w)) {
          const value = document.createElement("span");
          value.textContent = figure(node, by);
          label.append(value);
        }
        button.append(label);
      }
      drawInside(button, node, by, w, h);
      tiles.append(button);
    }
    told.textContent = tell(current);
  }

  function drawCrumbs() {
    const path = [];
    for (let node = current; node; node = node.parent) path.unshift(node);
    $("crumbs").firstElementChild.replaceChildren(...path.map((node) => {
      const item = document.createElement("li");
      const step = document.createElement(node === current ? "span" : "button");
      step.textContent = node.name;
      if (node === current) {
        step.setAttribute("aria-current", "location");
      } else {
        step.type = "button";
        step.addEventListener("click", () => show(node));
      }
      item.append(step);
      return item;
    }));
  }

  // Shows a prefix. The focus goes to where one came from, or to the first part: what had it is gone.
  function show(node) {
    let from = current;
    while (from && from.parent !== node) from = from.parent;
    current = node;
    drawCrumbs();
    draw();
    const all = [...tiles.children];
    const target = all.find((tile) => from && tile.node.name === from.name) || all[0];
    if (target) target.focus({ preventScroll: true });
    told.textContent = tell(current);
    $("said").textContent = "Shown: " + tell(current);
  }

  tiles.addEventListener("click", (event) => {
    const tile = event.target.closest(".tile");
    if (!tile) return;
    if (opens(tile.node)) show(tile.node); else told.textContent = tell(tile.node);
  });
  const look = (event) => {
    const tile = event.target.closest(".tile");
    if (tile) told.textContent = tell(tile.node);
  };
  tiles.addEventListener("pointerover", look);
  tiles.addEventListener("focusin", look);
  tiles.addEventListener("pointerleave", () => { told.textContent = tell(current); });
  $("map").addEventListener("keydown", (event) => {
    if ((event.key !== "Backspace" && event.key !== "Escape") || !current.parent) return;
    event.preventDefault();
    show(current.parent);
  });
  for (const input of document.querySelectorAll("input[name=measure]")) input.addEventListener("change", draw);

  $("map").hidden = false;
  $("prefix-table").open = false;
  drawCrumbs();
  draw();
  let drawnAt = tiles.clientWidth;
  new ResizeObserver(() => {
    if (tiles.clientWidth === drawnAt) return;
    drawnAt = tiles.clientWidth;
    const focused = [...tiles.children].indexOf(document.activeElement);
    draw();
    if (focused >= 0) tiles.children[Math.min(focused, tiles.children.length - 1)].focus();
  }).observe(tiles);
}

const rows = $("prefix-rows");
const root = rows && readTree(rows.tBodies[0]);
if (root && root.children.length > 0) drawMap(root);
// Figures of every slot are for those who ask; without a script they stand open.
for (const details of document.querySelectorAll("#slots ~ details")) details.open = false;
