// The scanner room's page: figures, which are also the way to what they count; the scans; what
// needs a hand. Lists are filled anew when the catalogue has news, and only then.
import { h, makePost } from "./dom.js";

const REFRESH_MS = 4000;
const TYPING_MS = 250; // a search is asked for when the fingers rest
const CALM = "Nothing needs a hand: nothing was refused, nothing failed, nothing waits at the door.";

function render({ model, el }) {
  el.classList.add("histo");
  const suppress = { "data-lm-suppress-shortcuts": "true" }; // JupyterLab's keys are not ours
  const addresses = new Map(); // slide_id → address of its JPEG, "" = it cannot be shown
  const typed = new Map(); // quarantine_id → µm/px as typed so far
  let typing = 0;
  const post = makePost(model, () => warn("This page has lost its connection. Reload it."));

  // ------------------------------------------------------------------------------- elements
  const trouble = h("p", { class: "h-warning", role: "alert", hidden: "" });
  const figures = h("ul", { class: "ho-figures", "aria-label": "Figures of today" });
  const message = h("p", { class: "ho-message", role: "status" });
  const day = h("p", { class: "h-quiet" });
  const show = h("select", { class: "h-field", "aria-label": "Show", ...suppress, onchange: look });
  const search = h("input", {
    class: "h-field ho-search", type: "search", maxlength: "64", placeholder: "Find a slide  ( / )",
    "aria-label": "Find a slide", ...suppress,
    oninput: () => { clearTimeout(typing); typing = setTimeout(look, TYPING_MS); },
  });
  const racks = h("div", { class: "ho-racks" });
  const more = h("p", { class: "h-quiet ho-more", role: "status" });
  const bars = h("ol", { class: "ho-bars", "aria-label": "Slides filed, by day" });
  const week = h("p", { class: "h-quiet" });
  const health = h("dl", { class: "ho-health" });
  const calm = h("p", { class: "ho-rest" }, h("i", { "aria-hidden": "true" }, "✓"), CALM);
  const lists = {};
  const section = (key, title, nothing, ...above) => {
    const count = h("span", { class: "h-count" });
    const list = h("ul", { class: `ho-list ho-${key}`, "aria-label": title });
    const empty = h("p", { class: "h-quiet ho-nothing" }, nothing);
    lists[key] = { count, list, empty, said: "" };
    return h("section", { class: `ho-panel-${key}`, "data-key": key, tabindex: "-1", "aria-label": title },
      h("div", { class: "ho-head" }, h("h2", {}, title, count), above), empty, list);
  };
  const scans = section("slides", "Scans", "", show, search);
  scans.classList.add("h-panel");
  scans.insertBefore(racks, lists.slides.empty);
  scans.append(more);
  const hands = h("div", { class: "h-panel ho-hands" }, calm,
    section("quarantine", "In quarantine", "Nothing was refused."),
    section("failures", "Failures", "Nothing failed today."),
    section("waiting", "Intake queue", "Nothing waits to be taken in."));
  hands.children[1].insertBefore(message, lists.quarantine.empty);
  el.append(h("div", { class: "ho", ...suppress, onkeydown: press },
    figures, trouble,
    h("div", { class: "ho-grid" }, scans, hands,
      h("section", { class: "h-panel ho-week", "aria-label": "Last seven days" },
        h("h2", {}, "Last 7 days"), day, bars, week),
      h("section", { class: "h-panel ho-state", "aria-label": "Health" }, h("h2", {}, "Health"), health))));

  // ---------------------------------------------------------------------------------- lists
  const dotted = (...words) => h("span", { class: "h-quiet" }, words.filter(Boolean).join(" · "));
  const items = {
    slides: (entry) => {
      const picture = h("div", { class: "ho-glass", "data-slide": entry.slide_id });
      const id = h("b", { title: entry.slide_id }, entry.slide_id);
      const address = `review.ipynb?slide=${encodeURIComponent(entry.slide_id)}`;
      const stage = h("span", { class: `h-chip h-chip--${entry.tone}` }, entry.stage);
      const card = [picture, id, stage, dotted(entry.at, entry.source), dotted(entry.size)];
      dress(picture);
      return h("li", {}, model.get("facts").review
        ? h("a", { class: "ho-card", href: address, "data-key": entry.slide_id,
          "aria-label": `Open ${entry.slide_id}, ${entry.stage}` }, card)
        : h("div", { class: "ho-card" }, card));
    },
    waiting: (entry) => h("li", {},
      h("div", { class: "ho-row" }, h("b", {}, entry.source), dotted(`since ${entry.since}`)),
      h("p", {}, entry.reason)),
    failures: (entry) => h("li", {},
      h("div", { class: "ho-row" }, h("b", {}, entry.what), dotted(entry.at, entry.subject)),
      h("p", {}, entry.reason)),
    quarantine: (entry) => {
      const name = entry.quarantine_id;
      const field = entry.asks_mpp ? h("input", {
        class: "h-field ho-mpp", type: "number", min: "0.05", max: "20", step: "any",
        placeholder: "µm/px", "aria-label": `µm/px of ${name}`, value: typed.get(name) ?? "",
        "data-key": `${name} mpp`, oninput: (event) => typed.set(name, event.target.value),
      }) : null;
      const button = h("button", {
        type: "button", class: "h-button ho-release", "data-quarantined": name,
        "data-key": `${name} release`, "aria-label": `Examine and release: ${name}`,
        onclick: () => post({
          kind: "release", quarantine_id: name,
          slide_mpp: field && field.value ? Number(field.value) : null,
        }),
      }, "Examine and release");
      return h("li", {},
        h("div", { class: "ho-row" }, h("span", { class: "h-chip h-chip--warn" }, entry.step),
          h("b", { title: name }, name), dotted(entry.at, entry.source, entry.size)),
        h("p", { class: "ho-reason" }, entry.reason),
        h("div", { class: "ho-actions" }, field, button));
    },
  };
  function fillList(key, entries, empty) {
    const { count, list, empty: nothing } = lists[key];
    const said = JSON.stringify(entries);
    count.textContent = entries.length ? entries.length : "";
    if (empty) nothing.textContent = empty;
    nothing.hidden = entries.length > 0;
    if (said === lists[key].said) return; // what somebody types into, or has focused, stays
    lists[key].said = said;
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    list.replaceChildren(...entries.map(items[key]));
    if (focused) [...list.querySelectorAll("[data-key]")].find((e) => e.dataset.key === focused)?.focus();
  }

  // ------------------------------------------------------------------------------- the page
  function fill() {
    const facts = model.get("facts");
    warn(facts.trouble ?? "");
    if (!facts.figures) return; // the catalogue could not be read yet
    day.textContent = facts.day;
    fillFigures(facts);
    fillSearch(facts);
    fillRacks(facts.racks);
    fillWeek(facts.week);
    fillHealth(facts.health);
    fillList("slides", facts.slides, facts.nothing);
    ["quarantine", "failures", "waiting"].forEach((key) => fillList(key, facts[key]));
    const isCalm = !facts.quarantine.length && !facts.failures.length && !facts.waiting.length;
    hands.toggleAttribute("data-calm", isCalm);
    calm.hidden = !isCalm;
    lists.slides.count.textContent = facts.n_found || "";
    const hidden = facts.n_found - facts.slides.length;
    more.textContent = hidden > 0 ? `and ${hidden} earlier ones: find them by name` : "";
    markBusy();
    wantPictures();
  }
  function fillFigures(facts) {
    facts.figures.forEach((figure, i) => {
      const item = figures.children[i] ?? figures.appendChild(h("li", {},
        h("button", { type: "button", onclick: () => go(figure.key) }, h("b", {}), h("span", {}))));
      item.className = `ho-figure ho-${figure.tone}`;
      const button = item.firstChild;
      button.children[0].textContent = `${figure.n}`;
      button.children[1].textContent = figure.what;
      button.title = figure.says;
      if (figure.key in lists) return;
      button.setAttribute("aria-pressed", `${facts.show === figure.key}`);
    });
  }
  function go(key) { // to what a figure counts
    if (key in lists) {
      const place = el.querySelector(`.ho-panel-${key}`);
      place.scrollIntoView({ block: "nearest" });
      place.focus();
      return;
    }
    show.value = key;
    search.value = "";
    look();
  }
  function fillSearch(facts) {
    if (!show.children.length) {
      show.append(...facts.shows.map(([value, text]) => h("option", { value }, text)));
      show.value = facts.show;
      search.value = facts.text;
    }
  }
  function look() {
    clearTimeout(typing);
    post({ kind: "look", show: show.value, text: search.value.trim() });
  }
  function fillRacks(found) {
    racks.replaceChildren(...found.map((rack) => h("div", { class: "ho-rack" },
      h("span", { class: "h-quiet", title: rack.rack_id }, `Rack ${rack.rack_id}`),
      h("span", { class: "ho-slots" }, rack.slots.map((slot) => h("i", {
        class: "ho-slot", "data-state": slot.state, role: "img",
        "aria-label": `slot ${slot.slot} ${slot.state}`,
        title: `slot ${slot.slot}: ${slot.state}${slot.reason ? ` – ${slot.reason}` : ""}`,
      }))),
      h("span", { class: "h-quiet" }, inWords(rack.slots)))));
  }
  function inWords(slots) { // "7 done, 1 failed"
    const counts = {};
    slots.forEach(({ state }) => { counts[state] = (counts[state] ?? 0) + 1; });
    return Object.entries(counts).map(([state, n]) => `${n} ${state}`).join(", ");
  }
  function fillWeek({ bars: found, said }) {
    week.textContent = said;
    bars.replaceChildren(...found.map((bar) => h("li", { title: `${bar.date}: ${bar.n}` },
      h("b", {}, `${bar.n}`),
      h("span", { class: "ho-bar" }, h("i", { style: { height: `${100 * bar.share}%` } })),
      h("span", { class: "h-quiet" }, bar.day))));
  }
  function fillHealth(found) {
    health.replaceChildren(...found.flatMap(({ what, said, tone }) => [
      h("dt", { class: `ho-${tone}` }, h("span", { class: "h-dot", "aria-hidden": "true" }), what),
      h("dd", {}, said)]));
  }
  function warn(text) { trouble.textContent = text; trouble.hidden = !text; }
  function markBusy() {
    const busy = model.get("busy");
    for (const button of el.querySelectorAll(".ho-release")) {
      button.disabled = busy.length > 0;
      button.textContent = busy.includes(button.dataset.quarantined)
        ? "Examining…" : "Examine and release";
    }
  }
  function say() {
    message.textContent = model.get("message");
    message.hidden = !model.get("message");
  }

  // ------------------------------------------------------------------------------- pictures
  function dress(glass) {
    const name = glass.dataset.slide, source = addresses.get(name);
    if (source === undefined) return;
    glass.replaceChildren(source
      ? h("img", { class: "ho-image", alt: `Overview of ${name}`, src: source })
      : h("span", { class: "ho-unseen" }, "no picture"));
  }
  function wantPictures() {
    const shown = new Set(model.get("facts").slides.map((entry) => entry.slide_id));
    for (const [name, address] of addresses) {
      if (shown.has(name)) continue;
      if (address) URL.revokeObjectURL(address);
      addresses.delete(name);
    }
    const missing = [...shown].filter((name) => !addresses.has(name));
    if (missing.length) post({ kind: "pictures", slide_ids: missing });
  }
  function receive({ kind, slide_id: name }, [jpeg]) {
    if (kind !== "picture" || addresses.has(name)) return;
    const shows = jpeg?.byteLength;
    addresses.set(name, shows ? URL.createObjectURL(new Blob([jpeg], { type: "image/jpeg" })) : "");
    for (const glass of el.querySelectorAll(".ho-glass")) {
      if (glass.dataset.slide === name) dress(glass);
    }
  }

  // ----------------------------------------------------------------------------------- keys
  function press(event) {
    if (event.key === "/" && !event.target.closest("input, select")) {
      event.preventDefault();
      search.focus();
    } else if (event.key === "Escape" && event.target === search && search.value) {
      search.value = "";
      look();
    } else if (event.target.matches(".ho-card")) step(event);
  }
  function step(event) { // arrows go from card to card
    const cards = [...el.querySelectorAll("a.ho-card")], at = cards.indexOf(event.target);
    const columns = cards.filter((card) => card.offsetTop === cards[0].offsetTop).length;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (!by || !cards[at + by]) return;
    event.preventDefault();
    cards[at + by].focus();
  }
  const slash = (event) => { // from anywhere on the page, not only from inside
    if (event.key === "/" && event.target === document.body) press(event);
  };

  const followed = {
    "change:facts": fill, "change:busy": markBusy, "change:message": say, "msg:custom": receive,
  };
  Object.entries(followed).forEach(([event, act]) => model.on(event, act));
  document.addEventListener("keydown", slash);
  fill();
  say();
  const timer = setInterval(() => {
    if (!document.hidden) post({ kind: "refresh" });
  }, REFRESH_MS);
  return () => {
    clearInterval(timer);
    clearTimeout(typing);
    document.removeEventListener("keydown", slash);
    Object.entries(followed).forEach(([event, act]) => model.off(event, act));
    addresses.forEach((address) => address && URL.revokeObjectURL(address));
  };
}
export default { render };
