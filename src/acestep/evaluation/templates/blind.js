// Blind listening: A/B and ABX over the songs of this page. Which is which is drawn for each vote and told at the end.
"use strict";
(() => {
  const test = document.getElementById("blind-test");
  const part = (name) => test.querySelector(name);
  const { clock, take } = window.acestepPage;
  const { interval, oneSided, twoSided } = window.acestepStatistics;
  const songs = [...document.querySelectorAll(".comparison")].map((element) => ({
    prompt: element.dataset.prompt,
    seed: element.dataset.seed,
    takes: new Map([...element.querySelectorAll(".take")].flatMap((one) => {
      const audio = one.querySelector("audio");
      return audio ? [[Number(one.dataset.strength), { src: audio.getAttribute("src"), duration: Number(one.dataset.duration) }]] : [];
    })),
  }));
  const strengths = [...new Set(songs.flatMap((song) => [...song.takes.keys()]))].sort((a, b) => a - b);
  if (strengths.length < 2) return;

  // Votes outlive the page; where a browser keeps nothing for files, they live as long as it is open.
  function load() {
    try { const kept = JSON.parse(localStorage.getItem(test.dataset.key)); return Array.isArray(kept) ? kept : []; } catch { return []; }
  }
  function save() {
    try { localStorage.setItem(test.dataset.key, JSON.stringify(votes)); } catch { /* a full or closed store */ }
  }
  let votes = load();
  const name = (strength) => (strength === 0 ? "base" : `LoRA × ${strength}`);
  const draw = (count) => {
    // Rejected above the last whole multiple, so that every outcome is as likely as any other.
    const limit = 2 ** 32 - (2 ** 32 % count);
    for (;;) {
      const [number] = crypto.getRandomValues(new Uint32Array(1));
      if (number < limit) return number % count;
    }
  };

  let asked = null;
  let trial = null;
  let players = {};
  let chosen = "A";
  let position = 0;
  const own = () => votes.filter((vote) => vote.mode === asked.mode && vote.first === asked.first && vote.second === asked.second);

  function pause() {
    for (const audio of Object.values(players)) audio.pause();
    show();
  }
  function play() {
    take(pause);
    const audio = players[chosen];
    audio.currentTime = position;
    audio.play().then(follow, () => { part(".blind-clock").textContent = "This browser cannot play the file"; });
  }
  function follow() {
    const audio = players[chosen];
    if (!audio || audio.paused) return show();
    position = audio.currentTime;
    show();
    requestAnimationFrame(follow);
  }
  function choose(letter) {
    if (!players[letter]) return;
    const playing = !players[chosen].paused;
    if (playing) position = players[chosen].currentTime;
    players[chosen].pause();
    chosen = letter;
    if (playing) play();
    show();
  }
  function show() {
    if (!trial) return;
    const playing = players[chosen] && !players[chosen].paused;
    part(".blind-play").textContent = playing ? "Pause" : "Play";
    part(".blind-play").setAttribute("aria-pressed", String(playing));
    part(".blind-seek").max = trial.duration;
    part(".blind-seek").value = position;
    part(".blind-clock").textContent = `${clock(position)} / ${clock(trial.duration)}`;
    for (const button of part(".blind-sources").children) button.setAttribute("aria-pressed", String(button.value === chosen));
  }
  function buttons(place, letters, text, act) {
    place.replaceChildren(...letters.map((letter) => {
      const button = document.createElement("button");
      Object.assign(button, { type: "button", value: letter, textContent: text(letter) });
      button.addEventListener("click", () => act(letter));
      return button;
    }));
  }
  function next() {
    pause();
    const able = songs.filter((song) => song.takes.has(asked.first) && song.takes.has(asked.second));
    // All songs come up equally often: one is drawn among those that were heard least.
    const heard = able.map((song) => own().filter((vote) => vote.prompt === song.prompt && vote.seed === song.seed).length);
    const rare = able.filter((_, index) => heard[index] === Math.min(...heard));
    const song = rare[draw(rare.length)];
    const order = draw(2) ? [asked.second, asked.first] : [asked.first, asked.second];
    trial = { song, a: order[0], b: order[1], x: asked.mode === "abx" ? order[draw(2)] : null };
    trial.duration = Math.min(song.takes.get(trial.a).duration, song.takes.get(trial.b).duration);
    const letters = asked.mode === "abx" ? ["A", "B", "X"] : ["A", "B"];
    players = {};
    for (const letter of letters) {
      const audio = new Audio(song.takes.get(trial[letter.toLowerCase()]).src);
      audio.preload = "auto";
      audio.addEventListener("ended", () => { position = 0; show(); });
      players[letter] = audio;
    }
    [chosen, position] = ["A", 0];
    part(".blind-count").textContent = `Vote ${own().length + 1} of ${asked.count}`;
    part(".blind-prompt").textContent = song.prompt;
    part(".blind-question").textContent = asked.mode === "abx" ? "X is the same as" : "I prefer";
    buttons(part(".blind-sources"), letters, (letter) => letter, choose);
    buttons(part(".blind-votes"), ["A", "B"], (letter) => `${letter}${asked.mode === "abx" ? "" : " is better"}`, vote);
    part(".blind-result").hidden = true;
    part(".blind-trial").hidden = false;
    part(".blind-undo").disabled = own().length === 0;
    show();
  }
  function vote(letter) {
    const { song, a, b, x } = trial;
    votes.push({ mode: asked.mode, first: asked.first, second: asked.second, prompt: song.prompt, seed: song.seed, a, b, x, vote: letter, at: new Date().toISOString() });
    save();
    if (own().length >= asked.count) finish();
    else next();
  }
  function undo() {
    const last = votes.lastIndexOf(own().at(-1));
    if (last < 0) return;
    votes.splice(last, 1);
    save();
    next();
  }
  const percent = (share) => `${Math.round(100 * share)} %`;
  const chance = (p) => (p < 0.001 ? "less than 0.001" : p.toFixed(3));
  function finish() {
    pause();
    const given = own();
    const count = given.length;
    const picked = given.map((one) => (one.vote === "A" ? one.a : one.b));
    const says = part(".blind-says");
    if (!count) says.textContent = "There are no votes yet.";
    else if (asked.mode === "abx") {
      const right = given.filter((one, index) => picked[index] === one.x).length;
      const [low, high] = interval(right, count);
      const p = oneSided(right, count);
      says.textContent = `${right} of ${count} right (${percent(right / count)}; 95 % interval ${percent(low)} to ${percent(high)}). `
        + `Guessing gets as many or more with probability ${chance(p)}. `
        + (p < 0.05 ? "The difference is heard." : "This does not prove that the difference is heard.");
    } else {
      const wins = picked.filter((strength) => strength === asked.second).length;
      const [low, high] = interval(wins, count);
      const p = twoSided(wins, count);
      says.textContent = `${name(asked.second)} was preferred ${wins} of ${count} times (${percent(wins / count)}; 95 % interval ${percent(low)} to ${percent(high)}). `
        + `Without a preference a result as uneven has probability ${chance(p)}. `
        + (p < 0.05 ? `${name(wins * 2 > count ? asked.second : asked.first)} is preferred.` : "This does not prove a preference.");
    }
    part(".blind-x").hidden = asked.mode !== "abx";
    part(".blind-result tbody").replaceChildren(...given.map((one) => {
      const row = document.createElement("tr");
      const cells = [one.prompt, one.seed, name(one.a), name(one.b), ...(asked.mode === "abx" ? [name(one.x)] : []), one.vote];
      for (const text of cells) row.insertCell().textContent = text;
      return row;
    }));
    part(".blind-trial").hidden = true;
    part(".blind-result").hidden = false;
    trial = null;
  }

  const form = part(".blind-setup");
  for (const [field, picked] of [["first", strengths[0]], ["second", strengths.includes(1) ? 1 : strengths.at(-1)]]) {
    form.elements[field].replaceChildren(...strengths.map((strength) => new Option(name(strength), strength, false, strength === picked)));
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const pair = [Number(form.elements.first.value), Number(form.elements.second.value)].sort((a, b) => a - b);
    form.elements.second.setCustomValidity(pair[0] === pair[1] ? "Choose two different versions." : "");
    if (!form.reportValidity()) return;
    pause();
    asked = { mode: form.elements.mode.value, first: pair[0], second: pair[1], count: Number(form.elements.votes.value) };
    if (own().length >= asked.count) finish();
    else next();
    (trial ? part(".blind-trial") : part(".blind-result")).scrollIntoView({ block: "nearest" });
    if (trial) part(".blind-play").focus({ preventScroll: true });
  });
  form.elements.second.addEventListener("change", () => form.elements.second.setCustomValidity(""));
  form.elements.first.addEventListener("change", () => form.elements.second.setCustomValidity(""));
  part(".blind-play").addEventListener("click", () => (players[chosen].paused ? play() : pause()));
  part(".blind-seek").addEventListener("input", (event) => {
    position = Number(event.target.value);
    players[chosen].currentTime = position;
    show();
  });
  part(".blind-undo").addEventListener("click", undo);
  part(".blind-result-now").addEventListener("click", finish);
  part(".blind-export").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify({ evaluation: test.dataset.key, votes }, null, 2)], { type: "application/json" }));
    link.download = "votes.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  part(".blind-clear").addEventListener("click", () => {
    if (!votes.length || !window.confirm(`Delete ${votes.length} votes?`)) return;
    votes = [];
    save();
    part(".blind-result").hidden = true;
    if (trial) next();
  });
  part(".blind-trial").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !trial) return;
    const acts = { a: () => choose("A"), b: () => choose("B"), x: () => choose("X"), p: () => part(".blind-play").click(), 1: () => vote("A"), 2: () => vote("B"), u: undo };
    const act = acts[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
    // The buttons were made anew; whoever uses the keyboard stays in the test.
    if (trial && !part(".blind-trial").contains(document.activeElement)) part(".blind-play").focus();
  });
  test.hidden = false;
})();
