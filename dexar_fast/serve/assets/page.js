// The page: asks with /stream, shows each token as it comes, and a word's map when it is chosen.
// What comes from the model or a file is only ever set as text.

const at = (id) => document.getElementById(id);
const state = { picture: null, answer: null, chosen: -1, abort: null };

function show(text, error = false) {
  at("status").textContent = text;
  at("status").className = error ? "error" : "";
}

// --- the picture

function usePicture(blob) {
  state.picture = blob;
  reset();
  URL.revokeObjectURL(at("image").src);
  at("image").src = URL.createObjectURL(blob);
  at("image").hidden = false;
  at("send").disabled = false;
}

at("file").addEventListener("change", () => at("file").files[0] && usePicture(at("file").files[0]));
at("scene").addEventListener("click", async () => {
  const found = await fetch(`scene.png?seed=${Math.floor(Math.random() * 1e6)}`);
  usePicture(await found.blob());
});

// --- the answer

function reset() {
  Object.assign(state, { answer: null, chosen: -1 });
  at("answer").replaceChildren();
  at("method").replaceChildren();
  at("caption").textContent = "";
  clearMap();
}

at("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  reset();
  const form = new FormData();
  form.append("image", state.picture);
  form.append("prompt", at("prompt").value);
  state.abort = new AbortController();
  at("send").disabled = true;
  at("stop").hidden = false;
  show("Waiting for the model …");
  try {
    const response = await fetch("stream", { method: "POST", body: form, signal: state.abort.signal });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const [name, data] of events(response.body)) {
      if (name === "token") addToken(data);
      if (name === "error") throw new Error(data.error.message);
      if (name === "done") finish(data);
    }
    if (!state.answer) throw new Error("The answer broke off.");
    show("Choose a word.");
  } catch (error) {
    show(error.name === "AbortError" ? "Stopped." : error.message, error.name !== "AbortError");
  } finally {
    at("send").disabled = false;
    at("stop").hidden = true;
  }
});
at("stop").addEventListener("click", () => state.abort.abort());

// Server-sent events of a POST, which EventSource cannot make.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = { event: "message", data: "" };
      for (const line of block.split("\n")) {
        const colon = line.indexOf(": ");
        if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 2);
      }
      if (fields.data) yield [fields.event, JSON.parse(fields.data)];
    }
  }
}

function addToken(token) {
  show("Writing …");
  const span = document.createElement("span");
  span.textContent = token.text;
  shade(span, token.grounding);
  at("answer").append(span);
  drawMap(token.maps[0], token.grids[0]);
}

function finish(answer) {
  state.answer = answer;
  for (const name of answer.methods) at("method").append(new Option(name, name));
  const words = answer.words.map((word, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "word";
    button.textContent = word.text;
    button.setAttribute("aria-pressed", "false");
    shade(button, word.grounding);
    button.addEventListener("click", () => choose(index));
    return button;
  });
  at("answer").replaceChildren(...words.flatMap((word) => [word, " "]));
  document.querySelector(".legend").hidden = false;
  choose(-1);
}

function shade(element, grounding) {
  if (grounding === null || Math.abs(2 * grounding - 1) < 0.1) return;
  const strength = Math.abs(2 * grounding - 1);
  const [weak, strong] = grounding > 0.5 ? [[84, 100, 116], [0, 104, 204]] : [[112, 92, 80], [196, 78, 0]];
  const colour = weak.map((from, i) => Math.round(from + strength * (strong[i] - from)));
  element.style.backgroundColor = `rgb(${colour})`;
  element.style.color = "#fff";
  element.title = `grounding ${grounding.toFixed(2)}`;
}

function choose(index) {
  state.chosen = state.chosen === index ? -1 : index; // a second click shows the whole answer again
  at("answer").querySelectorAll(".word").forEach((each, i) => each.setAttribute("aria-pressed", i === state.chosen));
  showChosen();
}

function showChosen() {
  const lens = [state.answer, ...state.answer.beside].find((each) => each.method === at("method").value);
  const word = lens.words[state.chosen];
  drawMap((word ? word.maps : lens.answer_maps)[0], state.answer.grids[0]);
  const supported = word && word.grounding !== null ? `, grounding ${word.grounding.toFixed(2)}` : "";
  at("caption").textContent = word ? `“${word.text}”: strongest at the ${word.place}${supported}` : "The whole answer";
}
at("method").addEventListener("change", showChosen);

// --- maps

const look = fetch("drawing.json").then((response) => response.json());

function clearMap() {
  at("map").width = at("map").height = 0;
}

// A grey PNG with a pixel for each cell, coloured, over the part of the picture that the cells cover.
async function drawMap(png, grid) {
  const image = new Image();
  image.src = `data:image/png;base64,${png}`;
  await image.decode();
  const { colormaps, drawings, drawing } = await look;
  const { colormap, thickness, opacity, line } = drawings[drawing];
  const small = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
  const context = small.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const grey = context.getImageData(0, 0, small.width, small.height).data.filter((_, i) => i % 4 === 0);
  const canvas = at("map");
  drawer(canvas, image.height, image.width, { smooth: true, line })(grey, palette(bytes(colormaps[colormap]), bytes(thickness)));
  const [width, height] = grid.image_size;
  const [left, top, right, bottom] = grid.box;
  Object.assign(canvas.style, {
    opacity, left: `${(100 * left) / width}%`, top: `${(100 * top) / height}%`,
    width: `${(100 * (right - left)) / width}%`, height: `${(100 * (bottom - top)) / height}%`,
  });
}

const about = await (await fetch("health")).json();
at("model").textContent = about.model === "demo"
  ? "The model is the small embedded one: it knows drawn scenes, and no photos."
  : `Model: ${about.model}`;
at("scene").hidden = about.model !== "demo";
