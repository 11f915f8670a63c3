// The scanner's rack: a slot's element is made once and then filled anew, so that the focus of the
// keyboard stays where it is while the scanner works.
import { h, makePost } from "./dom.js";

function render({ model, el }) {
  const post = makePost(model, () => {
    warning.textContent = "This page has lost its connection. The scanner goes on; reload the page.";
    warning.hidden = false;
  });
  el.classList.add("histo");
  const title = h("h2", { class: "hk-title" });
  const summary = h("p", { class: "h-quiet hk-summary" });
  const buttons = h("div", { class: "hk-buttons" });
  const meter = h("i", {});
  const warning = h("p", { class: "h-warning hk-warning", role: "alert" });
  const list = h("ol", { class: "hk-rack", "aria-label": "Slots of the rack" });
  const panel = h("section", { class: "h-panel hk", "aria-label": "Scanner" },
    h("header", { class: "hk-header" },
      h("div", { "aria-live": "polite" }, title, summary), buttons),
    h("div", { class: "h-meter", "aria-hidden": "true" }, meter),
    warning, list);
  el.append(panel);

  const glasses = new Map(); // slot → { item, fill, picture }
  const pictures = new Map(); // slide_id → address of its JPEG

  function glass(number) {
    const label = h("span", { class: "hk-label" });
    const image = h("img", { class: "hk-image", alt: "" });
    const scan = h("span", { class: "hk-scan", "aria-hidden": "true" });
    const words = h("span", { class: "hk-words" });
    const name = h("span", { class: "h-quiet hk-id" });
    const reason = h("p", { class: "hk-reason" });
    const button = h("button", {
      type: "button", class: "h-button",
      onclick: () => post({ kind: button.dataset.action, slot: number }),
    });
    const item = h("li", { class: "hk-slot", "aria-label": `Slot ${number}` },
      h("div", { class: "hk-glass" },
        h("div", { class: "hk-end" }, h("b", {}, `${number}`), label),
        h("div", { class: "hk-area" }, image, scan)),
      h("div", { class: "hk-row" }, h("span", { class: "h-dot" }), words, name, button),
      reason);
    return {
      item,
      fill(slot, progress) {
        item.dataset.state = slot.state;
        label.textContent = slot.label;
        const percent = slot.state === "scanning" ? ` ${Math.round(100 * progress)}%` : "";
        words.textContent = slot.words + percent;
        const share = { scanning: progress, waiting: 0 }[slot.state] ?? 1;
        scan.style.width = `${100 * share}%`;
        name.textContent = slot.slide_id;
        name.title = slot.slide_id;
        reason.textContent = slot.reason;
        const [action, text] = slot.action;
        button.hidden = !action;
        if (action) {
          button.dataset.action = action;
          button.textContent = text;
          button.setAttribute("aria-label", `${text}: slot ${number}`);
        }
        const source = pictures.get(slot.slide_id);
        image.hidden = !source;
        if (source && image.src !== source) {
          image.src = source;
          image.alt = `Overview of ${slot.slide_id}`;
        }
      },
    };
  }

  function fillRack() {
    const rack = model.get("rack");
    panel.dataset.status = rack.status;
    title.textContent = rack.title;
    summary.textContent = `Rack ${rack.rack_id} · ${rack.summary}`;
    meter.style.width = `${100 * rack.share}%`;
    warning.textContent = rack.warning;
    warning.hidden = !rack.warning;
    rack.buttons.forEach(([action, text], i) => {
      const button = buttons.children[i] ?? buttons.appendChild(h("button", {
        type: "button", class: `h-button ${i ? "" : "h-button--primary"}`,
        onclick: (event) => post({ kind: event.currentTarget.dataset.action }),
      }));
      button.dataset.action = action;
      button.textContent = text;
      button.disabled = rack.status === "stopping";
    });
    [...buttons.children].slice(rack.buttons.length).forEach((button) => button.remove());
  }
  function fillSlots() {
    const progress = model.get("progress");
    for (const slot of model.get("slots")) {
      if (!glasses.has(slot.slot)) {
        glasses.set(slot.slot, glass(slot.slot));
        list.append(glasses.get(slot.slot).item);
      }
      glasses.get(slot.slot).fill(slot, progress);
    }
  }
  function fillPictures() {
    for (const [name, jpeg] of Object.entries(model.get("pictures"))) {
      if (!pictures.has(name) && jpeg.byteLength) {
        pictures.set(name, URL.createObjectURL(new Blob([jpeg], { type: "image/jpeg" })));
      }
    }
    fillSlots();
  }
  const followed = {
    "change:rack": fillRack, "change:slots": fillSlots,
    "change:progress": fillSlots, "change:pictures": fillPictures,
  };
  Object.entries(followed).forEach(([event, act]) => model.on(event, act));
  fillRack();
  fillPictures();
  return () => {
    Object.entries(followed).forEach(([event, act]) => model.off(event, act));
    pictures.forEach((address) => URL.revokeObjectURL(address));
  };
}
export default { render };
