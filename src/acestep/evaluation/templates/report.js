// Players that switch between versions of a song in place. Without this script the page keeps the browser's own players.
"use strict";
(() => {
  const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
  let pausePlaying = () => {};

  function build(player) {
    // A broken song has no audio.
    const playable = [...player.querySelectorAll(".take")].filter((element) => element.querySelector("audio"));
    for (const element of player.querySelectorAll(".take")) element.querySelector("input").disabled = !playable.includes(element);
    if (!playable.length) return;
    const takes = playable.map((element) => ({
      element,
      audio: element.querySelector("audio"),
      choice: element.querySelector("input"),
      picture: element.querySelector(".picture"),
      playhead: element.querySelector(".playhead"),
      duration: Number(element.dataset.duration),
    }));
    const play = player.querySelector(".play");
    const seek = player.querySelector(".seek");
    const time = player.querySelector(".clock");
    let chosen = takes.find((take) => take.choice.checked) || takes[0];
    let position = 0;

    function show() {
      const playing = !chosen.audio.paused;
      play.querySelector(".play-label").textContent = playing ? "Pause" : "Play";
      play.setAttribute("aria-pressed", String(playing));
      seek.max = chosen.duration;
      seek.value = position;
      seek.setAttribute("aria-valuetext", `${clock(position)} of ${clock(chosen.duration)}`);
      time.textContent = `${clock(position)} / ${clock(chosen.duration)}`;
      for (const take of takes) {
        take.element.classList.toggle("is-chosen", take === chosen);
        take.playhead.hidden = position === 0 && !playing;
        take.playhead.style.left = `${Math.min(100, (100 * position) / take.duration)}%`;
      }
    }
    function follow() {
      if (chosen.audio.paused) return;
      position = chosen.audio.currentTime;
      show();
      requestAnimationFrame(follow);
    }
    function pause() {
      chosen.audio.pause();
      show();
    }
    function start() {
      if (pausePlaying !== pause) pausePlaying();
      pausePlaying = pause;
      // The other versions load while this one plays, so that switching makes no gap.
      for (const take of takes) take.audio.preload = "auto";
      if (position >= chosen.duration - 0.05) position = 0;
      chosen.audio.currentTime = position;
      chosen.audio.play().then(() => { show(); follow(); }, () => {
        time.textContent = "This browser cannot play the file";
      });
    }
    function choose(take) {
      const playing = !chosen.audio.paused;
      if (playing) position = chosen.audio.currentTime;
      chosen.audio.pause();
      chosen = take;
      take.choice.checked = true;
      position = Math.min(position, take.duration);
      if (playing) start();
      show();
    }
    function go(seconds) {
      position = Math.min(Math.max(seconds, 0), chosen.duration);
      chosen.audio.currentTime = position;
      show();
    }

    play.addEventListener("click", () => (chosen.audio.paused ? start() : pause()));
    seek.addEventListener("input", () => go(Number(seek.value)));
    for (const take of takes) {
      take.audio.controls = false;
      take.choice.addEventListener("change", () => choose(take));
      take.audio.addEventListener("ended", () => { position = 0; show(); });
      take.picture.addEventListener("click", (event) => {
        const box = take.picture.getBoundingClientRect();
        if (take !== chosen) choose(take);
        go(((event.clientX - box.left) / box.width) * take.duration);
        if (chosen.audio.paused) start();
      });
    }
    player.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const key = event.key.toLowerCase();
      if (key === "p") play.click();
      else if (key === "x") choose(takes[(takes.indexOf(chosen) + 1) % takes.length]);
      else if (takes[Number(key) - 1]) choose(takes[Number(key) - 1]);
      else return;
      event.preventDefault();
    });
    player.querySelector(".transport").hidden = false;
    show();
  }

  // A passage plays from its start to its end, whatever the browser makes of the address's fragment.
  for (const passage of document.querySelectorAll(".passage")) {
    const audio = passage.querySelector("audio");
    const [start, end] = [Number(passage.dataset.start), Number(passage.dataset.end)];
    audio.addEventListener("play", () => {
      if (pausePlaying !== stop) pausePlaying();
      pausePlaying = stop;
      if (audio.currentTime < start - 0.05 || audio.currentTime >= end) audio.currentTime = start;
    });
    audio.addEventListener("timeupdate", () => { if (audio.currentTime >= end) audio.pause(); });
    function stop() { audio.pause(); }
  }

  document.documentElement.classList.add("has-script");
  // Only one thing plays at a time on the whole page; the blind test takes part in that.
  window.acestepPage = { clock, take: (pause) => { if (pausePlaying !== pause) pausePlaying(); pausePlaying = pause; } };
  document.querySelectorAll(".player").forEach(build);
})();
