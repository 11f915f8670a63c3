// Viewers that move together: what one does to its view, in µm, the others do to theirs.
const EVENT = "histo-view";

// Returns {tell, close}. `state()` is {x, y (centre, µm), upp (µm a screen px), rotation}.
export function makeLink(word, state, follow) {
  const own = {};
  let following = false;
  let before = state();

  function hear({ detail }) {
    if (detail.from === own || detail.word !== word()) return;
    const now = state();
    following = true;
    follow({
      x: now.x + detail.x, y: now.y + detail.y, upp: now.upp * detail.upp,
      rotation: now.rotation + detail.rotation,
    });
    before = state();
    following = false;
  }

  function tell() {
    const now = state();
    const moved = {
      x: now.x - before.x, y: now.y - before.y, upp: now.upp / before.upp,
      rotation: now.rotation - before.rotation,
    };
    before = now;
    if (!word() || following || !Object.values(moved).every(Number.isFinite)) return;
    if (!moved.x && !moved.y && moved.upp === 1 && !moved.rotation) return;
    window.dispatchEvent(new CustomEvent(EVENT, { detail: { ...moved, from: own, word: word() } }));
  }
  window.addEventListener(EVENT, hear);
  return { tell, close: () => window.removeEventListener(EVENT, hear) };
}
