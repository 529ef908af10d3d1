// Sound of a microphone as 16-bit samples at 16 kHz, a tenth of a second at a time.
const RATE = 16000;

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.samples = new Int16Array(RATE / 10);
    this.filled = 0;
    this.sum = 0;
    this.count = 0;
    this.at = 0; // in samples of the output
  }

  process(inputs) {
    for (const value of inputs[0][0] ?? []) {
      this.sum += value; // the mean of what falls on one sample: a simple low pass
      this.count += 1;
      this.at += RATE / sampleRate;
      while (this.at >= 1) {
        this.at -= 1;
        if (this.count) this.last = this.sum / this.count;
        this.sum = this.count = 0;
        this.put(this.last);
      }
    }
    return true;
  }

  put(value) {
    this.samples[this.filled++] = Math.max(-1, Math.min(1, value)) * 32767;
    if (this.filled < this.samples.length) return;
    this.port.postMessage(this.samples.slice().buffer);
    this.filled = 0;
  }
}

registerProcessor("recorder", Recorder);
