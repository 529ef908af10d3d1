const get = (id) => document.getElementById(id);
const LANGUAGES = "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt".split(" ");

function complain(message) {
  get("error").textContent = message;
  get("error").hidden = !message;
}

function headers() {
  const key = get("key").value.trim();
  return key ? { authorization: `Bearer ${key}` } : {};
}

async function loadModels() {
  const answer = await fetch("v1/models", { headers: headers() });
  const body = await answer.json();
  if (!answer.ok) return complain(body.error.message);
  complain("");
  get("model").replaceChildren(...body.data.map(({ id }) => new Option(id, id)));
}

function clock(seconds, separator) {
  const ms = Math.round(seconds * 1000);
  const pad = (n, width = 2) => String(n).padStart(width, "0");
  const [h, m, s] = [Math.floor(ms / 3600000), Math.floor(ms / 60000) % 60, Math.floor(ms / 1000) % 60];
  return `${pad(h)}:${pad(m)}:${pad(s)}${separator}${pad(ms % 1000, 3)}`;
}

const FORMATS = {
  txt: (all) => all.segments.map((s) => `${s.text.trim()}\n`).join(""),
  srt: (all) => all.segments.map((s, n) => `${n + 1}\n${clock(s.start, ",")} --> ${clock(s.end, ",")}\n${cue(s)}\n\n`).join(""),
  vtt: (all) => "WEBVTT\n\n" + all.segments.map((s) => `${clock(s.start, ".")} --> ${clock(s.end, ".")}\n${cue(s)}\n\n`).join(""),
  json: (all) => JSON.stringify({ ...all, text: all.segments.map((s) => s.text).join("").trim() }, null, 1),
};
const cue = (segment) => segment.text.trim().replaceAll("-->", "->");

