import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.run.files import BadRunFolder, MetricsLog
from distilwhisper.run.locks import FolderInUse, Part, lock_folder
from distilwhisper.run.record import _git, write_run_record
from distilwhisper.run.settings import SettingsError, build_settings, read_recipe, settings_to_toml
from distilwhisper.run.stages import StageChanged, fingerprint, open_stage

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Decoding:
    timestamps: bool = True
    beams: int = 1


@dataclass(frozen=True)
class Stage:
    decoding: Decoding = field(default_factory=lambda: Decoding(timestamps=False))
    temperature: float = 1.0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    layers: tuple[int, ...] | None = None
    span: tuple[float, float] = (0.0, 1.0)
    names: list[str] = field(default_factory=list)
    cache: Path | None = None
    limit: int | str = 3

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, found {self.temperature}")


@dataclass(frozen=True)
class Recipe:
    name: str
    stage: Stage = field(default_factory=Stage)
    seed: int = 0


def build(**stage: Any) -> Stage:
    return build_settings(Recipe, {"name": "a", "stage": stage}, where="recipe.toml").stage


def faults(mapping: dict[str, Any]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        build_settings(Recipe, mapping, where="recipe.toml")
    headline, *lines = str(caught.value).split("\n  ")
    assert headline.startswith(f"recipe.toml: {len(lines)} fault")
    return lines


# Settings


def test_settings_are_built_with_their_types() -> None:
    stage = build(
        temperature=2,
        dtype="float32",
        layers=[0, -1],
        span=[1, 2.5],
        names=["x"],
        cache="/data/cache",
        limit="all",
        decoding={"beams": 5},
    )
    assert stage == Stage(
        decoding=Decoding(timestamps=False, beams=5),
        temperature=2.0,
        dtype="float32",
        layers=(0, -1),
        span=(1.0, 2.5),
        names=["x"],
        cache=Path("/data/cache"),
        limit="all",
    )
    assert isinstance(stage.temperature, float)
    assert isinstance(stage.layers, tuple)


def test_a_section_given_in_part_keeps_the_fields_own_default() -> None:
    assert Decoding().timestamps is True
    assert build(decoding={"beams": 2}).decoding.timestamps is False


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("temperature", True, "a finite number"),
        ("temperature", "high", "a finite number"),
        ("temperature", math.nan, "a finite number"),
        ("temperature", math.inf, "a finite number"),
        ("temperature", 10**400, "a finite number"),
        ("dtype", "float64", 'one of "auto", "float32", "bfloat16"'),
        ("layers", 3, "a list, each of it a whole number"),
        ("span", [1.0], "a list of 2: a finite number, a finite number"),
        ("cache", 3, "a path in quotes"),
        ("limit", 2.5, "a whole number or a string"),
        ("limit", True, "a whole number or a string"),
    ],
)
def test_a_value_of_a_wrong_type_is_a_fault(key: str, value: object, allowed: str) -> None:
    (fault,) = faults({"name": "a", "stage": {key: value}})
    assert fault.startswith(f"stage.{key}: must be {allowed}, found ")


@pytest.mark.parametrize("value", [True, 1.0, "1"])
def test_only_a_whole_number_is_a_whole_number(value: object) -> None:
    (fault,) = faults({"name": "a", "seed": value})
    assert fault == f"seed: must be a whole number, found {json.dumps(value)}"


def test_a_key_that_is_near_none_is_answered_with_those_there_are() -> None:
    names = ", ".join(field.name for field in fields(Recipe))
    assert faults({"name": "a", "zzz": 1}) == [f"zzz: there is no such key; there are {names}"]


def test_all_faults_come_at_once() -> None:
    assert faults(
        {
            "sed": 1,
            "stage": {
                "temprature": 1.0,
                "temperature": -1.0,
                "layers": [0, "x"],
                "decoding": {"beams": "many"},
            },
        }
    ) == [
        "sed: there is no such key; the nearest is seed",
        "name: must be given (a string), found nothing",
        "stage.temprature: there is no such key; the nearest is stage.temperature",
        'stage.decoding.beams: must be a whole number, found "many"',
        'stage.layers[1]: must be a whole number, found "x"',
    ]


