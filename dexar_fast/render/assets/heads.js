// The panel of heads: layers across, heads down, for a token, a word or the whole answer.

// Means over the tokens from start to stop, each of layers * count numbers, head by head within a layer.
function tokenHeads(stored, size) {
  const image = bytes(stored.image);
  const margin = new Int8Array(bytes(stored.margin).buffer);
  return (start, stop) => {
    const [weight, share, imageScore, textScore] = Array.from({ length: 4 }, () => new Float32Array(size));
    const one = 1 / (stop - start);
    for (let t = start; t < stop; t++) {
      const [largest, above, below] = stored.scales[t];
      for (let i = 0, at = t * size; i < size; i++, at++) {
        const score = (one * largest * image[at]) / 255;
        const more = (one * margin[at] * (margin[at] > 0 ? above : below)) / 127;
        imageScore[i] += score;
        textScore[i] += Math.max(0, score - more);
        if (more > 0) {
          weight[i] += more;
          share[i] += one;
        }
      }
    }
    return { weight, share, imageScore, textScore };
  };
}

function answerHeads(base64, size) {
  const raw = new Float32Array(bytes(base64).buffer);
  const [weight, share, imageScore, textScore] = [0, 1, 2, 3].map((i) => raw.subarray(i * size, (i + 1) * size));
  return { weight, share, imageScore, textScore };
}

const LISTED = 5;

// What is looked at is null, or {start, stop, name}. Nothing is decoded or drawn while the panel is closed.
function headsPanel(panel, { heads, layers, colours, tell }) {
  const part = (name) => panel.querySelector(`.heads-${name}`);
  const note = (ofMethod) => {
    const left = () => say("heads_left_out", { megabytes: (ofMethod.bytes / 1e6).toFixed(0) });
    part("note").textContent = !ofMethod ? say("heads_none") : ofMethod.tokens ? "" : left();
    part("body").hidden = !ofMethod;
  };
  note(heads);
  if (!heads) return { show() {}, recolour() {}, use() {} };
  const size = layers.length * heads.count;
  const box = part("grid");
  const draw = drawer(part("map"), heads.count, layers.length);
  const picture = new Uint8Array(size);
  const listed = Array.from({ length: LISTED }, () => document.createElement("li"));
  let ofAnswer = null, ofTokens = null; // decoded when first needed
  let looked = null, values = null, at = null, pending = 0;

  part("list").append(...listed);
  part("first-head").textContent = say("head", { head: 0 });
  part("first-layer").textContent = say("layer", { layer: layers[0] });
  part("last-layer").textContent = layers.length > 1 ? say("layer", { layer: layers.at(-1) }) : "";
  part("last-head").textContent = heads.count > 1 ? heads.count - 1 : "";

  function render() {
    pending = 0;
    if (!panel.open || part("body").hidden) return;
    if (looked && heads.tokens) {
      ofTokens ??= tokenHeads(heads.tokens, size);
      values = ofTokens(looked.start, looked.stop);
    } else {
      values = ofAnswer ??= answerHeads(heads.answer, size);
    }
    const { weight } = values;
    let most = 0;
    for (const one of weight) most = Math.max(most, one);
    for (let layer = 0, i = 0; layer < layers.length; layer++) {
      for (let head = 0; head < heads.count; head++, i++) {
        picture[head * layers.length + layer] = most > 0 ? Math.round((255 * weight[i]) / most) : 0;
      }
    }
    draw(picture, colours());
    part("of").textContent = !looked || !heads.tokens ? say("heads_mean") : looked.name;
    part("most").textContent = most > 0 ? say("heads_brightest", { weight: short(most) }) : say("heads_no_weight");
    list();
    read();
  }

  function list() {
    const best = [];
    values.weight.forEach((one, i) => {
      if (!(one > 0) || (best.length === LISTED && one <= values.weight[best.at(-1)])) return;
      const place = best.findIndex((other) => values.weight[other] < one);
      best.splice(place < 0 ? best.length : place, 0, i);
      best.length = Math.min(best.length, LISTED);
    });
    const several = !looked || !heads.tokens || looked.stop - looked.start > 1;
    listed.forEach((item, rank) => {
      const i = best[rank];
      if (i === undefined) return void (item.textContent = "");
      const entry = { head: name(i), weight: short(values.weight[i]), percent: Math.round(100 * values.share[i]) };
      item.textContent = say(several ? (data.targets ? "heads_share_targets" : "heads_share") : "heads_item", entry);
    });
  }

  const name = (i) => say("layer_head", { layer: layers[Math.floor(i / heads.count)], head: i % heads.count });

  function read() {
    if (!values) return; // opened this very moment
    const cursor = part("cursor");
    cursor.hidden = !at;
    if (!at) {
      part("readout").textContent = say("heads_hint");
      return;
    }
    cursor.style.left = `${(100 * at.layer) / layers.length}%`;
    cursor.style.top = `${(100 * at.head) / heads.count}%`;
    cursor.style.width = `${100 / layers.length}%`;
    cursor.style.height = `${100 / heads.count}%`;
    const i = at.layer * heads.count + at.head;
    const [weight, image, text] = [values.weight[i], values.imageScore[i], values.textScore[i]].map(short);
    part("readout").textContent = say("heads_read", { head: name(i), weight, image, text });
  }

  function redraw() {
    pending ||= requestAnimationFrame(render);
  }

  const within = (share, count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));
  function point(event) {
    const rect = box.getBoundingClientRect();
    at = {
      layer: within((event.clientX - rect.left) / rect.width, layers.length),
      head: within((event.clientY - rect.top) / rect.height, heads.count),
    };
    read();
  }
  box.addEventListener("pointerdown", point);
  box.addEventListener("pointermove", point);
  box.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "touch") return; // a tap stays
    at = null;
    read();
  });
  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const clamp = (value, count) => Math.min(count - 1, Math.max(0, value));
    at = at
      ? { layer: clamp(at.layer + step[0], layers.length), head: clamp(at.head + step[1], heads.count) }
      : { layer: 0, head: 0 };
    read();
    tell(part("readout").textContent);
  });
  box.addEventListener("blur", () => {
    at = null;
    read();
  });
  panel.addEventListener("toggle", redraw);

  return {
    use(ofMethod) { // the heads of another method of the same layers, or null
      note(ofMethod);
      if (!ofMethod) return;
      heads = ofMethod;
      ofAnswer = ofTokens = null;
    },
    show(unit) {
      looked = unit;
      if (panel.open) redraw();
    },
    recolour() {
      if (panel.open) redraw();
    },
  };
}
