// A slide as under a microscope: OpenSeadragon moves it, our layers lie over it.
import OpenSeadragon from "openseadragon";

import { h, isTyping, makePost } from "../../dom.js";
import { makeDrawing, TOOLS } from "./draw.js";
import { makeLink } from "./linked.js";
import { makeOutlines } from "./outlines.js";
import { makeButtons, makeCard, makeLegend } from "./panel.js";
import { screenMatrix, seen, toSlide, upp, zoomTo } from "./place.js";
import { drawLayers, paintHeatmap, paintVeil } from "./raster.js";
import { LOADING, makeTiles } from "./tiles.js";

const FINEST = 2.5; // screen px a slide px: more shows no more
const SMOOTH_UPP = 0.7; // beyond the scan's own pixels, they are shown as they are
const PAN_PX = 120;

function render({ model, el }) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const state = {
    map: 0, scale: "Viridis", opacity: model.get("opacity"),
    regions: true, drawn: true, tissue: false, grid: false,
  };
  const post = makePost(model, () => say("The connection is lost. Reload the page."));
  const view = h("div", { class: "hv-view" });
  const raster = h("canvas", { class: "hv-raster", "aria-hidden": "true" });
  const outlines = makeOutlines();
  const drawing = makeDrawing({
    toSlide: (x, y) => toSlide(image(), x, y),
    onDone: (geometry, screen) => card.ask({ geometry }, model.get("classes"), screen),
    onTool: (tool) => { osd?.setMouseNavEnabled(!tool); buttons.mark(tool); },
  });
  const navigator = h("div", { class: "hv-float hv-navigator", id: `hv-${crypto.randomUUID()}`, "aria-hidden": "true" });
  const note = h("div", { class: "hv-note", role: "status" });
  const buttons = makeButtons({
    zoom, home, rotate, fullScreen, magnify, use: (tool) => drawing.use(tool),
  });
  const card = makeCard({
    onSave: save, onErase: ({ id }) => post({ kind: "erase", id, key: slide.key }), onClose: () => stage.focus({ preventScroll: true }),
  });
  const legend = makeLegend(state, changeLayer);
  const stage = h("div", {
    class: "hv-stage", tabindex: 0, role: "application", "data-lm-suppress-shortcuts": "true",
    "aria-label": "Slide. Arrow keys move, plus and minus zoom, 0 shows the whole slide, R turns it.",
  }, view, raster, outlines.root, drawing.root, note, navigator, buttons.parts, card.root);
  const root = h("div", { class: "hv" }, stage, legend.root);
  el.classList.add("histo");
  el.append(root);

  let osd = null;
  let slide = {};
  let tiles = null;
  const unsaved = new Map(); // drawn places that the kernel has not taken yet
  let heatmaps = {};
  let layers = {};
  const image = () => osd?.world.getItemAt(0);
  const matrix = () => (image() ? screenMatrix(image()) : null);

  // ------------------------------------------------------------------ moving
  function zoom(factor) {
    osd.viewport.zoomBy(factor);
    osd.viewport.applyConstraints();
  }
  function home() {
    osd.viewport.goHome();
  }
  function rotate(degrees) {
    osd.viewport.setRotation(osd.viewport.getRotation() + degrees);
  }
  function magnify(times) {
    if (!image()) return;
    osd.viewport.zoomTo(image().imageToViewportZoom((slide.mpp * times) / 10));
    osd.viewport.applyConstraints();
  }
  function pan(x, y) {
    osd.viewport.panBy(osd.viewport.deltaPointsFromPixels(new OpenSeadragon.Point(x, y)));
    osd.viewport.applyConstraints();
  }
  function fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else root.requestFullscreen?.();
  }
  function goTo(bounds) {
    if (image()) zoomTo(osd, image(), bounds);
  }
  function pick(index) {
    const region = model.get("regions")[index];
    if (!region) return;
    model.set("selected", index);
    model.save_changes();
    goTo(region.bounds);
  }
  function pickNext(step) {
    const n = model.get("regions").length;
    if (n) pick((Math.max(model.get("selected"), step > 0 ? -1 : 0) + step + n) % n);
  }

  // ------------------------------------------------------------------ linked
  const link = makeLink(() => model.get("link"), () => {
    if (!image()) return {};
    const centre = image().viewportToImageCoordinates(osd.viewport.getCenter(true));
    return {
      x: centre.x * slide.mpp, y: centre.y * slide.mpp, rotation: osd.viewport.getRotation(true),
      upp: slide.mpp / image().viewportToImageZoom(osd.viewport.getZoom(true)),
    };
  }, ({ x, y, upp: um, rotation }) => {
    if (!image()) return;
    const { viewport } = osd;
    viewport.zoomTo(image().imageToViewportZoom(slide.mpp / um), null, true);
    viewport.panTo(image().imageToViewportCoordinates(x / slide.mpp, y / slide.mpp), true);
    viewport.setRotation(rotation, true);
  });

  // ----------------------------------------------------------------- drawing
  function draw() {
    const now = matrix();
    if (now) {
      buttons.measure(slide.mpp * upp(now), slide.power);
      osd.drawer.setImageSmoothingEnabled(upp(now) > SMOOTH_UPP);
      const { x, y, width, height } = seen(osd, image(), true);
      stage.dataset.view = [x, y, width, height].map(Math.round).join(" "); // slide px
    }
    const heat = heatmaps.image && { ...heatmaps, opacity: state.opacity };
    drawLayers(raster, now, {
      heatmap: state.opacity > 0 && heat, veil: state.tissue && layers.veil,
      grid: state.grid && layers.grid,
    }, slide);
    outlines.move(now);
    drawing.move(now);
  }

  function showSlide() {
    slide = model.get("slide") ?? {};
    card.root.hidden = true;
    if (drawing.tool()) drawing.use(null);
    tiles = null;
    layers = {};
    stage.dataset.state = slide.width ? "loading" : "empty";
    stage.dataset.key = slide.key ?? "";
    osd?.close();
    say();
    open();
    draw();
  }

  // Not before the stage is laid out: OpenSeadragon takes its size when it is made.
  function start() {
    osd = OpenSeadragon({
      ...LOADING,
      element: view, navigatorElement: navigator, showNavigator: true, navigatorMaintainSizeRatio: true,
      navigatorDisplayRegionColor: "#0f5c72",
      showNavigationControl: false, drawer: "canvas", crossOriginPolicy: false,
      animationTime: still ? 0 : 0.25, springStiffness: 9, blendTime: 0, immediateRender: true,
      minZoomImageRatio: 0.1, maxZoomPixelRatio: FINEST, visibilityRatio: 0.3, preserveViewport: false,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true, flickEnabled: false },
      gestureSettingsTouch: { pinchRotate: true, clickToZoom: false, dblClickToZoom: true },
      keyboardNavEnabled: false, zoomPerScroll: 1.35,
    });
    osd.addHandler("open", () => {
      image().addHandler("fully-loaded-change", ({ fullyLoaded }) => {
        stage.dataset.state = fullyLoaded ? "ready" : "loading";
      });
      link.join();
      draw();
    });
    osd.addHandler("update-viewport", draw);
    osd.addHandler("viewport-change", () => {
      if (tiles?.pending()) tiles.prune([true, false].map((current) => seen(osd, image(), current)));
      link.tell();
    });
    osd.addHandler("canvas-click", (event) => {
      stage.focus({ preventScroll: true });
      if (!event.quick || !image()) return;
      const { x, y } = event.position;
      const found = outlines.hit([x, y], toSlide(image(), x, y));
      if (found?.drawn) card.tell(found.drawn, model.get("classes"), [x, y]);
      else if (found) pick(found.region);
    });
    osd.addHandler("canvas-key", (event) => { event.preventDefaultAction = true; });
  }

  // A stage that is not shown has no size to fit a slide into.
  function open() {
    if (!slide.width || tiles || !stage.clientWidth || !stage.clientHeight) return;
    if (!osd) start();
    tiles = makeTiles(post, slide, () => say("A place on this slide cannot be read."));
    osd.open(tiles.source);
  }

  function showHeatmap() {
    const layer = model.get("heatmap") ?? {};
    const map = layer.maps?.[Math.min(state.map, layer.maps.length - 1)];
    heatmaps = {};
    layers.grid = null;
    if (map) {
      heatmaps = { place: layer, image: paintHeatmap({ ...layer, values: map.values }, state.scale) };
      layers.grid = { place: layer, values: map.values };
    }
    stage.dataset.heatmap = map ? map.label : "none";
    showLegend();
    draw();
  }

  async function showTissue() {
    const layer = model.get("tissue") ?? {};
    layers.veil = null;
    showLegend();
    if (!layer.png?.byteLength || !slide.width) return draw();
    const veil = await paintVeil(layer, slide);
    if (model.get("tissue") === layer) layers.veil = veil;
    return draw();
  }

  function showOutlines() {
    outlines.fill(model.get("regions") ?? [], model.get("drawn") ?? [], state);
    outlines.mark(model.get("selected"));
    showLegend();
    draw();
  }

  function showLegend() {
    legend.fill({
      maps: (model.get("heatmap")?.maps ?? []).map(({ label }) => label),
      hasRegions: Boolean(model.get("regions")?.length), hasDrawn: Boolean(model.get("drawn")?.length),
      hasTissue: Boolean(model.get("tissue")?.png?.byteLength),
    });
    legend.show();
    buttons.tools.hidden = !model.get("classes")?.length;
  }

  function changeLayer(name) {
    if (name === "opacity") {
      model.set("opacity", state.opacity);
      model.save_changes();
    }
    if (name === "map" || name === "scale") showHeatmap();
    else showOutlines();
  }
  const toggle = (name) => {
    state[name] = !state[name];
    changeLayer(name);
  };

  function say(trouble = "") {
    note.textContent = model.get("message") || trouble;
    note.hidden = !note.textContent;
    note.classList.toggle("hv-trouble", Boolean(trouble));
    for (const part of [...buttons.parts, navigator]) part.style.visibility = slide.width ? "" : "hidden";
  }

  function save(place) {
    const { geometry, label, note: words } = place;
    const id = place.id ?? crypto.randomUUID();
    unsaved.set(id, { ...place, label, note: words });
    post({ kind: "draw", id, label, note: words, geometry, key: slide.key });
    card.close();
  }

  // ------------------------------------------------------------------ events
  for (const touch of ["pointerdown", "pointermove", "wheel", "keydown"]) {
    stage.addEventListener(touch, (event) => {
      if (touch !== "pointermove" || event.buttons) link.lead();
    }, { capture: true, passive: true });
  }
  const keys = {
    ArrowLeft: () => pan(-PAN_PX, 0), ArrowRight: () => pan(PAN_PX, 0),
    ArrowUp: () => pan(0, -PAN_PX), ArrowDown: () => pan(0, PAN_PX),
    "+": () => zoom(2), "=": () => zoom(2), "-": () => zoom(1 / 2), _: () => zoom(1 / 2),
    0: home, Home: home, r: () => rotate(90), R: () => rotate(-90), f: fullScreen,
    1: () => magnify(1), 2: () => magnify(5), 3: () => magnify(10), 4: () => magnify(20),
    "]": () => pickNext(1), "[": () => pickNext(-1),
    h: () => { state.opacity = state.opacity ? 0 : 0.5; changeLayer("opacity"); },
    o: () => toggle("regions"),
  };
  for (const [tool, [, key]] of Object.entries(TOOLS)) {
    keys[key] = () => { if (!buttons.tools.hidden) drawing.use(tool); };
  }
  stage.addEventListener("keydown", (event) => {
    const presses = event.target.closest("button, summary") && ["Enter", " "].includes(event.key);
    if (presses || isTyping(event)) return;
    if (!drawing.key(event.key) && !keys[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    if (!drawing.tool() || !keys[event.key]) keys[event.key]?.();
  });

  function receive(message, buffers) {
    if (message.kind === "tiles") tiles?.receive(message, buffers);
    else if (message.kind === "zoom_to") goTo(message.bounds);
    else if (message.kind === "taken") {
      const place = unsaved.get(message.id);
      unsaved.delete(message.id);
      if (!message.reason) return;
      say(message.reason);
      if (place) card.ask(place, model.get("classes"), [60, 60]); // nothing that was written is lost
    }
  }
  const watched = {
    "change:slide": showSlide, "change:heatmap": showHeatmap, "change:tissue": showTissue,
    "change:regions": showOutlines, "change:drawn": showOutlines, "change:classes": showLegend,
    "change:selected": () => outlines.mark(model.get("selected")), "change:message": () => say(),
    "change:opacity": () => { state.opacity = model.get("opacity"); showLegend(); draw(); },
    "msg:custom": receive,
  };
  for (const [event, act] of Object.entries(watched)) model.on(event, act);
  const resized = new ResizeObserver(open);
  resized.observe(stage);
  showSlide();
  showHeatmap();
  showTissue();
  showOutlines();
  return () => {
    for (const [event, act] of Object.entries(watched)) model.off(event, act);
    resized.disconnect();
    link.close();
    osd?.destroy();
  };
}
export default { render };