def test_what_a_dataclass_refuses_itself_is_a_fault_of_its_section() -> None:
    assert faults({"name": "a", "seed": "x", "stage": {"temperature": 0}}) == [
        "stage: temperature must be above 0, found 0.0",
        'seed: must be a whole number, found "x"',
    ]


def test_a_value_where_a_section_belongs_is_a_fault() -> None:
    assert faults({"name": "a", "stage": 3}) == ["stage: must be a table, found 3"]


def test_a_field_that_no_setting_can_have_is_our_mistake() -> None:
    @dataclass(frozen=True)
    class Odd:
        values: set[int]

    with pytest.raises(TypeError, match="cannot be of type"):
        build_settings(Odd, {"values": [1]}, where="odd")


@given(
    name=st.text(st.characters(exclude_categories=["Cs"])),
    temperature=st.floats(min_value=1e-300, allow_nan=False, allow_infinity=False),
    layers=st.none() | st.lists(st.integers()).map(tuple),
    beams=st.integers(),
    names=st.lists(st.text(st.characters(max_codepoint=200))),
)
def test_written_settings_read_back_as_their_equal(
    name: str, temperature: float, layers: Any, beams: int, names: list[str]
) -> None:
    recipe = Recipe(
        name,
        Stage(
            decoding=Decoding(beams=beams),
            temperature=temperature,
            layers=layers,
            names=names,
            cache=Path("/data/a b"),
        ),
    )
    written = settings_to_toml(recipe)
    assert build_settings(Recipe, tomllib.loads(written), where="written") == recipe
    assert settings_to_toml(recipe) == written


def test_written_settings_are_for_people_too() -> None:
    assert settings_to_toml(Recipe('a "b"\\')) == (
        'name = "a \\"b\\"\\\\"\n'
        "seed = 0\n"
        "\n"
        "[stage]\n"
        "temperature = 1.0\n"
        'dtype = "auto"\n'
        "span = [0.0, 1.0]\n"
        "names = []\n"
        "limit = 3\n"
        "\n"
        "[stage.decoding]\n"
        "timestamps = false\n"
        "beams = 1\n"
    )


@dataclass(frozen=True)
class ManySets:
    sets: tuple[Decoding, ...] = ()


def test_a_list_of_sections_reads_back() -> None:
    sets = ManySets((Decoding(), Decoding(timestamps=False, beams=3)))
    assert build_settings(ManySets, tomllib.loads(settings_to_toml(sets)), where="written") == sets


