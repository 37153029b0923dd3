"""`ip2p`: every stage from the shell, and one line for every mistake."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ip2p_lib import cli, images
from ip2p_lib.cli import face
from ip2p_lib.cli.triplets import _rules
from ip2p_lib.presets import FULL, MINIATURE
from ip2p_lib.records import read_triplets
from ip2p_lib.unet import save_pipeline

ROOT = Path(__file__).resolve().parent.parent
STAGES = {
    "scenes", "triplets", "merge-triplets", "check-triplets", "tune-writer", "pairs", "filter", "train", "edit", "course",
    "miniature", "quality",
}  # fmt: skip
HEAVY = {"torch", "diffusers", "transformers", "open_clip", "numpy", "PIL"}


def ip2p(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def process(*arguments, **variables):
    """The real thing in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "ip2p_lib.cli", *map(str, arguments)],
        cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def models(base, editor, tmp_path_factory):
    """The tiny models as folders."""
    folder = tmp_path_factory.mktemp("models")
    save_pipeline(base, folder / "base")
    save_pipeline(editor, folder / "editor")
    return folder


@pytest.fixture
def place(tmp_path, models, picture):
    """A folder with one of everything that a command may be given."""
    picture.save(tmp_path / "picture.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "broken.jsonl").write_text('{"input": "a", "edit": "b", "output": "c"}\n{"input":\n')
    (tmp_path / "good.jsonl").write_text(
        '{"input": "a cat", "edit": "make it night", "output": "a cat at night"}\n'
    )
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "keep").touch()
    (tmp_path / "base").symlink_to(models / "base")
    (tmp_path / "editor").symlink_to(models / "editor")
    return tmp_path


