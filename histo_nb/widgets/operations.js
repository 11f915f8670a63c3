// The scanner room's page: lists that are filled anew when the catalogue has news.
const REFRESH_MS = 4000;

function render({ model, el }) {
  el.classList.add("histo");
  const day = h("p", { class: "h-quiet" });
  const figures = h("ul", { class: "ho-figures", "aria-label": "Figures of today" });
  const trouble = h("p", { class: "h-warning", role: "alert" });
  const message = h("p", { class: "ho-message", role: "status" });
  const lists = {};
  const panel = (key, title, empty) => {
    const count = h("span", { class: "h-count" });
    const list = h("ul", { class: `ho-list ho-${key}`, "aria-label": title });
    const nothing = h("p", { class: "h-quiet ho-nothing" }, empty);
    lists[key] = { count, list, nothing, said: "" };
    return h("section", { class: `h-panel ho-panel ho-panel-${key}` },
      h("h2", {}, title, count), key === "quarantine" ? message : null, nothing, list);
  };
  const racks = h("div", { class: "ho-racks" });
  const scans = panel("slides", "Today's scans", "No slide has come in today.");
  scans.insertBefore(racks, lists.slides.nothing);
  el.append(h("div", { class: "ho" },
    h("div", { class: "ho-top" }, day, figures), trouble,
    h("div", { class: "ho-grid" }, scans,
      panel("quarantine", "In quarantine", "Nothing was refused."),
      panel("waiting", "Intake queue", "Nothing waits to be taken in."),
      panel("failures", "Failures", "Nothing failed today."))));

  const addresses = new Map(); // slide_id → address of its JPEG
  const typed = new Map(); // quarantine_id → µm/px as typed so far

  const items = {
    slides: (entry) => {
      const image = h("img", { class: "ho-image", alt: "", "data-slide": entry.slide_id });
      const source = addresses.get(entry.slide_id);
      if (source) image.src = source; else image.hidden = true;
      return h("li", {},
        h("div", { class: "ho-glass" }, image),
        h("div", { class: "ho-text" }, h("b", { title: entry.slide_id }, entry.slide_id),
          h("span", { class: "h-quiet" }, `${entry.at} · ${entry.source}`),
          h("span", { class: "h-quiet" }, entry.size)));
    },
    waiting: (entry) => h("li", {},
      h("b", {}, entry.source), h("span", { class: "h-quiet" }, ` since ${entry.since}`),
      h("p", {}, entry.reason)),
    failures: (entry) => h("li", {},
      h("b", {}, entry.what), h("span", { class: "h-quiet" }, ` ${entry.at} · ${entry.subject}`),
      h("p", {}, entry.reason)),
    quarantine: (entry) => {
      const name = entry.quarantine_id;
      const field = entry.step !== "mpp" ? null : h("input", {
        class: "ho-mpp", type: "number", min: "0.05", max: "20", step: "any",
        placeholder: "µm/px", "aria-label": `µm/px of ${name}`, value: typed.get(name) ?? "",
        "data-lm-suppress-shortcuts": "true",
        oninput: (event) => typed.set(name, event.target.value),
      });
      const button = h("button", {
        type: "button", class: "h-button ho-release", "data-quarantined": name,
        "aria-label": `Examine and release: ${name}`,
        onclick: () => model.send({
          kind: "release", quarantine_id: name,
          slide_mpp: field && field.value ? Number(field.value) : null,
        }),
      }, "Examine and release");
      return h("li", {},
        h("div", { class: "ho-row" }, h("span", { class: "ho-step" }, entry.step),
          h("b", { title: name }, name),
          h("span", { class: "h-quiet" }, `${entry.at} · ${entry.source} · ${entry.size}`)),
        h("p", { class: "ho-reason" }, entry.reason),
        h("div", { class: "ho-actions" }, field, button));
    },
  };

  function fill() {
    const facts = model.get("facts");
    day.textContent = facts.day ?? "";
    trouble.textContent = facts.trouble ?? "";
    trouble.hidden = !facts.trouble;
    figures.replaceChildren(...(facts.figures ?? []).map((figure) =>
      h("li", { class: `ho-figure ho-${figure.tone}` }, h("b", {}, `${figure.n}`), figure.what)));
    racks.replaceChildren(...(facts.racks ?? []).map((rack) =>
      h("div", { class: "ho-rack" },
        h("span", { class: "h-quiet", title: rack.rack_id }, `Rack ${rack.rack_id}`),
        h("span", { class: "ho-slots" }, rack.slots.map((slot) => h("i", {
          class: "ho-slot", "data-state": slot.state, role: "img",
          "aria-label": `slot ${slot.slot} ${slot.state}`,
          title: `slot ${slot.slot}: ${slot.state}${slot.reason ? ` – ${slot.reason}` : ""}`,
        }))))));
    for (const [key, { count, list, nothing }] of Object.entries(lists)) {
      const entries = facts[key] ?? [];
      const said = JSON.stringify(entries);
      count.textContent = entries.length ? entries.length : "";
      nothing.hidden = entries.length > 0;
      if (said === lists[key].said) continue; // keep what somebody types into, or has focused
      lists[key].said = said;
      list.replaceChildren(...entries.map(items[key]));
    }
    markBusy();
  }
  function fillPictures() {
    const pictures = model.get("pictures");
    for (const [name, address] of addresses) {
      if (name in pictures) continue;
      URL.revokeObjectURL(address);
      addresses.delete(name);
    }
    for (const [name, jpeg] of Object.entries(pictures)) {
      if (addresses.has(name) || !jpeg.byteLength) continue;
      addresses.set(name, URL.createObjectURL(new Blob([jpeg], { type: "image/jpeg" })));
    }
    for (const image of el.querySelectorAll(".ho-image[hidden]")) {
      const source = addresses.get(image.dataset.slide);
      if (source) { image.src = source; image.hidden = false; }
    }
  }
  function markBusy() {
    const busy = model.get("busy");
    for (const button of el.querySelectorAll(".ho-release")) {
      const isBusy = busy.includes(button.dataset.quarantined);
      button.disabled = busy.length > 0;
      button.textContent = isBusy ? "Examining…" : "Examine and release";
    }
  }
  function say() {
    message.textContent = model.get("message");
    message.hidden = !model.get("message");
  }
  const followed = {
    "change:facts": fill, "change:pictures": fillPictures, "change:busy": markBusy,
    "change:message": say,
  };
  Object.entries(followed).forEach(([event, act]) => model.on(event, act));
  fill();
  fillPictures();
  say();
  const timer = setInterval(() => {
    if (!document.hidden) model.send({ kind: "refresh" });
  }, REFRESH_MS);
  return () => {
    clearInterval(timer);
    Object.entries(followed).forEach(([event, act]) => model.off(event, act));
    addresses.forEach((address) => URL.revokeObjectURL(address));
  };
}
export default { render };
