// The page: what is looked at, the controls, the settings.

const methods = [data, ...data.beside];
const decoded = methods.map(({ maps }) => bytes(maps));
const cells = grid.rows * grid.cols;
const colours = Object.fromEntries(Object.entries(data.colormaps).map(([name, raw]) => [name, bytes(raw)]));
const mostOf = ({ weight, imageScore, textScore }) => ({
  weight: Math.max(0, ...weight), score: Math.max(0, ...[...imageScore, ...textScore].map(([score]) => score)),
});
const mosts = methods.map(({ tokens }) => mostOf(tokens));

const mapOf = (unit, method) => {
  const index = unit ? unit.map : methods[method].answerMap;
  return decoded[method].subarray(index * cells, (index + 1) * cells);
};
const byWords = () => $("units-switch").querySelector(":checked").value === "words";

// What can be chosen, by a method: {units, around}.
function choices(method) {
  const { tokens, words, targets } = methods[method];
  if (targets) return targetUnits(tokens, targets);
  return byWords() ? wordUnits(tokens, words) : { units: tokenUnits(tokens), around: [] };
}

// ---- what is said about a map

// The largest score among the rows from start to stop: [score, layer, head].
function largest(scores, start, stop) {
  let best = scores[start];
  for (let i = start + 1; i < stop; i++) if (scores[i][0] > best[0]) best = scores[i];
  return best;
}

function score(name, [value, layer, head], most) {
  number($(`${name}-score`), value);
  $(`${name}-aside`).textContent = value > 0 ? say("layer_head", { layer, head }) : say("no_head");
  $(`${name}-meter`).style.transform = `scaleX(${most > 0 ? value / most : 0})`;
}

function grounding(share) {
  if (share === undefined) {
    $("grounding").textContent = "\u2013";
    $("grounding-aside").textContent = say("of_single");
    return;
  }
  number($("grounding"), share);
  $("grounding-aside").textContent =
    share > 0.75 ? say("supports") : share < 0.25 ? say("speaks_against") : say("changes_little");
}

// The range of a single row's map before it was scaled.
function range(unit, { low, high }) {
  const row = unit?.rows[0];
  const single = unit && unit.rows[1] - row === 1 && unit.map === row;
  for (const [id, value] of [["low-raw", low[row]], ["high-raw", high[row]]]) {
    const raw = single && Math.abs(value) < 5e-4 * high[row] ? 0 : value; // rounding noise beside the other end
    $(id).textContent = single ? short(raw) : "";
    $(id).title = single ? String(value) : "";
  }
  $("range-to").hidden = !single;
}

const heads = headsPanel($("heads"), {
  heads: methods.find((one) => one.heads)?.heads,
  layers: data.layers,
  colours: () => { // every weight needs a colour of its own
    const { colormaps, colormap, thickness } = data.drawings.heat;
    const chosen = $("colormap").value;
    return palette(colours[colormaps.includes(chosen) ? chosen : colormap], bytes(thickness));
  },
  tell: (text) => { $("status").textContent = text; },
});

// Under the colour bar while the pointer reads no cell.
function rest() {
  const { map } = views.active.picture;
  $("meaning").textContent = map && strongest(map) < 0 ? say("constant") : drawing.line ? say("inside_line") : "";
}

function look(unit, { kept, spoken }) {
  const view = views.active;
  const { method, picture } = view;
  const { tokens } = methods[method];
  const pinned = Boolean(unit) && unit === kept;
  view.row = kept ? kept.rows[0] : -1;
  keepInAddress();
  heads.show(unit && { start: unit.rows[0], stop: unit.rows[1], name: named(unit) });
  paint(view, unit);
  const map = picture.map;
  const most = mosts[method];
  const foil = (unit?.foil ?? null) === null ? "" : quoted(unit.foil);
  const kind = unit ? kindOf(unit, byWords()) : kindOfAll(byWords());
  $("kind").textContent = pinned ? say("kept", { kind }) : kind;
  $("shown").textContent = unit ? named(unit) : say("answer_map");
  $("foil").textContent = foil || "\u2013";
  $("foil").title = foil;
  $("foil-aside").textContent = foil ? say("foil") : unit ? say("no_foil") : say("of_single");
  $("reset").hidden = !unit;
  const peak = strongest(map);
  rest();
  range(unit, tokens);

  $("reading").textContent = reading(unit, methods[method].method, map);
  const weight = unit ? unit.weight : most.weight;
  $("weight-name").textContent = unit ? say("weight") : say("largest_weight");
  number($("weight"), weight);
  const share = most.weight > 0 ? say("share_of_largest", { percent: Math.round((100 * weight) / most.weight) }) : say("as_all_others");
  const texts = data.targets?.map((target) => target.text) ?? tokens.text;
  $("weight-aside").textContent = unit ? share : weight > 0 ? quoted(texts[tokens.weight.indexOf(weight)]) : "";
  if (tokens.grounding) grounding(unit?.grounding);
  const rows = unit ? unit.rows : [0, tokens.weight.length];
  if (tokens.text.length) {
    score("image", largest(tokens.imageScore, ...rows), most.score);
    score("text", largest(tokens.textScore, ...rows), most.score);
  }
  const where = peak < 0 ? say("nowhere") : region(peak);
  $("peak").textContent = peak < 0 ? "\u2013" : where;
  $("peak-aside").textContent = peak < 0 ? say("constant") : cellName(peak);
  if (spoken) {
    const called = unit ? (foil ? say("said_foil", { name: named(unit), foil }) : named(unit)) : say("answer_map");
    const name = pinned ? say("kept", { kind: called }) : called;
    const supported = unit?.grounding === undefined ? name : say("said_grounding", { name, share: short(unit.grounding) });
    $("status").textContent = say("said", { name: supported, place: where });
  }
}