EDIT = (
    "edit",
    "{}/picture.png",
    "make it night",
    "--model",
    "{}/editor",
    "--steps",
    "2",
    "--out",
    "{}/out/e.png",
)
REFUSED = [
    (("scenes", "--out", "{}/text.png/below"), "output folder must be writable"),
    (("scenes", "--out", "{}/text.png"), "output folder must be writable"),
    (("scenes", "--out", "{}/out", "--count", "0"), "count must be at least 1, got 0"),
    (("scenes", "--out", "{}/out", "--size", "50"), "multiple of 32"),
    (("triplets", "--out", "{}/text.png/below/t.jsonl"), "output folder must be writable"),
    (("triplets", "--out", "{}/empty"), "empty"),
    (("triplets", "--out", "{}/out/t.jsonl", "--count", "-3"), "count must be at least 1, got -3"),
    (("triplets", "--out", "{}/out/t.jsonl", "--held-out"), "--held-out goes with --writer grammar"),
    (("triplets", "--out", "{}/out/t.jsonl", "--writer", "grammar", "--shard", "0/2"), "takes no --captions"),
    (("triplets", "--out", "{}/out/t.jsonl", "--shard", "3/2"), "--shard must be index/count"),
    (("triplets", "--out", "{}/out/t.jsonl", "--temperature", "-1"), "temperature must be at least 0, got -1"),
    (("triplets", "--out", "{}/out/t.jsonl", "--attempts", "0"), "attempts must be at least 1, got 0"),
    (("triplets", "--out", "{}/out/t.jsonl", "--captions", "{}/none.csv"), "found none at"),
    (("triplets", "--out", "{}/out/t.jsonl", "--captions", "{}/picture.png"), "captions must be one of .jsonl"),
    (("triplets", "--out", "{}/out/t.jsonl", "--writer", "{}/none"), "neither a folder here"),
    (("triplets", "--out", "{}/out/t.jsonl", "--server", "http://127.0.0.1:9/v1", "--endpoint", "x"), "endpoint must"),
    (("merge-triplets", "{}/none.jsonl", "--out", "{}/out/t.jsonl"), "triplets must be a JSONL file, found none"),
    (("check-triplets", "{}/none.jsonl"), "triplets must be a JSONL file, found none"),
    (("tune-writer", "--out", "{}/out", "--steps", "0"), "TuneConfig.steps must be at least 1, got 0"),
    (("tune-writer", "--out", "{}/out", "--triplets", "{}/none.jsonl"), "triplets must be a JSONL file, found none"),
    (("tune-writer", "--out", "{}/out", "--model", "{}/none"), "neither a folder here"),
    (("pairs", "--triplets", "{}/none.jsonl", "--out", "{}/out"), "triplets must be a JSONL file, found none"),
    (("pairs", "--triplets", "{}/broken.jsonl", "--out", "{}/out"), "broken.jsonl line 2"),
    (("pairs", "--triplets", "{}/good.jsonl", "--out", "{}/out", "--preset", "huge"), "preset must be one of"),
    (("pairs", "--triplets", "{}/good.jsonl", "--out", "{}/out", "--candidates", "0"), "candidates_per_triplet"),
    (("pairs", "--triplets", "{}/good.jsonl", "--out", "{}/out", "--steps", "0"), "num_inference_steps"),
    (("pairs", "--triplets", "{}/good.jsonl", "--out", "{}/out", "--model", "{}/editor"), "is it an editor?"),
    (("pairs", "--triplets", "{}/good.jsonl", "--out", "{}/out", "--model", "{}/none"), "neither a folder here"),
    (("pairs", "--triplets", "{}/good.jsonl", "--out", "{}/out", "--model", "{}/empty"), "has no text_encoder/"),
    (("pairs", "--triplets", "{}/good.jsonl", "--out", "{}/text.png/x", "--model", "{}/base"), "must be writable"),
    (("pairs", "--triplets", "{}/good.jsonl", "--out", "{}/out", "--min-shift", "0.1"), "go with --stop-after-hits"),
    (("filter", "--candidates", "{}/empty", "--out", "{}/out", "--min-image", "2"), "min_image is a cosine"),
    (("filter", "--candidates", "{}/empty", "--out", "{}/out", "--keep", "0"), "max_per_triplet"),
    (("filter", "--candidates", "{}/empty", "--out", "{}/out"), "must hold candidates-*.parquet"),
    (("train", "--data", "{}/empty", "--out", "{}/out", "--model", "{}/base"), "must hold Parquet files"),
    (("train", "--data", "{}/empty", "--out", "{}/out", "--model", "{}/base", "--steps", "0"), "steps must be"),
    (("train", "--data", "{}/empty", "--out", "{}/out", "--model", "{}/base", "--batch-size", "0"), "batch_size"),
    (("edit", "{}/none.png", "make it night", "--out", "{}/out/e.png"), "must be a picture file, found none"),
    (("edit", "{}/text.png", "make it night", "--out", "{}/out/e.png"), "must be a picture that Pillow can read"),
    ((*EDIT, "--preset", "huge"), "preset must be one of miniature, full"),
    ((*EDIT, "--guidance-scale", "-1"), "guidance_scale must lie in 0..100, got -1"),
    ((*EDIT, "-i", "nan"), "image_guidance_scale must lie in 0..100, got nan"),
    ((*EDIT, "--steps", "0"), "num_inference_steps must lie in 1..1000, got 0"),
    ((*EDIT, "--model", "{}/base"), "is it a text-to-image model?"),
    ((*EDIT, "--out", "{}/text.png/below/e.png"), "output folder must be writable"),
    ((*EDIT, "--out", "{}/e.jpg"), "must end in .png"),
    (("edit", "{}/picture.png", "", "--model", "{}/editor", "--out", "{}/out/e.png"), "must contain words"),
    (("edit", "{}/picture.png", "bzwqk xkcdvf", "--model", "{}/editor", "--out", "{}/out/e.png"), "unknown here"),
    (("miniature", "--only", "nonsense", "--work", "{}/out", "--out", "{}/out"), "stage must be one of vae"),
    (("quality", "--only", "nonsense", "--out", "{}/out"), "measure must be one of"),
]  # fmt: skip


def test_a_filter_tells_of_shards_that_are_not_there(place):
    clip = shutil.copytree(MINIATURE.clip, place / "my-clip")
    two = place / "two.jsonl"
    two.write_text(
        "".join(
            f'{{"id": "{i}", "input": "a cat", "edit": "make it night", "output": "a cat at night"}}\n'
            for i in "ab"
        )
    )
    made = (
        "pairs",
        "--triplets",
        two,
        "--out",
        place / "c",
        "--model",
        place / "base",
        "--steps",
        2,
        "--candidates",
        1,
    )
    assert ip2p(*made, "--triplets-per-shard", 1).exit_code == 0
    (place / "c" / "candidates-00000.parquet").unlink()
    lax = ("--min-text", -1, "--min-direction", -1, "--min-image", -1)
    found = ip2p("filter", "--candidates", place / "c", "--out", place / "kept", "--clip", clip, *lax)
    assert found.exit_code == 0, found.output
    assert "1 of 2 shards are not there, the first candidates-00000.parquet" in found.stdout
    assert "kept 1 of 1 candidates" in found.stdout


