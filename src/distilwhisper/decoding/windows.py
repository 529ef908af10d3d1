"""Windows of at most 30 s to text: encode, prompt, search; many tasks at a time.

Whatever transcribes is a task: a generator that asks for one window after the other and is sent
its text. A recording decoded window by window is one task, each chunk of a chunked one
is a task of its own, and a second attempt at a higher temperature is one more request. The decoder
runs as many tasks as it has slots and begins the next one as soon as a slot is free.

Settings belong to a task: those of one batch may differ in all but the rules of their tokens.
"""

import copy
import threading
from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from itertools import chain, count, groupby
from typing import Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from distilwhisper.decoding.beam import beam_search
from distilwhisper.decoding.rules import DecodingRules, TimestampRules
from distilwhisper.decoding.search import Search
from distilwhisper.decoding.settings import MODELS_OWN, DecodingSettings
from distilwhisper.decoding.slots import Counts, Hypothesis, Job, SpecialTokens
from distilwhisper.model.checkpoint import Checkpoint
from distilwhisper.model.hardware import one_thread
from distilwhisper.model.silence import KeptFrames, thin_silence
from distilwhisper.model.whisper import Whisper
from distilwhisper.shapes import Float
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.mel import window_log_mel
from distilwhisper.speech.units import FRAMES_PER_WINDOW, HOP_SAMPLES, SAMPLE_RATE_HZ
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.text.transcript import compression_ratio

K = TypeVar("K")
T = TypeVar("T")

# On a GPU, windows enter when this share of the slots is free: encoding one alone wastes it. On a
# CPU one enters a step: to encode all that wait would hold up those that are being decoded.
GPU_ADMIT_SHARE = 0.125

# The settings that say which tokens may be written; the tasks of a batch agree in them.
RULES = ("timestamps", "suppress_tokens")

SURE_OF_LANGUAGE = 0.5  # the probability from which a language is not doubted


@dataclass(frozen=True)
class DetectedLanguage:
    """The language of a recording, and how sure the model is of it."""

    code: str
    probability: float | None = None  # None: it was given, or the model knows no other

    @property
    def is_sure(self) -> bool:
        """Whether there is no reason to doubt it."""
        return self.probability is None or self.probability >= SURE_OF_LANGUAGE


@dataclass
class Window:
    """Sound to be decoded, and what is kept of it between two attempts."""

    mel: Float[Tensor, "n_mels frames"]
    n_samples: int  # of the sound; the rest of the frames is silence
    language: str | None = None  # a code; none: detected when it is first decoded
    whole_mel: Float[Tensor, "n_mels whole"] | None = field(default=None, repr=False)  # if cut
    encoder_states: Float[Tensor, "frames width"] | None = field(default=None, repr=False)
    draft_states: Float[Tensor, "frames width"] | None = field(default=None, repr=False)
    kept: KeptFrames | None = field(default=None, repr=False)  # of those encoded; none: all

    def uncut(self) -> None:
        """Put back the silence that was cut off; a language that was detected stays."""
        assert self.whole_mel is not None
        self.mel, self.whole_mel = self.whole_mel, None
        self.encoder_states = self.draft_states = None


@dataclass(frozen=True)
class WindowRequest:
    """One attempt at a window."""

    window: Window
    previous_ids: tuple[int, ...] = ()  # start-of-prev and the text before, or nothing
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DecodedWindow(Hypothesis):
    """The text of one window of at most 30 s; ``no_speech_prob`` is nan where it is not known."""

    prompt_ids: tuple[int, ...]
    text: str
    language: str
    temperature: float
    compression_ratio: float
    detected_language: str | None = None  # the likeliest, whatever the prompt's; None: English only
    failure: str | None = None  # why the text is not to be believed

    @property
    def own_language(self) -> DetectedLanguage:
        """The language it was decoded in, and how sure the model is of that one."""
        is_own = self.detected_language == self.language
        return DetectedLanguage(self.language, self.language_prob if is_own else None)


Task: TypeAlias = Generator[WindowRequest, DecodedWindow, T]


@dataclass(frozen=True, eq=False)
class _Pending(Generic[K, T]):
    key: K
    task: "Task[T]"
    request: WindowRequest
    decoder: "WindowDecoder"  # whose settings the task has


