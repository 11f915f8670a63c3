// What our front ends share. h(tag, attributes, ...children): an element. Strings become text
// nodes, never HTML.
export function h(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "g", "title", "circle", "text"].includes(tag);
  const node = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

// Who sits here: one name on every page of this browser. A private window remembers nothing.
const NAME_KEY = "histo-annotator";
export function recallName(otherwise = "") {
  try { return localStorage.getItem(NAME_KEY) ?? otherwise; } catch { return otherwise; }
}
export function keepName(name) {
  try { localStorage.setItem(NAME_KEY, name); } catch { /* nothing to be done */ }
}

// A way to send messages that survives the kernel: sending to one that is gone throws.
export function makePost(model, onGone = () => {}) {
  return (message) => { try { model.send(message); } catch { onGone(); } };
}

// What to write with on a colour (#rrggbb): black or white, one of them always has 4.5:1.
export function inkOn(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16) / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000000" : "#ffffff";
}

// Whether a key is for a field, or goes with another key: then it is no command of a page.
export function isTyping({ target, ctrlKey, metaKey, altKey }) {
  const field = "input, textarea, select, [contenteditable], .jp-Editor";
  return ctrlKey || metaKey || altKey || Boolean(target.closest?.(field));
}

// Whether a key that nothing else took is a command of the page that `node` is on: in JupyterLab
// only where the page itself has the keyboard.
export function isCommand(event, node) {
  const own = document.body.dataset.voila || node.closest(".hr")?.contains(event.target);
  return node.isConnected && Boolean(own) && !event.repeat && !isTyping(event);
}
