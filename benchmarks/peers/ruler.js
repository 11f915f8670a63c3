// When has a slide viewer settled? Measured in its own page, in ms of `performance.now()`.
// It is put into a page before the page's own scripts.
window.ruler = (() => {
  const BIG = 500; // px of a canvas's width: smaller ones show the whole slide in a corner
  const known = new WeakMap(); // picture → its number
  const zero = { input: null, first: null, picture: null, view: null, ready: null, fresh: 0 };
  let at = { ...zero };
  let drawn = null; // what the frame that is being drawn holds
  let frame = "";
  let finest = null; // picture px a screen px, per side, of the last frame: its sharpest tile …
  let coarsest = null; // … and its least sharp one
  let pictures = 0;

  const { drawImage } = CanvasRenderingContext2D.prototype;
  CanvasRenderingContext2D.prototype.drawImage = function draw(picture, ...rest) {
    if (this.canvas.width >= BIG && this.canvas.isConnected) note(this, picture, rest);
    return drawImage.call(this, picture, ...rest);
  };

  function note(context, picture, rest) {
    if (!known.has(picture)) {
      known.set(picture, (pictures += 1));
      at.fresh += 1;
    }
    const own = picture.naturalWidth || picture.width;
    const [from, to] = rest.length === 8 ? [rest[2], rest[6]] : [own, rest[2] ?? own];
    const { a, b, d, e, f } = context.getTransform();
    if (!drawn) {
      drawn = { what: [], sharp: [] };
      queueMicrotask(endFrame); // a frame is drawn in one task
    }
    drawn.what.push([known.get(picture), a, b, d, e, f, ...rest].join());
    drawn.sharp.push(from / (to * Math.hypot(a, b)));
  }

  function endFrame() {
    const now = performance.now();
    const what = drawn.what.join(" ");
    if (what !== frame) at.picture = now;
    at.first ??= now;
    finest = Math.max(...drawn.sharp);
    coarsest = Math.min(...drawn.sharp);
    frame = what;
    drawn = null;
  }

  // `data-state` and `data-view` of our viewer: has it all tiles, and what is seen.
  new MutationObserver((changes) => {
    for (const { target, attributeName, oldValue } of changes) {
      const value = target.getAttribute(attributeName);
      if (value === oldValue && attributeName === "data-view") continue;
      if (attributeName === "data-view") at.view = performance.now();
      else if (value === "ready") at.ready = performance.now();
    }
  }).observe(document, {
    subtree: true, attributes: true, attributeOldValue: true, attributeFilter: ["data-state", "data-view"],
  });

  for (const kind of ["keydown", "wheel", "pointermove"]) {
    window.addEventListener(kind, (event) => {
      if (kind !== "pointermove" || event.buttons) at.input ??= performance.now();
    }, { capture: true, passive: true });
  }

  function last() {
    return Math.max(at.input ?? 0, at.picture ?? 0, at.view ?? 0, at.ready ?? 0);
  }

  function isReady(selector) {
    const stage = document.querySelector(selector);
    return Boolean(stage) && (stage.dataset.state ?? "ready") === "ready" && frame !== "";
  }

  // Resolves when the viewer has all tiles and nothing has changed for `quiet` ms.
  async function settled({ selector, quiet, limit }) {
    const end = performance.now() + limit;
    while (!isReady(selector) || performance.now() - last() < quiet) {
      if (performance.now() > end) return { late: true, ...at };
      await new Promise((go) => setTimeout(go, 20));
    }
    return { ...at, origin: performance.timeOrigin, finest, coarsest };
  }

  return { begin: () => { at = { ...zero }; }, settled };
})();
