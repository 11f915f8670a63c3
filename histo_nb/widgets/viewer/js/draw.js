// Drawing a place: a polygon by clicks or by a held pointer, a rectangle, a point.
import { h } from "../../dom.js";
import { applyMatrix } from "./place.js";

const CLOSE_PX = 10; // a click that near to the first corner closes the polygon
const STEP_PX = 4; // between corners of a held pointer
const DRAG_PX = 6;

export const TOOLS = {
  polygon: ["Draw an outline: click corners or hold and draw; Enter closes it (P)", "p"],
  rectangle: ["Draw a rectangle (T)", "t"],
  point: ["Mark a point (M)", "m"],
};

// Returns {root, use, tool, move, key}. `toSlide(x, y)` and `onDone(geometry, screen)`.
export function makeDrawing({ toSlide, onDone, onTool }) {
  const line = h("path", { class: "hv-draft" });
  const root = h("svg", { class: "hv-drawing" }, line);
  let tool = null;
  let corners = []; // slide px
  let pressed = null;
  let matrix = null;

  function use(next) {
    tool = next === tool ? null : next;
    corners = [];
    root.style.pointerEvents = tool ? "auto" : "none";
    show();
    onTool(tool);
  }

  function show() {
    if (!matrix) return;
    const points = corners.map((corner) => applyMatrix(matrix, corner).join(","));
    line.setAttribute("d", points.length ? `M${points.join("L")}${tool === "rectangle" ? "Z" : ""}` : "");
  }

  const where = (event) => {
    const box = root.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const square = ([x, y], [right, low]) => [[x, y], [right, y], [right, low], [x, low]];

  function finish(screen) {
    const ring = corners;
    const done = tool;
    corners = [];
    use(null);
    if (!ring.length) return null;
    if (done === "point") return onDone({ type: "Point", coordinates: ring[0] }, screen);
    if (ring.length < 3) return null;
    return onDone({ type: "Polygon", coordinates: [[...ring, ring[0]]] }, screen);
  }

  root.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    root.setPointerCapture(event.pointerId);
    pressed = { at: where(event), dragged: false };
    if (tool === "rectangle") corners = [toSlide(...pressed.at)];
  });
  root.addEventListener("pointermove", (event) => {
    if (!pressed) return;
    const at = where(event);
    const far = Math.hypot(at[0] - pressed.at[0], at[1] - pressed.at[1]);
    if (tool === "rectangle") {
      const first = applyMatrix(matrix, corners[0]);
      corners = square(first, at).map((corner) => toSlide(...corner));
    } else if (tool === "polygon" && far > (pressed.dragged ? STEP_PX : DRAG_PX)) {
      if (!pressed.dragged) corners.push(toSlide(...pressed.at));
      pressed = { at, dragged: true };
      corners.push(toSlide(...at));
    }
    show();
  });
  root.addEventListener("pointerup", (event) => {
    if (!pressed) return;
    const at = where(event);
    const { dragged } = pressed;
    pressed = null;
    if (tool === "point") {
      corners = [toSlide(...at)];
      finish(at);
    } else if (tool === "rectangle") {
      if (corners.length === 4) finish(at);
    } else if (dragged) {
      finish(at);
    } else {
      const first = corners.length > 2 && applyMatrix(matrix, corners[0]);
      if (first && Math.hypot(first[0] - at[0], first[1] - at[1]) < CLOSE_PX) finish(at);
      else corners.push(toSlide(...at));
    }
    show();
  });
  root.addEventListener("pointercancel", () => { pressed = null; });
  root.addEventListener("dblclick", (event) => {
    corners.pop(); // the second click has set a corner where the first one did
    finish(where(event));
  });

  // Returns whether the key was for the drawing.
  function key(name) {
    if (!tool) return false;
    if (name === "Escape") use(null);
    else if (name === "Backspace") corners.pop();
    else if (name === "Enter") finish(applyMatrix(matrix, corners.at(-1) ?? [0, 0]));
    else return false;
    show();
    return true;
  }

  return {
    root, use, key, tool: () => tool,
    move: (newMatrix) => { matrix = newMatrix; show(); },
  };
}
