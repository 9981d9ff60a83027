// MLflow shows this page from a blob: address that it revokes, where a link to a section leads nowhere: scroll instead.
addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  const section = link && document.getElementById(link.hash.slice(1));
  if (!section || location.protocol !== "blob:") return;
  event.preventDefault();
  section.scrollIntoView();
  section.focus({ preventScroll: true });
});
