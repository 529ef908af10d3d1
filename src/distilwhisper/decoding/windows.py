"""Windows of at most 30 s to text: encode, prompt, search; many tasks at a time.

Whatever transcribes is a task: a generator that asks for one window after the other and is sent
its text. A recording decoded window by window is one task, each chunk of a chunked one is a task of
its own, and a second attempt at a higher temperature is one more request. Settings belong to a
task: those of one batch may differ in all but the rules of their tokens.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, groupby
from typing import Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from distilwhisper.decoding.beam import beam_search
from distilwhisper.decoding.rules import DecodingRules, TimestampRules
from distilwhisper.decoding.search import CPU_SECONDS_PER_LOOK, Search
from distilwhisper.decoding.settings import MODELS_OWN, DecodingSettings
from distilwhisper.decoding.slots import Counts, Hypothesis, Job, SpecialTokens
from distilwhisper.model.checkpoint import Checkpoint
from distilwhisper.model.hardware import one_thread
from distilwhisper.model.silence import KeptFrames, thin_silence
from distilwhisper.model.whisper import Encoder
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
    states: dict[Encoder, Float[Tensor, "frames width"]] = field(default_factory=dict, repr=False)
    kept: KeptFrames | None = field(default=None, repr=False)  # of those encoded; none: all

    def uncut(self) -> None:
        """Put back the silence that was cut off; a language that was detected stays."""
        assert self.whole_mel is not None
        self.mel, self.whole_mel = self.whole_mel, None
        self.states.clear()


@dataclass(frozen=True)
class WindowRequest:
    """One attempt at a window."""

    decoder: "WindowDecoder"  # whose settings hold
    window: Window
    previous_ids: tuple[int, ...] = ()  # start-of-prev and the text before, or nothing
    temperature: float = 0.0
    seed: int = 0
    hopeless: Callable[[Sequence[int]], bool] | None = None  # as of a Job


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


class Searches:
    """The searches of a model; threads may share them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # held while the network works, never from step to step
        self.made: list[Search] = []
        self.idle: defaultdict[tuple[object, ...], list[Search]] = defaultdict(list)  # by kind


