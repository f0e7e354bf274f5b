// The page: data in, controls, and what is said about the map that is looked at.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const { grid } = data;
let { tokens } = data; // of the method whose maps are shown, as are the maps
const cells = grid.rows * grid.cols;
const rowName = data.targets ? "target" : "token"; // what each map, weight and score is of
const ofSingle = data.targets ? "of single targets" : "of single tokens and words";
const methods = [data, ...data.beside];
const decoded = methods.map(({ maps }) => bytes(maps));
let shownMethod = data;
let maps = decoded[0];
const mapAt = (index) => maps.subarray(index * cells, (index + 1) * cells);
const palettes = Object.fromEntries(Object.entries(data.colormaps).map(([name, raw]) => [name, palette(bytes(raw))]));

const mostOf = ({ weight, imageScore, textScore }) => ({
  weight: Math.max(0, ...weight), score: Math.max(0, ...[...imageScore, ...textScore].map(([score]) => score)),
});
let most = mostOf(tokens);

for (const id of ["grounding-entry", "grounding-note"]) $(id).hidden = !tokens.grounding;
$("targets-note").hidden = !data.targets;
for (const place of document.querySelectorAll(".row-name")) place.textContent = rowName;
for (const id of ["foil-entry", "foil-note"]) $(id).hidden = !tokens.foil;
$("peak-aside").classList.toggle("wraps", data.images.length > 0);

const view = { map: mapAt(data.answerMap), colours: palettes[data.colormap], over: null, draw: null };
let pending = 0;

// Many hovers may arrive between two frames; only the last is drawn.
function redraw() {
  pending ||= requestAnimationFrame(() => {
    pending = 0;
    view.draw(view.map, view.over);
  });
}

function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e3 ? value.toPrecision(3) : value.toExponential(2);
}

function number(element, value) {
  element.textContent = short(value);
  element.title = String(value); // all digits
}

// ---- the image and where the map lies on it

function place() {
  const { width, height, uri } = data.image;
  $("stage").style.setProperty("--aspect", width / height);
  if (uri) {
    $("picture").src = uri;
    $("picture").hidden = false;
  } else {
    $("frame").classList.add("bare");
  }
  const [left, top, across, down] = grid.box;
  const style = $("overlay").style;
  style.left = `${100 * left}%`;
  style.top = `${100 * top}%`;
  style.width = `${100 * across}%`;
  style.height = `${100 * down}%`;
  const [l, t, r, b] = [left, top, left + across, top + down].map((one) => Math.min(1, Math.max(0, one)));
  const covered = (r - l) * (b - t);
  if (covered > 0.9999) return;
  // Four strips, not one clipped box: some renderers filter the backdrop beyond a clip path.
  for (const [x, y, w, h] of [[0, 0, 1, t], [0, b, 1, 1 - b], [0, t, l, b - t], [r, t, 1 - r, b - t]]) {
    if (w <= 0 || h <= 0) continue;
    const strip = document.createElement("div");
    strip.className = "outside";
    const [left, top, width, height] = [x, y, w, h].map((part) => `${100 * part}%`);
    Object.assign(strip.style, { left, top, width, height });
    $("frame").append(strip);
  }
  $("outside-note").hidden = false;
}

function region(cell) {
  const [left, top, across, down] = grid.box;
  const x = left + (across * ((cell % grid.cols) + 0.5)) / grid.cols;
  const y = top + (down * (Math.floor(cell / grid.cols) + 0.5)) / grid.rows;
  const row = y < 1 / 3 ? "upper" : y < 2 / 3 ? "" : "lower";
  const column = x < 1 / 3 ? "left" : x < 2 / 3 ? "" : "right";
  if (!row && !column) return "centre";
  return `${row} ${column || "middle"}`.trim();
}

// Of one image a row and a column of the map; of several the image, and the row and column of its own map.
function cellName(cell) {
  const [row, column] = [Math.floor(cell / grid.cols), cell % grid.cols];
  const x = grid.box[0] + (grid.box[2] * (column + 0.5)) / grid.cols;
  const y = grid.box[1] + (grid.box[3] * (row + 0.5)) / grid.rows;
  for (const [index, { place, rows, cols, box }] of data.images.entries()) {
    const [u, v] = [(x - place[0]) / place[2], (y - place[1]) / place[3]];
    if (u < 0 || u > 1 || v < 0 || v > 1) continue;
    // Cells at the edge of what the model saw may reach beyond it.
    const within = (share, count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));
    const ownRow = within((v - box[1]) / box[3], rows);
    const ownColumn = within((u - box[0]) / box[2], cols);
    return `image ${index + 1}, row ${ownRow + 1}, column ${ownColumn + 1}`;
  }
  return data.images.length ? "between the images" : `row ${row + 1}, column ${column + 1}`;
}