def test_overrides_take_the_place_of_what_the_recipe_says(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('name = "a"\n[stage]\ntemperature = 2.0\n')
    recipe = read_recipe(
        path,
        Recipe,
        [
            "stage.temperature=3",
            "stage.decoding.beams = 4",
            "stage.cache=/data/x#1",
            "stage.layers=[0, 5]",
            "stage.dtype=bfloat16",
            "name='7'",
        ],
    )
    assert recipe == Recipe(
        "7",
        Stage(
            decoding=Decoding(timestamps=False, beams=4),
            temperature=3.0,
            cache=Path("/data/x#1"),
            layers=(0, 5),
            dtype="bfloat16",
        ),
    )


@pytest.mark.parametrize("override", ["stage.temperature", "=3", "stage..beams=3"])
def test_an_override_that_sets_nothing_is_refused(tmp_path: Path, override: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('name = "a"\n')
    with pytest.raises(SettingsError, match=r"must be section\.key=value"):
        read_recipe(path, Recipe, [override])


def test_an_override_below_a_value_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('name = "a"\n')
    with pytest.raises(SettingsError, match=r'name is the value "a"'):
        read_recipe(path, Recipe, ["name.first=b"])


def test_a_recipe_may_begin_with_the_mark_of_windows(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('name = "a"\n', "utf-8-sig")
    assert read_recipe(path, Recipe) == Recipe("a")


@pytest.mark.parametrize("content", [b"name = ", b"name = '\xff'", None])
def test_a_recipe_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"recipe\.toml must be a recipe in TOML, found"):
        read_recipe(path, Recipe)


# Stages


SETTINGS = {"decoding": {"beams": 1, "task": "transcribe"}, "shard_size": 4}
INPUTS = {"manifest": hashlib.sha256(b"1").hexdigest()}


def test_a_stage_goes_on_where_nothing_has_changed(tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    settings = {**asdict(Stage(cache=Path("/x"), layers=(1, 2))), "more": None}
    open_stage(folder, settings=settings, inputs=INPUTS, force=False)
    before = (folder / "stage.json").read_bytes()
    (folder / "shard-00000.jsonl").write_text("{}\n")
    for force in (False, True):
        open_stage(folder, settings=settings, inputs=INPUTS, force=force)
    assert (folder / "stage.json").read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["shard-00000.jsonl", "stage.json"]


def test_changed_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    open_stage(tmp_path, settings=SETTINGS, inputs=INPUTS, force=False)
    changed = {"decoding": {"beams": 5, "task": "transcribe", "language": "en"}}
    other = {"manifest": hashlib.sha256(b"2").hexdigest()}
    with pytest.raises(StageChanged) as caught:
        open_stage(tmp_path, settings=changed, inputs=other, force=False)
    lines = str(caught.value).splitlines()
    assert lines[1:-1] == [
        "  decoding.beams: was 1, now 5",
        "  shard_size: was 4, now absent",
        '  decoding.language: was absent, now "en"',
        "  input manifest: was 6b86b273ff34..., now d4735e3a265e...",
    ]
    assert str(tmp_path) in lines[0]
    assert "--force" in lines[-1]


def test_force_empties_a_changed_stage_and_nothing_beyond_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    folder = tmp_path / "labels"
    open_stage(folder, settings=SETTINGS, inputs=INPUTS, force=False)
    (folder / "step_1").mkdir()
    (folder / "step_1" / "weights").touch()
    (folder / "shard-00000.jsonl").touch()
    (folder / "link").symlink_to(outside)
    open_stage(folder, settings={}, inputs=INPUTS, force=True)
    assert [p.name for p in folder.iterdir()] == ["stage.json"]
    assert (outside / "precious").exists()
    open_stage(folder, settings={}, inputs=INPUTS, force=False)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".bashrc", "alias"),
        ("thesis.tex", "text"),
        ("stage.json", '{"settings": {}, "inputs": {}}'),
        ("stage.json", '{"made_by": "distilwhisper 0.1.0", "settings": {}, "inp'),
        ("stage.json", "[]"),
    ],
)
def test_a_folder_that_is_not_ours_is_never_opened(
    tmp_path: Path, name: str, content: str, force: bool
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadRunFolder, match=str(tmp_path)):
        open_stage(tmp_path, settings=SETTINGS, inputs=INPUTS, force=force)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == content


def test_force_does_not_empty_a_folder_that_another_process_works_in(tmp_path: Path) -> None:
    open_stage(tmp_path, settings=SETTINGS, inputs=INPUTS, force=False)
    (tmp_path / "shard-00000.jsonl").touch()
    with LockHolder(tmp_path), pytest.raises(FolderInUse):
        open_stage(tmp_path, settings={}, inputs=INPUTS, force=True)
    assert (tmp_path / "shard-00000.jsonl").exists()


# Locks


