// The answer as a list of units (tokens, words or targets) that can be looked at and pinned.

// Units are {start, stop, rows, text, weight, grounding, foil, probability, map, word}: tokens of the answer, the rows
// [from, to] of the scores, and the number of the word.
function tokenUnits(tokens) {
  return tokens.text.map((text, i) => ({
    start: i, stop: i + 1, rows: [i, i + 1], text, weight: tokens.weight[i], grounding: tokens.grounding?.[i],
    foil: tokens.foil?.[i], map: i,
  }));
}

// Words, with the white space between them around them.
function wordUnits(tokens, words) {
  const alone = tokenUnits(tokens);
  const units = [], around = [""];
  const add = (unit) => {
    units.push(unit);
    around.push("");
  };
  const leave = (to) => { // tokens that are no part of a word
    for (; next < to; next++) {
      if (/^\s+$/.test(alone[next].text)) around[around.length - 1] += alone[next].text;
      else add(alone[next]);
    }
  };
  let next = 0;
  for (const [index, word] of words.entries()) {
    leave(word.start);
    const text = tokens.text.slice(word.start, word.stop).join("");
    add({ ...word, word: index, rows: [word.start, word.stop], text });
    next = word.stop;
  }
  leave(alone.length);
  return { units, around };
}

const isAlternative = (unit) => unit?.probability !== undefined;

// Targets have a row each. Where they share no token they stand in the answer, with the text between them around
// them; else, and if they are alternatives to a token, in lines of their own below it.
function targetUnits(tokens, targets) {
  const text = (start, stop) => tokens.text.slice(start, stop).join("");
  const follows = (target, i) => !isAlternative(target) && (!i || targets[i - 1].stop <= target.start);
  const apart = targets.every(follows);
  const units = targets.map((target, i) => ({
    ...target, rows: [i, i + 1], text: apart ? text(target.start, target.stop) : target.text,
  }));
  const percent = (target) => (isAlternative(target) ? `  ${(100 * target.probability).toPrecision(3)}%` : "");
  const around = apart
    ? [...units, {}].map(({ start }, i) => text(i ? units[i - 1].stop : 0, start))
    : [`${text(0)}\n\n`, ...units.map((unit) => `${percent(unit)}\n`)];
  return { units, around };
}

