// The image with a map over it. A report has one; a comparison two of them.

const { grid } = data;

// How maps are drawn on all pictures.
const drawing = { colours: null, line: null, smooth: true, opacity: 1 };

function picture(panel) {
  const [frame, image, overlay] = ["frame", "picture", "overlay"].map((name) => panel.querySelector(`.${name}`));
  let map = null, draw = null, pending = 0;
  place();

  function place() {
    const { uri } = data.image;
    if (uri) image.src = uri;
    image.hidden = !uri;
    frame.classList.toggle("bare", !uri);
    const [left, top, across, down] = grid.box;
    Object.assign(overlay.style, percent({ left, top, width: across, height: down }));
    const [l, t, r, b] = [left, top, left + across, top + down].map((one) => Math.min(1, Math.max(0, one)));
    // Four strips, not one clipped box: some renderers filter the backdrop beyond a clip path.
    for (const [x, y, w, h] of [[0, 0, 1, t], [0, b, 1, 1 - b], [0, t, l, b - t], [r, t, 1 - r, b - t]]) {
      if (w <= 0 || h <= 0 || seen() > 0.9999) continue;
      const strip = document.createElement("div");
      strip.className = "outside";
      Object.assign(strip.style, percent({ left: x, top: y, width: w, height: h }));
      frame.append(strip);
    }
  }

  // Many hovers may arrive between two frames; only the last is drawn.
  function redraw() {
    pending ||= requestAnimationFrame(() => {
      pending = 0;
      draw(map, drawing.colours);
    });
  }

  return {
    panel, frame,
    get map() { return map; },
    show(newMap) {
      map = newMap;
      redraw();
    },
    restyle() {
      draw = drawer(overlay, grid.rows, grid.cols, drawing);
      overlay.classList.toggle("cells", !drawing.smooth);
      overlay.style.opacity = drawing.opacity;
      if (map) redraw();
    },
    // Row and column under the pointer as an index; -1 beside the map.
    cellAt(event) {
      const rect = overlay.getBoundingClientRect();
      const column = Math.floor(((event.clientX - rect.left) / rect.width) * grid.cols);
      const row = Math.floor(((event.clientY - rect.top) / rect.height) * grid.rows);
      return column >= 0 && column < grid.cols && row >= 0 && row < grid.rows ? row * grid.cols + column : -1;
    },
    size: () => [image.naturalWidth || data.image.width, image.naturalHeight || data.image.height],
    paint(context, x, width, height) { // as it looks, into another canvas
      if (!image.hidden) context.drawImage(image, x, 0, width, height);
      const [left, top, across, down] = grid.box;
      context.save();
      context.beginPath();
      context.rect(x, 0, width, height);
      context.clip();
      context.globalAlpha = drawing.opacity;
      context.imageSmoothingEnabled = drawing.smooth;
      context.drawImage(overlay, x + left * width, top * height, across * width, down * height);
      context.restore();
    },
  };
}

const percent = (parts) => Object.fromEntries(Object.entries(parts).map(([name, part]) => [name, `${100 * part}%`]));

// The share of the image that the model saw.
function seen() {
  const [left, top, across, down] = grid.box;
  const within = (from, length) => Math.min(1, from + length) - Math.max(0, from);
  return within(left, across) * within(top, down);
}

// The pictures side by side as a file, in the image's own pixels.
function save(pictures, name) {
  const [width, height] = pictures[0].size();
  const gap = pictures.length > 1 ? Math.max(1, Math.round(0.02 * width)) : 0;
  const canvas = document.createElement("canvas");
  canvas.width = pictures.length * width + (pictures.length - 1) * gap;
  canvas.height = height;
  const context = canvas.getContext("2d");
  pictures.forEach((one, i) => one.paint(context, i * (width + gap), width, height));
  const link = document.createElement("a");
  link.download = `${name.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "map"}.png`;
  link.href = canvas.toDataURL("image/png");
  link.click();
}
