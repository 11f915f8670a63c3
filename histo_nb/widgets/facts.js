// The panel beside the slide: answer first, then doubts, then the places to look at.
function render({ model, el }) {
  el.classList.add("histo");
  const panel = h("div", { class: "h-panel hf" });
  el.append(panel);

  const section = (title, ...children) => h("section", {}, h("h3", {}, title), children);

  function fill() {
    const facts = model.get("facts") ?? {};
    panel.replaceChildren(...(facts.text ? message(facts) : facts.slide_id ? answer(facts) : []));
    panel.scrollTop = 0;
    mark();
  }
  const message = (facts) => [
    h("h2", {}, facts.title), h("p", {}, facts.text),
    facts.hint ? h("code", { class: "h-command" }, facts.hint) : null,
  ].filter(Boolean);

  const answer = (facts) => [
    h("header", { class: "hf-answer" },
      h("p", { class: "h-quiet hf-slide", title: facts.slide_id }, facts.slide_id),
      h("h2", { class: "hf-class" },
        h("span", { class: "h-dot", style: { background: facts.colour } }),
        h("span", {}, facts.slide_class)),
      h("p", { class: "hf-confidence" }, h("b", {}, facts.confidence), " confidence")),
    ...facts.warnings.map((text) => h("p", { class: "h-warning", role: "alert" }, text)),
    section("Tissue by class",
      h("div", { class: "hf-bar", "aria-hidden": "true" }, facts.shares.map((part) =>
        h("i", { style: { width: `${100 * part.share}%`, background: part.colour } }))),
      h("ul", { class: "hf-shares" }, facts.shares.map((part) =>
        h("li", {}, h("span", { class: "h-dot", style: { background: part.colour } }),
          h("span", { class: "hf-label" }, part.label), h("b", {}, part.text))))),
    section(facts.regions.length ? "Regions to look at" : "Regions",
      facts.regions.length
        ? h("ol", { class: "hf-regions" }, facts.regions.map(region))
        : h("p", { class: "h-quiet" }, "No abnormal region was found."),
      facts.n_more ? h("p", { class: "h-quiet" }, `and ${facts.n_more} smaller ones`) : null),
    section("How the class was decided", h("p", {}, facts.rule)),
    section("About this analysis",
      h("dl", {}, facts.table.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]))),
  ];

  const region = (facts, index) => h("li", {},
    h("span", { class: "hf-number", style: { background: facts.colour } }, `${index + 1}`),
    h("div", { class: "hf-what" },
      h("b", { class: "hf-label" }, facts.label),
      h("span", { class: "h-quiet" }, `${facts.area} · ${facts.probability}`)),
    h("button", {
      type: "button", class: "h-button", "aria-label": `Take me there: region ${index + 1}`,
      onclick: () => model.send({ kind: "go", region: index }),
    }, "Take me there"));

  function mark() {
    const selected = model.get("selected");
    panel.querySelectorAll(".hf-regions li").forEach((li, i) => {
      li.classList.toggle("hf-picked", i === selected);
      if (i === selected) li.scrollIntoView({ block: "nearest" });
    });
  }
  model.on("change:facts", fill);
  model.on("change:selected", mark);
  fill();
  return () => {
    model.off("change:facts", fill);
    model.off("change:selected", mark);
  };
}
export default { render };
