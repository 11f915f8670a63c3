/* What a page does by itself: show its widgets, say farewell, say that it lost its kernel. */
const config = () => {
  const found = document.getElementById("jupyter-config-data");
  return found ? JSON.parse(found.textContent) : {};
};

/* Voila calls these while it reads the page. */
window.voila_finish = () => {
  document.getElementById("loading")?.remove();
  document.getElementById("rendered_cells")?.removeAttribute("hidden");
};
window.cellLoaded = true;

/* Voila gives the kernel up when a page might be left, also for a download: ours, when it is. */
addEventListener("beforeunload", (event) => event.stopImmediatePropagation(), true);
addEventListener("pagehide", () => {
  const { baseUrl, kernelId } = config();
  if (kernelId) navigator.sendBeacon(`${baseUrl}voila/api/shutdown/${kernelId}`);
});
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

/* A channel that does not come back within moments is lost. */
const PATIENCE_MS = 4000;
let lost;
const Native = window.WebSocket;
window.WebSocket = class extends Native {
  constructor(...options) {
    super(...options);
    this.addEventListener("open", () => {
      clearTimeout(lost);
      document.getElementById("lost").hidden = true;
    });
    this.addEventListener("close", () => {
      clearTimeout(lost);
      lost = setTimeout(() => { document.getElementById("lost").hidden = false; }, PATIENCE_MS);
    });
  }
};
document.addEventListener("click", (event) => {
  if (event.target.closest?.(".reload")) location.reload();
});