const code = (text) => `U+${(text.trim() || text).codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

// What has no ink of its own: what is drawn for it, and what it is called.
const MARKS = [
  [/^$/, () => "\u00b7", () => say("mark_none")],
  [/^\s*\n\s*$/, () => "\u21b5", () => say("mark_line")],
  [/^\s*\t\s*$/, () => "\u21e5", () => say("mark_tab")],
  [/^\s*[\p{Cc}\p{Cf}]+\s*$/u, code, (text) => say("mark_invisible", { code: code(text) })],
  [/^\s+$/, () => "\u2423", () => say("mark_space")],
  [/^\p{M}+$/u, () => "\u25cc", (text) => say("mark_accent", { code: code(text) })],
];

function markOf(text) {
  const found = MARKS.find(([pattern]) => pattern.test(text));
  return found && { mark: found[1](text), name: found[2](text) };
}

// White space around a unit stays outside its shaded box; a unit without ink gets a mark.
function unitElement(unit, index) {
  const support = unit.grounding === undefined ? 0 : 2 * unit.grounding - 1; // -1 against the image, 1 rests on it
  const element = document.createElement("span");
  element.className = "unit";
  element.id = `unit-${index}`;
  element.dataset.index = index;
  element.setAttribute("role", "option");
  element.setAttribute("aria-selected", "false");
  element.tabIndex = -1;
  element.style.setProperty("--share", Math.abs(support).toFixed(4));
  element.classList.toggle("against", support < 0);
  const core = unit.text.trim();
  element.textContent = core;
  const found = markOf(unit.text);
  if (found) {
    element.dataset.mark = found.mark; // drawn by the style sheet, so that copied text is the answer
    element.setAttribute("aria-label", found.name);
  }
  if (/[\u202a-\u202e\u2066-\u2069]/.test(core)) element.classList.add("bidi");
  const at = core ? unit.text.indexOf(core) : 0;
  return [unit.text.slice(0, core ? at : 0), element, core ? unit.text.slice(at + core.length) : unit.text];
}

// The line under the unit that is looked at. It lies outside the answer: a unit that changes repaints them all.
function underline(box) {
  const layer = document.createElement("div");
  layer.className = "underline";
  box.before(layer);
  let element = null;
  function place() {
    const origin = layer.getBoundingClientRect();
    const boxes = element ? [...element.getClientRects()] : [];
    while (layer.childElementCount < boxes.length) layer.append(document.createElement("i"));
    for (const [i, line] of [...layer.children].entries()) {
      line.hidden = i >= boxes.length;
      if (line.hidden) continue;
      line.style.width = `${boxes[i].width}px`;
      line.style.transform = `translate(${boxes[i].left - origin.left}px, ${boxes[i].bottom - origin.top}px)`;
    }
  }
  new ResizeObserver(place).observe(box);
  return (unit) => {
    element = unit ?? null;
    place();
  };
}

// What is looked at: the pointer's unit, else the keyboard's, else the pinned one, else the whole answer (-1).
function answerList(box, onLook) {
  let units = [];
  let elements = [];
  let entry = 0; // the one unit that Tab reaches
  let hovered = -1, cursor = -1, pinned = -1;
  const under = underline(box);

  function mark() {
    const now = hovered >= 0 ? hovered : cursor >= 0 ? cursor : pinned;
    under(elements[now]);
    onLook(units[now] ?? null, { kept: units[pinned] ?? null, spoken: hovered < 0 });
  }

  function pin(index) {
    elements[pinned]?.setAttribute("aria-selected", "false");
    pinned = index === pinned ? -1 : index;
    elements[pinned]?.setAttribute("aria-selected", "true");
  }

  function enter(index) {
    if (elements[entry]) elements[entry].tabIndex = -1;
    entry = index;
    if (elements[entry]) elements[entry].tabIndex = 0;
  }

  function move(index) {
    if (!units.length) return;
    const to = Math.max(0, Math.min(units.length - 1, index));
    hovered = -1;
    cursor = to;
    enter(to);
    elements[to].focus({ preventScroll: true });
    elements[to].scrollIntoView({ block: "nearest" });
    mark();
  }

  // The nearest unit on the next line up or down; positions are read only when such a key is pressed.
  function onNextLine(from, step) {
    const here = elements[from].getBoundingClientRect();
    const middle = (here.left + here.right) / 2;
    let best = -1, line = null, distance = Infinity;
    for (let i = from + step; i >= 0 && i < elements.length; i += step) {
      const there = elements[i].getBoundingClientRect();
      const apart = step * (there.top - here.top);
      if (apart < here.height / 2) continue;
      if (line === null) line = there.top;
      if (Math.abs(there.top - line) > here.height / 2) break;
      const off = Math.abs((there.left + there.right) / 2 - middle);
      if (off < distance) [best, distance] = [i, off];
    }
    return best >= 0 ? best : from;
  }

  function unitAt(target) {
    const element = target instanceof Element ? target.closest(".unit") : null;
    return element && box.contains(element) ? Number(element.dataset.index) : -1;
  }

  box.addEventListener("pointerover", (event) => {
    if (event.pointerType === "touch") return; // a tap pins; it does not hover
    const index = unitAt(event.target);
    if (index < 0 || index === hovered) return; // between two units the last one stays: no flicker
    hovered = index;
    mark();
  });
  box.addEventListener("pointerleave", () => {
    if (hovered < 0) return;
    hovered = -1;
    mark();
  });
  box.addEventListener("click", (event) => {
    const index = unitAt(event.target);
    if (index < 0) return;
    cursor = -1;
    pin(index);
    enter(index);
    mark();
  });
  box.addEventListener("focusin", (event) => {
    const index = unitAt(event.target);
    if (index < 0 || !event.target.matches(":focus-visible")) return; // a click focuses too, but pins by itself
    cursor = index;
    enter(index);
    mark();
  });
  box.addEventListener("focusout", (event) => {
    if (box.contains(event.relatedTarget)) return;
    cursor = -1;
    mark();
  });

  function release() {
    if (pinned >= 0) pin(pinned);
    hovered = cursor = -1;
    mark();
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Escape") return release();
    const inside = unitAt(document.activeElement);
    const idle = document.activeElement === document.body;
    if (inside < 0 && !idle) return;
    const forward = getComputedStyle(box).direction === "rtl" ? -1 : 1;
    if (idle) {
      // Nothing has the focus: only the keys that scroll no page step into the answer.
      const step = { ArrowRight: forward, ArrowLeft: -forward }[event.key];
      if (!step) return;
      event.preventDefault();
      return move(pinned >= 0 ? pinned + step : entry);
    }
    const keys = {
      ArrowRight: () => move(inside + forward),
      ArrowLeft: () => move(inside - forward),
      ArrowDown: () => move(onNextLine(inside, 1)),
      ArrowUp: () => move(onNextLine(inside, -1)),
      Home: () => move(0),
      End: () => move(units.length - 1),
    };
    if (keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      hovered = -1;
      cursor = inside;
      pin(inside);
      if (pinned < 0) cursor = -1; // unpinned: back to the answer map
      mark();
    }
  });

  const indexOf = (row) => (row < 0 ? -1 : units.findIndex(({ rows }) => rows[0] <= row && row < rows[1]));

  return {
    release,
    // The units, with the text before each and behind the last; one that holds the row of scores is pinned.
    show(newUnits, around, row) {
      units = newUnits;
      hovered = cursor = pinned = -1;
      const parts = units.flatMap((unit, i) => [around[i] ?? "", ...unitElement(unit, i)]);
      parts.push(around[units.length] ?? "");
      box.replaceChildren(...parts);
      elements = parts.filter((part) => part instanceof Element);
      entry = 0;
      const index = indexOf(row);
      enter(Math.max(0, index));
      if (index >= 0) pin(index);
      mark();
    },
    beside(row) { // what the other of two pictures shows
      box.querySelector(".beside")?.classList.remove("beside");
      elements[indexOf(row)]?.classList.add("beside");
    },
  };
}
