// The mask studio. The picture, the mask from the kernel and the strokes of the brush are three
// canvases on top of one another; places are level-0 px when they leave this page.
import { h, keepName, makePost, recallName } from "./dom.js";

const SLIDER_MS = 60; // a slider on its way asks this often at most
const SLIDERS = [
  ["open_um", "Opening", 0, 120, 4, "µm", "thinner strands go"],
  ["close_um", "Closing", 0, 300, 4, "µm", "narrower gaps are tissue"],
  ["min_speck_um2", "Specks below", 0, 500000, 5000, "µm²", "go"],
  ["min_hole_um2", "Holes below", 0, 500000, 5000, "µm²", "are filled"],
];

function render({ model, el }) {
  el.classList.add("histo");
  const suppress = { "data-lm-suppress-shortcuts": "true" };
  const spec = { ...model.get("defaults") };
  let slide = null; // what the kernel said of the slide that is shown
  let wanted = ""; // the slide that is asked for
  let strokes = [], drawing = null, tool = "look", stored = true, timer = 0, sent = 0;
  const small = new Map(); // slide_id → address of its JPEG

  const list = h("ol", { class: "hm-list", "aria-label": "Slides, suspicious first", tabindex: "-1" });
  const base = h("canvas", { class: "hm-layer" }), over = h("canvas", { class: "hm-layer" });
  const pencil = h("canvas", { class: "hm-layer hm-pencil", "aria-label": "Slide with its mask" });
  const stage = h("div", { class: "hm-stage" }, base, over, pencil);
  const numbers = h("p", { class: "hm-numbers", role: "status" });
  const title = h("h2", { class: "hm-title" });
  const alert = h("p", { class: "h-warning hm-alert", role: "alert", hidden: "" });
  const edited = h("p", { class: "h-quiet hm-edited" });
  const methods = h("div", { class: "hm-methods", role: "radiogroup", "aria-label": "Method" });
  const brush = h("input", { type: "range", min: "40", max: "1500", step: "20", value: "240",
    "aria-label": "Brush, µm", ...suppress, oninput: sayBrush });
  const brushSays = h("output", {});
  const who = h("input", { class: "h-field hm-who", type: "text", maxlength: "64", placeholder: "your name",
    "aria-label": "Your name", value: recallName(model.get("annotator")), ...suppress,
    onchange: () => keepName(who.value.trim()) });
  const tools = [["look", "Look"], ["add", "Add tissue"], ["erase", "Erase"]].map(([name, text]) =>
    h("button", { type: "button", class: "h-button", "aria-pressed": `${name === tool}`,
      onclick: () => { tool = name; dressTools(); } }, text));
  const undo = h("button", { type: "button", class: "h-button",
    onclick: () => { strokes.pop(); redraw(); dressTools(); } }, "Undo stroke");
  const save = h("button", { type: "button", class: "h-button h-button--primary", onclick: keep }, "Save as this slide's mask");
  const forget = h("button", { type: "button", class: "h-button",
    onclick: () => {
      if (!here() || !confirm("Give up the mask corrected by hand? It is put aside in masks/earlier.")) return;
      strokes = [];
      post({ kind: "forget", slide_id: slide.slide_id, who: who.value, edited_at: slide.edited_at });
    } },
  "Back to the method's mask");
  const reset = h("button", { type: "button", class: "h-button",
    onclick: () => { Object.assign(spec, model.get("defaults")); fillSliders(); ask(true); } }, "Defaults");
  const ink = h("input", { type: "checkbox", ...suppress,
    onchange: () => { spec.without_pen = ink.checked; ask(true); } });
  const sliders = SLIDERS.map(([name, text, min, max, step, unit, effect]) => {
    const says = h("output", {});
    const input = h("input", { type: "range", min, max, step, "aria-label": `${text}, ${unit}`, ...suppress,
      oninput: () => { spec[name] = Number(input.value); say(); later(); },
      onchange: () => ask(true) });
    const say = () => { says.textContent = `${spec[name].toLocaleString("en")} ${unit}`; };
    return { fill() { input.value = spec[name]; say(); },
      row: h("label", { class: "hm-slider", title: effect }, h("span", {}, text), input, says) };
  });
  el.append(h("section", { class: "h-panel hm", "aria-label": "Mask studio" },
    h("div", { class: "hm-side" }, h("h3", {}, "Slides, suspicious first"), list),
    h("div", { class: "hm-middle" }, h("div", { class: "hm-head" }, title, numbers), alert, stage, edited),
    h("div", { class: "hm-tools" },
      h("h3", {}, "Method"), methods,
      h("h3", {}, "Clean up"), sliders.map((slider) => slider.row),
      h("label", { class: "hm-check" }, ink, " leave out what ink covers"), reset,
      h("h3", {}, "By hand"), h("div", { class: "hm-row" }, tools),
      h("label", { class: "hm-slider" }, h("span", {}, "Brush"), brush, brushSays),
      h("div", { class: "hm-row" }, undo),
      h("label", { class: "hm-you" }, "You are ", who), save, forget)));

  const post = makePost(model, () => warn("This page has lost its connection; nothing can be saved. Reload it."));
  function sayBrush() { brushSays.textContent = `${brush.value} µm`; }
  const here = () => slide && slide.slide_id === wanted; // what is shown is what was asked for
  function warn(text) { alert.textContent = text; alert.hidden = !text; }

  // ------------------------------------------------------------------------------- the list
  function fillList() {
    model.get("slides").forEach((entry, i) => {
      let item = list.children[i];
      if (!item) {
        item = h("li", {}, h("button", { type: "button", class: "hm-item" },
          h("img", { class: "hm-small", alt: "" }), h("span", { class: "hm-name" }),
          h("span", { class: "hm-flags" })));
        item.firstChild.onclick = () => open(item.dataset.slide);
        list.append(item);
      }
      item.dataset.slide = entry.slide_id;
      const [image, name, flags] = item.firstChild.children;
      if (small.get(entry.slide_id)) image.src = small.get(entry.slide_id);
      name.textContent = `${entry.slide_id} ${entry.share}`;
      flags.textContent = [entry.flags, entry.edited_by ? `by ${entry.edited_by}` : ""].filter(Boolean).join(" · ");
      item.classList.toggle("hm-suspicious", Boolean(entry.flags));
      item.firstChild.setAttribute("aria-current", `${entry.slide_id === wanted}`);
    });
  }
  function open(name) {
    if (strokes.length && name !== wanted && !confirm("Your strokes are not saved. Leave them?")) return;
    wanted = name;
    drawing = null;
    strokes = [];
    warn("");
    fillList();
    post({ kind: "slide", slide_id: name });
  }

  // ------------------------------------------------------------------------------ the mask
  function later() {
    const wait = Math.max(sent + SLIDER_MS - Date.now(), 0);
    clearTimeout(timer);
    timer = setTimeout(() => ask(false), wait);
  }
  function ask(withMethods) {
    clearTimeout(timer);
    if (!here()) return;
    sent = Date.now();
    stored = false;
    post({ kind: "mask", slide_id: slide.slide_id, spec, methods: withMethods });
  }
  function fillSliders() {
    sliders.forEach((slider) => slider.fill());
    ink.checked = spec.without_pen;
    [...methods.children].forEach((button) =>
      button.setAttribute("aria-checked", `${button.dataset.method === spec.method}`));
  }
  function dressTools() {
    tools.forEach((button, i) => button.setAttribute("aria-pressed", `${["look", "add", "erase"][i] === tool}`));
    pencil.dataset.tool = tool;
    undo.disabled = !strokes.length;
    save.disabled = !here();
    forget.hidden = !slide?.edited_by;
    edited.textContent = slide?.edited_by
      ? `Corrected by ${slide.edited_by}, ${slide.edited_at.slice(0, 16).replace("T", " ")} UTC. It stays until it is taken back.`
      : strokes.length ? "Not saved yet." : "";
  }

  // ----------------------------------------------------------------------------- the brush
  const place = (event) => {
    const box = pencil.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * pencil.width, (event.clientY - box.top) / box.height * pencil.height];
  };
  pencil.addEventListener("pointerdown", (event) => {
    if (tool === "look" || !here()) return;
    pencil.setPointerCapture(event.pointerId);
    drawing = { points: [place(event)], width: Number(brush.value) / slide.mpp, adds: tool === "add" };
    strokes.push(drawing);
    redraw();
    event.preventDefault();
  });
  pencil.addEventListener("pointermove", (event) => {
    if (!drawing) return;
    drawing.points.push(place(event));
    redraw();
  });
  const lift = () => { drawing = null; dressTools(); };
  pencil.addEventListener("pointerup", lift);
  pencil.addEventListener("pointercancel", lift);
  function redraw() { // what is added shows green, what is erased shows the bare slide
    const pen = pencil.getContext("2d");
    pen.clearRect(0, 0, pencil.width, pencil.height);
    pen.lineCap = pen.lineJoin = "round";
    for (const { points, width, adds } of strokes) {
      pen.strokeStyle = adds ? "rgb(0 158 115 / 0.55)" : "rgb(213 94 0 / 0.5)";
      pen.lineWidth = width;
      pen.beginPath();
      points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      if (points.length === 1) pen.lineTo(points[0][0] + 0.01, points[0][1]);
      pen.stroke();
    }
  }
  function keep() {
    if (!who.value.trim()) { warn("Say who you are first: a corrected mask carries a name."); who.focus(); return; }
    if (!here()) return;
    const scale = slide.downsample;
    save.disabled = true;
    post({ kind: "save", slide_id: slide.slide_id, spec, stored, who: who.value,
      edited_at: slide.edited_at,
      strokes: strokes.map(({ points, width, adds }) => ({ adds, width: width * scale,
        points: points.map(([x, y]) => [x * scale, y * scale]) })) });
  }

  // ------------------------------------------------------------------------------- answers
  async function paint(canvas, bytes, type) {
    const picture = await createImageBitmap(new Blob([bytes], { type }));
    if (canvas.width !== picture.width) canvas.width = picture.width;
    if (canvas.height !== picture.height) canvas.height = picture.height;
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(picture, 0, 0);
  }
  const answers = {
    async slide(said, [jpeg]) {
      if (said.slide_id !== wanted) return;
      slide = said;
      Object.assign(spec, said.spec);
      title.textContent = said.slide_id;
      stored = true;
      stage.style.aspectRatio = `${said.width} / ${said.height}`;
      stage.style.setProperty("--m-aspect", said.width / said.height);
      pencil.width = said.width;
      pencil.height = said.height;
      over.getContext("2d").clearRect(0, 0, over.width, over.height);
      fillSliders();
      dressTools();
      redraw();
      await paint(base, jpeg, "image/jpeg");
      stage.dataset.slide = said.slide_id;
    },
    async mask(said, [png]) {
      if (said.slide_id !== wanted) return;
      stored = said.stored;
      numbers.textContent = [`${said.tissue_mm2} mm² of tissue, ${said.share}`, ...said.flags].join(" · ");
      await paint(over, png, "image/png");
      stage.dataset.masks = `${Number(stage.dataset.masks ?? 0) + 1}`;
    },
    methods({ slide_id: name, shares }, jpegs) {
      if (name !== wanted) return;
      methods.querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
      methods.replaceChildren(...model.get("methods").map((method, i) => h("button", {
        type: "button", role: "radio", class: "hm-method", "data-method": method,
        "aria-checked": `${method === spec.method}`,
        onclick: () => { spec.method = method; fillSliders(); ask(false); },
      }, h("img", { alt: "", src: URL.createObjectURL(new Blob([jpegs[i]], { type: "image/jpeg" })) }),
      h("span", {}, method.replace("_", " ")), h("span", { class: "h-quiet" }, shares[i]))));
    },
    saved(said) {
      if (said.slide_id !== wanted) return;
      slide = { ...slide, ...said };
      strokes.splice(0, said.n_strokes); // what was drawn meanwhile stays
      stored = true;
      warn("");
      Object.assign(spec, said.spec);
      fillSliders();
      redraw();
      dressTools();
    },
    small({ slide_id: name }, [jpeg]) {
      if (small.get(name)) URL.revokeObjectURL(small.get(name));
      small.set(name, jpeg?.byteLength ? URL.createObjectURL(new Blob([jpeg], { type: "image/jpeg" })) : "");
      fillList();
    },
    trouble({ text }) { warn(text); dressTools(); },
  };
  const receive = (message, buffers) => answers[message.kind]?.(message, buffers);
  const seen = new IntersectionObserver((entries) => { // pictures of what is in view only
    const names = entries.filter((entry) => entry.isIntersecting)
      .map((entry) => entry.target.dataset.slide).filter((name) => name && !small.has(name));
    names.forEach((name) => small.set(name, ""));
    if (names.length) queue.push(...names);
    if (queue.length) { post({ kind: "small", slide_ids: queue.splice(0) }); }
  }, { root: list, rootMargin: "200px" });
  const queue = [];
  const leaving = (event) => { if (strokes.length) event.preventDefault(); };
  window.addEventListener("beforeunload", leaving);
  model.on("msg:custom", receive);
  model.on("change:slides", fillList);
  fillList();
  fillSliders();
  sayBrush();
  dressTools();
  [...list.children].forEach((item) => seen.observe(item));
  if (model.get("slides").length) open(model.get("slides")[0].slide_id);
  return () => {
    seen.disconnect();
    clearTimeout(timer);
    window.removeEventListener("beforeunload", leaving);
    model.off("msg:custom", receive);
    model.off("change:slides", fillList);
    small.forEach((address) => address && URL.revokeObjectURL(address));
  };
}
export default { render };
