// What is said about a map, a word, a place.

const PLACES = [
  ["upper_left", "upper_middle", "upper_right"], ["left", "centre", "right"], ["lower_left", "lower_middle", "lower_right"],
];

// Where the middle of a cell lies on the image, as fractions.
function middle(cell) {
  const [left, top, across, down] = grid.box;
  return [left + (across * ((cell % grid.cols) + 0.5)) / grid.cols, top + (down * (Math.floor(cell / grid.cols) + 0.5)) / grid.rows];
}

function region(cell) {
  const third = (share) => (share < 1 / 3 ? 0 : share < 2 / 3 ? 1 : 2);
  const [x, y] = middle(cell);
  return say(`place_${PLACES[third(y)][third(x)]}`);
}

// Of one image a row and a column of the map; of several the image, and the row and column of its own map.
function cellName(cell) {
  const [x, y] = middle(cell);
  for (const [index, { place, rows, cols, box }] of data.images.entries()) {
    const [u, v] = [(x - place[0]) / place[2], (y - place[1]) / place[3]];
    if (u < 0 || u > 1 || v < 0 || v > 1) continue;
    // Cells at the edge of what the model saw may reach beyond it.
    const within = (share, count) => 1 + Math.min(count - 1, Math.max(0, Math.floor(share * count)));
    const [row, column] = [within((v - box[1]) / box[3], rows), within((u - box[0]) / box[2], cols)];
    return say("cell_of_image", { image: index + 1, row, column });
  }
  if (data.images.length) return say("between_images");
  return say("cell", { row: Math.floor(cell / grid.cols) + 1, column: (cell % grid.cols) + 1 });
}

function quoted(text) {
  return markOf(text)?.name ?? say("quoted", { text: text.trim() });
}

// A token without text of its own, such as the first bytes of a character, is told by the character that comes next.
function named(unit) {
  if (unit.text) return quoted(unit.text);
  const next = data.tokens.text.slice(unit.stop).find((text) => text);
  if (!next?.trim()) return quoted("");
  return say("mark_before", { name: quoted(""), next: quoted(String.fromCodePoint(next.trim().codePointAt(0))) });
}

// Where the unit stands in the answer.
function kindOf(unit, isWord) {
  const count = data.tokens.text.length;
  if (isAlternative(unit)) return say("in_place_of", { index: unit.start + 1, count });
  if (isWord && unit.word !== undefined) return say("nth_word", { index: unit.word + 1, count: data.words.length });
  if (unit.stop - unit.start === 1) return say("nth_token", { index: unit.start + 1, count });
  return say("nth_tokens", { first: unit.start + 1, last: unit.stop, count });
}

// What the answer map is of.
function kindOfAll(isWord) {
  const [first] = data.targets ?? [];
  if (isAlternative(first)) {
    return say("alternatives", { number: data.targets.length, index: first.start + 1, count: data.tokens.text.length });
  }
  if (data.targets) return say("all_targets", { count: data.targets.length });
  return isWord ? say("all_words", { count: data.words.length }) : say("all_tokens", { count: data.tokens.text.length });
}

// Whether a word rests on the image; nothing where that was not asked for.
function support(unit) {
  if (unit?.grounding === undefined) return "";
  const share = unit.grounding;
  const name = share > 0.75 ? "rests" : share < 0.25 ? "rests_against" : "rests_hardly";
  return say(name, { word: named(unit), share: share.toFixed(2) });
}

// One or two sentences about what is looked at.
function reading(unit, method, map) {
  if (!unit) return sayOf("whole", method);
  const peak = strongest(map);
  const where = peak < 0 ? "" : sayOf("bright", method, { place: region(peak) });
  return `${support(unit)} ${where}`.trim();
}
