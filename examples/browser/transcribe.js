// A student that `distilwhisper export --to onnx` has written, at work in a page or in Node.
import { env, pipeline } from "@huggingface/transformers";

/** Load an exported folder, by its path or URL. dtype: "fp32", or "q8" if it was written in int8. */
export async function load(folder, dtype = "fp32") {
  const [, parent, name] = folder.match(/^(.*\/)?([^/]+)\/?$/);
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = parent ?? "./";
  return pipeline("automatic-speech-recognition", name, { dtype });
}

/** Transcribe a Float32Array of mono samples at 16 kHz; recordings over 30 s go in chunks. */
export async function transcribe(model, samples, options = {}) {
  const chunks = samples.length > 30 * 16000 ? { chunk_length_s: 30, stride_length_s: 5 } : {};
  return (await model(samples, { ...chunks, ...options })).text.trim();
}
