// Regions and drawn places, on an SVG of their own over the slide.
import { h, inkOn } from "../../dom.js";
import { applyMatrix, isInside, rings } from "./place.js";

const NUMBERED = 40; // regions that carry a number; more would hide the slide
const UNKNOWN = "#1f2937"; // of a class without a colour
const NEAR_PX = 12; // a point is hit within that

export function pathOf(geometry) {
  return rings(geometry).map((ring) => `M${ring.map((p) => p.join(",")).join("L")}Z`).join("");
}

function outline(geometry, colour, attributes) {
  const d = pathOf(geometry);
  const lines = ["hv-halo", "hv-line"].map((name) =>
    h("path", { class: name, d, stroke: name === "hv-line" ? colour ?? UNKNOWN : null }));
  return h("g", attributes, lines);
}

function pin(text, colour, at, attributes) {
  const node = h("g", { class: "hv-pin", ...attributes },
    h("circle", { r: 11, fill: colour ?? UNKNOWN }),
    h("text", { dy: 4, fill: inkOn(colour ?? UNKNOWN) }, text));
  node.at = at;
  return node;
}

// Returns {root, fill, move, hit, mark}.
export function makeOutlines() {
  const shapes = h("g");
  const pins = h("g");
  const root = h("svg", { class: "hv-outlines", "aria-hidden": "true" }, shapes, pins);
  let regions = [];
  let drawn = [];

  function fill(newRegions, newDrawn, show) {
    regions = show.regions ? newRegions : [];
    drawn = show.drawn ? newDrawn : [];
    shapes.replaceChildren(
      ...regions.map((r, i) => outline(r.geometry, r.colour, { "data-region": i })),
      ...drawn.filter((d) => d.geometry.type !== "Point").map((d) =>
        outline(d.geometry, d.colour, { class: "hv-drawn", "data-drawn": d.id })),
    );
    pins.replaceChildren(
      ...regions.slice(0, NUMBERED).map((r, i) => pin(`${i + 1}`, r.colour, r.corner, { "data-region": i })),
      ...drawn.filter((d) => d.geometry.type === "Point").map((d) =>
        pin("•", d.colour, d.geometry.coordinates, { "data-drawn": d.id })),
    );
  }

  let matrix = null;
  function move(newMatrix) {
    matrix = newMatrix;
    if (!matrix) return;
    shapes.setAttribute("transform", `matrix(${matrix.join(" ")})`);
    for (const node of pins.children) {
      node.setAttribute("transform", `translate(${applyMatrix(matrix, node.at).join(" ")})`);
    }
  }

  function mark(selected) {
    for (const node of [...shapes.children, ...pins.children]) {
      node.classList.toggle("hv-picked", node.dataset.region === `${selected}`);
    }
  }

  // What lies at a place: {drawn} before {region}; the number of a region counts as the region.
  function hit(screen, at) {
    const near = (point) => {
      const [x, y] = applyMatrix(matrix, point);
      return Math.hypot(x - screen[0], y - screen[1]) < NEAR_PX;
    };
    const touches = ({ geometry }) =>
      geometry.type === "Point" ? near(geometry.coordinates) : isInside(geometry, at);
    const found = drawn.findLast(touches);
    if (found) return { drawn: found };
    const numbered = regions.slice(0, NUMBERED).findIndex((r) => near(r.corner));
    const region = numbered >= 0 ? numbered : regions.findIndex(touches);
    return region >= 0 ? { region } : null;
  }
  return { root, fill, move, hit, mark };
}
