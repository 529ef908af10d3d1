"""The one door to a transcript: labelling, evaluation and the command line all go through here.

What calls what:

    samples, files            a recording of any length
      chunked.py              overlapping chunks, joined by chunks.py       } each asks for windows:
      sequential.py           or one window after the other                 } a task
      packed_windows.py       short pieces that share a window              }
        failure.py            again and hotter, where the text is not to be believed
          windows.py          runs the tasks side by side: mel, encoder, prompt
            search.py         slots that windows enter and leave: greedy, sampling, drafts
            beam.py           or beam search
    timing.py                 segments and words with times
    transcription.py          what is known of a recording's text so far
    transcriber.py            a transcript
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, repeat, zip_longest
from pathlib import Path

import torch

from distilwhisper.decoding.chunked import decode_chunk
from distilwhisper.decoding.chunks import WHOLE, Chunk, plan_chunks, plan_speech
from distilwhisper.decoding.failure import decode_with_fallback
from distilwhisper.decoding.packed_windows import Piece, decode_packed, group_pieces
from distilwhisper.decoding.sequential import decode_sequentially
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.slots import Counts
from distilwhisper.decoding.timing import moves_on
from distilwhisper.decoding.transcription import Transcription
from distilwhisper.decoding.windows import (
    DecodedWindow,
    DetectedLanguage,
    Task,
    WindowDecoder,
    WindowRequest,
)
from distilwhisper.model.checkpoint import Checkpoint, load_checkpoint
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.hub import resolve_model
from distilwhisper.model.openvino import accelerate
from distilwhisper.model.packed import can_pack, pack
from distilwhisper.progress import say
from distilwhisper.speech.arrays import Sound, to_samples
from distilwhisper.speech.audio import Samples, stream_samples
from distilwhisper.speech.levels import longest_pause, speech_like_s
from distilwhisper.speech.mel import RecordingMel
from distilwhisper.speech.recording import (
    HeldRecording,
    Recording,
    StreamedRecording,
    blocks_of,
    end_of,
)
from distilwhisper.speech.sources import CorruptAudio
from distilwhisper.speech.units import (
    WINDOW_S,
    WINDOW_SAMPLES,
    Span,
    samples_to_seconds,
    seconds_to_samples,
)
from distilwhisper.speech.vad import stream_spans
from distilwhisper.text.tokens import MAX_PREVIOUS_TOKENS, Tokenizer
from distilwhisper.text.transcript import Segment, Transcript

LAST_CHUNK_S = WINDOW_S - 3.0  # the rest of its window is silence, so that the text is ended
MOST_LANGUAGE_WINDOWS = 8  # that a language is detected from where it stays in doubt

Unreadable = (CorruptAudio, OSError)


def check_settings(settings: DecodingSettings, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Refuse settings that a model of this tokenizer and vocabulary cannot decode with.

    Raises:
        ValueError: it cannot.
    """
    if settings.language is not None:
        tokenizer.language_code(settings.language)
    if settings.task == "translate" and not tokenizer.is_multilingual:
        raise ValueError("the model is English-only and cannot translate: take another model")
    if settings.multilingual and not tokenizer.is_multilingual:
        raise ValueError("multilingual needs a model of several languages, found English only")
    last = max(settings.suppress_tokens, default=0)
    if last >= vocab_size:
        raise ValueError(
            f"suppress_tokens must be ids of the model's vocabulary, which ends before "
            f"{vocab_size}, found {last}"
        )