// ---- what is said about a map

// The largest score among the rows from start to stop: [score, layer, head].
function largest(scores, start, stop) {
  let best = scores[start];
  for (let i = start + 1; i < stop; i++) if (scores[i][0] > best[0]) best = scores[i];
  return best;
}

function score(name, entry) {
  const [value, layer, head] = entry;
  number($(`${name}-score`), value);
  $(`${name}-aside`).textContent = value > 0 ? `layer ${layer}, head ${head}` : "in no head";
  $(`${name}-meter`).style.transform = `scaleX(${most.score > 0 ? value / most.score : 0})`;
}

function grounding(share) {
  if (share === undefined) {
    $("grounding").textContent = "\u2013";
    $("grounding-aside").textContent = ofSingle;
    return;
  }
  number($("grounding"), share);
  $("grounding-aside").textContent =
    share > 0.75 ? "the image supports it" : share < 0.25 ? "the image speaks against it" : "the image changes little";
}

function quoted(text) {
  return markOf(text)?.name ?? `\u201c${text.trim()}\u201d`;
}

// A token without text of its own, such as the first bytes of a character, is told by the character that comes next.
function named(unit) {
  if (unit.text) return quoted(unit.text);
  const next = tokens.text.slice(unit.stop).find((text) => text);
  return next?.trim() ? `${quoted("")}, before ${quoted(String.fromCodePoint(next.trim().codePointAt(0)))}` : quoted("");
}

function ends(unit) {
  const row = unit?.rows[0];
  const single = unit && unit.rows[1] - row === 1 && unit.map === row;
  const [low, high] = single ? [tokens.low[row], tokens.high[row]] : [0, 1];
  for (const [id, end, value] of [["low", 0, low], ["high", 1, high]]) {
    $(id).textContent = end;
    const raw = Math.abs(value) < 5e-4 * high ? 0 : value; // rounding noise beside the other end
    $(`${id}-raw`).textContent = single ? `raw ${short(raw)}` : "";
    $(`${id}-raw`).title = single ? String(value) : "";
  }
  if (single && high <= low) return "constant: nothing to show";
  return unit ? "evidence, scaled" : `weighted sum of the ${rowName} maps, scaled`;
}

// One sentence about what is looked at.
function reading(unit) {
  const peak = strongest(view.map);
  const where = peak < 0 ? "" : `${LOOKED[shownMethod.method] ?? "Strongest at"} the ${region(peak)}`;
  if (!unit) return shownMethod.meaning ? `Shown: ${shownMethod.meaning}.` : "";
  const share = unit.grounding;
  const name = named(unit);
  const rests = share === undefined ? "" : share > 0.75 ? `${name} rests on the image (${share.toFixed(2)}).`
    : share < 0.25 ? `The image speaks against ${name} (${share.toFixed(2)}).`
      : `${name} hardly rests on the image (${share.toFixed(2)}).`;
  return `${rests} ${where && `${where}.`}`.trim();
}
const LOOKED = {
  "dexar-focus": "The model looked at", dexar: "The published map is strongest at",
};

const heads = headsPanel($("heads"), {
  heads: data.heads,
  rowName,
  layers: data.layers,
  colours: () => view.colours,
  say: (text) => { $("status").textContent = text; },
});

function placeOf(unit) {
  if (isAlternative(unit)) return `In place of token ${unit.start + 1}`;
  return unit.stop - unit.start > 1 ? `Tokens ${unit.start + 1}\u2013${unit.stop}` : `Token ${unit.start + 1}`;
}

// The number of the pinned word is in the address, so that it can be sent; not where a page has none of its own.
function keepInAddress(unit, pinned) {
  if (!/^(file|https?):$/.test(location.protocol)) return;
  const index = pinned && !data.targets ? data.words.findIndex(({ start, stop }) => start <= unit.start && unit.start < stop) : -1;
  if (index >= 0) history.replaceState(null, "", `#word=${index}`);
  else if (!unit && location.hash) history.replaceState(null, "", location.pathname + location.search);
}

// The image with the map over it as a file, in the image's own pixels.
function save() {
  const canvas = document.createElement("canvas");
  const picture = $("picture");
  canvas.width = picture.naturalWidth || data.image.width;
  canvas.height = picture.naturalHeight || data.image.height;
  const context = canvas.getContext("2d");
  if (!picture.hidden) context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const [left, top, across, down] = grid.box;
  context.globalAlpha = Number($("overlay").style.opacity);
  context.imageSmoothingEnabled = !$("overlay").classList.contains("cells");
  context.drawImage($("overlay"), left * canvas.width, top * canvas.height, across * canvas.width, down * canvas.height);
  const link = document.createElement("a");
  link.download = `${$("shown").textContent.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "map"}.png`;
  link.href = canvas.toDataURL("image/png");
  link.click();
}
$("save").addEventListener("click", save);

