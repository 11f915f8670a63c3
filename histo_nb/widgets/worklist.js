// The list of analysed slides: a listbox, so arrow keys and screen readers know what it is.
import { h, isCommand } from "./dom.js";

const STATUS = {
  open: ["To read", ""], read: ["Read", "h-chip--accent"], signed: ["Signed", "h-chip--ok"],
};

const LISTED = 300; // slides shown at once; the others are found by search

function render({ model, el }) {
  el.classList.add("histo");
  const list = h("ul", {
    class: "hw-list", role: "listbox", tabindex: 0, "aria-label": "Analysed slides",
    "data-lm-suppress-shortcuts": "true",
  });
  const count = h("span", { class: "h-count" });
  const search = h("input", {
    class: "h-field", type: "search", placeholder: "Search slides", "aria-label": "Search slides",
    oninput: () => sift(),
  });
  const status = h("select", { class: "h-field", "aria-label": "Status", onchange: () => sift() },
    h("option", { value: "" }, "All"),
    Object.entries(STATUS).map(([name, [label]]) => h("option", { value: name }, label)));
  const kind = h("select", { class: "h-field", "aria-label": "Class", onchange: () => sift() });
  const none = h("p", { class: "h-quiet hw-none", role: "status" }, "No slide fits.");
  el.append(
    h("div", { class: "h-panel hw" },
      h("h2", {}, "Worklist", count),
      h("p", { class: "h-quiet hw-order" }, "Most abnormal first · keys J, K"),
      h("div", { class: "hw-filters" }, search, status, kind),
      none, list),
  );
  let shown = []; // entries that fit

  const current = () => shown.findIndex((entry) => entry.slide_id === model.get("selected"));
  function choose(index) {
    const entry = shown[Math.min(Math.max(index, 0), shown.length - 1)];
    if (!entry || entry.slide_id === model.get("selected")) return;
    model.set("selected", entry.slide_id);
    model.save_changes();
  }
  function compare(event, { slide_id: id }) {
    event.stopPropagation();
    model.set("beside", model.get("beside") === id ? "" : id);
    model.save_changes();
  }

  const said = (entry) => model.get("status")[entry.slide_id] ?? { status: "open" };
  function item(entry, index) {
    const { status: state, label } = said(entry);
    const [text, look] = STATUS[state];
    const chip = label && label !== entry.slide_class ? `${text}: ${label}` : text;
    return h("li", { role: "option", id: `hw-${index}`, onclick: () => choose(index) },
      h("div", { class: "hw-row" },
        h("span", { class: "hw-id", title: entry.slide_id }, entry.slide_id),
        h("button", {
          type: "button", class: "hw-beside", tabindex: -1, "aria-pressed": `${model.get("beside") === entry.slide_id}`,
          title: "Show beside the other slide (B)", "aria-label": `Show ${entry.slide_id} beside`,
          onclick: (event) => compare(event, entry),
        }, "◫")),
      h("div", { class: "hw-row" },
        h("span", { class: "h-dot", style: { background: entry.colour } }),
        h("span", { class: "hw-class" }, entry.slide_class),
        h("span", { class: "hw-share" }, `${entry.abnormal} abnormal`)),
      h("div", { class: "h-meter", "aria-hidden": "true" },
        h("i", { style: { width: `${100 * entry.share}%`, background: entry.colour } })),
      h("div", { class: "hw-row hw-last" },
        h("span", { class: "h-quiet" }, `${entry.confidence} confidence · ${entry.regions}`),
        state === "open" ? null : h("span", { class: `h-chip ${look}` }, chip)));
  }

  function fill() {
    const classes = [...new Set(model.get("entries").map((entry) => entry.slide_class))];
    kind.replaceChildren(h("option", { value: "" }, "All classes"),
      ...classes.map((label) => h("option", { value: label }, label)));
    sift();
  }
  function sift() {
    const entries = model.get("entries");
    const wanted = search.value.trim().toLowerCase();
    shown = entries.filter((entry) =>
      entry.slide_id.toLowerCase().includes(wanted) &&
      (!status.value || said(entry).status === status.value) &&
      (!kind.value || entry.slide_class === kind.value));
    count.textContent = shown.length === entries.length ? entries.length : `${shown.length} of ${entries.length}`;
    none.hidden = shown.length > 0;
    const place = list.scrollTop;
    const n = Math.max(LISTED, current() + 1);
    const more = shown.length - n;
    list.replaceChildren(...shown.slice(0, n).map(item),
      ...(more > 0 ? [h("li", { class: "h-quiet", role: "presentation" }, `and ${more} more: search, or filter`)] : []));
    list.scrollTop = place;
    mark();
  }
  function mark() {
    const index = current();
    list.querySelectorAll("[role=option]").forEach((li, i) => li.setAttribute("aria-selected", i === index));
    list.setAttribute("aria-activedescendant", index < 0 ? "" : `hw-${index}`);
    list.children[index]?.scrollIntoView({ block: "nearest" });
  }
  const moves = {
    ArrowDown: () => current() + 1, ArrowUp: () => current() - 1,
    Home: () => 0, End: () => shown.length - 1,
  };
  list.addEventListener("keydown", (event) => {
    if (!moves[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    choose(moves[event.key]());
  });
  const press = (event) => {
    const acts = {
      j: () => choose(current() + 1), k: () => choose(current() - 1),
      b: () => shown[current()] && compare(event, shown[current()]),
    };
    if (!Object.hasOwn(acts, event.key) || !isCommand(event, list)) return;
    event.preventDefault();
    acts[event.key]();
  };
  document.addEventListener("keydown", press);
  const watched = {
    "change:entries": fill, "change:status": sift, "change:beside": sift, "change:selected": mark,
  };
  for (const [event, act] of Object.entries(watched)) model.on(event, act);
  fill();
  return () => {
    for (const [event, act] of Object.entries(watched)) model.off(event, act);
    document.removeEventListener("keydown", press);
  };
}
export default { render };
