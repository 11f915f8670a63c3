// A slide on a canvas. `view` is what is seen: x, y of the top-left corner and upp, the level-0 px
// per CSS px. All three move in a straight line to `target`, which keeps the point under the
// cursor still while zooming.
const SETTLED_MS = 90; // at rest that long before a sharp picture is asked for
const GLIDE_MS = 140; // time constant of movements
const MARGIN = 0.12; // of the view, asked for around it
const KEPT = 16; // sharp pictures kept for the way back
const FINEST_UPP = 0.4; // two and a half screen px per slide px: more shows no more
const STEPS = [1, 2, 5];

function render({ model, el }) {
  const canvas = h("canvas");
  const outlines = h("svg", { class: "hv-outlines", preserveAspectRatio: "none" });
  const badges = h("div", { class: "hv-badges" });
  const note = h("div", { class: "hv-note", role: "status" });
  const bar = h("div", { class: "hv-bar" });
  const barText = h("span");
  const power = h("div", { class: "hv-power", title: "Magnification on this screen" });
  const button = (text, label, act) =>
    h("button", { type: "button", title: label, "aria-label": label, onclick: act }, text);
  const zooms = h(
    "div",
    { class: "hv-buttons", role: "group", "aria-label": "Zoom" },
    button("+", "Zoom in (+)", () => zoom(1 / 2)),
    button("−", "Zoom out (−)", () => zoom(2)),
    button("⤢", "Whole slide (0)", () => home()),
  );
  const powers = h(
    "div",
    { class: "hv-powers", role: "group", "aria-label": "Magnification" },
    [1, 5, 10, 20].map((times) => button(`${times}×`, `Magnify ${times}×`, () => magnify(times))),
  );
  const slider = h("input", {
    type: "range", min: 0, max: 1, step: 0.05, "aria-label": "Heatmap opacity",
    oninput: () => { model.set("opacity", Number(slider.value)); model.save_changes(); },
  });
  const outlineBox = h("input", { type: "checkbox", onchange: () => draw() });
  outlineBox.checked = true;
  const legend = h(
    "div",
    { class: "hv-legend" },
    h("label", { class: "hv-slider" }, "Heatmap", slider),
    h("div", { class: "hv-scale" }, h("span", {}, "Abnormal  0"), h("i"), h("span", {}, "1")),
    h("label", {}, outlineBox, "Outlines"),
  );
  const stage = h(
    "div",
    {
      class: "hv-stage", tabindex: 0, role: "application",
      "aria-label": "Slide. Arrow keys move, plus and minus zoom, 0 shows the whole slide.",
      "data-lm-suppress-shortcuts": "true",
    },
    canvas, outlines, badges, note, zooms, power, powers,
    h("div", { class: "hv-ruler" }, bar, barText),
  );
  const root = h("div", { class: "hv" }, stage, legend);
  el.classList.add("histo");
  el.append(root);

  let slide = {};
  let overview = null;
  let heat = null;
  let details = []; // {image, x, y, width, height, upp}
  let view = null;
  let target = null;
  let atHome = true;
  let frame = 0;
  let last = 0;
  let timer = 0;
  let asked = "";

  const size = () => ({ width: stage.clientWidth, height: stage.clientHeight });

  // ------------------------------------------------------------------ moving
  function fit([x, y, right, bottom], margin, finest) {
    const { width, height } = size();
    const upp = Math.max(
      ((right - x) * (1 + margin)) / width, ((bottom - y) * (1 + margin)) / height, finest,
    );
    return { x: (x + right - width * upp) / 2, y: (y + bottom - height * upp) / 2, upp };
  }
  const whole = () => fit([0, 0, slide.width, slide.height], 0.06, 1e-6);

  function go(next, { jump = false, home = false } = {}) {
    if (!slide.width || !size().width) return;
    const coarsest = whole().upp * 2;
    const upp = Math.min(Math.max(next.upp, Math.min(FINEST_UPP, coarsest)), coarsest);
    const { width, height } = size();
    const clamp = (start, extent, all) =>
      Math.min(Math.max(start, -extent * 0.6), all - extent * 0.4);
    target = {
      x: clamp(next.x, width * upp, slide.width),
      y: clamp(next.y, height * upp, slide.height),
      upp,
    };
    atHome = home;
    if (jump || !view || matchMedia("(prefers-reduced-motion: reduce)").matches) view = { ...target };
    settle();
    draw();
  }
  const home = (options = {}) => go(whole(), { ...options, home: true });

  function zoom(factor, at = null) {
    if (!target) return;
    const { width, height } = size();
    const [px, py] = at ?? [width / 2, height / 2];
    const limit = whole().upp * 2;
    const upp = Math.min(Math.max(target.upp * factor, FINEST_UPP), limit);
    go({
      x: target.x + px * (target.upp - upp), y: target.y + py * (target.upp - upp), upp,
    });
  }
  // By convention 10× is 1 µm/px; the browser's own zoom is left out of account.
  const magnify = (times) => target && zoom(10 / slide.mpp / times / target.upp);
  const pan = (dx, dy, options) =>
    target && go({ ...target, x: target.x + dx * target.upp, y: target.y + dy * target.upp }, options);

  function settle() {
    clearTimeout(timer);
    timer = setTimeout(ask, SETTLED_MS);
  }

  function ask() {
    if (!overview || !target || !slide.width) return;
    const { width, height } = size();
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const downsample = target.upp / ratio;
    const finestShown = Math.max(slide.width, slide.height) / Math.max(overview.width, overview.height);
    if (downsample >= finestShown * 0.999) return; // the overview is as sharp
    const request = {
      kind: "view", key: slide.key, downsample,
      x: target.x - width * target.upp * MARGIN, y: target.y - height * target.upp * MARGIN,
      width: width * target.upp * (1 + 2 * MARGIN), height: height * target.upp * (1 + 2 * MARGIN),
    };
    const name = JSON.stringify(request);
    if (name === asked || details.some((d) => sharpEnough(d, request))) return;
    asked = name;
    stage.dataset.state = "loading";
    model.send(request);
  }

  const sharpEnough = (d, r) => {
    const x = Math.max(target.x, 0), y = Math.max(target.y, 0);
    const right = Math.min(target.x + size().width * target.upp, slide.width);
    const bottom = Math.min(target.y + size().height * target.upp, slide.height);
    return d.upp <= Math.max(r.downsample, 1) * 1.05 && d.x <= x + 1 && d.y <= y + 1 &&
      d.x + d.width >= right - 1 && d.y + d.height >= bottom - 1;
  };

  // ----------------------------------------------------------------- drawing
  function draw() {
    if (!frame) {
      last = performance.now();
      frame = requestAnimationFrame(paint);
    }
  }

  function paint(now) {
    frame = 0;
    const { width, height } = size();
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const ctx = canvas.getContext("2d");
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, width, height);
    if (!view || !slide.width) return;
    const share = 1 - Math.exp(-Math.max(now - last, 8) / GLIDE_MS * 2.5);
    last = now;
    for (const name of ["x", "y", "upp"]) view[name] += (target[name] - view[name]) * share;
    const far = Math.max(Math.abs(target.x - view.x), Math.abs(target.y - view.y)) / view.upp;
    if (far < 0.3 && Math.abs(target.upp / view.upp - 1) < 1e-3) view = { ...target };
    else frame = requestAnimationFrame(paint);

    const place = (image, { x, y, width: w, height: t }) =>
      ctx.drawImage(image, (x - view.x) / view.upp, (y - view.y) / view.upp, w / view.upp, t / view.upp);
    ctx.imageSmoothingEnabled = view.upp * ratio > 0.7; // beyond the scan's own pixels, show them
    ctx.imageSmoothingQuality = "high";
    if (overview) place(overview, { x: 0, y: 0, width: slide.width, height: slide.height });
    for (const detail of [...details].sort((a, b) => b.upp - a.upp)) place(detail.image, detail);
    const times = 10 / (slide.mpp * view.upp);
    if (heat && overview) {
      // Where cells are read, their own colours matter more: full up to 5×, a quarter from 20× on.
      const fading = Math.min(Math.max(1 - 0.375 * Math.log2(times / 5), 0.25), 1);
      ctx.globalAlpha = model.get("opacity") * fading;
      ctx.globalCompositeOperation = "multiply"; // nuclei stay as dark as they are
      ctx.imageSmoothingEnabled = false; // one square is one tile: nothing is made up between
      place(heat.image, heat);
      ctx.globalAlpha = 1;
      ctx.globalCompositeOperation = "source-over";
    }
    outlines.setAttribute("viewBox", `${view.x} ${view.y} ${width * view.upp} ${height * view.upp}`);
    outlines.style.display = badges.style.display = overview && outlineBox.checked ? "" : "none";
    for (const badge of badges.children) {
      const [x, y] = badge.place;
      badge.style.transform = `translate(${(x - view.x) / view.upp}px, ${(y - view.y) / view.upp}px)`;
    }
    measure(times);
  }

  function measure(times) {
    const most = view.upp * slide.mpp * 130; // µm that fit in the ruler's 130 px
    const ten = 10 ** Math.floor(Math.log10(most));
    const um = ten * STEPS.filter((step) => step * ten <= most).pop();
    bar.style.width = `${um / slide.mpp / view.upp}px`;
    barText.textContent = um >= 1000 ? `${um / 1000} mm` : `${um} µm`;
    const shown = times >= 9.95 ? Math.round(times) : times.toFixed(times < 0.95 ? 2 : 1);
    const beyond = slide.power && times > slide.power * 1.05;
    power.textContent = beyond ? `${shown}× of a ${slide.power}× scan` : `${shown}×`;
  }

  // ------------------------------------------------------------------ layers
  const decode = (bytes, type) => createImageBitmap(new Blob([bytes], { type }));

  function showSlide() {
    slide = model.get("slide") ?? {};
    overview = null;
    details = [];
    view = target = null;
    asked = "";
    delete stage.dataset.details;
    stage.dataset.state = slide.width ? "loading" : "empty";
    home({ jump: true });
    say();
    draw();
  }

  async function showOverview() {
    const { key } = slide;
    const bytes = model.get("overview");
    if (!bytes?.byteLength) return;
    const image = await decode(bytes, "image/jpeg");
    if (slide.key !== key) return;
    overview = image;
    stage.dataset.state = "ready";
    say();
    draw();
    settle();
  }

  async function showHeatmap() {
    const layer = model.get("heatmap") ?? {};
    heat = null;
    if (layer.png?.byteLength) {
      const image = await decode(layer.png, "image/png");
      if (model.get("heatmap") === layer) heat = { ...layer, image };
    }
    stage.dataset.heatmap = heat ? "shown" : "none";
    legend.style.visibility = heat ? "" : "hidden";
    draw();
  }

  function showRegions() {
    const regions = model.get("regions") ?? [];
    const lines = regions.map((region, i) => {
      const d = region.rings.map((ring) => `M${ring.map((p) => p.join(",")).join("L")}Z`).join("");
      const lines = ["hv-halo", "hv-line"].map((name) =>
        h("path", { class: name, d, stroke: name === "hv-line" ? region.colour : null }));
      return h("g", { "data-region": i }, h("title", {}, `${i + 1} · ${region.label}`), lines);
    });
    outlines.replaceChildren(...lines);
    badges.replaceChildren(...regions.slice(0, 40).map((region, i) => {
      const badge = h("button", {
        type: "button", class: "hv-badge", style: { background: region.colour },
        title: `Region ${i + 1}: ${region.label}`, onclick: () => pick(i),
      }, `${i + 1}`);
      badge.place = region.corner;
      return badge;
    }));
    mark();
    draw();
  }

  function mark() {
    const selected = model.get("selected");
    [...outlines.children].forEach((g, i) => g.classList.toggle("hv-picked", i === selected));
    [...badges.children].forEach((b, i) => b.classList.toggle("hv-picked", i === selected));
  }

  function pick(index) {
    const region = model.get("regions")[index];
    if (!region) return;
    model.set("selected", index);
    model.save_changes();
    zoomTo(region.bounds);
  }
  const zoomTo = (bounds) => go(fit(bounds, 0.3, 1));

  function say() {
    const text = model.get("message") || (slide.width && !overview ? "Opening the slide…" : "");
    note.textContent = text;
    note.style.display = text ? "" : "none";
    for (const part of [zooms, powers, power, bar.parentNode]) {
      part.style.visibility = slide.width ? "" : "hidden";
    }
  }

  async function receive(message, buffers) {
    if (message.kind === "zoom_to") zoomTo(message.bounds);
    if (message.kind !== "view" || message.key !== slide.key) return;
    const image = await decode(buffers[0], "image/jpeg");
    if (message.key !== slide.key) return;
    details = [...details, { ...message, image, upp: message.width / image.width }].slice(-KEPT);
    stage.dataset.state = "ready";
    stage.dataset.details = Number(stage.dataset.details ?? 0) + 1;
    draw();
  }

  // ------------------------------------------------------------------- input
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    const notch = event.deltaMode === 1 ? 33 : 1; // lines or px
    const amount = Math.min(Math.max(event.deltaY * notch, -300), 300);
    zoom(Math.exp(amount * 0.0025), [event.clientX - box.left, event.clientY - box.top]);
  }, { passive: false });

  let held = null;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.target.closest("button, input")) return;
    const group = event.target.closest("[data-region]");
    held = { x: event.clientX, y: event.clientY, moved: 0, region: group?.dataset.region };
    stage.setPointerCapture(event.pointerId);
    stage.focus({ preventScroll: true });
  });
  stage.addEventListener("pointermove", (event) => {
    if (!held) return;
    const dx = held.x - event.clientX, dy = held.y - event.clientY;
    held.moved += Math.abs(dx) + Math.abs(dy);
    Object.assign(held, { x: event.clientX, y: event.clientY });
    if (held.moved > 4) {
      stage.classList.add("hv-held");
      pan(dx, dy, { jump: true });
    }
  });
  const release = () => {
    if (held?.region !== undefined && held.moved <= 4) pick(Number(held.region));
    held = null;
    stage.classList.remove("hv-held");
  };
  stage.addEventListener("pointerup", release);
  stage.addEventListener("pointercancel", () => { held = null; });
  stage.addEventListener("dblclick", (event) => {
    if (event.target.closest("button")) return;
    const box = stage.getBoundingClientRect();
    zoom(0.5, [event.clientX - box.left, event.clientY - box.top]);
  });
  const keys = {
    ArrowLeft: () => pan(-120, 0), ArrowRight: () => pan(120, 0),
    ArrowUp: () => pan(0, -120), ArrowDown: () => pan(0, 120),
    "+": () => zoom(1 / 2), "=": () => zoom(1 / 2), "-": () => zoom(2), "_": () => zoom(2),
    0: () => home(), Home: () => home(),
    h: () => { model.set("opacity", model.get("opacity") ? 0 : 0.5); model.save_changes(); },
    o: () => { outlineBox.checked = !outlineBox.checked; draw(); },
  };
  stage.addEventListener("keydown", (event) => {
    if (event.target !== stage || event.ctrlKey || event.metaKey || !keys[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    keys[event.key]();
  });

  const slideOpacity = () => { slider.value = model.get("opacity"); draw(); };
  const watched = {
    "change:slide": showSlide, "change:overview": showOverview, "change:heatmap": showHeatmap,
    "change:regions": showRegions, "change:selected": mark, "change:opacity": slideOpacity,
    "change:message": say, "msg:custom": receive,
  };
  for (const [event, act] of Object.entries(watched)) model.on(event, act);
  const resized = new ResizeObserver(() => {
    if (atHome || !view) home({ jump: true });
    else { settle(); draw(); }
  });
  resized.observe(stage);
  showSlide();
  showOverview();
  showHeatmap();
  showRegions();
  slideOpacity();
  return () => {
    for (const [event, act] of Object.entries(watched)) model.off(event, act);
    resized.disconnect();
    cancelAnimationFrame(frame);
    clearTimeout(timer);
  };
}
export default { render };