// ---- one view or two

// A picture and the words under it; without a unit given, what the view keeps.
function paint(view, unit = choices(view.method).units.find(({ rows }) => rows[0] <= view.row && view.row < rows[1]) ?? null) {
  const { picture, method } = view;
  picture.show(mapOf(unit, method));
  const parts = { word: unit ? named(unit) : say("answer_map"), method: nameOf(methods[method].method), support: support(unit) };
  for (const [name, text] of Object.entries(parts)) picture.panel.querySelector(`.panel-${name}`).textContent = text;
}

const views = viewsOf($("pictures"), {
  paint,
  show(view) { // from now on this one follows the pointer
    $("methods").querySelector(`[value="${view.method}"]`).checked = true;
    heads.use(methods[view.method].heads);
    const { units, around } = choices(view.method);
    list.show(units, around, view.row);
    list.beside(views.other ? views.other.row : -1);
  },
});
const list = answerList($("answer"), look);


// The words and methods that are kept stand in the address, so that they can be sent; not where a page has none.
const numberOf = (row) => {
  const index = data.targets ? row : data.words.findIndex(({ start, stop }) => start <= row && row < stop);
  return index < 0 ? "" : index;
};
const rowOf = (number) => (data.targets ? (number in data.targets ? number : -1) : data.words[number]?.start ?? -1);
const addressable = /^(file|https?):$/.test(location.protocol); // a notebook's frame is not
let address = "";
function keepInAddress() {
  const now = addressOf(views.shown(), numberOf);
  if (now === address || !addressable) return;
  address = now;
  history.replaceState(null, "", now || location.pathname + location.search);
}

// Beside a word its map by another method; where there is none, the answer map until a word is chosen.
function compare() {
  const { row, method } = views.active;
  const comparing = views.shown().length > 1;
  const second = methods.length > 1 ? { row, method: method ? 0 : 1 } : { row: -1, method };
  $("compare").setAttribute("aria-pressed", !comparing);
  views.set(comparing ? [{ row, method }] : [{ row, method }, second]);
}

$("compare").addEventListener("click", compare);
$("reset").addEventListener("click", () => list.release());
$("save").addEventListener("click", () => {
  const shown = views.shown().map(({ picture }) => picture);
  save(shown, shown.map(({ panel }) => panel.querySelector(".panel-word").textContent).join("-"));
  // A page around this one may forbid its frames to save, and no frame can ask whether it does.
  if (window.parent === window) return;
  $("save-note").hidden = false;
  $("save-note").scrollIntoView({ block: "nearest" });
});

// Not by its address: that of a frame in a notebook is the notebook's, which would be loaded in place of the report.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("answer").querySelector("[tabindex='0']")?.focus();
});

// ---- the value under the pointer

$("pictures").addEventListener("pointermove", (event) => {
  const view = views.shown().find(({ picture }) => picture.frame.contains(event.target));
  const cell = view ? view.picture.cellAt(event) : -1;
  $("tick").hidden = cell < 0;
  if (cell < 0) {
    if (view) $("meaning").textContent = say("unseen");
    else rest();
    return;
  }
  const value = view.picture.map[cell] / 255;
  $("tick").style.left = `${100 * value}%`;
  $("meaning").textContent = say("value_at", { value: value.toFixed(2), cell: cellName(cell) });
});
$("pictures").addEventListener("pointerleave", () => {
  $("tick").hidden = true;
  rest();
});