class WindowDecoder:
    """A model, and perhaps a draft, that decode windows for tasks.

    Threads may share it: every batch has slots of its own, and the network works for one at a time.
    A draft has the model's vocabulary.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokenizer: Tokenizer,
        settings: DecodingSettings,
        draft: Checkpoint | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.tokenizer = tokenizer
        self.settings = settings
        self.draft = draft
        self.lock = threading.RLock()  # held while the network works, never from step to step
        languages = tokenizer.languages
        ids = tuple(languages.values())
        self._special = SpecialTokens(tokenizer.sot, tokenizer.eot, tokenizer.no_speech, ids)
        self._codes: dict[int | None, str] = {id_: code for code, id_ in languages.items()}
        self._searches: list[Search] = []
        self._idle: defaultdict[tuple[object, ...], list[Search]] = defaultdict(list)

    def with_settings(self, settings: DecodingSettings) -> "WindowDecoder":
        """Return the same decoder for tasks of other settings; the two share all else."""
        other = copy.copy(self)
        other.settings = settings
        return other

    @property
    def counts(self) -> Counts:
        """What decoding has cost so far."""
        return sum((search.counts for search in self._searches), Counts())

    def window(self, samples: Samples, *, language: str | None = None) -> Window:
        """Return a window of at most 30 s of sound, its log-mel made."""
        model = self.checkpoint.model
        with one_thread():  # a millisecond's work, which two threads make many of
            mel = window_log_mel(samples, n_mels=model.config.n_mels, device=model.device)
        return self.window_of(mel, len(samples), language=language)

    def window_of(
        self, mel: Float[Tensor, "n_mels frames"], n_samples: int, *, language: str | None
    ) -> Window:
        """Return a window of a log-mel of 30 s, cut as the settings say.

        The mel is of the sound, of ``n_samples``, and of the silence behind it.
        """
        margin_s = self.settings.context_margin_s
        if margin_s is not None:
            n_frames = -(-n_samples // HOP_SAMPLES) + round(margin_s * SAMPLE_RATE_HZ / HOP_SAMPLES)
            n_frames += n_frames % 2
            if n_frames < FRAMES_PER_WINDOW:
                return Window(mel[:, :n_frames], n_samples, language, whole_mel=mel)
        kept = None
        if self.checkpoint.model.encoder.thins_silence:
            kept = thin_silence(-(-n_samples // (2 * HOP_SAMPLES)), mel.shape[1] // 2)
        return Window(mel, n_samples, language, kept=kept)

    def run(self, tasks: Iterable["Task[T]"]) -> Iterator[tuple[int, T]]:
        """Run tasks side by side.

        They are begun in order, each only when a slot is free for it.

        Yields:
            A task's place in the order, and what it returned, as soon as it is done.

        Raises:
            NonFiniteOutput: a window's probabilities are not numbers.
        """
        return chain.from_iterable(self.steps(tasks))

    def steps(self, tasks: Iterable["Task[T]"]) -> Iterator[list[tuple[int, T]]]:
        """Run tasks as :meth:`run`; yield after each step those that are done, perhaps none."""
        numbered = enumerate(tasks)
        with closing(Batch[int, T](self)) as batch:
            while True:
                while batch.has_room and (new := next(numbered, None)) is not None:
                    yield batch.add(*new)
                if batch.is_empty:
                    return
                yield batch.step()

    def detect_language(self, windows: Sequence[Window]) -> DetectedLanguage:
        """Return the likeliest language of windows of one recording, each counting alike."""
        if not self.tokenizer.is_multilingual:
            return DetectedLanguage("en")
        with self.lock:
            logs = [self._language_probabilities(window).log() for window in windows]
        probabilities = torch.stack(logs).mean(dim=0).softmax(dim=0)
        likeliest = int(probabilities.argmax())
        code = list(self.tokenizer.languages)[likeliest]
        return DetectedLanguage(code, float(probabilities[likeliest]))

    @torch.inference_mode()
    def encode(self, windows: Sequence[Window]) -> None:
        """Fill in the encoder states that windows lack."""
        model, draft = self.checkpoint.model, self.draft and self.draft.model
        self._encode(windows, model, "encoder_states")
        if draft and draft.encoder is not model.encoder:
            self._encode(windows, draft, "draft_states")
        elif draft:
            for window in windows:
                window.draft_states = window.encoder_states

    def _encode(self, windows: Sequence[Window], model: Whisper, name: str) -> None:
        new = [window for window in windows if getattr(window, name) is None]
        # A CPU's caches hold one window's states and not many; a GPU wants them all at once.
        on_gpu = model.device.type == "cuda"
        for _, group in groupby(new, key=lambda w: w.mel.shape[1] if on_gpu else id(w)):
            same = list(group)
            mel = torch.stack([window.mel for window in same]).to(model.dtype)
            for window, states in zip(same, model.encoder(mel, same[0].kept), strict=True):
                setattr(window, name, states)

    @torch.inference_mode()
    def _language_probabilities(self, window: Window) -> Float[Tensor, " languages"]:
        self.encode([window])
        assert window.encoder_states is not None
        decoder = self.checkpoint.model.decoder
        cross = decoder.cross_cache(window.encoder_states[None], window.kept)
        sot = torch.tensor([[self.tokenizer.sot]], device=window.encoder_states.device)
        logits = decoder.project(decoder(sot, cross)[:, 0])[0]
        return logits[list(self.tokenizer.languages.values())].float().softmax(dim=0)

    def _job(self, ticket: int, request: WindowRequest) -> Job:
        prompt, window = self._prompt(request), request.window
        room = self.checkpoint.model.config.max_tokens - len(prompt)
        return Job(
            ticket,
            window.encoder_states,
            prompt,
            min(self.settings.max_new_tokens, room),
            temperature=request.temperature,
            seed=request.seed,
            kept=window.kept,
            draft_states=window.draft_states,
        )

    def _prompt(self, request: WindowRequest) -> tuple[int, ...]:
        own = self.tokenizer.prompt_ids(
            language=request.window.language,
            task=self.settings.task,
            timestamps=self.settings.timestamps,
        )
        return (*request.previous_ids, *own)

    def _decoded(self, request: WindowRequest, hypothesis: Hypothesis) -> DecodedWindow:
        text = self.tokenizer.decode(hypothesis.token_ids).strip()
        return DecodedWindow(
            **vars(hypothesis),
            prompt_ids=self._prompt(request),
            text=text,
            language=request.window.language or "en",
            temperature=request.temperature,
            compression_ratio=compression_ratio(text),
            detected_language=self._codes.get(hypothesis.language_id),
        )

    @property
    def _kind(self) -> tuple[object, ...]:
        """What a search is made for."""
        return tuple(getattr(self.settings, n) for n in (*RULES, "batch_size", "draft_tokens"))

    def _take_search(self) -> Search:
        """Return a search that no other batch uses."""
        with self.lock:
            if not self._idle[self._kind]:
                search = Search(
                    self.checkpoint.model,
                    self._rules(),
                    self._special,
                    n_slots=self.settings.batch_size,
                    draft=None if self.draft is None else self.draft.model,
                    draft_tokens=self.settings.draft_tokens,
                )
                self._searches.append(search)
                return search
            return self._idle[self._kind].pop()

    def _give_back(self, search: Search) -> None:
        """Keep a search for the next batch of its kind: its caches are large."""
        search.clear()
        self._idle[self._kind].append(search)

    def _rules(self) -> DecodingRules:
        config, suppress = self.checkpoint.generation_config, self.settings.suppress_tokens
        grammar = TimestampRules(
            begin=self.tokenizer.timestamp_begin,
            no_timestamps=self.tokenizer.no_timestamps,
            eot=self.tokenizer.eot,
            max_initial_index=config.get("max_initial_timestamp_index") or 50,
        )
        of_model = config.get("suppress_tokens") or []
        special = [id_ for id_ in of_model if id_ >= self.tokenizer.eot]
        symbols = of_model if MODELS_OWN in suppress else special
        return DecodingRules(
            suppress=[*symbols, *(id_ for id_ in suppress if id_ != MODELS_OWN)],
            begin_suppress=config.get("begin_suppress_tokens") or [],
            timestamps=grammar if self.settings.timestamps else None,
            device=self.checkpoint.model.device,
        )


class Batch(Generic[K, T]):
    """Tasks under way side by side, in slots of their own; to be closed.

    Whoever drives it adds tasks, between any two steps, and leaves those nobody waits for any more.

    The settings of the decoder say how many slots there are, and hold for tasks without their own.
    """

    def __init__(self, decoder: WindowDecoder) -> None:
        self._decoder = decoder
        self._search = decoder._take_search()
        self._waiting: deque[_Pending[K, T]] = deque()
        self._running: dict[int, _Pending[K, T]] = {}
        self._tickets = count()
        self._on_gpu = decoder.checkpoint.model.device.type == "cuda"

    def close(self) -> None:
        """Forget all tasks, and give the slots back."""
        self._decoder._give_back(self._search)

    @property
    def is_empty(self) -> bool:
        """No task is under way."""
        return not self._waiting and not self._running

    @property
    def has_room(self) -> bool:
        """A task that is added now is begun at the next step, or on a GPU soon."""
        n_free = self._search.n_free
        return len(self._waiting) < (n_free if self._on_gpu else min(n_free, 1))

    @property
    def n_running(self) -> int:
        """Windows in slots."""
        return len(self._running)

    def add(
        self, key: K, task: "Task[T]", decoder: WindowDecoder | None = None
    ) -> list[tuple[K, T]]:
        """Begin a task.

        Its key names it, perhaps with other tasks. A task with settings of its own comes with the
        decoder that has them, see :meth:`WindowDecoder.with_settings`.

        Returns:
            Its key and what it returned, if it is done already, else nothing.

        Raises:
            ValueError: the task has other :data:`RULES` than the batch.
        """
        decoder = decoder or self._decoder
        for name in RULES:
            found, wanted = (getattr(one.settings, name) for one in (decoder, self._decoder))
            if found != wanted:
                raise ValueError(
                    f"tasks of one batch must have the same {name}, found {found} in a batch of "
                    f"{wanted}: begin another batch"
                )
        return self._ask(key, task, decoder, None)

    def leave(self, key: K) -> None:
        """Give the tasks of a key up: their slots are free at once, and they are closed."""
        left = [p for p in (*self._waiting, *self._running.values()) if p.key == key]
        tickets = [ticket for ticket, p in self._running.items() if p.key == key]
        self._waiting = deque(p for p in self._waiting if p.key != key)
        for ticket in tickets:
            del self._running[ticket]
        self._search.drop(tickets)
        for pending in left:
            pending.task.close()

    def step(self) -> list[tuple[K, T]]:
        """Admit windows, and write at least one more token of each.

        Returns:
            The keys of the tasks that are now done, and what they returned.

        Raises:
            NonFiniteOutput: a window's probabilities are not numbers.
        """
        decoder, search = self._decoder, self._search
        decoded: list[tuple[_Pending[K, T], DecodedWindow]] = []
        least = max(1, GPU_ADMIT_SHARE * search.n_slots) if self._on_gpu else 1
        has_engine = decoder.checkpoint.model.decoder.engine is not None
        with one_thread() if has_engine else nullcontext():
            if self._waiting and search.n_free >= least:
                n_new = min(len(self._waiting), search.n_free) if self._on_gpu else 1
                new = [self._waiting.popleft() for _ in range(n_new)]
                with decoder.lock:
                    decoded += self._begin(new)
            with decoder.lock:
                done = search.step()
            for ticket, hypothesis in done:
                pending = self._running.pop(ticket)
                decoded.append((pending, pending.decoder._decoded(pending.request, hypothesis)))
            return [
                result
                for pending, window in decoded
                for result in self._ask(pending.key, pending.task, pending.decoder, window)
            ]

    @torch.inference_mode()
    def _begin(
        self, new: Sequence["_Pending[K, T]"]
    ) -> list[tuple["_Pending[K, T]", DecodedWindow]]:
        """Encode windows and admit them; return those of them that are done already."""
        self._decoder.encode([pending.request.window for pending in new])
        done: list[tuple[_Pending[K, T], DecodedWindow]] = []
        jobs: list[Job] = []
        for pending in new:
            decoder, request = pending.decoder, pending.request
            window = request.window
            window.language = window.language or decoder.detect_language([window]).code
            job = decoder._job(next(self._tickets), request)
            size = decoder.settings.beam_size
            if size == 1 or request.temperature > 0:
                self._running[job.ticket] = pending
                jobs.append(job)
            else:
                model, rules = decoder.checkpoint.model, decoder._rules()
                best = beam_search(model, job, rules, decoder._special, beam_size=size)
                done.append((pending, decoder._decoded(request, best)))
        self._search.admit(jobs)
        return done

    def _ask(
        self, key: K, task: "Task[T]", decoder: WindowDecoder, decoded: DecodedWindow | None
    ) -> list[tuple[K, T]]:
        """Go on with a task until it asks for a window; return its result if it is done."""
        try:
            request = next(task) if decoded is None else task.send(decoded)
        except StopIteration as stop:
            return [(key, stop.value)]
        self._waiting.append(_Pending(key, task, request, decoder))
        return []
