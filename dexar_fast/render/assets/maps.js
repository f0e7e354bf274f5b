// Maps: decoding, colouring, drawing.

function bytes(base64) {
  const text = atob(base64);
  const result = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) result[i] = text.charCodeAt(i);
  return result;
}

// 256 RGB triples and their opacity as the 32-bit pixels of an ImageData (little-endian, as every browser's host is).
function palette(triples, thickness) {
  const result = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    result[i] = (thickness[i] << 24) | (triples[3 * i + 2] << 16) | (triples[3 * i + 1] << 8) | triples[3 * i];
  }
  return result;
}

// Positions between cell centres, clamped to the first and last: the same sampling as overlay() in Python.
function samples(cells, factor) {
  const low = new Int32Array(cells * factor);
  const high = new Int32Array(cells * factor);
  const fraction = new Float32Array(cells * factor);
  for (let i = 0; i < low.length; i++) {
    const at = Math.min(cells - 1, Math.max(0, (i + 0.5) / factor - 0.5));
    low[i] = Math.floor(at);
    high[i] = Math.min(low[i] + 1, cells - 1);
    fraction[i] = at - low[i];
  }
  return { low, high, fraction };
}

// A drawer for one canvas; set up once per kind of drawing, so that a hover only fills pixels. Its line is of a drawing.
function drawer(canvas, rows, cols, { smooth = false, line = null } = {}) {
  // Values are blended, then coloured: blending colours would leave the colour map.
  // An odd factor puts a pixel on every cell's centre, so that the peak shows its true colour.
  const most = smooth ? Math.max(1, Math.floor(720 / Math.max(rows, cols))) : 1;
  const factor = most - 1 + (most % 2);
  const width = (canvas.width = cols * factor);
  const height = (canvas.height = rows * factor);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const values = new Float32Array(width * height);
  const down = samples(rows, factor);
  const half = (factor - 1) / 2; // pixels from an edge to the first cell's centre
  const across = new Float32Array(cols);
  return (map, colours) => {
    let at = 0;
    for (let y = 0; y < height; y++) {
      const above = down.low[y] * cols;
      const below = down.high[y] * cols;
      const part = down.fraction[y];
      for (let c = 0; c < cols; c++) across[c] = map[above + c] + part * (map[below + c] - map[above + c]);
      for (let x = 0; x < half; x++) values[at++] = across[0];
      for (let c = 0; c < cols - 1; c++) {
        const step = (across[c + 1] - across[c]) / factor;
        let value = across[c];
        for (let x = 0; x < factor; x++, value += step) values[at++] = value;
      }
      for (let x = 0; x <= half; x++) values[at++] = across[cols - 1];
    }
    for (let i = 0; i < values.length; i++) pixels[i] = colours[(values[i] + 0.5) | 0]; // cut off to whole numbers: rounded
    if (line && smooth) outline(image.data, values, width, height, line, (255 * Math.SQRT2) / factor);
    context.putImageData(image, 0, 0);
  };
}

// The double line where the values cross one value: ink() in Python, on pixels with an opacity of their own.
function outline(rgba, values, width, height, line, steepest) {
  const wide = Math.max(1, Math.max(width, height) * line.width);
  const reach = (wide + 1) * steepest; // a value further off is too far away on any slope
  const [outer, inner] = line.colours;
  for (let y = 0, i = 0; y < height; y++) {
    const up = y > 0 ? width : 0, down = y < height - 1 ? width : 0;
    for (let x = 0; x < width; x++, i++) {
      const above = values[i] - line.value;
      if (above > reach || above < -reach) continue;
      const left = x > 0 ? 1 : 0, right = x < width - 1 ? 1 : 0;
      const across = left + right ? (values[i + right] - values[i - left]) / (left + right) : 0;
      const along = up + down ? (values[i + down] - values[i - up]) / ((up + down) / width) : 0;
      const slope = Math.sqrt(across * across + along * along);
      if (slope * wide < line.leastSlope) continue;
      const inwards = above / slope;
      if (inwards >= wide + 1 || inwards <= -wide - 1) continue;
      const ofOuter = (wide + 1) / 2 - Math.abs(inwards + wide / 2);
      const ofInner = (wide + 1) / 2 - Math.abs(inwards - wide / 2);
      if (ofOuter > 0) over(rgba, 4 * i, outer, Math.min(1, ofOuter));
      if (ofInner > 0) over(rgba, 4 * i, inner, Math.min(1, ofInner));
    }
  }
}

// A colour that covers a part of a pixel, whatever the pixel's own opacity; a Uint8ClampedArray rounds by itself.
function over(rgba, at, colour, covered) {
  const under = (rgba[at + 3] / 255) * (1 - covered);
  const opacity = covered + under;
  for (let c = 0; c < 3; c++) rgba[at + c] = (covered * colour[c] + under * rgba[at + c]) / opacity;
  rgba[at + 3] = 255 * opacity;
}

// Index of the largest cell, or -1 for a map without structure.
function strongest(map) {
  let best = 0;
  for (let i = 1; i < map.length; i++) if (map[i] > map[best]) best = i;
  return map[best] > 0 ? best : -1;
}
