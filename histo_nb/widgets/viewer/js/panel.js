// What stands around the slide: buttons, ruler, legend, and the card of a drawn place.
import { h } from "../../dom.js";
import { TOOLS } from "./draw.js";
import { SCALES, scaleGradient } from "./raster.js";

// Drawn on a square of 16: fonts do not have all of these signs.
const ICONS = {
  whole: "M2 6V2h4 M10 2h4v4 M14 10v4h-4 M6 14H2v-4",
  turn: "M13 8a5 5 0 1 1-1.6-3.7 M12 1.5v3h-3",
  screen: "M1.5 3h13v10h-13z M5 6h6v4H5z",
  polygon: "M8 2l6 4.5-2.3 7H4.3L2 6.5z",
  rectangle: "M2 4h12v8H2z",
  point: "M8 14C4.5 9.8 3.8 8 3.8 6.2a4.2 4.2 0 0 1 8.4 0C12.2 8 11.5 9.8 8 14z M8 6.1v.1",
};
const icon = (name) => h("svg", { class: "hv-icon", viewBox: "0 0 16 16", "aria-hidden": "true" },
  h("path", { d: ICONS[name] }));

const STEPS = [1, 2, 5];
const RULER_PX = 130;

const button = (text, label, act, attributes = {}) =>
  h("button", { type: "button", title: label, "aria-label": label, onclick: act, ...attributes }, text);

export function makeButtons({ zoom, home, rotate, fullScreen, magnify, use }) {
  const powers = h("div", { class: "hv-float hv-powers", role: "group", "aria-label": "Magnification" },
    [1, 5, 10, 20].map((times) => button(`${times}×`, `Magnify ${times}×`, () => magnify(times))));
  const moves = h("div", { class: "hv-float hv-buttons", role: "group", "aria-label": "View" },
    button("+", "Zoom in (+)", () => zoom(2)),
    button("−", "Zoom out (−)", () => zoom(1 / 2)),
    button(icon("whole"), "Whole slide (0)", home),
    button(icon("turn"), "Turn by 90° (R)", () => rotate(90)),
    button(icon("screen"), "Full screen (F)", fullScreen));
  const tools = h("div", { class: "hv-float hv-tools", role: "group", "aria-label": "Draw" },
    Object.entries(TOOLS).map(([name, [label]]) =>
      button(icon(name), label, () => use(name), { "data-tool": name, "aria-pressed": "false" })));
  const power = h("div", { class: "hv-float hv-power", title: "Magnification on this screen" });
  const bar = h("div", { class: "hv-bar" });
  const length = h("span");
  const ruler = h("div", { class: "hv-float hv-ruler" }, bar, length);

  // `um` is the width of a screen px.
  function measure(um, scanned) {
    const ten = 10 ** Math.floor(Math.log10(um * RULER_PX));
    const long = ten * STEPS.filter((step) => step * ten <= um * RULER_PX).pop();
    bar.style.width = `${long / um}px`;
    length.textContent = long >= 1000 ? `${long / 1000} mm` : `${long} µm`;
    const times = 10 / um; // by convention 10× is 1 µm a px
    const shown = times >= 9.95 ? Math.round(times) : times.toFixed(times < 0.95 ? 2 : 1);
    power.textContent = scanned && times > scanned * 1.05 ? `${shown}× of a ${scanned}× scan` : `${shown}×`;
  }
  const mark = (tool) => [...tools.children].forEach((node) =>
    node.setAttribute("aria-pressed", `${node.dataset.tool === tool}`));
  return { parts: [powers, moves, tools, power, ruler], tools, measure, mark };
}

