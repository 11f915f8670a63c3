// The panel beside the slide: the answer, reasons for doubt, the places to look at; and what the
// reader says of them. Each word of the reader is a message, answered by a change of `judged`.
import { h, inkOn, isCommand, keepName, makePost, recallName } from "./dom.js";

const THUMB = { width: 72, height: 54 };
const SAYS = { agree: "agreed", disagree: "disagreed" };

function render({ model, el }) {
  el.classList.add("histo");
  const panel = h("div", { class: "h-panel hf", "data-lm-suppress-shortcuts": "true" });
  const toast = h("div", { class: "h-toast", role: "status", hidden: "" });
  el.append(panel, toast);
  const send = makePost(model, () => tell("The connection is lost. Reload the page."));
  // Each message says which slide it is about: another one may come up before it arrives.
  const post = (message) => send({ ...message, slide: facts().slide_id });
  const drafts = new Map(); // slide → a comment that is not saved yet
  const thumbs = new Map(); // region → address of its picture
  let timer = 0;
  let asking = false; // whether the reader was asked to confirm the signature

  const facts = () => model.get("facts") ?? {};
  const judged = () => model.get("judged") ?? {};

  if (!model.get("is_known")) {
    const name = recallName(model.get("reviewer"));
    if (name !== model.get("reviewer")) post({ kind: "name", reviewer: name });
  }

  const section = (title, ...children) => h("section", {}, h("h3", {}, title), children);
  const button = (text, act, attributes = {}) =>
    h("button", { type: "button", class: "h-button", onclick: act, ...attributes }, text);
  const dot = (colour) => h("span", { class: "h-dot", style: { background: colour } });

  const nameOf = (node) => node.getAttribute("aria-label") ?? node.textContent;

  function tell(text, undo = false) {
    toast.replaceChildren(h("span", {}, text), undo ? button("Undo", takeBack) : "");
    toast.hidden = false;
    clearTimeout(timer);
    timer = setTimeout(() => { toast.hidden = true; }, 6000);
  }
  function takeBack() {
    toast.hidden = true;
    post({ kind: "undo" });
  }

  function fill() {
    const what = facts();
    const place = panel.scrollTop;
    const same = panel.dataset.slide === what.slide_id;
    const comment = drafts.get(what.slide_id);
    const focused = panel.contains(document.activeElement) ? nameOf(document.activeElement) : null;
    panel.replaceChildren(...(what.text ? message(what) : what.slide_id ? answer(what, comment) : []));
    panel.dataset.slide = what.slide_id ?? "";
    panel.scrollTop = same ? place : 0;
    if (focused && same) {
      [...panel.querySelectorAll("button, input, textarea, select")]
        .find((node) => nameOf(node) === focused)?.focus({ preventScroll: true });
    }
    mark();
  }
  const message = (what) => [
    h("h2", {}, what.title), h("p", {}, what.text),
    what.hint ? h("code", { class: "h-command" }, what.hint) : null,
  ].filter(Boolean);

  // A slide that someone else shows now has pictures of its own.
  function change() {
    for (const address of thumbs.values()) URL.revokeObjectURL(address);
    thumbs.clear();
    asking = false;
    fill();
    post({ kind: "thumbs" });
  }

  const answer = (what, comment) => [
    h("header", { class: "hf-answer" },
      h("p", { class: "h-quiet hf-slide", title: what.slide_id }, what.slide_id),
      h("h2", { class: "hf-class" }, dot(what.colour), h("span", {}, what.slide_class)),
      h("p", { class: "hf-confidence" }, h("b", {}, what.confidence), " confidence")),
    ...what.warnings.map((text) => h("p", { class: "h-warning", role: "alert" }, text)),
    verdict(what, comment),
    section(what.regions.length ? "Regions to look at" : "Regions",
      what.regions.length
        ? h("ol", { class: "hf-regions" }, what.regions.map(region))
        : h("p", { class: "h-quiet" }, "No abnormal region was found."),
      what.n_more ? h("p", { class: "h-quiet" }, `and ${what.n_more} smaller ones`) : ""),
    section("Tissue by class",
      h("div", { class: "hf-bar", "aria-hidden": "true" }, what.shares.map((part) =>
        h("i", { style: { width: `${100 * part.share}%`, background: part.colour } }))),
      h("ul", { class: "hf-shares" }, what.shares.map((part) =>
        h("li", {}, dot(part.colour), h("span", { class: "hf-label" }, part.label), h("b", {}, part.text))))),
    section("How the class was decided", h("p", {}, what.rule)),
    section("About this analysis",
      h("dl", {}, what.table.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]))),
    section("Report", h("div", { class: "hf-choices" },
      ["pdf", "html"].map((kind) => button(kind.toUpperCase(), (event) => {
        event.target.disabled = true;
        tell("The report is being made…");
        post({ kind: "report", format: kind });
      }, { "aria-label": `Report as ${kind.toUpperCase()}` })))),
  ];

  // ----------------------------------------------------------------- the slide
  function verdict(what, comment) {
    const { signature, slide } = judged();
    if (signature) return signed(signature);
    const chosen = slide?.label;
    const words = h("textarea", {
      class: "h-field hf-comment", rows: 2, maxlength: 2000, placeholder: "Comment (no names)",
      "aria-label": "Comment", oninput: () => drafts.set(what.slide_id, words.value),
      onchange: () => { if (slide) say(slide.verdict, chosen, words.value); },
    });
    words.value = comment ?? slide?.note ?? "";
    const say = (agreed, label, note = words.value) => {
      drafts.delete(what.slide_id);
      post({ kind: "slide", verdict: agreed, label, note });
    };
    return h("section", { class: "hf-verdict", "aria-label": "Your reading of this slide" },
      h("h3", {}, "Your reading"),
      h("div", { class: "hf-choices", role: "group", "aria-label": "Class of the slide" },
        agreedFirst(what).map(({ label, colour }) => button([dot(colour),
          label === what.slide_class ? `Agree: ${label}` : label], () => {
          if (chosen === label) post({ kind: "slide", verdict: null });
          else say(label === what.slide_class ? "agree" : "disagree", label);
        }, { "aria-pressed": `${chosen === label}`, title: label === what.slide_class ? "Agree (A)" : `It is ${label}` }))),
      words, reader(), sign(chosen), others());
  }

  const agreedFirst = ({ classes, slide_class: found }) =>
    [...classes].sort((a, b) => (b.label === found) - (a.label === found));

  function reader() {
    const name = h("input", {
      class: "h-field", maxlength: 64, "aria-label": "Your name", placeholder: "Your name", title: model.get("is_known") ? null : "Names are not checked here",
      onchange: () => { keepName(name.value); post({ kind: "name", reviewer: name.value }); },
    });
    name.value = model.get("reviewer");
    name.disabled = model.get("is_known");
    return h("label", { class: "hf-name" }, h("span", { class: "h-quiet" }, "Read by"), name);
  }

  function sign(chosen) {
    if (!chosen) return h("p", { class: "h-quiet" }, "Agree or choose another class, then sign.");
    if (!asking) {
      return button(`Sign as ${chosen}`, () => { asking = true; fill(); }, { class: "h-button h-button--primary" });
    }
    return h("div", { class: "hf-choices hf-confirm" },
      h("p", {}, `${model.get("reviewer") || "Nobody"} signs: ${chosen}. The reading is closed then.`),
      button("Sign", () => { asking = false; post({ kind: "sign", label: chosen }); }, { class: "h-button h-button--primary" }),
      button("Not yet", () => { asking = false; fill(); }));
  }

  const signed = (signature) => h("section", { class: "hf-verdict" },
    h("p", {}, h("span", { class: "h-chip h-chip--ok" }, "Signed"), " ", h("b", { class: "hf-label" }, signature.label)),
    h("p", { class: "h-quiet" }, `${signature.reviewer}, ${signature.when}`),
    signature.note ? h("p", { class: "hf-words" }, signature.note) : "",
    signature.is_mine
      ? button("Take the signature back", () => post({ kind: "reopen" }))
      : h("p", { class: "h-quiet" }, `Only ${signature.reviewer} can open it again.`));

  function others() {
    const said = judged().others ?? [];
    if (!said.length) return "";
    return h("ul", { class: "hf-others" }, said.map((other) =>
      h("li", { class: "h-quiet" }, h("b", {}, other.who), ` ${SAYS[other.verdict]}: ${other.label ?? "not that"}`,
        other.note ? h("span", { class: "hf-words" }, other.note) : "")));
  }

  // --------------------------------------------------------------- the regions
  function region(found, index) {
    const said = judged().regions?.[index];
    const closed = Boolean(judged().signature);
    const judge = (value, label = null) => post({ kind: "region", region: index, verdict: value, label });
    const picture = h("img", {
      class: "hf-thumb", ...THUMB, alt: `Region ${index + 1}: ${found.label}, ${found.area}`,
      src: thumbs.get(index) ?? null, "data-thumb": index,
    });
    const other = h("select", {
      class: "h-field", "aria-label": `Class of region ${index + 1}`, disabled: closed,
      onchange: () => judge("disagree", other.value || null),
    }, h("option", { value: "" }, "not that"), facts().classes.filter(({ label }) => label !== found.label)
      .map(({ label }) => h("option", { value: label }, label)));
    other.value = said?.label && said.verdict === "disagree" ? said.label : "";
    other.hidden = said?.verdict !== "disagree";
    const pressed = (value) => ({ "aria-pressed": `${said?.verdict === value}`, disabled: closed });
    return h("li", {},
      h("button", {
        type: "button", class: "hf-see", "aria-label": `Take me there: region ${index + 1}`,
        title: "Take me there", onclick: () => post({ kind: "go", region: index }),
      }, picture, h("span", { class: "hf-number", style: { background: found.colour, color: inkOn(found.colour) } }, `${index + 1}`)),
      h("div", { class: "hf-what" },
        h("b", { class: "hf-label" }, found.label),
        h("span", { class: "h-quiet" }, `${found.area} · ${found.probability}`),
        h("div", { class: "hf-choices" },
          button("Agree", () => judge(said?.verdict === "agree" ? null : "agree"), { ...pressed("agree"), "aria-label": `Agree with region ${index + 1}` }),
          button("Disagree", () => judge(said?.verdict === "disagree" ? null : "disagree"), { ...pressed("disagree"), "aria-label": `Disagree with region ${index + 1}` }),
          other)));
  }

  function mark() {
    const selected = model.get("selected");
    panel.querySelectorAll(".hf-regions li").forEach((li, i) => {
      li.classList.toggle("hf-picked", i === selected);
      if (i === selected) li.scrollIntoView({ block: "nearest" });
    });
  }

  function receive(said, buffers) {
    if (said.kind === "saved") tell(said.text, said.can_undo);
    if (said.kind === "trouble") { tell(said.text); fill(); }
    if (said.kind === "thumb" && said.slide_id === facts().slide_id) {
      thumbs.set(said.region, URL.createObjectURL(new Blob(buffers, { type: "image/jpeg" })));
      const picture = panel.querySelector(`[data-thumb="${said.region}"]`);
      if (picture) picture.src = thumbs.get(said.region);
    }
    if (said.kind === "report") {
      const address = URL.createObjectURL(new Blob(buffers, { type: said.mime }));
      h("a", { href: address, download: said.name }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
      tell("The report is among your downloads.");
      fill();
    }
  }

  const keys = {
    a: () => panel.querySelector('.hf-verdict [title="Agree (A)"][aria-pressed=false]')?.click(),
    u: () => { if (judged().can_undo) takeBack(); },
  };
  const press = (event) => {
    if (!Object.hasOwn(keys, event.key) || !isCommand(event, panel)) return;
    event.preventDefault();
    keys[event.key]();
  };
  document.addEventListener("keydown", press);

  const watched = {
    "change:facts": change, "change:judged": fill, "change:reviewer": fill,
    "change:selected": mark, "msg:custom": receive,
  };
  for (const [event, act] of Object.entries(watched)) model.on(event, act);
  fill();
  post({ kind: "thumbs" });
  return () => {
    for (const [event, act] of Object.entries(watched)) model.off(event, act);
    document.removeEventListener("keydown", press);
    clearTimeout(timer);
  };
}
export default { render };
