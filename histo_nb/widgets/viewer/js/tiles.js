// A tile source whose tiles come over the widget's channel. OpenSeadragon never withdraws a wish;
// here a tile that has left the view before it came is withdrawn, and may be wished for again.
import OpenSeadragon from "openseadragon";

const TIMEOUT_MS = 600_000; // a kernel that computes answers late, not never
const MARGIN = 0.25; // of the view: tiles that near are kept
const FINER = 0.4; // share of a screen px's width: finer steps than that are not needed

export const LOADING = {
  timeout: TIMEOUT_MS, imageLoaderLimit: 0, maxTilesPerFrame: 40, maxImageCacheCount: 600,
};

// Returns {source, receive, prune, close}. `onFail` hears that a place cannot be read.
export function makeTiles(post, slide, onFail) {
  const steps = [...slide.steps].reverse(); // OpenSeadragon counts from the coarsest
  const waiting = new Map(); // number → {context, level}
  let number = 0;
  let ask = [];
  let drop = [];
  let scheduled = false;

  function later() {
    if (scheduled) return;
    scheduled = true;
    queueMicrotask(() => {
      scheduled = false;
      if (ask.length || drop.length) post({ kind: "tiles", key: slide.key, ask, drop });
      ask = [];
      drop = [];
    });
  }

  function start(context) {
    const { level, x, y } = context.tile;
    number += 1;
    context.userData.number = number;
    waiting.set(number, { context, level, x, y });
    ask.push([number, steps.length - 1 - level, x, y]);
    later();
  }

  function abort(context) {
    if (waiting.delete(context.userData.number)) {
      drop.push(context.userData.number);
      later();
    }
  }

  // OpenSeadragon takes a failed tile for one that does not exist.
  function giveUp(asked) {
    const { context } = waiting.get(asked);
    waiting.delete(asked);
    context.fail("withdrawn", null);
    context.tile.exists = true;
  }

  const source = new OpenSeadragon.TileSource({
    width: slide.width, height: slide.height, tileSize: 256, minLevel: 0,
    maxLevel: steps.length - 1,
    getLevelScale: (level) => 1 / steps[level].downsample,
    getTileWidth: (level) => steps[level].tile[0],
    getTileHeight: (level) => steps[level].tile[1],
    getNumTiles: (level) => new OpenSeadragon.Point(
      Math.ceil(steps[level].size[0] / steps[level].tile[0]),
      Math.ceil(steps[level].size[1] / steps[level].tile[1]),
    ),
    getTileUrl: (level, x, y) => `${level}/${x}/${y}`,
    getTileHashKey: (level, x, y) => `${slide.key}/${level}/${x}/${y}`,
    hasTransparency: () => false,
    downloadTileStart: start,
    downloadTileAbort: abort,
  });

  function receive(message, buffers) {
    if (message.key !== slide.key) return;
    message.read.forEach((asked, i) => {
      const wish = waiting.get(asked);
      if (!wish) return;
      waiting.delete(asked);
      wish.context.finish(new Blob([buffers[i]], { type: "image/jpeg" }), null, "rasterBlob");
    });
    message.late.filter((asked) => waiting.has(asked)).forEach(giveUp);
    for (const asked of message.failed) {
      const wish = waiting.get(asked);
      if (!wish) continue;
      waiting.delete(asked);
      wish.context.fail("unreadable", null);
      onFail();
    }
  }

  // Withdraws what none of `views` needs: {x, y, width, height, upp} in level-0 px.
  function prune(views) {
    const finest = Math.min(...views.map((view) => view.upp)) * FINER;
    for (const [asked, { level, x, y }] of waiting) {
      const { downsample, tile } = steps[level];
      const [width, height] = [tile[0] * downsample, tile[1] * downsample];
      const seen = views.some((view) =>
        x * width < view.x + view.width * (1 + MARGIN) && (x + 1) * width > view.x - view.width * MARGIN &&
        y * height < view.y + view.height * (1 + MARGIN) && (y + 1) * height > view.y - view.height * MARGIN);
      if (level > 0 && (!seen || downsample < finest)) {
        giveUp(asked);
        drop.push(asked);
      }
    }
    if (drop.length) later();
  }

  return { source, receive, prune, pending: () => waiting.size };
}

// Its console says of each withdrawn tile that it failed to load.
OpenSeadragon.console = Object.assign(Object.create(console), {
  error: (said, ...rest) => {
    if (!String(said).startsWith("Tile %s failed to load")) console.error(said, ...rest);
  },
});
