// Runs once for each HTML component of the page; `element`, `trigger`, `server` and `watch` are gradio's.
// Everything is delegated to `element`, because its content is replaced again and again.

const player = (window.distillganPlayer ??= new Audio()); // one sound at a time

const pressed = (button, on) => button.setAttribute("aria-pressed", String(on));

function silence() {
  player.pause();
  document.querySelectorAll("[data-listen][aria-pressed=true]").forEach((button) => pressed(button, false));
}

async function listen(button) {
  const wasOn = button.getAttribute("aria-pressed") === "true";
  silence();
  if (wasOn) return;
  const answer = await server.listen(JSON.parse(button.dataset.listen));
  if (answer.error) return void fail(button, answer.error);
  player.src = answer.sound;
  player.onended = silence;
  pressed(button, true);
  await player.play().catch((error) => fail(button, String(error)));
}

function fail(button, reason) {
  pressed(button, false);
  button.title = reason;
  button.classList.add("failed");
}

function bytesOf(dataUrl) {
  return Uint8Array.from(atob(dataUrl.split(",")[1]), (character) => character.charCodeAt(0)).buffer;
}

// The outline of a sound: for each of `count` columns the loudest sample.
function outline(samples, count) {
  const step = Math.max(1, Math.floor(samples.length / count));
  return Array.from({ length: Math.min(count, samples.length) }, (_, column) => {
    let loudest = 0;
    for (let i = column * step; i < (column + 1) * step; i++) loudest = Math.max(loudest, Math.abs(samples[i]));
    return loudest;
  });
}

function waveform(peaks) {
  const top = peaks.map((peak, x) => `${x},${(20 - 19 * peak).toFixed(1)}`);
  const bottom = peaks.map((peak, x) => `${x},${(20 + 19 * peak).toFixed(1)}`).reverse();
  return `<svg viewBox="0 0 ${peaks.length - 1} 40" preserveAspectRatio="none" role="img" aria-label="Waveform">
    <polygon points="${top.concat(bottom).join(" ")}"/></svg><span class="dg-head"></span>`;
}

async function drawSound() {
  const place = element.querySelector("[data-sound]");
  if (!place) return;
  const wave = place.querySelector(".dg-wave");
  const answer = await server.listen(JSON.parse(place.dataset.sound));
  try {
    if (answer.error) throw answer.error;
    const sound = await new OfflineAudioContext(1, 1, 48000).decodeAudioData(bytesOf(answer.sound));
    wave.innerHTML = waveform(outline(sound.getChannelData(0), 400));
    player.ontimeupdate = () => {
      wave.style.setProperty("--played", `${(100 * player.currentTime) / (player.duration || 1)}%`);
    };
  } catch (error) {
    wave.textContent = `The preview cannot be played: ${error}`;
  }
}

async function more(button) {
  observer.unobserve(button);
  button.disabled = true;
  const template = document.createElement("template");
  template.innerHTML = await server.more(JSON.parse(button.dataset.more));
  button.closest("[data-batch]")?.replaceWith(template.content);
  watchEnd();
}

const observer = new IntersectionObserver(
  (seen) => seen.filter((one) => one.isIntersecting).forEach((one) => more(one.target)),
  { rootMargin: "1500px" },
);

function watchEnd() {
  observer.disconnect();
  element.querySelectorAll("[data-more]").forEach((button) => observer.observe(button));
}

async function copy(button) {
  const text = button.parentElement.querySelector("pre").textContent;
  await navigator.clipboard.writeText(text).then(
    () => (button.textContent = "Copied"),
    () => getSelection().selectAllChildren(button.parentElement.querySelector("pre")),
  );
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

function sort(button) {
  const head = button.closest("th");
  const rising = head.getAttribute("aria-sort") !== "ascending";
  const column = Number(button.dataset.sort);
  const body = button.closest("table").tBodies[0];
  const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const rows = [...body.rows].sort((a, b) => value(a).localeCompare(value(b), "en", { numeric: true }));
  body.append(...(rising ? rows : rows.reverse()));
  head.parentElement.querySelectorAll("th").forEach((other) => other.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", rising ? "ascending" : "descending");
}

const refresh = () => trigger("refresh");

const actions = { listen, more, copy, sort, refresh };

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  for (const [name, act] of Object.entries(actions)) {
    if (button && name in button.dataset) return void act(button);
  }
  const model = event.target.closest("[data-open]");
  if (model && (button || !getSelection().toString())) open(model); // who marks a card's text wants the text
});

// Where the reader was when a model was opened, for the way back.
let left = null;

function open(model) {
  left = { scrolled: scrollY, button: model.querySelector("button") ?? model };
  trigger("open", JSON.parse(model.dataset.open));
}

new IntersectionObserver(([seen]) => {
  if (!seen.isIntersecting || !left) return;
  scrollTo(0, left.scrolled);
  left.button.focus({ preventScroll: true });
  left = null;
}).observe(element);

function arrive() {
  silence();
  watchEnd();
  drawSound();
  element.querySelector("h2")?.focus();
}

watch("value", arrive);
arrive();
