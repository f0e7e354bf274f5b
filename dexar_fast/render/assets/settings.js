// How the explanation was made, as a list.

function settings(list) {
  list.append(
    ...setting(say("set_layers"), ranges(data.layers)),
    ...setting(say("set_grid"), say("grid_size", { rows: grid.rows, columns: grid.cols })),
    ...setting(say("set_image"), say("image_size", data.image)),
    ...Object.entries(data.settings)
      .filter(([name]) => name !== "prompt" && name !== "layers") // already shown
      .flatMap(([name, value]) => setting(name.replaceAll("_", " "), value, { lang: "" })),
  );
}

function setting(name, value, more = {}) { // names and values of options are in no language
  const term = Object.assign(document.createElement("dt"), more);
  const detail = Object.assign(document.createElement("dd"), more);
  term.textContent = name;
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
