/* Tries again by itself after the time that the page names. */
setTimeout(() => location.reload(), 1000 * Number(document.body.dataset.retry));