// `state`: {map, scale, opacity, heatmap, regions, drawn, tissue, grid}; `change()` after each.
export function makeLegend(state, change) {
  const set = (name, value) => { state[name] = value; change(name); };
  const box = (name, label, title) => {
    const input = h("input", { type: "checkbox", onchange: () => set(name, input.checked) });
    input.checked = state[name];
    return h("label", { title, "data-layer": name }, input, label);
  };
  const map = h("select", {
    class: "h-field", "aria-label": "Probability shown", onchange: () => set("map", Number(map.value)),
  });
  const scale = h("select", {
    class: "h-field", "aria-label": "Colour scale", onchange: () => set("scale", scale.value),
  }, Object.keys(SCALES).map((name) => h("option", {}, name)));
  const slider = h("input", {
    type: "range", min: 0, max: 1, step: 0.05, "aria-label": "Heatmap opacity",
    oninput: () => set("opacity", Number(slider.value)),
  });
  const ramp = h("i");
  const heat = h("div", { class: "hv-heat" }, map, slider,
    h("span", { class: "hv-scale" }, "0", ramp, "1"));
  const layers = {
    regions: box("regions", "Regions", "Outlines of what the model found (O)"),
    drawn: box("drawn", "Drawn", "What people drew"),
    tissue: box("tissue", "Tissue", "Darkens what was not examined"),
    grid: box("grid", "Tiles", "The squares that were classified"),
  };
  const { regions, drawn, ...rest } = layers;
  const more = h("details", { class: "hv-more" }, h("summary", {}, "More"),
    h("div", { class: "hv-float" }, Object.values(rest), h("label", {}, "Colours", scale)));
  const root = h("div", { class: "hv-legend" }, heat, regions, drawn, more);

  function fill({ maps, hasRegions, hasDrawn, hasTissue }) {
    map.replaceChildren(...maps.map((label, i) => h("option", { value: i }, label)));
    map.value = Math.min(state.map, Math.max(maps.length - 1, 0));
    const there = { regions: hasRegions, drawn: hasDrawn, tissue: hasTissue, grid: maps.length > 0 };
    for (const [name, node] of Object.entries(layers)) node.hidden = !there[name];
    heat.hidden = !maps.length;
    root.hidden = !Object.values(there).some(Boolean);
  }
  function show() {
    slider.value = state.opacity;
    ramp.style.backgroundImage = scaleGradient(state.scale);
    for (const [name, node] of Object.entries(layers)) node.firstChild.checked = state[name];
  }
  return { root, fill, show };
}

// The card that asks what a drawn place is, or tells. Returns {root, ask, tell, close}.
export function makeCard({ onSave, onErase, onClose }) {
  const root = h("div", { class: "hv-card", role: "dialog", "aria-label": "Drawn place", hidden: "" });

  function open(parts, [x, y]) {
    root.replaceChildren(...parts);
    root.hidden = false;
    const { clientWidth, clientHeight } = root.parentNode;
    root.style.left = `${Math.max(Math.min(x, clientWidth - root.offsetWidth - 8), 8)}px`;
    root.style.top = `${Math.max(Math.min(y, clientHeight - root.offsetHeight - 8), 8)}px`;
  }
  function close() {
    root.hidden = true;
    root.replaceChildren();
    onClose();
  }
  function ask(place, classes, screen) {
    const note = h("textarea", { class: "h-field", rows: 2, maxlength: 2000, placeholder: "Note", "aria-label": "Note" });
    note.value = place.note ?? "";
    open([
      h("p", {}, h("b", {}, place.id ? "What is this place?" : "What did you draw?")),
      note,
      h("div", { class: "hv-choices" }, classes.map(({ label, colour }) =>
        h("button", {
          type: "button", class: "h-button", onclick: () => onSave({ ...place, label, note: note.value }),
        }, h("span", { class: "h-dot", style: { background: colour } }), label))),
      h("div", { class: "hv-choices" },
        h("button", { type: "button", class: "h-button", onclick: () => onSave({ ...place, label: null, note: note.value }) }, "Only a note"),
        h("button", { type: "button", class: "h-button", onclick: close }, "Discard")),
    ], screen);
    note.focus({ preventScroll: true });
  }
  function tell(place, classes, screen) {
    const mayChange = classes.length > 0 && place.is_mine;
    open([
      h("p", {}, h("b", {}, place.label ?? "Note"), h("span", { class: "h-quiet" }, ` ${place.who}`)),
      place.note ? h("p", { class: "hv-words" }, place.note) : null,
      h("div", { class: "hv-choices" },
        mayChange ? h("button", { type: "button", class: "h-button", onclick: () => ask(place, classes, screen) }, "Change") : null,
        mayChange ? h("button", { type: "button", class: "h-button", onclick: () => { onErase(place); close(); } }, "Remove") : null,
        h("button", { type: "button", class: "h-button", onclick: close }, "Close")),
    ].filter(Boolean), screen);
  }
  root.addEventListener("keydown", (event) => {
    event.stopPropagation(); // what is typed is not for the slide
    if (event.key === "Escape") close();
  });
  return { root, ask, tell, close };
}