function download(name, format, all) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([FORMATS[format](all)]));
  link.download = `${name.replace(/\.[^.]*$/, "")}.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function ask(file, onUpload, onSent) {
  const form = new FormData();
  form.append("file", file, file.name);
  form.append("model", get("model").value);
  form.append("response_format", "verbose_json");
  for (const kind of ["word", "segment"]) form.append("timestamp_granularities[]", kind);
  if (get("language").value) form.append("language", get("language").value);
  const request = new XMLHttpRequest();
  request.open("POST", `v1/audio/${get("task").value}`);
  for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
  request.responseType = "json";
  request.upload.onprogress = (event) => onUpload(event.loaded / event.total);
  request.upload.onload = onSent;
  return new Promise((resolve, reject) => {
    request.onerror = () => reject(new Error("the server cannot be reached"));
    request.onload = () => {
      if (request.status === 200) resolve(request.response);
      else reject(new Error(request.response?.error?.message ?? `status ${request.status}`));
    };
    request.send(form);
  });
}

async function transcribe(file) {
  complain("");
  const view = get("result").content.cloneNode(true).firstElementChild;
  get("results").prepend(view);
  const [state, bar, audio] = [view.querySelector(".state"), view.querySelector("progress"), view.querySelector("audio")];
  view.querySelector("h2").textContent = file.name;
  audio.src = URL.createObjectURL(file);
  audio.hidden = false;
  audio.onerror = () => { audio.hidden = true; }; // a file that the browser cannot play
  state.textContent = "sending";
  const began = performance.now();
  const timer = setInterval(() => {
    if (!bar.hasAttribute("value")) state.textContent = `decoding, ${Math.round((performance.now() - began) / 1000)} s`;
  }, 500);
  try {
    const all = await ask(file, (share) => { bar.value = share; }, () => bar.removeAttribute("value"));
    state.textContent = `${all.language}, ${Math.round(all.duration)} s`;
    show(view, file.name, all);
  } catch (error) {
    state.textContent = "failed";
    complain(`${file.name}: ${error.message}`);
  } finally {
    clearInterval(timer);
    bar.remove();
  }
}

function show(view, name, all) {
  const audio = view.querySelector("audio");
  const places = []; // of words, in order
  let next = 0;
  const rows = all.segments.map((segment) => {
    const row = document.createElement("li");
    const time = document.createElement("button");
    time.type = "button";
    time.textContent = clock(segment.start, ".").slice(3, 8);
    time.setAttribute("aria-label", `play from ${time.textContent}`);
    time.onclick = () => { audio.currentTime = segment.start; audio.play(); };
    const text = document.createElement("p");
    text.contentEditable = "plaintext-only";
    text.setAttribute("role", "textbox");
    text.setAttribute("aria-label", `text from ${time.textContent}`);
    let rest = segment.text.trimStart();
    while (next < all.words.length && all.words[next].start < segment.end) {
      const word = all.words[next];
      const found = rest.indexOf(word.word);
      if (found < 0) { if (word.end <= segment.start) { next += 1; continue; } break; }
      const span = document.createElement("span");
      span.textContent = word.word;
      span.onclick = () => { audio.currentTime = word.start; };
      text.append(rest.slice(0, found), span);
      rest = rest.slice(found + word.word.length);
      places.push({ ...word, span });
      next += 1;
    }
    text.append(rest);
    text.oninput = () => { segment.text = ` ${text.textContent}`; };
    row.append(time, text);
    return row;
  });
  view.querySelector(".segments").replaceChildren(...rows);
  const highlight = () => {
    const now = audio.currentTime;
    for (const { start, end, span } of places) span.classList.toggle("now", start <= now && now < end);
    if (!audio.paused) requestAnimationFrame(highlight);
  };
  audio.onplay = audio.onseeked = highlight;
  view.querySelector(".downloads").hidden = false;
  for (const button of view.querySelectorAll("[data-format]")) {
    button.onclick = () => download(name, button.dataset.format, all);
  }
}

const microphone = () => navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });

function toggle(button, start) {
  let stop = null;
  button.onclick = async () => {
    complain("");
    try {
      if (stop) await stop();
      stop = stop ? null : await start(() => { stop = null; button.setAttribute("aria-pressed", "false"); });
    } catch (error) {
      stop = null;
      complain(`the microphone cannot be used: ${error.message}`);
    }
    button.setAttribute("aria-pressed", String(Boolean(stop)));
  };
}

async function record() {
  const stream = await microphone();
  const recorder = new MediaRecorder(stream);
  const pieces = [];
  recorder.ondataavailable = ({ data }) => pieces.push(data);
  recorder.onstop = () => {
    stream.getTracks().forEach((track) => track.stop());
    const kind = recorder.mimeType.split(";")[0];
    transcribe(new File(pieces, `recording.${kind.split("/")[1]}`, { type: kind }));
  };
  recorder.start();
  return () => recorder.stop();
}

async function live(ended) {
  const stream = await microphone();
  const context = new AudioContext();
  await context.audioWorklet.addModule("recorder.js");
  const url = new URL(`v1/realtime?model=${encodeURIComponent(get("model").value)}`, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const key = get("key").value.trim();
  const socket = new WebSocket(url, ["realtime", ...(key ? [`openai-insecure-api-key.${key}`] : [])]);
  const node = new AudioWorkletNode(context, "recorder");
  const view = get("captions");
  view.hidden = false;
  view.textContent = "";
  const close = () => {
    stream.getTracks().forEach((track) => track.stop());
    if (context.state !== "closed") context.close();
    ended();
  };
  socket.onopen = () => {
    const language = get("language").value || null;
    const input = { format: { type: "audio/pcm", rate: 16000 }, transcription: { model: get("model").value, language } };
    socket.send(JSON.stringify({ type: "session.update", session: { type: "transcription", audio: { input } } }));
  };
  socket.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    if (event.type === "session.updated") {
      node.port.onmessage = ({ data: samples }) => { if (socket.readyState === WebSocket.OPEN) socket.send(samples); };
      context.createMediaStreamSource(stream).connect(node);
    } else if (event.type.endsWith("transcription.delta")) view.append(event.delta);
    else if (event.type.endsWith("transcription.completed")) view.append("\n");
    else if (event.type === "error") complain(event.error.message);
  };
  socket.onerror = () => complain("the server does not take live sound");
  socket.onclose = close;
  return () => socket.close();
}

for (const code of LANGUAGES) {
  const name = new Intl.DisplayNames(["en"], { type: "language" }).of(code);
  get("language").append(new Option(name, code));
}
get("settings").onsubmit = (event) => event.preventDefault();
get("key").onchange = loadModels;
get("file").onchange = ({ target }) => { [...target.files].forEach(transcribe); target.value = ""; };
const drop = get("drop");
drop.ondragover = (event) => { event.preventDefault(); drop.classList.add("over"); };
drop.ondragleave = () => drop.classList.remove("over");
drop.ondrop = (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  [...event.dataTransfer.files].forEach(transcribe);
};
toggle(get("record"), record);
toggle(get("live"), live);
loadModels().catch(() => complain("the server cannot be reached"));