class LockHolder:
    """Another process that holds a folder's lock."""

    CODE = (
        "import sys; from pathlib import Path\n"
        "from distilwhisper.run.locks import Part, lock_folder\n"
        "with lock_folder(Path(sys.argv[1]), *map(Part.parse, sys.argv[2:])):\n"
        "    print('locked', flush=True); sys.stdin.read()\n"
    )

    def __init__(self, folder: Path, *part: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, str(folder), *part],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> "LockHolder":
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"locked\n"
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def test_a_second_process_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    with LockHolder(tmp_path) as holder:
        found = rf"locked by process {holder.process.pid} on "
        with pytest.raises(FolderInUse, match=found), lock_folder(tmp_path):
            pass
    with lock_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    with LockHolder(tmp_path) as holder:
        holder.process.send_signal(signal.SIGKILL)
        holder.process.wait()
        with lock_folder(tmp_path):
            assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_parts_of_a_folder_are_locked_side_by_side(tmp_path: Path) -> None:
    with LockHolder(tmp_path, "1/3") as holder:
        with lock_folder(tmp_path, Part(2, 3)):
            open_stage(tmp_path, settings=SETTINGS, inputs=INPUTS, force=False)
        found = rf"part 1/3 of {tmp_path} .* locked by process {holder.process.pid} on "
        with pytest.raises(FolderInUse, match=found), lock_folder(tmp_path, Part(1, 3)):
            pass
        with pytest.raises(FolderInUse, match="one process"), lock_folder(tmp_path):
            pass
    with lock_folder(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"stage.json"}


def test_a_part_is_refused_while_the_whole_folder_is_in_use(tmp_path: Path) -> None:
    with LockHolder(tmp_path), pytest.raises(FolderInUse), lock_folder(tmp_path, Part(0, 2)):
        pass


def test_what_killed_parts_leave_is_no_stranger(tmp_path: Path) -> None:
    with LockHolder(tmp_path, "0/2") as holder:
        holder.process.kill()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", ".lock-0-of-2"}
    with lock_folder(tmp_path, Part(0, 2)):
        open_stage(tmp_path, settings=SETTINGS, inputs=INPUTS, force=False)


def test_many_parts_that_open_a_folder_at_once_agree(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from distilwhisper.run.locks import Part, lock_folder\n"
        "from distilwhisper.run.stages import open_stage\n"
        "sys.stdin.read()\n"
        "folder, part = Path(sys.argv[1]), Part.parse(sys.argv[2])\n"
        "with lock_folder(folder, part):\n"
        "    open_stage(folder, settings={}, inputs={}, force=False)\n"
        "    (folder / f'shard-{part.index}').touch()\n"
    )
    n = 6
    parts = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), f"{i}/{n}"], stdin=subprocess.PIPE
        )
        for i in range(n)
    ]
    for part in parts:
        assert part.stdin is not None
        part.stdin.close()
    assert [part.wait() for part in parts] == [0] * n
    with lock_folder(tmp_path):
        pass
    assert {p.name for p in tmp_path.iterdir()} == {"stage.json", *(f"shard-{i}" for i in range(n))}


def test_a_part_is_every_nth_shard() -> None:
    parts = [Part.parse(f"{i}/3") for i in range(3)]
    assert [[n for n in range(8) if part.holds(n)] for part in parts] == [
        [0, 3, 6],
        [1, 4, 7],
        [2, 5],
    ]


@pytest.mark.parametrize(("text", "found"), [("3", '"3"'), ("3/3", "3/3"), ("-1/3", '"-1/3"')])
def test_a_part_that_there_is_not_is_refused(text: str, found: str) -> None:
    with pytest.raises(ValueError, match=f"found {found}"):
        Part.parse(text)


def test_a_process_may_lock_again_what_it_has_locked(tmp_path: Path) -> None:
    with lock_folder(tmp_path):
        with lock_folder(tmp_path / "." / ""):
            pass
        assert (tmp_path / ".lock").exists()


# Records


def test_every_start_of_a_run_is_recorded(tmp_path: Path) -> None:
    write_run_record(tmp_path / "run", seed=1, command=["distilwhisper", "run", "a b.toml"])
    write_run_record(tmp_path / "run", seed=1, command=["again"])
    first, second = json.loads((tmp_path / "run" / "run.json").read_text())["invocations"]
    assert (first["command"], first["seed"]) == (["distilwhisper", "run", "a b.toml"], 1)
    assert second["command"] == ["again"]
    assert {"torch", "numpy", "tokenizers"} <= first["packages"].keys()
    assert first["n_cores"] >= 1
    assert first["time_utc"].endswith("+00:00")