def test_scenes_are_not_drawn_over_others(tmp_path):
    draw = ("scenes", "--out", tmp_path / "drawn", "--count", 2)
    assert ip2p(*draw).exit_code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "drawn").iterdir()}
    again = ip2p(*draw, "--seed", 1)
    assert again.exit_code == 1
    assert "must be a new or empty folder" in again.stderr
    assert {p: p.read_bytes() for p in (tmp_path / "drawn").iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"), REFUSED, ids=[" ".join(a).replace("{}/", "") for a, _ in REFUSED]
)
def test_a_mistake_gets_one_line_and_leaves_nothing_behind(place, arguments, message):
    before = {p: p.stat().st_mtime_ns for p in place.rglob("*") if p.is_file()}
    result = ip2p(*(a.replace("{}", str(place)) for a in arguments))
    assert result.exit_code == 1, result.exception
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert result.stdout == ""
    assert {p: p.stat().st_mtime_ns for p in place.rglob("*") if p.is_file()} == before


def test_a_mistake_gets_one_line_in_a_real_process_too(place):
    for arguments in (REFUSED[0][0], (*EDIT[:2], "", *EDIT[3:])):
        done = process(*(a.replace("{}", str(place)) for a in arguments))
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("scenes",), ("scenes", "--out", "x", "--seed", "many"), ("paint",)])
def test_a_misspelt_command_is_a_usage_error(arguments):
    result = ip2p(*arguments)
    assert result.exit_code == 2
    assert "Usage" in result.stderr
    assert not Path("x").exists()


def test_help_lists_every_stage_and_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['ip2p', '--help']\n"
        "import ip2p_lib.cli\n"
        "try: ip2p_lib.cli.main()\n"
        "except SystemExit as end: code = end.code\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    *shown, last = done.stdout.strip().splitlines()
    assert last == "[] 0"
    listed = {word for line in shown for word in line.replace("│", " ").split()[:1]}
    assert listed >= STAGES


def test_every_stage_explains_itself():
    for stage in STAGES:
        result = ip2p(stage, "--help")
        assert result.exit_code == 0
        assert f"{stage} [OPTIONS]" in result.stdout


def test_an_interrupt_says_how_to_go_on_and_a_defect_is_not_hidden(capsys):
    @face.one_line_errors
    def interrupted():
        raise KeyboardInterrupt

    @face.one_line_errors
    def defective():
        raise KeyError("a defect of ours")

    with pytest.raises(face.typer.Exit) as end:
        interrupted()
    assert end.value.exit_code == 130
    assert capsys.readouterr().err == "stopped; run the same command again to continue\n"
    with pytest.raises(KeyError, match="a defect of ours"):
        defective()


def test_scenes_are_drawn_with_their_captions(tmp_path):
    assert ip2p("scenes", "--out", tmp_path, "--count", 3, "--seed", 4, "--size", 96).exit_code == 0
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert [images.open_picture(tmp_path / line["file_name"]).size for line in lines] == [(96, 96)] * 3
    assert all(line["text"] for line in lines)
    assert len(list(tmp_path.iterdir())) == 4


def test_triplets_are_written_and_held_out_ones_differ(tmp_path):
    for name, extra in (("plain", ()), ("held", ("--held-out",))):
        out = tmp_path / "new" / f"{name}.jsonl"
        result = ip2p("triplets", "--writer", "grammar", "--out", out, "--count", 5, *extra)
        assert result.stdout.startswith("5 triplets in ")
    plain, held_out = (list(read_triplets(tmp_path / "new" / f"{n}.jsonl")) for n in ("plain", "held"))
    assert [t.input for t in plain] == [t.input for t in held_out]
    assert not {t.edit for t in plain} & {t.edit for t in held_out}


def test_an_edit_carries_its_recipe_and_can_be_repeated(place):
    arguments = [a.replace("{}", str(place)) for a in EDIT]
    assert ip2p(*arguments, "-t", 3, "-i", "1.2", "--seed", 5).exit_code == 0
    first = (place / "out" / "e.png").read_bytes()
    recipe = images.read_recipe(place / "out" / "e.png")
    assert ip2p(*arguments, "-t", 3, "-i", "1.2", "--seed", 5).exit_code == 0
    assert (place / "out" / "e.png").read_bytes() == first
    assert (recipe["instruction"], recipe["guidance_scale"], recipe["seed"]) == ("make it night", 3, 5)
    assert (recipe["image_guidance_scale"], recipe["num_inference_steps"]) == (1.2, 2)
    assert ip2p(*arguments, "--seed", 6).exit_code == 0
    assert not np.array_equal(images.from_bytes(first), images.open_picture(place / "out" / "e.png"))


