// Viewers that move together: what one does to its view, in µm, the others do to theirs. A viewer
// that opens beside others takes their magnification.
const EVENT = "histo-view";

// Returns {tell, join, close}. `state()` is {x, y (centre, µm), upp (µm a screen px), rotation}.
export function makeLink(word, state, follow) {
  const own = {};
  let following = false;
  let before = state();

  const say = (detail) =>
    window.dispatchEvent(new CustomEvent(EVENT, { detail: { ...detail, from: own, word: word() } }));

  function move(to) {
    following = true;
    follow(to);
    before = state();
    following = false;
  }

  function hear({ detail: { from, word: called, by, to, asks } }) {
    if (from === own || called !== word()) return;
    const now = state();
    if (asks) say({ to: { upp: now.upp, rotation: now.rotation } });
    else if (to) move({ ...now, ...to });
    else {
      move({
        x: now.x + by.x, y: now.y + by.y, upp: now.upp * by.upp, rotation: now.rotation + by.rotation,
      });
    }
  }

  function tell() {
    const now = state();
    const by = {
      x: now.x - before.x, y: now.y - before.y, upp: now.upp / before.upp,
      rotation: now.rotation - before.rotation,
    };
    before = now;
    if (!word() || following || !Object.values(by).every(Number.isFinite)) return;
    if (by.x || by.y || by.upp !== 1 || by.rotation) say({ by });
  }

  function join() {
    before = state();
    if (word()) say({ asks: true });
  }
  window.addEventListener(EVENT, hear);
  return { tell, join, close: () => window.removeEventListener(EVENT, hear) };
}
