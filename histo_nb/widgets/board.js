// The tile-label board. A label is shown at once and sent as a message of its own; it counts as
// saved when the kernel says so. A page of tiles is asked for whole, its pictures follow.
import { h, inkOn, keepName, makePost, recallName } from "./dom.js";

const NEWS_MS = 5000;
const LATE_MS = 4000; // a label that takes longer to be saved is worth a word
const KEPT_PICTURES = 800;
const CELL_PX = 128; // the least width of a tile in the grid
const CELL_GAP_PX = 8;
const LATE = "Labels are not being saved yet: the kernel is busy or gone. They are sent again while this page is open.";
const UNSEEN = "Not labelled: the picture of this tile has not come yet.";
const UNKNOWN = "#454d58"; // of a label that is no class any more
const ZOOMS = [3, 8, 1]; // tiles across the picture on the right

function render({ model, el }) {
  el.classList.add("histo");
  const queue = { order: "random", show: "all", slide: "", annotator: recallName(model.get("annotator")), version: 0 };
  const pictures = new Map(); // tile_id → address of its JPEG, "" = cannot be read
  const ready = new Map(); // start → { total, tiles }, pages fetched ahead
  const pending = new Map(); // seq → { tile, before, since }
  const undone = []; // decisions to take back, the last one last
  const view = crypto.randomUUID?.() ?? `${Math.random()}`; // a widget may be shown twice
  let start = 0, total = 0, perPage = 24, columns = 6, focus = 0, seq = 0, zoom = 0;
  let tiles = [], shownStart = 0, loading = true, focusNext = 0;
  let contextTimer = 0, newsTimer = 0, asked = "";

  const post = makePost(model); // where no kernel is any more, what is pending is sent again
  function load(is) { // what is dimmed takes no labels
    loading = is;
    grid.toggleAttribute("data-loading", is);
  }

  // ------------------------------------------------------------------------------- elements
  const suppress = { "data-lm-suppress-shortcuts": "true" }; // JupyterLab's keys are not ours
  const who = h("input", {
    class: "h-field hb-who", type: "text", maxlength: "64", "aria-label": "Your name", value: queue.annotator,
    placeholder: "your name", ...suppress,
    onchange: () => {
      queue.annotator = who.value.trim();
      keepName(queue.annotator);
      undone.length = 0; // nobody takes back what another one said
      renew();
    },
  });
  const select = (name, label, options) => h("select", {
    class: "h-field hb-select", "aria-label": label, ...suppress,
    onchange: (event) => { queue[name] = event.target.value; start = 0; renew(); },
  }, options.map(([value, text]) => h("option", { value }, text)));
  const order = select("order", "Order", [
    ["random", "Random order"],
    ...(model.get("has_model") ? [["uncertain", "What the model doubts first"]] : []),
    ["disagreement", "Disagreement first"],
  ]);
  const show = select("show", "Show", []);
  const slide = select("slide", "Slide",
    [["", "All slides"], ...model.get("slides").map((name) => [name, name])]);
  const progress = h("span", { class: "hb-progress", role: "status" });
  const meter = h("i", {});
  const saved = h("span", { class: "hb-saved", role: "status" });
  const alert = h("p", { class: "h-warning hb-alert", role: "alert", hidden: "" });
  const undo = h("button", { type: "button", class: "h-button", onclick: takeBack }, "Undo (U)");
  const classes = h("div", { class: "hb-classes", role: "group", "aria-label": "Classes" });
  const grid = h("div", {
    class: "hb-grid", role: "grid", tabindex: "0", "aria-label": "Tiles", ...suppress,
    onkeydown: press,
  });
  const context = h("div", { class: "hb-context" });
  const facts = h("dl", { class: "hb-facts" });
  const agreement = h("div", { class: "hb-agreement" });
  const page = h("span", { class: "hb-page" });
  const slider = h("input", {
    type: "range", class: "hb-slider", min: "0", value: "0", "aria-label": "Page", ...suppress,
    oninput: () => { page.textContent = pageText(Number(slider.value)); },
    onchange: () => open(Number(slider.value) * perPage, 0),
  });
  const turn = (by, text, label) => h("button", {
    type: "button", class: "h-button", "aria-label": label,
    onclick: () => { open(start + by * perPage, 0); grid.focus(); },
  }, text);
  el.append(h("section", { class: "hb", "aria-label": "Tile labels" },
    h("div", { class: "hb-top" }, h("label", { class: "hb-you" }, "You are ", who),
      order, show, slide,
      h("button", { type: "button", class: "h-button", onclick: renew }, "Renew"),
      h("div", { class: "hb-state" }, progress, h("div", { class: "h-meter" }, meter)), saved),
    h("div", { class: "hb-bar" }, classes, undo), alert,
    h("div", { class: "hb-body" }, grid,
      h("aside", { class: "h-panel hb-side" }, context, facts, agreement)),
    h("div", { class: "hb-foot" }, turn(-1, "‹", "Page before"), slider,
      turn(1, "›", "Next page"), page,
      h("span", { class: "h-quiet hb-keys" },
        "1–9 label · 0 clear · arrows move · Page Up, Page Down · U undo · Space zoom"))));

  // -------------------------------------------------------------------------------- classes
  function fillClasses(counts = {}) {
    const field = h("input", {
      class: "h-field hb-add", type: "text", maxlength: "64", placeholder: "+ class", ...suppress,
      "aria-label": "Add a class",
      onkeydown: (event) => {
        if (event.key !== "Enter") return;
        post({ kind: "add_class", label: field.value });
        grid.focus();
      },
    });
    classes.replaceChildren(
      ...model.get("classes").map(({ label, colour }, i) => h("button", {
        type: "button", class: "hb-class", style: { borderColor: colour },
        "aria-label": i < 9 ? `Label as ${label}, key ${i + 1}` : `Label as ${label}`,
        onclick: () => { decide(label); grid.focus(); },
      }, h("kbd", { style: { background: colour, color: inkOn(colour) } }, i < 9 ? `${i + 1}` : "·"), label,
      h("span", { class: "h-quiet" }, `${counts[label] ?? ""}`))),
      field);
    const options = [["all", "All tiles"], ["unlabelled", "Not yet labelled by me"],
      ["mine", "Labelled by me"], ["conflict", "Annotators disagree"],
      ["marked", "Pen or out of focus"],
      ...model.get("classes").map(({ label }) => [`class:${label}`, `I said ${label}`])];
    show.replaceChildren(...options.map(([value, text]) => h("option", { value }, text)));
    show.value = queue.show;
  }
  const colourOf = (label) =>
    model.get("classes").find((known) => known.label === label)?.colour ?? UNKNOWN;

  // ---------------------------------------------------------------------------------- pages
  function measure() {
    const style = getComputedStyle(grid);
    const width = grid.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const height = grid.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
    columns = Math.max(Math.floor((width + CELL_GAP_PX) / (CELL_PX + CELL_GAP_PX)), 1);
    const cell = (width + CELL_GAP_PX) / columns;
    perPage = Math.min(columns * Math.max(Math.floor((height + CELL_GAP_PX) / cell), 1), 200);
    grid.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
  }
  function renew() {
    queue.version += 1;
    ready.clear();
    open(start, 0);
    askNews();
  }
  function ask(from) {
    post({ kind: "page", view, queue: { ...queue }, start: from, n: perPage });
  }
  function askNews() {
    clearTimeout(newsTimer);
    newsTimer = setTimeout(askNews, 4 * NEWS_MS); // an answer brings the next one forward
    post({ kind: "news", annotator: queue.annotator });
  }
  function open(from, then) { // show the page that starts there, with the focus on `then`
    const last = Math.max(Math.ceil(total / perPage) - 1, 0) * perPage;
    start = total ? Math.min(Math.max(from, 0), last) : Math.max(from, 0);
    focusNext = then;
    load(true);
    if (ready.has(start)) fill(ready.get(start));
    ask(start); // what others have labelled meanwhile
  }
  function fill(found) {
    shownStart = start;
    const again = !loading && found.tiles.map((t) => t.id).join() === tiles.map((t) => t.id).join();
    total = found.total;
    tiles = found.tiles.map((tile) => withPending(tile));
    if (again) { tiles.forEach((_, i) => dress(i)); aim(focus); return; }
    grid.replaceChildren(...tiles.map((tile, i) => h("div", {
      class: "hb-cell", role: "gridcell", id: `hb-${tile.id}`, "data-tile": tile.id,
      onclick: () => { grid.focus(); aim(i); },
      ondblclick: zoomOn,
    }, h("img", { class: "hb-image", alt: "", draggable: "false" }), h("span", { class: "hb-tag" }),
    h("span", { class: "hb-marks" }))));
    tiles.forEach((_, i) => dress(i));
    if (!tiles.length) grid.append(h("p", { class: "h-quiet hb-none" }, "No tile is to be shown here."));
    slider.max = `${Math.max(Math.ceil(total / perPage) - 1, 0)}`;
    slider.value = `${Math.floor(start / perPage)}`;
    page.textContent = pageText(Math.floor(start / perPage));
    load(false);
    aim(Math.min(focusNext < 0 ? tiles.length - 1 : focusNext, tiles.length - 1));
    wantPictures();
  }
  const pageText = (number) =>
    `Page ${number + 1} of ${Math.max(Math.ceil(total / perPage), 1)} · ${total} tiles`;
  function withPending(tile) {
    for (const one of pending.values()) if (one.tile === tile.id) tile = { ...tile, mine: one.label };
    return tile;
  }
  function wantPictures() {
    const missing = tiles.map((tile) => tile.id).filter((id) => !pictures.has(id));
    if (missing.length) { post({ kind: "pictures", tile_ids: missing }); return; }
    const next = start + perPage;
    if (next >= total) return;
    const fetched = ready.get(next);
    if (!fetched) { ask(next); return; }
    const ahead = fetched.tiles.map((tile) => tile.id).filter((id) => !pictures.has(id));
    if (ahead.length) post({ kind: "pictures", tile_ids: ahead });
  }
  function dress(i) { // a cell as its tile is now
    const tile = tiles[i], cell = grid.children[i], [image, tag, marks] = cell.children;
    const source = pictures.get(tile.id);
    if (source && image.src !== source) image.src = source;
    cell.dataset.state = source === undefined ? "waiting" : source ? "shown" : "unreadable";
    const label = tile.mine ?? "";
    cell.dataset.label = label;
    const conflict = label && tile.others.some(([, said]) => said !== label);
    cell.classList.toggle("hb-conflict", Boolean(conflict));
    cell.style.setProperty("--b-colour", label ? colourOf(label) : "transparent");
    cell.style.setProperty("--b-ink", label ? inkOn(colourOf(label)) : "inherit");
    tag.textContent = label;
    tag.hidden = !label;
    marks.textContent = [tile.pen > 0.01 ? "pen" : "", tile.soft > 0.05 ? "soft" : "",
      conflict ? "≠" : ""].filter(Boolean).join(" · ");
    cell.setAttribute("aria-label",
      `Tile at ${tile.place} of ${tile.slide}: ${label || "not labelled by you"}`);
  }
  function aim(i) { // move the focus
    if (i < 0 || !tiles.length) return;
    grid.children[focus]?.removeAttribute("aria-selected");
    focus = i;
    grid.children[focus].setAttribute("aria-selected", "true");
    grid.setAttribute("aria-activedescendant", grid.children[focus].id);
    tell();
    clearTimeout(contextTimer);
    contextTimer = setTimeout(askContext, 90); // not for each tile that is only passed
  }
  function askContext() {
    if (!tiles[focus]) return;
    asked = tiles[focus].id;
    post({ kind: "context", tile_id: asked, tiles_wide: ZOOMS[zoom] });
  }
  function zoomOn() { zoom = (zoom + 1) % ZOOMS.length; askContext(); }
  function tell() {
    const tile = tiles[focus];
    const rows = [["Slide", tile.slide], ["Place", `${tile.place} px`],
      ["You say", tile.mine ?? "—"],
      ...tile.others.map(([name, label]) => [name, label]),
      ["File", tile.file], ["Model", tile.model],
      ["Others", tile.mine ? "" : "and files and the model: told when you have labelled"],
      ["Pen", tile.pen ? `${Math.round(100 * tile.pen)}%` : ""],
      ["Out of focus", tile.soft ? `${Math.round(100 * tile.soft)}%` : ""]];
    facts.replaceChildren(...rows.filter(([, value]) => value)
      .flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  }

  // --------------------------------------------------------------------------------- labels
  function decide(label) { // label the tile in focus and move on
    const tile = tiles[focus];
    if (!tile || (label === null && !tile.mine)) return;
    if (loading || !pictures.has(tile.id)) { warn(UNSEEN); return; }
    if (alert.textContent === UNSEEN) warn("");
    if (!queue.annotator) { warn("Say who you are first: labels carry the name of who gave them."); who.focus(); return; }
    undone.push({ tile: tile.id, before: tile.mine ?? null, at: start + focus, version: queue.version });
    put(tile, label);
    if (label === null) return;
    if (focus + 1 < tiles.length) aim(focus + 1);
    else if (start + perPage < total) open(start + perPage, 0);
  }
  function put(tile, label) {
    seq += 1;
    const message = { kind: "label", view, seq, tile_id: tile.id, label, annotator: queue.annotator };
    pending.set(seq, { tile: tile.id, label, before: tile.mine ?? null, since: Date.now(), message });
    post(message);
    mark(tile.id, label);
    sayPending();
  }
  const mark = (id, label) => learn({ id, mine: label });
  function learn(news) { // what is new of a tile, wherever it stands
    for (const list of [tiles, ...[...ready.values()].map((found) => found.tiles)]) {
      list.forEach((tile) => { if (tile.id === news.id) Object.assign(tile, news); });
    }
    const i = tiles.findIndex((tile) => tile.id === news.id);
    if (i >= 0) { dress(i); if (i === focus) tell(); }
  }
  function takeBack() {
    const last = undone.pop();
    if (!last || loading) return;
    put({ id: last.tile, mine: null }, last.before);
    const i = tiles.findIndex((tile) => tile.id === last.tile);
    if (i >= 0) aim(i);
    else if (last.version === queue.version) {
      open(Math.floor(last.at / perPage) * perPage, last.at % perPage);
    }
    grid.focus();
  }
  function sayPending() {
    const late = [...pending.values()].some((one) => Date.now() - one.since > LATE_MS);
    saved.textContent = pending.size ? `${pending.size} being saved` : "All saved";
    saved.dataset.state = late ? "late" : pending.size ? "busy" : "done";
    if (late) warn(LATE);
    undo.disabled = !undone.length;
  }
  function sendAgain() { // the kernel knows which ones it has: none is written twice
    sayPending();
    for (const one of pending.values()) if (Date.now() - one.since > LATE_MS) post(one.message);
  }
  function warn(text) { alert.textContent = text; alert.hidden = !text; }

  // ----------------------------------------------------------------------------------- keys
  function press(event) {
    if (event.target.closest("input, select") || event.altKey) return;
    const key = (event.ctrlKey || event.metaKey) ? (event.key === "z" ? "u" : "") : event.key;
    const ours = /^[0-9uU ]$|^(Arrow|Page)|^(Home|End|Delete|Backspace)$/;
    if (!ours.test(key)) return;
    event.preventDefault();
    event.stopPropagation();
    act(key);
  }
  function act(key) {
    if (/^[1-9]$/.test(key)) {
      const known = model.get("classes")[Number(key) - 1];
      if (known) decide(known.label); else warn(`No class has the key ${key}.`);
    } else if (["0", "Delete", "Backspace"].includes(key)) decide(null);
    else if (key === "u" || key === "U") takeBack();
    else if (key === " ") zoomOn();
    else if (!loading) step(key);
  }
  function step(key) {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
    if (key === "PageDown") { if (start + perPage < total) open(start + perPage, 0); }
    else if (key === "PageUp") { if (start) open(start - perPage, 0); }
    else if (key === "Home") aim(0);
    else if (key === "End") aim(tiles.length - 1);
    else if (focus + by >= tiles.length) { if (start + perPage < total) open(start + perPage, 0); }
    else if (focus + by < 0) { if (start) open(start - perPage, -1); }
    else aim(focus + by);
  }

  // -------------------------------------------------------------------------------- answers
  const answers = {
    page({ asked: request, total: n, tiles: found }) {
      if (request.view !== view || request.queue.version !== queue.version || request.n !== perPage) return;
      ready.set(request.start, { total: n, tiles: found });
      if (request.start === start) fill(ready.get(start));
      else if (!loading) wantPictures();
      if (!found.length && request.start) { total = n; open(0, 0); }
    },
    pictures({ tile_ids: ids }, buffers) {
      ids.forEach((id, i) => {
        const jpeg = buffers[i];
        pictures.set(id, jpeg?.byteLength ? URL.createObjectURL(new Blob([jpeg], { type: "image/jpeg" })) : "");
      });
      tiles.forEach((tile, i) => { if (ids.includes(tile.id)) dress(i); });
      if (tiles.every((tile) => pictures.has(tile.id))) wantPictures();
      const shown = new Set(tiles.map((tile) => tile.id));
      for (const id of pictures.keys()) { // the oldest go first
        if (pictures.size <= KEPT_PICTURES) break;
        if (shown.has(id)) continue;
        URL.revokeObjectURL(pictures.get(id));
        pictures.delete(id);
      }
    },
    context({ tile_id: id, box }, buffers) {
      if (id !== asked) return;
      const jpeg = buffers[0];
      context.querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
      if (!jpeg?.byteLength) { context.replaceChildren(h("p", { class: "h-quiet" }, "This place cannot be read.")); return; }
      const [left, top, width, height] = box.map((share) => `${100 * share}%`);
      context.replaceChildren(
        h("img", { alt: "The tile among its neighbours", src: URL.createObjectURL(new Blob([jpeg], { type: "image/jpeg" })) }),
        h("i", { class: "hb-box", style: { left, top, width, height } }));
    },
    saved({ view: whose, seq: number, reason, tile }) {
      const one = whose === view ? pending.get(number) : null;
      if (!one) { if (tile) ask(start); return; }
      pending.delete(number);
      if (tile && ![...pending.values()].some((other) => other.tile === tile.id)) learn(tile);
      if (reason && one) { mark(one.tile, one.before); warn(`Not saved: ${reason}`); }
      else if (!pending.size && alert.textContent === LATE) warn("");
      sayPending();
    },
    news({ total: all, mine, counts, conflicts, agreement: found, orphans }) {
      clearTimeout(newsTimer);
      newsTimer = setTimeout(askNews, document.hidden ? 4 * NEWS_MS : NEWS_MS);
      progress.textContent = `${mine} of ${all} labelled by you`;
      meter.style.width = `${all ? (100 * mine) / all : 0}%`;
      if (!classes.contains(document.activeElement)) fillClasses(counts);
      agreement.replaceChildren(h("h3", {}, "Agreement"),
        ...(found.length ? found.map((pair) => h("p", {}, h("b", {}, `κ ${pair.kappa}`),
          ` ${pair.who}: ${pair.agreement} of ${pair.n_tiles} tiles alike`))
          : [h("p", { class: "h-quiet" }, "No tile has two annotators yet.")]),
        h("p", { class: "h-quiet" }, conflicts ? `${conflicts} tiles in conflict: Show → Annotators disagree` : ""),
        h("p", { class: "h-quiet" }, orphans ? `${orphans} labels are of tiles that were cut otherwise` : ""));
    },
    trouble({ text, asked: request }) {
      warn(text);
      if (request?.kind === "page" && request.view === view && loading) {
        start = shownStart; // what is shown stays
        load(false);
      }
    },
  };
  const receive = (message, buffers) => answers[message.kind]?.(message, buffers);
  const leaving = (event) => { if (pending.size) event.preventDefault(); };
  const timer = setInterval(sendAgain, LATE_MS);
  const resized = new ResizeObserver(() => {
    const [before, at] = [perPage, start + focus];
    measure();
    if (perPage !== before || loading) {
      ready.clear();
      open(Math.floor(at / perPage) * perPage, at % perPage);
    }
  });
  const renewClasses = () => fillClasses();
  model.on("msg:custom", receive);
  model.on("change:classes", renewClasses);
  window.addEventListener("beforeunload", leaving);
  fillClasses();
  sayPending();
  resized.observe(grid);
  askNews();
  return () => {
    clearInterval(timer);
    clearTimeout(newsTimer);
    clearTimeout(contextTimer);
    resized.disconnect();
    model.off("msg:custom", receive);
    model.off("change:classes", renewClasses);
    window.removeEventListener("beforeunload", leaving);
    pictures.forEach((address) => address && URL.revokeObjectURL(address));
  };
}
export default { render };