@pytest.mark.parametrize("content", ['{"invoc', "[]", "{}"])
def test_a_broken_run_record_is_not_written_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(BadRunFolder, match="move it away"):
        write_run_record(tmp_path, seed=1, command=[])
    assert (tmp_path / "run.json").read_text() == content


def test_the_revision_is_that_of_a_repository_that_tracks_the_package(tmp_path: Path) -> None:
    package = tmp_path / "src" / "package"
    installed = tmp_path / ".venv" / "package"
    for folder in (package, installed):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert _git(package) is None
    subprocess.run([*git, "add", "src"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "a"], check=True)
    clean = _git(package)
    assert clean is not None
    assert (len(clean["revision"]), clean["dirty"]) == (40, False)
    (package / "__init__.py").write_text("changed = True")
    assert _git(package) == {**clean, "dirty": True}
    assert _git(installed) is None


def test_a_fingerprint_is_of_content_and_names_but_not_of_hidden_files(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x" * 3_000_000)
    assert fingerprint(file) == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_text("1")
    seen = {fingerprint(tmp_path)}
    (tmp_path / ".lock").touch()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "c").touch()
    assert fingerprint(tmp_path) in seen
    for change in (
        lambda: (tmp_path / "sub" / "b").write_text("2"),
        lambda: (tmp_path / "sub" / "b").rename(tmp_path / "sub" / "c"),
        lambda: (tmp_path / "sub" / "c").rename(tmp_path / "c"),
    ):
        change()
        assert fingerprint(tmp_path) not in seen
        seen.add(fingerprint(tmp_path))


# Metrics


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_log_survives_a_kill_at_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    log = MetricsLog(path)
    log.append({"step": 1, "loss": 2.5})
    log.append({"step": 2, "loss": 1.5, "note": "größer"})
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(first, len(whole)):
        path.write_bytes(whole[:size])
        MetricsLog(path).append({"step": 2, "loss": 1.0})
        assert rows(path) == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1.0}]
    path.write_bytes(whole[:first] + b"\0" * 40 + b"\n")
    MetricsLog(path)
    assert path.read_bytes() == whole[:first]


def test_a_resumed_run_writes_the_later_rows_again(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (10, 20, 20, 30):
        log.append({"step": step})
    log.truncate_after(20)
    assert rows(log.path) == [{"step": 10}, {"step": 20}, {"step": 20}]
    log.append({"step": 21})
    log.truncate_after(0)
    assert rows(log.path) == []


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"step": 1, "a": math.nan, "b": -math.inf, "c": 0.5})
    assert rows(log.path) == [{"step": 1, "a": None, "b": None, "c": 0.5}]


@pytest.mark.parametrize("row", [{"loss": 1.0}, {"step": 1.0}, {"step": True}])
def test_a_row_without_its_step_is_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="whole number as its step"):
        log.append(row)
    assert rows(log.path) == []


def test_a_log_that_is_broken_inside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(BadRunFolder, match=r"metrics\.jsonl:2 must be"):
        MetricsLog(path)


def test_no_torch_comes_with_the_rooms_that_need_none() -> None:
    code = (
        "import sys, distilwhisper.stages.filter, distilwhisper.run.stages\n"
        "import distilwhisper.corpus.importing.importer, distilwhisper.corpus.splitting\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# A process may write files of 200 bytes at most: to it, any larger file meets a full disk.
FULL_DISK = """
import resource, sys
from pathlib import Path
from distilwhisper.files import StoreError
from distilwhisper.run.record import write_run_record
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
try:
    write_run_record(Path(sys.argv[1]), seed=0, command=["x"])
except StoreError as error:
    print(error)
"""


def test_a_full_disk_is_told_with_its_path_and_the_way_out(tmp_path: Path) -> None:
    write_run_record(tmp_path, seed=0, command=["before"])
    before = (tmp_path / "run.json").read_bytes()
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"{tmp_path / 'run.json'} could not be written: File too large.")
    assert "free space" in said
    assert (tmp_path / "run.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