def test_the_stages_follow_each_other_and_a_second_run_continues(place):
    """Triplets, pairs, filter, train, edit, with the tiny models and a copy of the shipped CLIP."""
    clip = shutil.copytree(MINIATURE.clip, place / "my-clip", dirs_exist_ok=True)
    lax = ("--min-text", -1, "--min-direction", -1, "--min-image", -1)
    commands = [
        ("triplets", "--out", place / "t.jsonl", "--count", 2),
        ("merge-triplets", place / "t.jsonl", "--out", place / "m.jsonl"),
        ("pairs", "--triplets", place / "m.jsonl", "--out", place / "candidates", "--model", place / "base",
         "--steps", 2, "--candidates", 1),
        ("filter", "--candidates", place / "candidates", "--out", place / "kept", "--clip", clip, *lax),
        ("train", "--data", place / "kept", "--out", place / "run", "--model", place / "base", "--steps", 2,
         "--batch-size", 2),
        ("edit", place / "picture.png", "make it night", "--model", place / "run" / "editor", "--steps", 2,
         "--out", place / "e.png"),
    ]  # fmt: skip
    said = []
    for _ in range(2):
        for command in commands:
            result = ip2p(*command)
            assert result.exit_code == 0, (command, result.stderr, result.exception)
            said.append(result.stdout)
        made = {
            p: p.read_bytes() for p in place.rglob("*") if p.suffix in (".parquet", ".safetensors", ".png")
        }
    assert said[:6] == said[6:]
    assert (place / "t.jsonl").read_bytes() == (place / "m.jsonl").read_bytes()
    assert "kept 2 of 2 candidates" in said[3]
    assert images.read_recipe(place / "e.png")["model"] == "editor"
    assert len(made) > 6


def test_a_stopped_run_gives_the_editor_of_its_last_checkpoint_and_a_card_of_all_its_parts(
    place, pair_folder
):
    train = ("train", "--data", pair_folder, "--model", place / "base", "--batch-size", 1, "--decay-steps", 0,
             "--checkpoint-every", 1, "--sheet-every", 0)  # fmt: skip
    assert ip2p(*train, "--out", place / "short", "--steps", 1).exit_code == 0
    stopped = place / "stopped"
    assert ip2p(*train, "--out", stopped, "--steps", 1).exit_code == 0
    shutil.rmtree(stopped / "editor")
    assert ip2p(*train, "--out", stopped, "--steps", 3, "--save-only").exit_code == 0
    weights = "editor/unet/diffusion_pytorch_model.safetensors"
    assert (stopped / weights).read_bytes() == (place / "short" / weights).read_bytes()
    for _ in range(2):  # the second finds nothing left to do
        assert ip2p(*train, "--out", stopped, "--steps", 3).exit_code == 0
        card = (stopped / "editor" / "README.md").read_text("utf-8")
        assert "around step 1, " in card
        assert "around step 3." in card
        assert "nan" not in card
    result = ip2p(*train, "--out", place / "none", "--save-only")
    assert "must hold a checkpoint, but has none; train first" in result.stderr


def test_training_again_with_other_settings_is_refused(place, pair_folder):
    train = (
        "train",
        "--data",
        pair_folder,
        "--out",
        place / "run",
        "--model",
        place / "base",
        "--batch-size",
        1,
    )
    assert ip2p(*train, "--steps", 1).exit_code == 0
    result = ip2p(*train, "--steps", 1, "--seed", 3)
    assert result.exit_code == 1
    assert "another configuration" in result.stderr


def test_moderation_without_a_server_to_ask_is_refused(tmp_path):
    result = ip2p("triplets", "--out", tmp_path / "t.jsonl", "--moderation")
    assert result.exit_code == 1
    assert "--moderation asks a server's endpoint, so it goes with --server" in result.stderr


def test_worked_examples_come_from_all_over_the_file():
    every = list(read_triplets(Path(FULL.seed_triplets)))
    places = [every.index(t) for t in _rules(FULL.seed_triplets, FULL.examples).examples]
    assert len(places) == FULL.examples == 12
    assert places == sorted(set(places))
    assert places[-1] > 0.9 * len(every)
    assert _rules(FULL.seed_triplets, 0).examples == ()
    with pytest.raises(ValueError, match=rf"--examples must lie in 0\.\.{len(every)}, got 9999"):
        _rules(FULL.seed_triplets, 9999)


def test_processes_that_start_together_may_try_one_output_folder(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: face.writable(tmp_path), range(4_000))) == {tmp_path}
    assert list(tmp_path.iterdir()) == []
