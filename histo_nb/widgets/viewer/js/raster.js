// Heatmap, tissue and tile grid, on one canvas that is multiplied with the slide: nuclei stay dark.
import { upp } from "./place.js";

const NOTHING = 255; // a cell without a tile
const VEIL = "rgb(96 112 136)"; // over what is no tissue
// Viridis and cividis rise in lightness, so they read without colour vision too; magenta is for
// slides on which green and blue are hard to see.
export const SCALES = {
  Viridis: ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"],
  Cividis: ["#00224e", "#434e6c", "#7d7c78", "#bcae6c", "#fee838"],
  Magenta: ["#fff5ff", "#f3b8e6", "#de62c3", "#ab1a91", "#5b0055"],
};

const channels = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));

function colourAt(scale, value) {
  const stops = SCALES[scale].map(channels);
  const at = value * (stops.length - 1);
  const i = Math.min(Math.floor(at), stops.length - 2);
  return stops[i].map((low, k) => low + (stops[i + 1][k] - low) * (at - i));
}

export const scaleGradient = (scale) => `linear-gradient(90deg, ${SCALES[scale]
  .map((colour, i) => `rgb(${channels(colour).join(" ")} / ${25 * i}%)`).join(", ")})`;

// Low values are nearly clear, so that unsuspicious tissue stays to be seen.
export function paintHeatmap({ values, rows, columns }, scale) {
  const image = new ImageData(columns, rows);
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  bytes.forEach((value, i) => {
    if (value === NOTHING) return;
    const share = value / (NOTHING - 1);
    image.data.set([...colourAt(scale, share), 255 * share], 4 * i);
  });
  const canvas = new OffscreenCanvas(columns, rows);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

export async function paintVeil({ png, width, height }, slide) {
  const mask = await createImageBitmap(new Blob([png], { type: "image/png" }));
  const shrinking = width / mask.width;
  const canvas = new OffscreenCanvas(
    Math.ceil(slide.width / shrinking), Math.ceil(slide.height / shrinking),
  );
  const ctx = canvas.getContext("2d");
  ctx.fillStyle = VEIL;
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  ctx.globalCompositeOperation = "destination-out";
  ctx.drawImage(mask, 0, 0, width / shrinking, height / shrinking);
  return canvas;
}

// `layers`: {heatmap: {image, place, opacity}, veil, grid: {place, values}}, each may be missing.
export function drawLayers(canvas, matrix, layers, slide) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio].map(Math.round);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const ctx = canvas.getContext("2d");
  ctx.setTransform(1, 0, 0, 1, 0, 0);
  ctx.clearRect(0, 0, width, height);
  if (!matrix) return;
  ctx.setTransform(...matrix.map((value) => value * ratio));
  ctx.imageSmoothingEnabled = false; // one square is one tile: nothing is made up between
  if (layers.veil) {
    ctx.globalAlpha = 0.55;
    ctx.drawImage(layers.veil, 0, 0, slide.width, slide.height);
  }
  if (layers.heatmap) {
    const { image, place, opacity } = layers.heatmap;
    // Where cells are read, their own colours matter more: full up to 5×, a quarter from 20× on.
    const times = 10 / (slide.mpp * upp(matrix));
    ctx.globalAlpha = opacity * Math.min(Math.max(1 - 0.375 * Math.log2(times / 5), 0.25), 1);
    ctx.drawImage(image, place.x, place.y, place.columns * place.step, place.rows * place.step);
  }
  ctx.globalAlpha = 1;
  if (layers.grid) drawGrid(ctx, layers.grid, upp(matrix));
}

function drawGrid(ctx, { place, values }, slidePx) {
  if (place.step / slidePx < 4) return; // lines would be all there is to see
  ctx.lineWidth = slidePx;
  ctx.strokeStyle = "rgb(15 92 114 / 70%)";
  ctx.beginPath();
  for (let i = 0; i < values.byteLength; i++) {
    if (values.getUint8(i) === NOTHING) continue;
    const [column, row] = [i % place.columns, Math.floor(i / place.columns)];
    ctx.rect(place.x + column * place.step, place.y + row * place.step, place.step, place.step);
  }
  ctx.stroke();
}
