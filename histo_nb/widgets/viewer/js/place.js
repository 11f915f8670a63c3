// Where the slide is on the screen. Screen px are CSS px of the stage; slide px are level-0 px.
import OpenSeadragon from "openseadragon";

const { Point, Rect } = OpenSeadragon;

// The affine map [a, b, c, d, e, f] of slide px to screen px, as canvas and SVG take it.
export function screenMatrix(image) {
  const at = (x, y) => image.imageToViewerElementCoordinates(new Point(x, y));
  const far = Math.max(image.source.dimensions.x, image.source.dimensions.y);
  const [o, right, down] = [at(0, 0), at(far, 0), at(0, far)];
  return [
    (right.x - o.x) / far, (right.y - o.y) / far, (down.x - o.x) / far, (down.y - o.y) / far, o.x, o.y,
  ];
}

export const applyMatrix = ([a, b, c, d, e, f], [x, y]) => [a * x + c * y + e, b * x + d * y + f];

// Slide px to a screen px.
export const upp = ([a, b]) => 1 / Math.hypot(a, b);

export function toSlide(image, x, y) {
  const point = image.viewerElementToImageCoordinates(new Point(x, y));
  return [point.x, point.y];
}

// What is seen now, or will be seen when the movement has ended: a box in slide px, and upp.
export function seen(viewer, image, current) {
  const box = image.viewportToImageRectangle(viewer.viewport.getBounds(current).getBoundingBox());
  const zoom = image.viewportToImageZoom(viewer.viewport.getZoom(current));
  return { x: box.x, y: box.y, width: box.width, height: box.height, upp: 1 / zoom };
}

// Moves to `x, y, right, bottom`, with some of what lies around.
export function zoomTo(viewer, image, [x, y, right, bottom], { margin = 0.3 } = {}) {
  const [width, height] = [Math.max(right - x, 1), Math.max(bottom - y, 1)];
  const around = new Rect(
    x - (width * margin) / 2, y - (height * margin) / 2, width * (1 + margin), height * (1 + margin),
  );
  viewer.viewport.fitBoundsWithConstraints(image.imageToViewportRectangle(around));
}

// GeoJSON outline → rings; a point has none.
export function rings(geometry) {
  if (geometry.type === "Polygon") return geometry.coordinates;
  return geometry.type === "MultiPolygon" ? geometry.coordinates.flat() : [];
}

export function isInside(geometry, [x, y]) {
  let inside = false;
  for (const ring of rings(geometry)) {
    for (let i = 0, j = ring.length - 1; i < ring.length; j = i++) {
      const [[x1, y1], [x2, y2]] = [ring[i], ring[j]];
      if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) inside = !inside;
    }
  }
  return inside;
}