function look(unit, { pinned, spoken }) {
  keepInAddress(unit, pinned);
  heads.show(unit && { start: unit.rows[0], stop: unit.rows[1], name: named(unit) });
  view.map = mapAt(unit ? unit.map : data.answerMap);
  redraw();
  const count = tokens.text.length;
  const rows = unit ? unit.rows : [0, tokens.weight.length];
  const foil = (unit?.foil ?? null) === null ? "" : quoted(unit.foil);
  if (unit) {
    $("kind").textContent = `${placeOf(unit)} of ${count}${pinned ? ", pinned" : ""}`;
    $("shown").textContent = named(unit);
  } else {
    const first = data.targets?.[0];
    $("kind").textContent = isAlternative(first)
      ? `${data.targets.length} alternatives for token ${first.start + 1} of ${count}`
      : `All ${tokens.weight.length} ${rowName}s`;
    $("shown").textContent = "Answer map";
  }
  $("foil").textContent = foil || "\u2013";
  $("foil").title = foil;
  $("foil-aside").textContent = foil ? "taken off the score" : unit ? "nothing" : ofSingle;
  $("reset").hidden = !unit;
  const meaning = ends(unit);
  $("meaning").textContent = meaning;
  view.meaning = meaning;
  $("scale").setAttribute(
    "aria-label",
    `Colour bar from 0 ${$("low-raw").textContent} to 1 ${$("high-raw").textContent}: ${meaning}`,
  );

  const weight = unit ? unit.weight : most.weight;
  $("reading").textContent = reading(unit);
  $("weight-name").textContent = unit ? "Weight" : "Largest weight";
  number($("weight"), weight);
  const share = most.weight > 0 ? `${Math.round((100 * weight) / most.weight)}% of the largest` : "as all others";
  const texts = data.targets?.map((target) => target.text) ?? tokens.text;
  $("weight-aside").textContent = unit ? share : weight > 0 ? quoted(texts[tokens.weight.indexOf(weight)]) : "";
  if (tokens.grounding) grounding(unit?.grounding);
  if (count) {
    score("image", largest(tokens.imageScore, ...rows));
    score("text", largest(tokens.textScore, ...rows));
  }
  const peak = strongest(view.map);
  const where = peak < 0 ? "nowhere" : region(peak);
  $("peak").textContent = peak < 0 ? "\u2013" : where;
  $("peak-aside").textContent = peak < 0 ? "the map is constant" : cellName(peak);
  if (spoken) {
    const state = pinned ? ", pinned" : "";
    const name = unit && named(unit) + (foil && ` rather than ${foil}`);
    const supported = unit?.grounding === undefined ? "" : `: grounding ${short(unit.grounding)}`;
    $("status").textContent = `${unit ? `${name}${state}${supported}` : "Answer map"}. Strongest: ${where}.`;
  }
}

// ---- the value under the pointer

function probe(event) {
  const rect = $("overlay").getBoundingClientRect();
  const column = Math.floor(((event.clientX - rect.left) / rect.width) * grid.cols);
  const row = Math.floor(((event.clientY - rect.top) / rect.height) * grid.rows);
  const inside = column >= 0 && column < grid.cols && row >= 0 && row < grid.rows;
  $("tick").hidden = !inside;
  if (!inside) {
    $("meaning").textContent = "the model did not see this part";
    return;
  }
  const value = view.map[row * grid.cols + column] / 255;
  $("tick").style.left = `${100 * value}%`;
  $("meaning").textContent = `${value.toFixed(2)} at ${cellName(row * grid.cols + column)}`;
}

$("frame").addEventListener("pointermove", probe);
$("frame").addEventListener("pointerleave", () => {
  $("tick").hidden = true;
  $("meaning").textContent = view.meaning;
});

// ---- controls

function setOpacity(percent) {
  $("overlay").style.opacity = percent / 100;
  $("opacity-value").textContent = `${percent}%`;
}

const drawing = () => document.querySelector("[name=drawing]:checked").value;

function setColours() {
  view.colours = palettes[$("colormap").value];
  view.over = drawing() === "clear" ? fading(view.colours) : view.colours;
  const steps = Uint8Array.from({ length: 256 }, (_, i) => i);
  drawer($("bar"), 1, 256, false)(steps, view.colours);
  heads.recolour();
  redraw();
}

function setDrawing(smooth) {
  view.draw = drawer($("overlay"), grid.rows, grid.cols, smooth);
  $("overlay").classList.toggle("cells", !smooth);
  redraw();
}

