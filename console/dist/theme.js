// Before anything is painted: the colours that were chosen, if any were.
try {
  const chosen = localStorage.getItem("trellis-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // storage is switched off: the system's colours
}
