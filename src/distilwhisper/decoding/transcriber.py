"""The one door to a transcript: labelling, evaluation and the command line all go through here.

Samples in, text out. A piece of at most 30 s is one window; a longer recording is cut into
overlapping chunks that are decoded in batches and joined (``chunks.py``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from distilwhisper.decoding.chunks import Chunk, ChunkWords, join_chunks, plan_chunks
from distilwhisper.decoding.rules import DecodingRules, TimestampRules
from distilwhisper.decoding.search import Hypothesis, greedy, language_probabilities
from distilwhisper.decoding.segments import TimedSegment, TimedWord, split_segments, split_words
from distilwhisper.model.checkpoint import Checkpoint, load_checkpoint
from distilwhisper.model.hub import resolve_model
from distilwhisper.speech.audio import (
    HOP_SAMPLES,
    SAMPLE_RATE_HZ,
    WINDOW_S,
    WINDOW_SAMPLES,
    Samples,
    samples_to_seconds,
    seconds_to_samples,
)
from distilwhisper.speech.mel import log_mel, stack_windows
from distilwhisper.text.normalize import uses_spaces
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.text.transcript import Segment, Transcript, compression_ratio

FRAMES_PER_SECOND = SAMPLE_RATE_HZ // HOP_SAMPLES  # what openai-whisper counts "seek" in
LAST_CHUNK_S = WINDOW_S - 3.0  # the rest of its window is silence, so that the text is ended
DTypeName = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Hardware:
    """Where the network runs, and in which numbers."""

    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one."""
    dtype: DTypeName = "auto"
    """auto: bfloat16 where the processor multiplies it natively, GPU or CPU; else float16 on a
    GPU and float32 on a CPU."""

    def pick_device(self) -> torch.device:
        """Return the device asked for.

        Raises:
            ValueError: there is no such device.
        """
        n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if self.device == "auto":
            return torch.device("cuda" if n_gpus else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(
                f"device must be auto, cpu, cuda or cuda:N, found {self.device!r}"
            ) from error
        if device.type == "cuda" and (device.index or 0) >= n_gpus:
            raise ValueError(
                f"device {self.device} must be there, found {n_gpus} GPUs that torch can use: "
                "take another device, or auto"
            )
        return device

    def pick_dtype(self) -> torch.dtype:
        """Return the type asked for."""
        if self.dtype != "auto":
            dtype: torch.dtype = getattr(torch, self.dtype)
            return dtype
        if self.pick_device().type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return torch.bfloat16 if _cpu_multiplies_bfloat16() else torch.float32

    def describe(self) -> str:
        """Return what was picked, for the log."""
        return f"{self.pick_device()}, {str(self.pick_dtype()).removeprefix('torch.')}"


@dataclass(frozen=True)
class DecodingSettings:
    """How audio becomes text; the same for labels, scores and transcripts."""

    language: str | None = None
    """Code or English name; none: English-only models need none, others detect it per window."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """Translate puts any language into English (multilingual models)."""
    timestamps: bool = True
    """Decode with timestamps; without them a window is one segment."""
    batch_size: int = 16
    """Windows decoded at a time."""
    chunk_s: float = 30.0
    """Length of the chunks that a long recording is cut into, at most 30."""
    overlap_s: float | None = None
    """Seconds that neighbouring chunks share; none: a third of a chunk, as in the paper."""
    max_new_tokens: int | None = None
    """Tokens per window at most; none: as many as the model has positions."""

    def __post_init__(self) -> None:
        if not 1.0 <= self.chunk_s <= WINDOW_S:
            raise ValueError(f"chunk_s must lie in [1, {WINDOW_S:g}], found {self.chunk_s:g}")
        most_s = 0.8 * self.chunk_s
        if not 0 <= self.shared_s <= most_s:
            raise ValueError(
                f"overlap_s must be at least 0 and at most {most_s:g}, four fifths of "
                f"chunk_s ({self.chunk_s:g}), found {self.overlap_s:g}"
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, found {self.batch_size}")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, found {self.max_new_tokens}")

    @property
    def shared_s(self) -> float:
        """Seconds that neighbouring chunks share."""
        return self.chunk_s / 3 if self.overlap_s is None else self.overlap_s


@dataclass(frozen=True)
class DecodedWindow:
    """What the model said of one window of at most 30 s."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]  # text and timestamps, without prompt and end token
    finished: bool  # the model ended by itself
    text: str
    language: str
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float


@dataclass(frozen=True)
class Transcriber:
    """A model, its tokenizer, and how it is to be used."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    settings: DecodingSettings = field(default_factory=DecodingSettings)

    def __post_init__(self) -> None:
        if self.settings.language is not None:
            self.tokenizer.language_code(self.settings.language)
        if self.settings.task == "translate" and not self.tokenizer.is_multilingual:
            raise ValueError("the model is English-only and cannot translate: take another model")

    @classmethod
    def from_model(
        cls,
        name: str,
        settings: DecodingSettings | None = None,
        hardware: Hardware | None = None,
    ) -> "Transcriber":
        """Load a model folder or hub id.

        Args:
            name: a Hugging Face model folder, or ``owner/name`` on the hub.
            settings: how to decode.
            hardware: device and dtype.
        """
        hardware = hardware or Hardware()
        folder = resolve_model(name)
        checkpoint = load_checkpoint(
            folder, device=hardware.pick_device(), dtype=hardware.pick_dtype()
        )
        return cls(checkpoint, Tokenizer.from_folder(folder), settings or DecodingSettings())

    def check_languages(self, languages: Mapping[str, str | None]) -> None:
        """See that the model knows every language, before any work is done.

        Args:
            languages: utterance id to language; none: to be detected.

        Raises:
            ValueError: it does not know one of them; the message names the utterance.
        """
        for id_, language in languages.items():
            if language is None:
                continue
            try:
                self.tokenizer.language_code(language)
            except ValueError as error:
                raise ValueError(f"utterance {id_!r} of the manifest: {error}") from error

    def decode(
        self, pieces: Sequence[Samples], *, languages: Sequence[str | None] | None = None
    ) -> list[DecodedWindow]:
        """Decode pieces of at most 30 s, each a window of its own, in batches.

        Args:
            pieces: mono, 16 kHz.
            languages: of each piece; none, or a none among them: the settings' language, or
                else detected.

        Raises:
            ValueError: a piece is empty or longer than 30 s.
        """
        for number, piece in enumerate(pieces):
            if not len(piece):
                raise ValueError(f"piece {number} must hold at least one sample, found none")
        known = languages or [None] * len(pieces)
        size = self.settings.batch_size
        decoded: list[DecodedWindow] = []
        for at in range(0, len(pieces), size):
            decoded += self._decode_batch(pieces[at : at + size], known[at : at + size])
        return decoded

    def transcribe(
        self,
        samples: Samples,
        *,
        language: str | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Transcript:
        """Transcribe a recording of any length.

        Args:
            samples: mono, 16 kHz.
            language: of the recording; none: the settings' language, or else detected from its
                first window.
            on_progress: called with the seconds of audio just done.

        Returns:
            Segments on the recording's clock.
        """
        plan = self._plan(len(samples))
        heard: list[_HeardChunk] = []
        done_before = 0.0
        for at in range(0, len(plan), self.settings.batch_size):
            batch = plan[at : at + self.settings.batch_size]
            pieces = [samples[chunk.start : chunk.stop] for chunk in batch]
            language = language or self._detect_language(pieces[0])
            windows = self._decode_batch(pieces, [language] * len(batch))
            for chunk, window in zip(batch, windows, strict=True):
                start_s, stop_s = samples_to_seconds(chunk.start), samples_to_seconds(chunk.stop)
                segments = split_segments(
                    window.token_ids, self.tokenizer, start_s=start_s, end_s=stop_s
                )
                spaced = uses_spaces(window.language)
                words = split_words(segments, self.tokenizer, spaced=spaced)
                heard.append(
                    _HeardChunk(window, segments, ChunkWords(start_s, stop_s, tuple(words)))
                )
            if on_progress:
                done = samples_to_seconds(batch[-1].stop)
                on_progress(done - done_before)
                done_before = done
        return self._join(heard)

    def _plan(self, n_samples: int) -> list[Chunk]:
        """Cut a recording; one that fits in a window is not cut, however short the chunks are."""
        chunk_s = self.settings.chunk_s if n_samples > WINDOW_SAMPLES else WINDOW_S
        return plan_chunks(
            n_samples,
            chunk_samples=seconds_to_samples(chunk_s),
            overlap_samples=seconds_to_samples(self.settings.shared_s),
            last_samples=seconds_to_samples(min(chunk_s, LAST_CHUNK_S)),
        )

    def _decode_batch(
        self, pieces: Sequence[Samples], languages: Sequence[str | None]
    ) -> list[DecodedWindow]:
        encoder_states = self._encode(pieces)
        codes = self._languages(encoder_states, languages)
        prompts = [
            self.tokenizer.prompt_ids(
                language=code if self.tokenizer.is_multilingual else None,
                task=self.settings.task,
                timestamps=self.settings.timestamps,
            )
            for code in codes
        ]
        room = self.checkpoint.model.config.max_tokens - max(map(len, prompts))
        hypotheses = greedy(
            self.checkpoint.model,
            encoder_states,
            prompts,
            self._rules(),
            sot=self.tokenizer.sot,
            eot=self.tokenizer.eot,
            no_speech=self.tokenizer.no_speech,
            max_new_tokens=min(self.settings.max_new_tokens or room, room),
        )
        return [
            self._decoded(prompt, hypothesis, code)
            for prompt, hypothesis, code in zip(prompts, hypotheses, codes, strict=True)
        ]

    def _decoded(self, prompt: list[int], found: Hypothesis, language: str) -> DecodedWindow:
        text = self.tokenizer.decode(found.token_ids).strip()
        return DecodedWindow(
            prompt_ids=tuple(prompt),
            token_ids=found.token_ids,
            finished=found.finished,
            text=text,
            language=language,
            avg_logprob=found.avg_logprob,
            no_speech_prob=found.no_speech_prob,
            compression_ratio=compression_ratio(text),
        )

    @torch.inference_mode()
    def _encode(self, pieces: Sequence[Samples]) -> Float[Tensor, "batch frames width"]:
        model = self.checkpoint.model
        mel = log_mel(stack_windows(pieces).to(model.device), n_mels=model.config.n_mels)
        # A CPU's caches hold one window's states and not many; a GPU wants them all at once.
        at_a_time = 1 if model.device.type == "cpu" else len(pieces)
        parts = torch.split(mel.to(model.dtype), at_a_time)
        return torch.cat([model.encoder(part) for part in parts])

    def _detect_language(self, piece: Samples) -> str:
        if not self.tokenizer.is_multilingual or self.settings.language:
            return self.settings.language or "en"
        return self._languages(self._encode([piece]), [None])[0]

    def _languages(self, encoder_states: Tensor, languages: Sequence[str | None]) -> list[str]:
        if not self.tokenizer.is_multilingual:
            return ["en"] * len(languages)
        wanted = [language or self.settings.language for language in languages]
        codes = [None if one is None else self.tokenizer.language_code(one) for one in wanted]
        unknown = [i for i, code in enumerate(codes) if code is None]
        if unknown:
            names = list(self.tokenizer.languages)
            likely = language_probabilities(
                self.checkpoint.model,
                encoder_states[unknown],
                sot=self.tokenizer.sot,
                language_ids=list(self.tokenizer.languages.values()),
            )
            for i, best in zip(unknown, likely.argmax(dim=1).tolist(), strict=True):
                codes[i] = names[best]
        return [code for code in codes if code is not None]

    def _rules(self) -> DecodingRules:
        said = self.checkpoint.generation_config
        grammar = TimestampRules(
            begin=self.tokenizer.timestamp_begin,
            no_timestamps=self.tokenizer.no_timestamps,
            eot=self.tokenizer.eot,
            max_initial_index=said.get("max_initial_timestamp_index") or 50,
        )
        return DecodingRules(
            suppress=said.get("suppress_tokens") or [],
            begin_suppress=said.get("begin_suppress_tokens") or [],
            timestamps=grammar if self.settings.timestamps else None,
            device=self.checkpoint.model.device,
        )

    def _join(self, heard: Sequence["_HeardChunk"]) -> Transcript:
        joined = join_chunks([chunk.words for chunk in heard])
        segments: list[Segment] = []
        for (number, _), group in groupby(joined, key=_segment_of):
            words = [word for _, word in group]
            spoken_s = segments[-1].end_s if segments else 0.0
            segments.append(self._segment(len(segments), heard[number], words, after_s=spoken_s))
        text = "".join(segment.text for segment in segments).strip()
        return Transcript(text, heard[0].window.language, tuple(segments))

    def _segment(
        self, number: int, chunk: "_HeardChunk", words: Sequence[TimedWord], *, after_s: float
    ) -> Segment:
        """Make a segment of some of a chunk's words, beginning no earlier than the last one ended.

        Two chunks may differ by a second or so about when the words at their seam were said.
        """
        whole = chunk.segments[words[0].segment]
        token_ids = tuple(token_id for word in words for token_id in word.token_ids)
        uncut = token_ids == whole.token_ids
        start_s = max(whole.start_s if uncut else words[0].start_s, after_s)
        text = self.tokenizer.decode(token_ids)
        return Segment(
            id=number,
            seek=round(chunk.words.start_s * FRAMES_PER_SECOND),
            start_s=start_s,
            end_s=max(whole.end_s if uncut else words[-1].end_s, start_s),
            text=text,
            token_ids=token_ids,
            temperature=0.0,
            avg_logprob=chunk.window.avg_logprob,
            compression_ratio=compression_ratio(text),
            no_speech_prob=chunk.window.no_speech_prob,
            words=None,
        )


@dataclass(frozen=True)
class _HeardChunk:
    """A chunk's window, the segments in it, and their words."""

    window: DecodedWindow
    segments: list[TimedSegment]
    words: ChunkWords


def _segment_of(item: tuple[int, TimedWord]) -> tuple[int, int]:
    return item[0], item[1].segment


def _cpu_multiplies_bfloat16() -> bool:
    """Return whether the CPU has bfloat16 products; emulated ones are slower than float32."""
    # Older torch cannot tell.
    features: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(features.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