@dataclass(frozen=True)
class WindowDecoder:
    """A model, and perhaps a draft of its vocabulary, that decode windows for tasks.

    Threads may share it: every batch has slots of its own, and the network works for one at a time.
    Copies with other settings, by ``dataclasses.replace``, share the model and its slots; settings
    that do not fit are a ValueError.
    """

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    settings: DecodingSettings = field(default_factory=DecodingSettings)
    draft: Checkpoint | None = None
    """Proposes tokens that the model then checks: the same text, sooner if most are right."""
    searches: Searches = field(default_factory=Searches, repr=False, compare=False)

    @property
    def counts(self) -> Counts:
        """What decoding has cost so far: steps, tokens, drafts."""
        return sum((search.counts for search in self.searches.made), Counts())

    @cached_property
    def first_prompt(self) -> list[int]:
        """The text before a recording."""
        return self._prompt_text(self.settings.initial_prompt)

    @cached_property
    def hotwords(self) -> list[int]:
        """What every prompt begins with."""
        return self._prompt_text(self.settings.hotwords)

    @cached_property
    def previous_ids(self) -> tuple[int, ...]:
        """What the prompt of every window on its own begins with."""
        return tuple(self.tokenizer.previous_ids(self.first_prompt, hotwords=self.hotwords))

    def _prompt_text(self, text: str | None) -> list[int]:
        stripped = (text or "").strip()
        return self.tokenizer.encode(f" {stripped}") if stripped else []

    def code_of(self, language: str | None) -> str | None:
        """Return the code of a language, else of the settings'; None: to be detected."""
        wanted = language or self.settings.language
        if wanted is not None:
            return self.tokenizer.language_code(wanted)
        return None if self.tokenizer.is_multilingual else "en"

    def window(self, samples: Samples, *, language: str | None = None) -> Window:
        """Return a window of at most 30 s of sound, its log-mel made."""
        model = self.checkpoint.model
        with one_thread():  # a millisecond's work, which two threads make many of
            mel = window_log_mel(samples, n_mels=model.config.n_mels, device=model.device)
        return self.window_of(mel, len(samples), language=language)

    def window_of(
        self, mel: Float[Tensor, "n_mels frames"], n_samples: int, *, language: str | None
    ) -> Window:
        """Return a window of a log-mel of sound and the silence behind it, cut as settings say."""
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
        """Run tasks side by side, begun in order, each only when a slot is free for it.

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

    @torch.inference_mode()
    def detect_language(self, windows: Sequence[Window]) -> DetectedLanguage:
        """Return the likeliest language of windows of one recording, each counting alike."""
        if not self.tokenizer.is_multilingual:
            return DetectedLanguage("en")
        codes, ids = zip(*self.tokenizer.languages.items(), strict=True)
        model, logs = self.checkpoint.model, list[Tensor]()
        decoder, sot = model.decoder, torch.tensor([[self.tokenizer.sot]], device=model.device)
        for window in windows:
            with self.searches.lock:
                self.encode([window])
                cross = decoder.cross_cache(window.states[model.encoder][None], window.kept)
                logits = decoder.project(decoder(sot, cross)[:, 0])[0]
                logs.append(logits[list(ids)].float().softmax(dim=0).log())
        probability, place = torch.stack(logs).mean(dim=0).softmax(dim=0).max(dim=0)
        return DetectedLanguage(codes[int(place)], float(probability))

    @torch.inference_mode()
    def encode(self, windows: Sequence[Window]) -> None:
        """Fill in the encoder states that windows lack; a draft may have an encoder of its own."""
        # A CPU's caches hold one window's states and not many; a GPU wants them all at once.
        on_gpu = self.checkpoint.model.device.type == "cuda"
        for model in (one.model for one in (self.checkpoint, self.draft) if one is not None):
            new = [window for window in windows if model.encoder not in window.states]
            for _, group in groupby(new, key=lambda w: w.mel.shape[1] if on_gpu else id(w)):
                same = list(group)
                mel = torch.stack([window.mel for window in same]).to(model.dtype)
                for window, states in zip(same, model.encoder(mel, same[0].kept), strict=True):
                    window.states[model.encoder] = states

    def _job(self, ticket: object, request: WindowRequest) -> Job:
        prompt, window, model = self._prompt(request), request.window, self.checkpoint.model
        room = model.config.max_tokens - len(prompt)
        return Job(
            ticket,
            window.states[model.encoder],
            prompt,
            min(self.settings.max_new_tokens, room),
            request.temperature,
            request.seed,
            window.kept,
            None if self.draft is None else window.states[self.draft.model.encoder],
            request.hopeless,
        )

    def _prompt(self, request: WindowRequest) -> tuple[int, ...]:
        settings, language = self.settings, request.window.language
        own = self.tokenizer.prompt_ids(
            language=language, task=settings.task, timestamps=settings.timestamps
        )
        return (*request.previous_ids, *own)

    def _decoded(self, request: WindowRequest, hypothesis: Hypothesis) -> DecodedWindow:
        text = self.tokenizer.decode(hypothesis.token_ids).strip()
        likeliest = (c for c, i in self.tokenizer.languages.items() if i == hypothesis.language_id)
        return DecodedWindow(
            **vars(hypothesis),
            prompt_ids=self._prompt(request),
            text=text,
            language=request.window.language or "en",
            temperature=request.temperature,
            compression_ratio=compression_ratio(text),
            detected_language=next(likeliest, None),
        )

    def _idle_searches(self) -> list[Search]:
        """Return the searches of these settings that wait for a batch: their caches are large."""
        kind = tuple(getattr(self.settings, n) for n in (*RULES, "batch_size", "draft_tokens"))
        return self.searches.idle[kind]

    def _take_search(self) -> Search:
        """Return a search that no other batch uses."""
        with self.searches.lock:
            if idle := self._idle_searches():
                return idle.pop()
            tokenizer, languages = self.tokenizer, tuple(self.tokenizer.languages.values())
            search = Search(
                self.checkpoint.model,
                self._rules(),
                SpecialTokens(tokenizer.sot, tokenizer.eot, tokenizer.no_speech, languages),
                n_slots=self.settings.batch_size,
                draft=None if self.draft is None else self.draft.model,
                draft_tokens=self.settings.draft_tokens,
            )
            self.searches.made.append(search)
            return search

    def _rules(self) -> DecodingRules:
        settings, tokenizer = self.settings, self.tokenizer
        config = self.checkpoint.generation_config
        grammar = TimestampRules(
            begin=tokenizer.timestamp_begin,
            no_timestamps=tokenizer.no_timestamps,
            eot=tokenizer.eot,
            max_initial_index=config.get("max_initial_timestamp_index") or 50,
        )
        suppress = [i for i in settings.suppress_tokens if i != MODELS_OWN]
        has_symbols = MODELS_OWN in settings.suppress_tokens
        of_model = config.get("suppress_tokens") or []
        suppress += [i for i in of_model if has_symbols or i >= tokenizer.eot]
        return DecodingRules(
            suppress=suppress,
            begin_suppress=config.get("begin_suppress_tokens") or [],
            timestamps=grammar if settings.timestamps else None,
            device=self.checkpoint.model.device,
        )


@dataclass(eq=False)
class _Begun(Generic[K, T]):
    key: K
    task: "Task[T]"
    request: WindowRequest = field(init=False)  # the window it waits for


class Batch(Generic[K, T]):
    """Tasks under way side by side, in slots of their own; to be closed.

    Whoever drives it adds tasks, between any two steps, and leaves those nobody waits for any more.
    The settings of the decoder say how many slots there are; a request's decoder may be a copy that
    has others.
    """

    def __init__(self, decoder: WindowDecoder) -> None:
        self._decoder = decoder
        self._search = decoder._take_search()
        self._waiting: deque[_Begun[K, T]] = deque()
        self._on_gpu = decoder.checkpoint.model.device.type == "cuda"

    def close(self) -> None:
        """Forget all tasks, and give the slots back."""
        self._search.clear()
        self._decoder._idle_searches().append(self._search)

    @property
    def is_empty(self) -> bool:
        """No task is under way."""
        return not self._waiting and not self.n_running

    @property
    def has_room(self) -> bool:
        """A task that is added now is begun at the next step, or on a GPU soon."""
        n_free = self._search.n_free
        return len(self._waiting) < (n_free if self._on_gpu else min(n_free, 1))

    @property
    def n_running(self) -> int:
        """Windows in slots."""
        return self._search.n_slots - self._search.n_free

    def add(self, key: K, task: "Task[T]") -> list[tuple[K, T]]:
        """Begin a task; return its key and what it returned, if it is done already.

        Its key names it, perhaps with other tasks.

        Raises:
            ValueError: the task has other :data:`RULES` than the batch.
        """
        return self._resume(_Begun(key, task))

    def leave(self, key: K) -> None:
        """Give the tasks of a key up: their slots are free at once, and they are closed."""
        left = [one for one in (*self._waiting, *self._search.tickets) if one.key == key]
        self._waiting = deque(one for one in self._waiting if one.key != key)
        self._search.drop(left)
        for one in left:
            one.task.close()

    def step(self) -> list[tuple[K, T]]:
        """Admit windows, and write at least one more token of each.

        Returns the keys of the tasks that are now done, and what they returned. Raises as
        :meth:`WindowDecoder.run`.
        """
        decoder, search = self._decoder, self._search
        done: list[tuple[_Begun[K, T], Hypothesis]] = []
        least = max(1, GPU_ADMIT_SHARE * search.n_slots) if self._on_gpu else 1
        has_engine = decoder.checkpoint.model.decoder.engine is not None
        with one_thread() if has_engine else nullcontext():
            n_new = 0
            if self._waiting and search.n_free >= least:
                n_new = min(len(self._waiting), search.n_free) if self._on_gpu else 1
                with decoder.searches.lock:
                    done += self._admit([self._waiting.popleft() for _ in range(n_new)])
            with decoder.searches.lock:
                done += search.step(0.0 if n_new else CPU_SECONDS_PER_LOOK)
            windows = [(one, one.request.decoder._decoded(one.request, text)) for one, text in done]
            return [result for one, window in windows for result in self._resume(one, window)]

    @torch.inference_mode()
    def _admit(self, new: Sequence[_Begun[K, T]]) -> list[tuple[_Begun[K, T], Hypothesis]]:
        """Encode windows and admit them; return those of them that are done already."""
        self._decoder.encode([one.request.window for one in new])
        done: list[tuple[_Begun[K, T], Hypothesis]] = []
        jobs: list[Job] = []
        for one in new:
            request, decoder, window = one.request, one.request.decoder, one.request.window
            window.language = window.language or decoder.detect_language([window]).code
            job = decoder._job(one, request)
            size = decoder.settings.beam_size
            if size == 1 or request.temperature > 0:
                jobs.append(job)
            else:
                rules, special = self._search.rules, self._search.special
                best = beam_search(self._search.model, job, rules, special, beam_size=size)
                done.append((one, best))
        self._search.admit(jobs)
        return done

    def _resume(self, one: _Begun[K, T], decoded: DecodedWindow | None = None) -> list[tuple[K, T]]:
        """Go on with a task until it asks for a window; return its result if it is done."""
        try:
            one.request = next(one.task) if decoded is None else one.task.send(decoded)
        except StopIteration as stop:
            return [(one.key, stop.value)]
        for name in RULES:
            decoders = one.request.decoder, self._decoder
            found, wanted = (getattr(decoder.settings, name) for decoder in decoders)
            if found != wanted:
                raise ValueError(
                    f"tasks of one batch must have the same {name}, found {found} in a batch of "
                    f"{wanted}: begin another batch"
                )
        self._waiting.append(one)
        return []