// ---- controls

function setOpacity(value) {
  drawing.opacity = value / 100;
  $("opacity-value").textContent = `${value}%`;
}

// A drawing begins with its own colours and strength, and keeps those that are chosen for it.
let kind = null;
function setDrawing() {
  const way = document.querySelector("[name=drawing]:checked").value;
  drawing.smooth = way !== "cells";
  const chosen = data.drawings[way] ?? data.drawings.heat; // cells are a heat map too
  if (chosen === kind) return;
  kind = chosen;
  $("opacity").value = Math.round(100 * kind.opacity);
  $("colormap").replaceChildren(...kind.colormaps.map((name) => new Option(name[0].toUpperCase() + name.slice(1), name)));
  $("colormap").value = kind.colormap;
}

function setColours() {
  drawing.line = kind.line;
  drawing.colours = palette(colours[$("colormap").value], bytes(kind.thickness));
  const steps = Uint8Array.from({ length: 256 }, (_, i) => i);
  drawer($("bar"), 1, 256)(steps, drawing.colours);
  $("bar").style.opacity = kind.line ? drawing.opacity : 1; // what is see-through in the picture is so here
  $("bar-line").hidden = !kind.line;
  heads.recolour();
}

function restyle() {
  setDrawing();
  setOpacity(Number($("opacity").value));
  setColours();
  for (const { picture } of views.all) picture.restyle();
  rest();
}

document.querySelector(`[name=drawing][value=${data.drawing}]`).checked = true;
$("controls").addEventListener("input", restyle);
$("controls").addEventListener("submit", (event) => event.preventDefault());

const darkSystem = matchMedia("(prefers-color-scheme: dark)");
function nameTheme() {
  const theme = document.documentElement.dataset.theme ?? (darkSystem.matches ? "dark" : "light");
  const other = theme === "dark" ? "light" : "dark";
  $("theme-name").textContent = say(`theme_${other}`);
  $("theme").title = $("theme-name").textContent;
  return other;
}
$("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = nameTheme();
  nameTheme();
});
darkSystem.addEventListener("change", nameTheme);

$("methods").hidden = methods.length < 2;
$("methods").append(
  ...methods.map(({ method }, i) => {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "method", value: i, checked: !i });
    const text = document.createElement("span");
    text.textContent = nameOf(method);
    const meaning = data.labels[`meaning_${method}`];
    label.title = meaning ? `${method}: ${meaning}` : method;
    label.append(input, text);
    return label;
  }),
);
$("methods").addEventListener("change", (event) => {
  views.active.method = Number(event.target.value);
  views.refresh();
});
$("units-switch").addEventListener("change", () => views.refresh());

// ---- start

settings($("settings"));
// A hub id as it is; of a folder only its name, the settings have the rest.
const model = String(data.settings.model ?? "");
$("model").textContent = /^([/\\]|[a-z]:)/i.test(model) ? model.split(/[/\\]/).filter(Boolean).at(-1) : model;
$("prompt").textContent = data.prompt;
$("prompt-section").hidden = !data.prompt;
$("legend").classList.toggle("unshaded", !data.tokens.grounding);
if (data.tokens.grounding) {
  $("legend").setAttribute("aria-label", say("legend"));
} else {
  $("legend").textContent = say("unshaded");
  $("legend").removeAttribute("role");
}
for (const id of ["grounding-entry", "grounding-note"]) $(id).hidden = !data.tokens.grounding;
for (const id of ["foil-entry", "foil-note"]) $(id).hidden = !data.tokens.foil;
$("link-note").hidden = !addressable;
$("targets-note").hidden = !data.targets;
$("outside-note").hidden = seen() > 0.9999;
for (const id of ["focus-note", "dexar-note"]) {
  $(id).hidden = !methods.some(({ method }) => method === $(id).dataset.method);
}
$("peak-aside").classList.toggle("wraps", data.images.length > 0);
$("units-switch").hidden = !data.words.length || Boolean(data.targets);
if (!data.words.length) $("units-switch").querySelector("[value=tokens]").checked = true;
$("answer").classList.toggle("long", data.tokens.text.length > 300);
$("stage").style.setProperty("--aspect", data.image.width / data.image.height);

restyle();
nameTheme();
const linked = addressed(location.hash, rowOf);
$("compare").setAttribute("aria-pressed", linked.length > 1);
views.set(linked.length ? linked : [{ row: -1, method: 0 }]);
