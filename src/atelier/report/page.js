const epochs = document.getElementById("epochs");
const montages = [...epochs.querySelectorAll("[data-epoch]")];
const slider = epochs.querySelector("input");
const play = epochs.querySelector(".controls button");
const output = epochs.querySelector("output");
let timer = null;

function show(index) {
  montages.forEach((image, place) => { image.hidden = place !== index; });
  slider.value = index;
  output.textContent = montages[index].dataset.epoch;
  slider.setAttribute("aria-valuetext", "epoch " + montages[index].dataset.epoch);
}

function stop() {
  clearInterval(timer);
  timer = null;
  play.textContent = "Play";
}

function step() {
  const next = slider.valueAsNumber + 1;
  show(next);
  if (next === montages.length - 1) stop();
}

play.addEventListener("click", () => {
  if (timer !== null) return stop();
  if (slider.valueAsNumber === montages.length - 1) show(0);
  timer = setInterval(step, 1000 / Number(epochs.dataset.fps));
  play.textContent = "Pause";
});
slider.addEventListener("input", () => { stop(); show(slider.valueAsNumber); });
if (montages.length > 1) {
  show(montages.length - 1);
  epochs.querySelector(".controls").hidden = false;
}

// The browser closes a modal dialog with Escape and returns the focus.
const dialog = document.getElementById("enlarged");
const large = dialog.querySelector("img");

function enlarge(image) {
  const sides = [innerWidth / image.naturalWidth, (innerHeight - 56) / image.naturalHeight];
  const fit = Math.min(...sides);
  // Images are enlarged by whole factors, so that all pixels have one size. On a small screen, an
  // image that would not become larger is shown at its own size, to be scrolled.
  const factor = fit >= 1 ? Math.floor(fit) : fit * image.naturalWidth < 1.2 * image.width ? 1 : fit;
  large.src = image.src;
  large.alt = image.alt;
  large.width = Math.round(factor * image.naturalWidth);
  large.style.imageRendering = factor >= 1 ? "pixelated" : "auto";
  dialog.querySelector("p").textContent = image.alt;
  dialog.showModal();
}

document.querySelectorAll(".zoom").forEach((button) => {
  button.addEventListener("click", () => enlarge(button.querySelector("img:not([hidden])")));
});
large.addEventListener("click", () => dialog.close());
dialog.querySelector("button").addEventListener("click", () => dialog.close());
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((details) => { details.open = true; });
});
