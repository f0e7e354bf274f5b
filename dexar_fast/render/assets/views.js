// One view, or two side by side. Each has a picture, a method, and the row of the word that it keeps (-1: the answer).

// Words stand in the address by number, as in Python: #word=3&method=dexar, and what it is compared with: &with=5.
function addressOf(views, numberOf) {
  const parts = views.flatMap(({ row, method }, i) => {
    const number = row < 0 ? (i ? "answer" : "") : numberOf(row);
    const [word, of] = i ? ["with", "with-method"] : ["word", "method"];
    return [...(number === "" ? [] : [[word, number]]), ...(method ? [[of, methods[method].method]] : [])];
  });
  return parts.length ? `#${new URLSearchParams(parts)}` : "";
}

// What an address asks for: {row, method} for each view; none where it says nothing.
function addressed(hash, rowOf) {
  const asked = new URLSearchParams(hash.slice(1));
  const view = (word, of) => ({
    row: rowOf(/^\d+$/.test(asked.get(word) ?? "") ? Number(asked.get(word)) : -1),
    method: Math.max(0, methods.findIndex(({ method }) => method === asked.get(of))),
  });
  const views = [view("word", "method"), ...(asked.has("with") ? [view("with", "with-method")] : [])];
  return views.length > 1 || views[0].row >= 0 || views[0].method > 0 ? views : [];
}

function viewsOf(box, { show, paint }) {
  const first = box.querySelector(".panel");
  const views = [{ picture: picture(first), row: -1, method: 0 }];
  let active = 0, comparing = false;

  function second() { // made when it is first needed
    const panel = first.cloneNode(true);
    for (const element of panel.querySelectorAll("[id]")) element.removeAttribute("id");
    for (const strip of panel.querySelectorAll(".outside")) strip.remove();
    first.after(panel);
    const made = { picture: picture(panel), row: -1, method: 0 };
    made.picture.restyle();
    listen(made, 1);
    return made;
  }

  function mark() {
    for (const [i, { picture: { panel } }] of views.entries()) {
      panel.hidden = i > 0 && !comparing;
      panel.classList.toggle("active", comparing && i === active);
      const caption = panel.querySelector(".panel-caption");
      caption.hidden = !comparing;
      caption.setAttribute("aria-pressed", i === active);
    }
    box.classList.toggle("two", comparing);
  }

  function activate(index) {
    active = index;
    mark();
    for (const view of shown()) if (view !== views[active]) paint(view);
    show(views[active]);
  }

  function listen(view, index) {
    view.picture.panel.addEventListener("click", () => {
      if (comparing && index !== active) activate(index);
    });
  }
  listen(views[0], 0);

  const shown = () => (comparing ? views : views.slice(0, 1));
  return {
    all: views,
    shown,
    refresh: () => activate(active),
    get active() { return views[active]; },
    get other() { return comparing ? views[1 - active] : null; },
    set(asked) { // one view, or two, of which the second listens
      if (asked.length > 1 && views.length < 2) views.push(second());
      asked.forEach((one, i) => Object.assign(views[i], one));
      comparing = asked.length > 1;
      activate(asked.length - 1);
    },
  };
}
