// Viewers that move together: what one does to its view, in µm, the others do to theirs. A viewer
// that opens beside others takes their magnification.
const EVENT = "histo-view";
const LEADS_MS = 2000; // after a person's last touch a movement is still theirs

// Returns {lead, tell, join, close}; only who was touched last leads. `state()` is {x, y (centre, µm), upp (µm a screen px), rotation}.
export function makeLink(word, state, follow) {
  const own = {};
  let touched = -Infinity;
  let before = state();

  const say = (detail) =>
    window.dispatchEvent(new CustomEvent(EVENT, { detail: { ...detail, from: own, word: word() } }));

  const isKnown = (view) => Object.values(view).every(Number.isFinite);

  function move(to) {
    if (!isKnown(to)) return; // one of both shows nothing yet
    touched = -Infinity;
    follow(to);
    before = state();
  }

  function hear({ detail: { from, word: called, by, to, asks } }) {
    if (from === own || called !== word()) return;
    const now = state();
    if (!("upp" in now)) return;
    if (asks && isKnown(now)) say({ to: { upp: now.upp, rotation: now.rotation } });
    else if (to) move({ ...now, ...to });
    else if (by) {
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
    if (!word() || performance.now() - touched > LEADS_MS || !isKnown(by)) return;
    if (by.x || by.y || by.upp !== 1 || by.rotation) say({ by });
  }

  function join() {
    before = state();
    if (word()) say({ asks: true });
  }
  window.addEventListener(EVENT, hear);
  const lead = () => { touched = performance.now(); };
  return { lead, tell, join, close: () => window.removeEventListener(EVENT, hear) };
}