$("opacity").value = Math.round(100 * data.opacity);
$("opacity").addEventListener("input", (event) => setOpacity(Number(event.target.value)));
$("colormap").append(...Object.keys(palettes).map((name) => new Option(name[0].toUpperCase() + name.slice(1), name)));
$("colormap").value = data.colormap;
$("colormap").addEventListener("change", setColours);
$("controls").addEventListener("change", (event) => {
  if (event.target.name !== "drawing") return;
  setDrawing(drawing() !== "cells");
  setColours();
});
$("controls").addEventListener("submit", (event) => event.preventDefault());

const darkSystem = matchMedia("(prefers-color-scheme: dark)");
function nameTheme() {
  const theme = document.documentElement.dataset.theme ?? (darkSystem.matches ? "dark" : "light");
  const other = theme === "dark" ? "light" : "dark";
  $("theme-name").textContent = `Switch to the ${other} theme`;
  $("theme").title = $("theme-name").textContent;
  return other;
}
$("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = nameTheme();
  nameTheme();
});
darkSystem.addEventListener("change", nameTheme);

// ---- settings

function setting(name, value) {
  const term = document.createElement("dt");
  const detail = document.createElement("dd");
  term.textContent = name.replaceAll("_", " ");
  detail.textContent = typeof value === "string" ? value : JSON.stringify(value);
  return [term, detail];
}

function ranges(numbers) {
  const runs = [];
  for (const one of numbers) {
    const last = runs.at(-1);
    if (last && one === last[1] + 1) last[1] = one;
    else runs.push([one, one]);
  }
  return runs.map(([from, to]) => (from === to ? `${from}` : `${from}\u2013${to}`)).join(", ");
}

$("settings").append(
  ...setting("layers", ranges(data.layers)),
  ...setting("grid", `${grid.rows} rows, ${grid.cols} columns`),
  ...setting("image", `${data.image.width} \u00d7 ${data.image.height} pixels`),
  ...Object.entries(data.settings)
    .filter(([name]) => name !== "prompt" && name !== "layers") // already shown
    .flatMap(([name, value]) => setting(name, value)),
);

// ---- start

// A hub id as it is; of a folder only its name, the settings have the rest.
const model = String(data.settings.model ?? "");
$("model").textContent = /^([/\\]|[a-z]:)/i.test(model) ? model.split(/[/\\]/).filter(Boolean).at(-1) : model;
$("prompt").textContent = data.prompt;
$("prompt-section").hidden = !data.prompt;
$("legend").classList.toggle("unshaded", !tokens.grounding);
if (tokens.grounding) {
  $("legend").setAttribute("aria-label", "Shading of the answer: from against the image to rests on the image");
} else {
  $("legend").textContent = "not shaded: explain with grounding=True";
  $("legend").removeAttribute("role");
}
$("units-switch").hidden = !data.words.length || Boolean(data.targets);
$("answer").classList.toggle("long", tokens.text.length > 300);

place();
setOpacity(Math.round(100 * data.opacity));
setDrawing(true);
setColours();
nameTheme();
const list = answerList($("answer"), look);
const showUnits = (kind) => {
  list.show(kind === "words" ? wordUnits(tokens, shownMethod.words) : tokenUnits(tokens));
};
const unitKind = () => document.querySelector("#units-switch input:checked").value;
$("units-switch").addEventListener("change", () => showUnits(unitKind()));

// ---- the methods

function showTargets() {
  const { units, around } = targetUnits(tokens, shownMethod.targets);
  list.show(units, around);
}

function showMethod(index) {
  shownMethod = methods[index];
  maps = decoded[index];
  tokens = shownMethod.tokens;
  most = mostOf(tokens);
  heads.use(shownMethod.heads);
  if (data.targets) showTargets();
  else showUnits(unitKind());
}

$("methods").hidden = methods.length < 2;
const NAMES = { "dexar-focus": "What it looked at", dexar: "What would have moved it" };
$("methods").append(
  ...methods.map(({ method, meaning }, i) => {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "method", value: i, checked: !i });
    const text = document.createElement("span");
    text.textContent = NAMES[method] ?? method;
    label.title = meaning ? `${method}: ${meaning}` : method;
    label.append(input, text);
    return label;
  }),
);
$("methods").addEventListener("change", (event) => showMethod(Number(event.target.value)));
$("reset").addEventListener("click", () => list.release());
const linked = data.words[Number(/^#word=(\d+)$/.exec(location.hash)?.[1] ?? NaN)];
if (data.targets) showTargets();
else if (linked && !$("units-switch").hidden) {
  document.querySelector("#units-switch [value=words]").checked = true;
  showUnits("words");
  list.pin(linked.start);
} else showUnits("tokens");