@dataclass(frozen=True)
class Transcriber:
    """A model, its tokenizer, and how it is to be used.

    Threads may share it, and a generator of one method may rest while another is called: the
    network works for one at a time, and each call keeps slots of its own.
    """

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    settings: DecodingSettings = field(default_factory=DecodingSettings)
    draft: Checkpoint | None = None
    """Proposes tokens that the model then checks: the same text, sooner if most are right."""
    decoder: WindowDecoder = field(init=False, repr=False, compare=False)
    """Runs the tasks of this model, see :class:`Batch`."""

    def __post_init__(self) -> None:
        check_settings(self.settings, self.tokenizer, self.checkpoint.model.config.vocab_size)
        if self.draft is not None:
            self._check_draft(self.draft)
        decoder = WindowDecoder(self.checkpoint, self.tokenizer, self.settings, self.draft)
        object.__setattr__(self, "decoder", decoder)

    @classmethod
    def from_model(
        cls,
        name: str,
        settings: DecodingSettings | None = None,
        hardware: Hardware | None = None,
        *,
        draft: str | None = None,
    ) -> "Transcriber":
        """Load a model folder or hub id.

        A draft is a second model that drafts for the first, such as its student.

        Raises:
            ValueError: the draft does not fit the model, or the backend not the hardware.
        """
        hardware = hardware or Hardware()
        by_openvino = hardware.pick_backend(has_draft=draft is not None) == "openvino"
        device = hardware.pick_device()
        dtype = torch.float32 if by_openvino else hardware.pick_dtype()
        folder = resolve_model(name)
        checkpoint = load_checkpoint(folder, device=device, dtype=dtype)
        drafting = None
        if draft is not None:
            drafting = load_checkpoint(resolve_model(draft), device=device, dtype=dtype)
            if checkpoint.model.encoder.equals(drafting.model.encoder):
                drafting.model.encoder = checkpoint.model.encoder  # it is then run once
        tokenizer = Tokenizer.from_json(checkpoint.files.tokenizer_json, where=folder)
        made = cls(checkpoint, tokenizer, settings or DecodingSettings(), drafting)
        made.say_what_is_cut()
        for loaded in filter(None, (checkpoint, drafting)):
            if by_openvino:
                accelerate(loaded.model, precision=hardware.pick_dtype(), folder=loaded.folder)
            elif can_pack(loaded.model):
                pack(loaded.model)
        return made

    def with_settings(self, settings: DecodingSettings) -> "Transcriber":
        """Return the same model under other settings: nothing is loaded, and the slots are shared.

        Raises:
            ValueError: the settings do not fit the model, or the draft.
        """
        other = replace(self, settings=settings)
        object.__setattr__(other, "decoder", self.decoder.with_settings(settings))
        return other

    @property
    def counts(self) -> Counts:
        """What decoding has cost so far: steps, tokens, drafts."""
        return self.decoder.counts

    def say_what_is_cut(self) -> None:
        """Tell the log if the model cannot be given all of a prompt."""
        n_hotwords, n_prompt = len(self._hotwords), len(self._first_prompt)
        room = max(MAX_PREVIOUS_TOKENS - n_hotwords, 0)
        if n_hotwords > MAX_PREVIOUS_TOKENS:
            say(f"hotwords: {n_hotwords} tokens, and the first {MAX_PREVIOUS_TOKENS} are used")
        if n_prompt > room:
            say(
                f"initial prompt: {n_prompt} tokens, and the last {room} are used: there is no room"
            )

    def check_languages(self, languages: Mapping[str, str | None]) -> None:
        """See that the model knows the language of every utterance, before any work is done.

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
        self, pieces: Sequence[Sound], *, languages: Sequence[str | None] | None = None
    ) -> list[DecodedWindow]:
        """Decode pieces of at most 30 s, each a window of its own.

        Args:
            pieces: as :meth:`transcribe` takes samples.
            languages: of each piece; none, or a none among them: the settings' language, or
                else detected.

        Raises:
            ValueError: a piece is empty, longer than 30 s, or holds NaN.
        """
        known = languages or [None] * len(pieces)
        decoded = dict(self.decode_each(zip(pieces, known, strict=True)))
        return [decoded[number] for number in range(len(pieces))]

    def decode_each(
        self, pieces: Iterable[tuple[Sound, str | None]]
    ) -> Iterator[tuple[int, DecodedWindow]]:
        """Decode pieces of at most 30 s as they come, each a window of its own.

        Each is taken, with its language or none, when there is a slot for it.

        Yields:
            A piece's place in the order, and its window, in the order in which they are done.

        Raises:
            ValueError: as for :meth:`decode`.
        """
        tasks = (self._decode_piece(n, *piece) for n, piece in enumerate(pieces))
        return self.decoder.run(tasks)

    def decode_packed(
        self, pieces: Iterable[tuple[Sound, str | None]]
    ) -> Iterator[tuple[int, DecodedWindow]]:
        """Decode pieces as :meth:`decode_each`, those of one language several to a window.

        The text of a piece may differ from what it would be alone. How silent a piece of a shared
        window is, and which language it seems to be, are not known.

        Raises:
            ValueError: as for :meth:`decode`, or the settings ask for beams or for no timestamps.
        """
        fault = self.settings.packing_fault()
        if fault is not None:
            raise ValueError(fault)
        tasks = (
            decode_packed(
                self.decoder,
                group,
                previous_ids=tuple(self._previous_ids),
                alone=lambda piece: self._decode_piece(piece.number, piece.samples, piece.language),
            )
            for group in group_pieces(self._pieces(pieces))
        )
        for _, decoded in self.decoder.run(tasks):
            yield from decoded

    def transcribe(
        self,
        sound: Sound | str | Path,
        *,
        language: str | None = None,
    ) -> Transcript:
        """Transcribe a recording of any length.

        Args:
            sound: a path or URL of audio or video, or samples at 16 kHz: floats of about [-1, 1],
                or integers, which are scaled by their type; of two channels the mean is taken.
            language: of the recording; none: the settings' language, or else detected.

        Returns:
            Segments on the recording's clock.

        Raises:
            FileNotFoundError, CorruptAudio: the path cannot be read.
            ValueError: the array is no sound: as :func:`~distilwhisper.speech.arrays.to_samples`.
        """
        done = self.transcribe_all([_recording_of(sound)], languages=[language])
        _, transcript = next(iter(done))
        if not isinstance(transcript, Transcript):
            raise transcript
        return transcript

    def stream(self, sound: Sound | str | Path | Recording) -> Iterator[Segment]:
        """Transcribe a recording, and yield its segments in order, each once it is settled.

        Yields:
            The segments of :meth:`transcribe`, whose times may differ where two would overlap.

        Raises:
            FileNotFoundError, CorruptAudio, ValueError: as for :meth:`transcribe`.
        """
        one = self.begin(_recording_of(sound))
        for _ in self.decoder.steps(one.tasks):
            yield from one.take_segments()
        if not isinstance(one.outcome, Transcript):
            assert one.outcome is not None
            raise one.outcome

    def begin(
        self,
        recording: Recording,
        *,
        language: str | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Transcription:
        """Begin a recording whose tasks the caller runs, beside those of others.

        Args:
            recording: of any length; it is read as its tasks are taken.
            language: of the recording; none: the settings' language, or else detected.
            on_progress: called with the seconds of audio just done.
        """
        one = Transcription(self.settings, self.tokenizer, on_progress or (lambda _: None))
        if self.settings.long_form == "sequential":
            one.tasks = iter([self._sequential(one, recording, language)])
        else:
            one.tasks = self._chunk_tasks(one, recording, language)
        return one

    def transcribe_all(
        self,
        recordings: Iterable[Recording],
        *,
        languages: Iterable[str | None] | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Iterator[tuple[int, Transcript | CorruptAudio | OSError]]:
        """Transcribe recordings side by side, in bounded memory.

        Args:
            recordings: of any length and number; each is read from front to back, once its turn
                comes.
            languages: of each recording; none, or a none among them: the settings' language, or
                else detected.
            on_progress: called with the seconds of audio just done, over all recordings.

        Yields:
            A recording's place in the order, and its transcript or why it could not be read, in
            the order in which they are done.
        """
        numbers: dict[Transcription, int] = {}

        def tasks() -> Iterator[Task[Transcription]]:
            known = repeat(None) if languages is None else iter(languages)
            for number, recording in enumerate(recordings):
                code = next(known)
                one = self.begin(recording, language=code, on_progress=on_progress)
                numbers[one] = number
                yield from one.tasks

        for _, one in self.decoder.run(tasks()):
            if one.outcome is not None and one in numbers:
                yield numbers.pop(one), one.outcome

    @cached_property
    def _first_prompt(self) -> list[int]:
        return self._prompt_ids(self.settings.initial_prompt)

    @cached_property
    def _hotwords(self) -> list[int]:
        return self._prompt_ids(self.settings.hotwords)

    @cached_property
    def _previous_ids(self) -> list[int]:
        """What the prompt of every window on its own begins with."""
        return self.tokenizer.previous_ids(self._first_prompt, hotwords=self._hotwords)

    def _prompt_ids(self, text: str | None) -> list[int]:
        """Return the ids of a text that stands in prompts; none where there is none."""
        stripped = (text or "").strip()
        return self.tokenizer.encode(f" {stripped}") if stripped else []

    def _check_draft(self, draft: Checkpoint) -> None:
        ours, theirs = self.checkpoint.model.config, draft.model.config
        names = {"vocab_size": "a vocabulary of", "n_mels": "a number of mel bins of"}
        for name, what in names.items():
            wanted, found = getattr(ours, name), getattr(theirs, name)
            if wanted != found:
                raise ValueError(
                    f"a draft must have {what} {wanted}, as the model it drafts for, found "
                    f"{found} in {draft.folder}: take a draft made from this model"
                )
        if self.settings.beam_size > 1:
            raise ValueError("a draft needs greedy decoding, found beam_size above 1: drop one")

    def _code(self, language: str | None) -> str | None:
        """Return the code of a language, else of the settings'; None: to be detected."""
        wanted = language or self.settings.language
        if wanted is not None:
            return self.tokenizer.language_code(wanted)
        return None if self.tokenizer.is_multilingual else "en"

    def _pieces(self, pieces: Iterable[tuple[Sound, str | None]]) -> Iterator[Piece]:
        for number, (sound, language) in enumerate(pieces):
            yield Piece(number, to_samples(sound, f"piece {number}"), self._code(language))

    def _decode_piece(self, number: int, sound: Sound, language: str | None) -> Task[DecodedWindow]:
        samples = to_samples(sound, f"piece {number}")
        window = self.decoder.window(samples, language=self._code(language))
        request = WindowRequest(window, tuple(self._previous_ids), seed=self.settings.seed)
        goes_on = partial(moves_on, self.decoder, window)
        return (yield from decode_with_fallback(request, self.settings, moves_on=goes_on))

    def _detect(self, recording: Recording, language: str | None) -> DetectedLanguage:
        """Return a recording's language: the one that is given, or that of windows with speech.

        Where they leave it in doubt, twice as many are taken, again spread over the recording.
        """
        code = self._code(language)
        if code is not None:
            return DetectedLanguage(code)
        n_windows = self.settings.language_windows
        while True:
            starts = self._speech_starts(recording, n_windows)
            scan = recording.again()
            pieces = (scan.read(start, start + WINDOW_SAMPLES) for start in starts)
            detected = self.decoder.detect_language([self.decoder.window(p) for p in pieces])
            if detected.is_sure or len(starts) < n_windows or 2 * n_windows > MOST_LANGUAGE_WINDOWS:
                return detected
            n_windows *= 2

    def _speech_starts(self, recording: Recording, n_windows: int) -> list[int]:
        """Return where windows with speech begin, spread over a recording; its first in any case.

        One window is the first of them, and nothing behind it is read.
        """
        starts: Iterator[int]
        if self.settings.vad_filter:
            starts = (chunk.start for chunk in self._plan(recording.again()))
        else:
            windows = enumerate(blocks_of(recording.again()))
            starts = (n * WINDOW_SAMPLES for n, window in windows if speech_like_s([window]))
        if n_windows == 1:
            return [next(starts, 0)]
        all_starts = list(starts) or [0]
        last = len(all_starts) - 1
        places = {last * number // (n_windows - 1) for number in range(n_windows)}
        return [all_starts[place] for place in sorted(places)]

    def _spans(self, recording: Recording) -> Iterator[Span] | None:
        """Return what of a recording is transcribed; None: all of it."""
        if self.settings.clip_timestamps:
            return self._clips(recording)
        if not self.settings.vad_filter:
            return None
        return stream_spans(blocks_of(recording.again()))

    def _clips(self, recording: Recording) -> Iterator[Span]:
        """Yield the stretches of clip_timestamps; the last may name no end."""
        times_s = self.settings.clip_timestamps
        for start_s, end_s in zip_longest(times_s[::2], times_s[1::2]):
            start = seconds_to_samples(start_s)
            if recording.reach(start + 1) > start:
                yield Span(start, sys.maxsize if end_s is None else seconds_to_samples(end_s))

    def _sequential(
        self, one: Transcription, recording: Recording, language: str | None
    ) -> Task[Transcription]:
        """Decode a recording window by window."""
        model = self.checkpoint.model
        try:
            spoken = self._detect(recording, language)
            mel = RecordingMel(recording, n_mels=model.config.n_mels, device=model.device)
            yield from decode_sequentially(
                self.decoder,
                mel,
                self._spans(recording),
                language=spoken.code,
                first_prompt=self._first_prompt,
                hotwords=self._hotwords,
                on_progress=one.report,
                on_window=one.add_window,
            )
        except Unreadable as error:
            one.fail(error)
        else:
            one.end(spoken, duration_s=mel.duration_s)
        return one

    def _chunk_tasks(
        self, one: Transcription, recording: Recording, language: str | None
    ) -> Iterator[Task[Transcription]]:
        """Yield a task for every chunk of a recording, and one for its end."""
        done = 0
        try:
            code = self._code(language)
            spoken = None if code is None else DetectedLanguage(code)
            for chunk in self._plan(recording):
                samples = recording.read(chunk.start, chunk.stop)
                is_last = recording.reach(chunk.stop + 1) <= chunk.stop
                if spoken is None and not is_last:
                    spoken = self._detect(recording, None)  # else its only window tells
                number = one.plan(samples_to_seconds(chunk.start))
                new_s = samples_to_seconds(max(chunk.stop - done, 0))
                yield self._chunk_task(one, number, chunk, samples, spoken, new_s)
                done = max(chunk.stop, done)
            # Behind clips nothing is read: a second of ten hours takes no longer than that.
            end = done if self.settings.clip_timestamps else end_of(recording, done)
        except Unreadable as error:
            yield _ended(one, partial(one.fail, error))
        else:
            duration_s = samples_to_seconds(end)
            yield _ended(one, partial(one.end, spoken, duration_s=duration_s))

    def _chunk_task(
        self,
        one: Transcription,
        number: int,
        chunk: Chunk,
        samples: Samples,
        spoken: DetectedLanguage | None,
        new_s: float,
    ) -> Task[Transcription]:
        """Decode a chunk in the recording's language or, where they are mixed, in its own."""
        code = None if spoken is None else spoken.code
        for language in (None, code) if self.settings.multilingual and code else (code,):
            windows = yield from decode_chunk(
                self.decoder,
                chunk,
                samples,
                language=language,
                previous_ids=self._previous_ids,
            )
            found = (one.decoded.own_language for one in windows)
            if all(own.code == code or own.is_sure for own in found):
                break
        one.report(new_s)
        one.add_chunk(number, windows)
        return one

    def _plan(self, recording: Recording) -> Iterator[Chunk]:
        """Cut a recording; one that fits in a window is not cut, however short the chunks are."""
        spans = self._spans(recording)
        is_whole = recording.reach(WINDOW_SAMPLES + 1) <= WINDOW_SAMPLES
        chunk_s = WINDOW_S if is_whole else self.settings.chunk_s

        def cut(span: Span) -> Iterator[Chunk]:
            return plan_chunks(
                recording.reach,
                chunk_samples=seconds_to_samples(chunk_s),
                overlap_samples=seconds_to_samples(self.settings.shared_s),
                last_samples=seconds_to_samples(min(chunk_s, LAST_CHUNK_S)),
                find_pause=partial(_find_pause, recording)
                if self.settings.cuts_in_pauses
                else None,
                within=span,
            )

        if spans is None:
            return cut(WHOLE)
        if self.settings.clip_timestamps:
            return chain.from_iterable(map(cut, spans))
        return plan_speech(spans, chunk_samples=seconds_to_samples(chunk_s), cut=cut)


def _find_pause(recording: Recording, stretch: Span, first: int) -> int | None:
    """Return the middle of a stretch's longest pause behind a place, if it has one there."""
    samples = recording.read(stretch.start, stretch.stop)
    pause = longest_pause(samples, first - stretch.start)
    return None if pause is None else stretch.start + pause


def _recording_of(sound: Sound | str | Path | Recording) -> Recording:
    if isinstance(sound, Recording):
        return sound
    if isinstance(sound, (str, Path)):
        return StreamedRecording(lambda: stream_samples(sound))
    return HeldRecording(to_samples(sound, "the recording"))


def _ended(one: Transcription, note_end: Callable[[], None]) -> Task[Transcription]:
    """A task without a window, behind those of all chunks."""
    yield from ()
    note_end()
    return one
