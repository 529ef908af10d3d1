import io
import re
import sys
import time

import pytest

from distilwhisper.progress import progress_bar


def test_a_log_tells_how_far_how_fast_and_how_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with progress_bar("label", 400, "utterances") as advance:
        for _ in range(10):
            clock[0] += 3.0
            advance(10, 36.0)
    # A line 21 s after the first report, and none in the 6 s behind it.
    assert capsys.readouterr().err == (
        "label: 80 of 400 utterances, 12.0 h of audio per hour, 2 min left\n"
    )


def test_hours_are_told_as_hours_and_no_speed_where_there_is_no_sound(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with progress_bar("train", 1000, "steps") as advance:
        clock[0] = 500.0  # loading takes none of the steps' time
        advance(20)  # found done
        clock[0] = 600.0
        advance(10)
    assert capsys.readouterr().err == "train: 30 of 1000 steps, 2 h 42 min left\n"


def test_a_terminal_shows_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("label", 4, "utterances") as advance:
        advance(3, 3600.0)
        time.sleep(0.2)  # the bar is drawn ten times a second
    assert re.search(r"3/4.* utterances .*h of audio per hour", screen.getvalue())
