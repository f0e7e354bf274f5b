// Maps: decoding, colouring, drawing.

function bytes(base64) {
  const text = atob(base64);
  const result = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) result[i] = text.charCodeAt(i);
  return result;
}

// 256 RGB triples as the 32-bit pixels of an ImageData (little-endian, as every browser's host is).
function palette(triples) {
  const result = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    result[i] = (255 << 24) | (triples[3 * i + 2] << 16) | (triples[3 * i + 1] << 8) | triples[3 * i];
  }
  return result;
}

// The same colours, the clearer the lower the value.
function fading(colours) {
  return colours.map((colour, value) => ((value << 24) | (colour & 0xffffff)) >>> 0);
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

// A drawer for one canvas; set up once per kind of drawing, so that a hover only fills pixels.
function drawer(canvas, rows, cols, smooth) {
  // Values are blended, then coloured: blending colours would leave the colour map.
  // An odd factor puts a pixel on every cell's centre, so that the peak shows its true colour.
  const most = smooth ? Math.max(1, Math.min(15, Math.floor(512 / Math.max(rows, cols)))) : 1;
  const factor = most - 1 + (most % 2);
  canvas.width = cols * factor;
  canvas.height = rows * factor;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  const down = samples(rows, factor);
  const half = (factor - 1) / 2; // pixels from an edge to the first cell's centre
  const line = new Float32Array(cols);
  return (map, colours) => {
    let at = 0;
    for (let y = 0; y < canvas.height; y++) {
      const above = down.low[y] * cols;
      const below = down.high[y] * cols;
      const part = down.fraction[y];
      for (let c = 0; c < cols; c++) line[c] = map[above + c] + part * (map[below + c] - map[above + c]);
      for (let x = 0; x < half; x++) pixels[at++] = colours[(line[0] + 0.5) | 0];
      for (let c = 0; c < cols - 1; c++) {
        const step = (line[c + 1] - line[c]) / factor;
        let value = line[c] + 0.5; // cut off to whole numbers below: rounded
        for (let x = 0; x < factor; x++, value += step) pixels[at++] = colours[value | 0];
      }
      for (let x = 0; x <= half; x++) pixels[at++] = colours[(line[cols - 1] + 0.5) | 0];
    }
    context.putImageData(image, 0, 0);
  };
}

// Index of the largest cell, or -1 for a map without structure.
function strongest(map) {
  let best = 0;
  for (let i = 1; i < map.length; i++) if (map[i] > map[best]) best = i;
  return map[best] > 0 ? best : -1;
}
