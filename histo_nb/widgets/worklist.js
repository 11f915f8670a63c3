// The list of analysed slides: a listbox, so arrow keys and screen readers know what it is.
function render({ model, el }) {
  el.classList.add("histo");
  const list = h("ul", {
    class: "hw-list", role: "listbox", tabindex: 0, "aria-label": "Analysed slides",
    "data-lm-suppress-shortcuts": "true",
  });
  const count = h("span", { class: "h-count" });
  el.append(
    h("div", { class: "h-panel hw" },
      h("h2", {}, "Worklist", count),
      h("p", { class: "h-quiet hw-order" }, "Most abnormal tissue first"),
      list),
  );

  const choose = (index) => {
    const entries = model.get("entries");
    const entry = entries[Math.min(Math.max(index, 0), entries.length - 1)];
    if (!entry || entry.slide_id === model.get("selected")) return;
    model.set("selected", entry.slide_id);
    model.save_changes();
  };
  const current = () =>
    model.get("entries").findIndex((entry) => entry.slide_id === model.get("selected"));

  function item(entry, index) {
    return h("li", { role: "option", id: `hw-${index}`, onclick: () => choose(index) },
      h("div", { class: "hw-id", title: entry.slide_id }, entry.slide_id),
      h("div", { class: "hw-row" },
        h("span", { class: "h-dot", style: { background: entry.colour } }),
        h("span", { class: "hw-class" }, entry.slide_class),
        h("span", { class: "hw-share" }, `${entry.abnormal} abnormal`)),
      h("div", { class: "h-meter", "aria-hidden": "true" },
        h("i", { style: { width: `${100 * entry.share}%`, background: entry.colour } })),
      h("div", { class: "h-quiet" }, `${entry.confidence} confidence · ${entry.regions}`));
  }
  function fill() {
    const entries = model.get("entries");
    count.textContent = entries.length;
    list.replaceChildren(...entries.map(item));
    mark();
  }
  function mark() {
    const index = current();
    [...list.children].forEach((li, i) => li.setAttribute("aria-selected", i === index));
    list.setAttribute("aria-activedescendant", index < 0 ? "" : `hw-${index}`);
    list.children[index]?.scrollIntoView({ block: "nearest" });
  }
  const moves = {
    ArrowDown: () => current() + 1, ArrowUp: () => current() - 1,
    Home: () => 0, End: () => model.get("entries").length - 1,
  };
  list.addEventListener("keydown", (event) => {
    if (!moves[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    choose(moves[event.key]());
  });
  model.on("change:entries", fill);
  model.on("change:selected", mark);
  fill();
  return () => {
    model.off("change:entries", fill);
    model.off("change:selected", mark);
  };
}
export default { render };
