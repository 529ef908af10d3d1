"""The script ``run`` in copied checkouts, whose path holds a space; none installs anything."""

import gzip
import os
import shutil
import signal
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

TOP = Path(__file__).resolve().parent.parent
SPEECH = TOP / "tests" / "assets" / "speech"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DISTILWHISPER_VENV", raising=False)
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("run", "pyproject.toml", "constraints.txt"):
        shutil.copy(TOP / name, folder / name)
    return folder


def load_script(checkout: Path) -> ModuleType:
    loader = SourceFileLoader("run_script", str(checkout / "run"))
    spec = spec_from_loader("run_script", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def write_program(path: Path, shell: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{shell}\n")
    path.chmod(0o755)


def finish_environment(checkout: Path, **programs: str) -> None:
    """Put programs of one line of shell in the place of a finished environment."""
    for name, shell in {"python": "true", **programs}.items():
        write_program(checkout / ".venv" / "bin" / name, shell)
    script = load_script(checkout)
    state = script.wanted_state(script.FOR_ALL)
    (checkout / ".venv" / "distilwhisper-state").write_text(state)


def run_script(
    checkout: Path, *arguments: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, checkout / "run", *arguments],
        cwd="/",
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


# Commands


def test_help_goes_to_stdout_and_a_wrong_command_to_stderr(checkout: Path) -> None:
    told = run_script(checkout, "--help")
    assert (told.returncode, told.stderr) == (0, "")
    assert "./run demo" in told.stdout
    for arguments in ([], ["tests"]):
        wrong = run_script(checkout, *arguments)
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert "./run demo" in wrong.stderr


def test_a_finished_environment_is_used_as_it_is(checkout: Path) -> None:
    finish_environment(checkout)
    done = run_script(checkout, "env")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{checkout / '.venv'}\n", "")


def test_arguments_and_exit_status_are_passed_on_and_the_command_is_named(checkout: Path) -> None:
    finish_environment(checkout, python='echo "$OMP_NUM_THREADS $*"; exit 3')
    done = run_script(checkout, "test", "-k", "two words", OMP_NUM_THREADS="1")
    assert done.returncode == 3
    assert done.stdout == "1 -m pytest -n 2 --dist worksteal -m not slow -k two words\n"
    assert "status 3" in done.stderr
    assert "-m pytest -n 2 --dist worksteal -m 'not slow' -k 'two words'" in done.stderr


def test_every_check_runs_and_the_first_bad_status_comes_back(checkout: Path) -> None:
    python = 'echo "$2"; [ "$2" != mypy ] || exit 5'
    finish_environment(checkout, **{"python": python, "lint-imports": "echo contract; exit 7"})
    done = run_script(checkout, "check")
    assert done.returncode == 5
    *checked, length = done.stdout.splitlines()
    assert sorted(checked) == ["contract", "mkdocs", "mypy", "ruff", "ruff"]
    assert length.startswith("0 lines in src, of ")
    assert "status 5" in done.stderr
    assert "status 7" in done.stderr


def test_the_documentation_is_built_strictly(checkout: Path) -> None:
    finish_environment(checkout, python='echo "$*"')
    built, page = run_script(checkout, "docs").stdout.splitlines()
    assert built.startswith("-m mkdocs build --strict ")
    assert page == str(checkout / "build" / "docs" / "index.html")
    finish_environment(checkout, python="exit 4")
    assert run_script(checkout, "docs").returncode == 4


def test_a_package_that_is_too_long_fails_the_check(checkout: Path) -> None:
    finish_environment(checkout, **{"lint-imports": "true"})
    n_lines = load_script(checkout).MOST_LINES + 1
    (checkout / "src").mkdir()
    (checkout / "src" / "long.py").write_text("\n" * n_lines)
    done = run_script(checkout, "check")
    assert done.returncode == 1
    assert f"found {n_lines:,}" in done.stderr
    (checkout / "src" / "long.py").write_text("\n" * (n_lines - 1))
    assert run_script(checkout, "check").returncode == 0


def test_ctrl_c_ends_program_and_script_quietly(checkout: Path) -> None:
    finish_environment(checkout, python="echo started; exec sleep 60")
    # Tests in the background of a shell ignore the signal, and so would all that they start.
    heed = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    heed += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    with subprocess.Popen(
        [sys.executable, "-c", heed, checkout / "run", "test"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "")


# The environment


def test_the_state_follows_the_pins_the_package_and_the_place(checkout: Path) -> None:
    script = load_script(checkout)
    states = {script.wanted_state(extras) for extras in (script.FOR_DEMO, script.FOR_ALL)}
    for name in ("constraints.txt", "pyproject.toml"):
        with (checkout / name).open("a") as file:
            file.write("# changed\n")
        states.add(script.wanted_state(script.FOR_ALL))
    moved = checkout.rename(checkout.with_name("moved"))
    states.add(load_script(moved).wanted_state(script.FOR_ALL))
    assert len(states) == 5


def test_the_demo_installs_what_it_needs_and_the_others_the_rest(checkout: Path) -> None:
    programs = dict.fromkeys(("python", "uv"), 'echo "$*" >> "$(dirname "$0")/installed"')
    finish_environment(checkout, **programs)
    script = load_script(checkout)
    for extras in (script.FOR_DEMO, script.FOR_ALL):
        script.install(extras)
        script.STATE.write_text(script.wanted_state(extras))
        assert script.is_finished(script.FOR_DEMO)
        assert script.is_finished(script.FOR_ALL) is (extras == script.FOR_ALL)
    installed = (checkout / ".venv" / "bin" / "installed").read_text().splitlines()
    editable = [line.split()[-1] for line in installed if "--editable" in line]
    assert editable == [".[demo,train]", ".[demo,dev]"]


def test_an_environment_is_built_upon_only_if_it_is_whole(checkout: Path) -> None:
    script = load_script(checkout)
    state = checkout / ".venv" / "distilwhisper-state"
    assert not script.is_sound()  # there is none
    write_program(checkout / ".venv" / "bin" / "python", f'exec "{sys.executable}" "$@"')
    assert script.is_sound()  # made by hand
    state.write_text(f"{checkout / '.venv'} made for other pins")
    assert script.is_sound()
    state.write_text("/elsewhere/.venv made there, then moved")
    assert not script.is_sound()
    state.write_text(script.UNFINISHED)
    assert not script.is_sound()


def test_an_environment_whose_making_was_killed_is_not_built_upon(checkout: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    assert not load_script(checkout).is_sound()


def test_a_python_without_venv_is_told_what_to_install(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_script(checkout)
    monkeypatch.setattr(script, "find_spec", lambda name: None)
    with pytest.raises(script.Failure, match="apt-get install python3-venv"):
        script.make_venv()


def test_uv_is_told_what_pip_knows_and_the_environment_wins(checkout: Path) -> None:
    script = load_script(checkout)
    listing = (
        ":env:.find-links='/wheels /more wheels'\n"
        "global.extra-index-url='\\nhttps://one.example/simple\\nhttps://two.example/simple'\n"
        "global.find-links='/other'\n"
        "global.index-url='https://global.example/simple'\n"
        "install.index-url='https://install.example/simple'\n"
        "install.no-index='false'\n"
    )
    assert script.uv_options(script.parse_pip_settings(listing)) == [
        "--default-index=https://install.example/simple",
        "--index=https://two.example/simple",
        "--index=https://one.example/simple",
        "--find-links=/wheels",
        "--find-links=/more",
        "--find-links=wheels",
        "--index-strategy=unsafe-best-match",
    ]


# The speech of the demo


def test_only_prompts_that_say_their_line_have_a_transcript(checkout: Path) -> None:
    listing = """; Core sounds

hello:  Hello,  and welcome.
dir/press: press 1: now
beep: [this is a simple beep tone]
join: <beep ascending>
pause: (3 seconds of silence)
dot: dot [.]
pound: press # to enter
star: separated by *
empty:
"""
    assert load_script(checkout).parse_transcripts(listing) == {
        "hello": "Hello, and welcome.",
        "dir/press": "press 1: now",
    }


def test_prompts_are_collected_with_their_table(checkout: Path) -> None:
    share = checkout / "share"
    sounds = share / "asterisk" / "sounds" / "en"
    (sounds / "vm").mkdir(parents=True)
    shutil.copy(SPEECH / "vm-goodbye.g722", sounds / "vm" / "goodbye.g722")
    (sounds / "endless.g722").write_bytes(bytes(30 * 8000 + 1))
    listing = share / "doc" / "asterisk-core-sounds-en" / "core-sounds-en.txt.gz"
    listing.parent.mkdir(parents=True)
    listing.write_bytes(gzip.compress(b"vm/goodbye: Goodbye\nendless: and on\nlost: no file\n"))

    speech = checkout / "speech"
    assert load_script(checkout).collect_prompts(share, speech) == 1
    assert (speech / "transcripts.tsv").read_text() == "path\ttext\nvm/goodbye.g722\tGoodbye\n"
    assert (speech / "vm" / "goodbye.g722").read_bytes() == (
        SPEECH / "vm-goodbye.g722"
    ).read_bytes()


@pytest.mark.parametrize("fetched", [True, False])
def test_the_demo_takes_synthetic_speech_where_no_other_is_to_be_had(
    checkout: Path, fetched: bool
) -> None:
    finish_environment(checkout, distilwhisper='echo "$*"')
    if fetched:
        table = checkout / ".cache" / "asterisk" / "speech" / "transcripts.tsv"
        table.parent.mkdir(parents=True)
        table.touch()
    done = run_script(checkout, "demo", "--force", PATH="/nowhere")
    assert done.returncode == 0
    out = checkout / "runs" / "demo"
    source = ".cache/asterisk/speech" if fetched else "demo/synthetic"
    assert done.stdout == (
        f"run recipes/demo.toml --out {out} --set data.source={source} --force\n"
    )
    assert ("there is no apt-get here" in done.stderr) is not fetched
