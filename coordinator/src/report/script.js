const gallery = document.querySelector("#kept .gallery");
const cards = [...gallery.children];
const search = document.getElementById("search");
const order = document.getElementById("order");
const hits = document.getElementById("hits");

function filter() {
  const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const card of cards) {
    card.hidden = !wanted.every((word) => card.dataset.text.includes(word) || card.dataset.id.startsWith(word));
    shown += card.hidden ? 0 : 1;
  }
  hits.textContent = wanted.length ? `${shown} of ${cards.length}` : "";
}

function sort() {
  const key = order.value;
  const byId = (a, b) => (a.dataset.id < b.dataset.id ? -1 : 1);
  const byScore = (a, b) => b.dataset[key] - a.dataset[key] || byId(a, b);
  gallery.replaceChildren(...cards.sort(key === "id" ? byId : byScore));
}

search.addEventListener("input", filter);
order.addEventListener("change", sort);
