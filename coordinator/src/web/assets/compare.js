// Lays "after" over "before" with a slider between them. Without it they stand side by side.
for (const images of document.querySelectorAll("[data-compare]")) {
  const slider = document.createElement("input");
  slider.type = "range";
  slider.min = 0;
  slider.max = 100;
  slider.value = 50;
  slider.setAttribute("aria-label", "How much of the picture before is shown, in percent");
  const move = () => images.style.setProperty("--at", `${slider.value}%`);
  slider.addEventListener("input", move);
  // The pointer moves it from anywhere on the picture.
  images.addEventListener("pointermove", (event) => {
    if (event.target === slider || event.pointerType !== "mouse") return;
    const box = images.getBoundingClientRect();
    slider.value = (100 * (event.clientX - box.left)) / box.width;
    move();
  });
  images.append(slider);
  images.classList.add("compare");
  move();
}
