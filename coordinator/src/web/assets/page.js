// Renews parts of the page while it is open. The server makes the HTML; here it only finds its place.
const path = document.body.dataset.live;
const connection = document.getElementById("connection");

function say(text) {
  connection.textContent = text;
  connection.hidden = !text;
}

if (path) {
  const source = new EventSource(path);
  source.addEventListener("open", () => say(""));
  source.addEventListener("error", () => say("The connection is lost. If the coordinator has ended, `ip2p-coordinator serve` shows the run from its store."));
  source.addEventListener("part", (event) => {
    const { id, html } = JSON.parse(event.data);
    const part = document.getElementById(id);
    // Whoever is inside with the keyboard is not thrown out.
    if (!part || (part.contains(document.activeElement) && part !== document.activeElement)) return;
    const scrolled = [...part.querySelectorAll(".scroll")].map((box) => [box.scrollLeft, box.scrollTop]);
    part.innerHTML = html;
    part.querySelectorAll(".scroll").forEach((box, number) => {
      if (scrolled[number]) [box.scrollLeft, box.scrollTop] = scrolled[number];
    });
  });
  source.addEventListener("cells", (event) => document.dispatchEvent(new CustomEvent("cells", { detail: JSON.parse(event.data) })));
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => event.persisted && location.reload());
}
