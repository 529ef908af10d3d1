"""The one door to a transcript: labelling, evaluation and the command line all go through here.

What calls what:

    samples, files            a recording of any length
      transcription.py        one window after the other, or overlapping chunks, and what is known
        chunked.py            of its text so far: a chunk, decoded; chunks.py plans and joins them
      packed_windows.py       short pieces that share a window
        failure.py            again and hotter, where the text is not to be believed
          windows.py          runs the tasks side by side: mel, encoder, prompt
            search.py         slots that windows enter and leave: greedy, sampling, drafts
            beam.py           or beam search
    alignment.py              segments and words with times
    transcriber.py            a transcript
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path

import torch

from distilwhisper.decoding.failure import decode_with_fallback
from distilwhisper.decoding.packed_windows import Piece, decode_packed, group_pieces
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcription import Transcription
from distilwhisper.decoding.windows import DecodedWindow, Task, WindowDecoder, WindowRequest
from distilwhisper.model.checkpoint import TRAINED_WITH_PROMPTS, load_checkpoint
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.hub import resolve_model
from distilwhisper.model.openvino import accelerate
from distilwhisper.model.packed import can_pack, pack
from distilwhisper.progress import say, warn
from distilwhisper.speech.arrays import Sound, to_samples
from distilwhisper.speech.audio import stream_samples
from distilwhisper.speech.recording import HeldRecording, Recording, StreamedRecording
from distilwhisper.speech.sources import CorruptAudio
from distilwhisper.text.tokens import MAX_PREVIOUS_TOKENS, Tokenizer
from distilwhisper.text.transcript import Segment, Transcript


def check_settings(settings: DecodingSettings, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raise ValueError for settings that a model of this vocabulary cannot decode with."""
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
class Transcriber(WindowDecoder):
    """A model, its tokenizer, and how it is to be used.

    Threads may share it, and a generator of one method may rest while another is called: the
    network works for one at a time, and each call keeps slots of its own.
    """

    def __post_init__(self) -> None:
        ours = self.checkpoint.model.config
        check_settings(self.settings, self.tokenizer, ours.vocab_size)
        if self.draft is None:
            return
        theirs = self.draft.model.config
        for size in ("vocab_size", "n_mels"):
            wanted, found = getattr(ours, size), getattr(theirs, size)
            if wanted != found:
                raise ValueError(
                    f"a draft must have the {size} of the model it drafts for, {wanted}, found "
                    f"{found} in {self.draft.folder}: take a draft made from this model"
                )
        if self.settings.beam_size > 1:
            raise ValueError("a draft needs greedy decoding, found beam_size above 1: drop one")

    @classmethod
    def from_model(
        cls,
        name: str,
        settings: DecodingSettings | None = None,
        hardware: Hardware | None = None,
        *,
        draft: str | None = None,
    ) -> "Transcriber":
        """Load a model folder or hub id; a draft is a second model, such as its student.

        Raises:
            ValueError: the draft does not fit the model, or the backend not the hardware.
        """
        hardware = hardware or Hardware()
        device, is_auto = hardware.pick_device(), hardware.dtype == "auto"
        by_openvino = hardware.pick_backend(has_draft=draft is not None) == "openvino"
        dtype = torch.float32 if by_openvino else hardware.pick_dtype()
        load = partial(load_checkpoint, device=device, dtype=dtype)
        folder = resolve_model(name)
        checkpoint = load(folder)
        drafting = None if draft is None else load(resolve_model(draft))
        if drafting and checkpoint.model.encoder.equals(drafting.model.encoder):
            drafting.model.encoder = checkpoint.model.encoder  # it is then run once
        tokenizer = Tokenizer.from_json(checkpoint.files.tokenizer_json, where=folder)
        made = cls(checkpoint, tokenizer, settings or DecodingSettings(), drafting)
        made.warn_of_prompts()
        for loaded in filter(None, (checkpoint, drafting)):
            loaded.model.encoder.thins_silence = by_openvino or (is_auto and device.type == "cpu")
            if by_openvino:
                accelerate(
                    loaded.model,
                    precision=hardware.pick_dtype(),
                    may_round=is_auto and draft is None,
                    folder=loaded.folder,
                )
            elif can_pack(loaded.model):
                pack(loaded.model)
        return made

    def warn_of_prompts(self) -> None:
        """Tell the log if a prompt does harm, or cannot be given whole."""
        n_hotwords, n_prompt = len(self.hotwords), len(self.first_prompt)
        room = max(MAX_PREVIOUS_TOKENS - n_hotwords, 0)
        if n_hotwords > MAX_PREVIOUS_TOKENS:
            say(f"hotwords: {n_hotwords} tokens, and the first {MAX_PREVIOUS_TOKENS} are used")
        if n_prompt > room:
            say(
                f"initial prompt: {n_prompt} tokens, and the last {room} are used: there is no room"
            )
        is_prompted = n_hotwords or n_prompt or self.settings.condition_on_previous_text
        if is_prompted and self.checkpoint.generation_config.get(TRAINED_WITH_PROMPTS) is False:
            warn(
                f"{self.checkpoint.folder} was trained without prompts, and its text behind one "
                "may be wrong or missing, the likelier the longer it is: leave out initial_prompt, "
                "hotwords and condition_on_previous_text, or train with prompt_probability"
            )

    def check_languages(self, languages: Mapping[str, str | None]) -> None:
        """Raise ValueError, naming the utterance, where the model does not know its language."""
        for id_, language in languages.items():
            try:
                if language is not None:
                    self.tokenizer.language_code(language)
            except ValueError as error:
                raise ValueError(f"utterance {id_!r} of the manifest: {error}") from error

    def decode(
        self, pieces: Sequence[Sound], *, languages: Sequence[str | None] | None = None
    ) -> list[DecodedWindow]:
        """Decode pieces of at most 30 s, each a window of its own.

        They are samples as :meth:`transcribe` takes them. Where a piece has no language, it is the
        settings', or else detected.

        Raises:
            ValueError: a piece is empty, longer than 30 s, or holds NaN.
        """
        known = languages or [None] * len(pieces)
        decoded = dict(self.decode_each(zip(pieces, known, strict=True)))
        return [decoded[number] for number in range(len(pieces))]

    def decode_each(
        self, pieces: Iterable[tuple[Sound, str | None]]
    ) -> Iterator[tuple[int, DecodedWindow]]:
        """Decode pieces, with their language or none, as :meth:`decode`, each once a slot is free.

        Yields:
            A piece's place in the order, and its window, in the order in which they are done.
        """
        return self.run(map(self._decode_piece, self._pieces(pieces)))

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
        groups = group_pieces(self._pieces(pieces))
        for _, decoded in self.run(decode_packed(self, one, self._decode_piece) for one in groups):
            yield from decoded

    def transcribe(self, sound: Sound | str | Path, *, language: str | None = None) -> Transcript:
        """Transcribe a recording of any length.

        Args:
            sound: a path or URL of audio or video, or samples at 16 kHz: floats of about [-1, 1],
                or integers, which are scaled by their type; of two channels the mean is taken.
            language: of the recording; none: the settings' language, or else detected.

        Raises:
            FileNotFoundError, CorruptAudio: the path cannot be read.
            ValueError: the array is no sound: as :func:`~distilwhisper.speech.arrays.to_samples`.
        """
        one = Transcription(self, _recording_of(sound), language)
        for _ in self.run(one.tasks):
            pass
        return one.result()

    def stream(self, sound: Sound | str | Path | Recording) -> Iterator[Segment]:
        """Transcribe as :meth:`transcribe`, and yield the segments in order, each once settled.

        Their times may differ from a transcript's where two would overlap.
        """
        one = Transcription(self, _recording_of(sound))
        for _ in self.steps(one.tasks):
            yield from one.take_segments()
        one.result()

    def transcribe_all(
        self,
        recordings: Iterable[Recording],
        *,
        languages: Iterable[str | None] | None = None,
        on_progress: Callable[[float], None] = lambda _: None,
    ) -> Iterator[tuple[int, Transcript | CorruptAudio | OSError]]:
        """Transcribe recordings side by side, in bounded memory.

        Each is read from front to back, once its turn comes. Where one has no language, it is the
        settings', or else detected. ``on_progress`` is called with the seconds of audio just done,
        over all recordings.

        Yields:
            A recording's place in the order, and its transcript or why it could not be read, in
            the order in which they are done.
        """
        numbers: dict[Transcription, int] = {}

        def tasks() -> Iterator[Task[Transcription]]:
            known = repeat(None) if languages is None else iter(languages)
            for number, recording in enumerate(recordings):
                one = Transcription(self, recording, next(known), on_progress)
                numbers[one] = number
                yield from one.tasks

        for _, one in self.run(tasks()):
            if one.outcome is not None and one in numbers:
                yield numbers.pop(one), one.outcome

    def _pieces(self, pieces: Iterable[tuple[Sound, str | None]]) -> Iterator[Piece]:
        for number, (sound, language) in enumerate(pieces):
            yield Piece(number, to_samples(sound, f"piece {number}"), self.code_of(language))

    def _decode_piece(self, piece: Piece) -> Task[DecodedWindow]:
        window = self.window(piece.samples, language=piece.language)
        request = WindowRequest(self, window, self.previous_ids, seed=self.settings.seed)
        return decode_with_fallback(request)


def _recording_of(sound: Sound | str | Path | Recording) -> Recording:
    if isinstance(sound, Recording):
        return sound
    if isinstance(sound, (str, Path)):
        return StreamedRecording(lambda: stream_samples(sound))
    return HeldRecording(to_samples(sound, "the recording"))
