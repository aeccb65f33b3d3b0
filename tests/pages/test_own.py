"""The dialog "Use my own" without a browser: what it asks of the cluster, what it refuses, and what it shows in the end."""

import io
import zipfile
from pathlib import Path

import pytest

from core.store import blank_row
from tests.pages.test_explorer import asked_for, open_page

CARD = {
    "model": "squeezenet1_1", "dataset": "flowers", "classes": 3, "pictures": {"train": 100, "calibration": 10, "validation": 30, "test": 0},
    "validation": {"top1": 91.5, "top1_low": 85.0, "top1_high": 95.5, "images": 30}, "test": None, "unreadable": ["a/1.png"],
    "imported": {"notes": ["'module.' was taken off the names."], "unmatched": ["optimizer.lr"]},
}  # fmt: skip


@pytest.fixture
def page(notes):
    """The explorer with its dialog open."""
    return open_page().button(key="own").click().run()


def imports(notes) -> list:
    return [entry[1] for entry in notes.asked if entry[0] == "import"]


def give(page, uploader: str, name: str, data: bytes) -> None:
    page.file_uploader(key=uploader).upload(name, data)


def test_it_says_how_a_pth_file_is_converted_and_closes_nothing(page, notes):
    assert any("python -m core convert --weights FILE.pth" in caption.value for caption in page.caption)
    page.button(key="own-import").click().run()
    assert [error.value for error in page.error] == ["There is no checkpoint yet; it takes a safetensors file."] and not imports(notes)


def test_a_folder_and_a_checkpoint_are_given_to_the_cluster(page, notes, home, tmp_path):
    (tmp_path / "Flowers").mkdir()
    page.file_uploader(key="own-weights").upload("mine.safetensors", b"weights").run()
    page.selectbox(key="own-model").select("squeezenet1_1")
    page.text_input(key="own-folder").input(str(tmp_path / "Flowers"))
    page.text_area(key="own-classes").input("rose\ntulip")
    page.number_input(key="own-crop").set_value(64)
    page.text_input(key="own-mean").input("0.5")
    page.button(key="own-import").click().run()
    (asked,) = imports(notes)
    assert (asked.model, asked.data, asked.name, asked.classes) == ("squeezenet1_1", str(tmp_path / "Flowers"), "flowers", ("rose", "tulip"))
    assert asked.preparation.crop == asked.preparation.resize == 64 and asked.preparation.mean == (0.5, 0.5, 0.5) and asked.flip and not asked.skip_unreadable
    assert Path(asked.weights).read_bytes() == b"weights" and Path(asked.weights).parent == home / "uploads"
    assert page.button(key="own-cancel").click().run() and notes.asked[-1] == ("cancel", "an-import")


def test_a_zip_goes_by_its_own_name(page, notes):
    packed = io.BytesIO()
    zipfile.ZipFile(packed, "w").close()
    page.segmented_control(key="own-kind").select("A zip").run()
    page.file_uploader(key="own-weights").upload("mine.safetensors", b"weights").run()
    page.file_uploader(key="own-zip").upload("My Cats.zip", packed.getvalue()).run()
    page.button(key="own-import").click().run()
    assert imports(notes)[0].name == "my_cats" and Path(imports(notes)[0].data).suffix == ".zip"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("own-folder", "/nowhere", "There is no folder '/nowhere'; it takes a folder with one folder of pictures for each class, "),
        ("own-folder", "", "There are no pictures yet; "), ("own-mean", "a, b", "mean cannot be 'a, b'; "), ("own-name", "digits", "name cannot be 'digits'; "),
    ],
)  # fmt: skip
def test_what_cannot_be_is_the_same_sentence_as_on_the_command_line(page, notes, tmp_path, key, value, said):
    page.file_uploader(key="own-weights").upload("mine.safetensors", b"weights").run()
    page.text_input(key="own-folder").input(str(tmp_path))
    page.text_input(key=key).input(value).run()
    page.button(key="own-import").click().run()
    assert len(page.error) == 1 and page.error[0].value.startswith(said) and not imports(notes)


@pytest.fixture
def ended(page, notes, tmp_path):
    """An import that has ended so."""

    def end(**values):
        page.file_uploader(key="own-weights").upload("mine.safetensors", b"weights").run()
        page.text_input(key="own-folder").input(str(tmp_path)).run()
        page.button(key="own-import").click().run()
        notes.examining["an-import"] = blank_row("an-import", "import", model="squeezenet1_1", dataset="flowers", **values)
        return page.run()

    return end


def test_in_the_end_stands_the_accuracy_and_the_question(ended, notes):
    page = ended(state="COMPLETE", metrics=CARD)
    (figure,) = page.metric
    assert (figure.label, figure.value, figure.delta) == ("Top-1, validation, measured", "91.50 %", "95 %: 85.00 … 95.50, n = 30")
    assert any(text.value.startswith("Is this the figure you know?") for text in page.markdown)
    assert {"optimizer.lr", "a/1.png"} <= {block.value for block in page.code}
    page.button(key="own-again").click().run()
    assert page.button(key="own-import")


def test_a_failed_import_says_why(ended):
    page = ended(state="FAILED", message="The checkpoint does not fit squeezenet1_1: something.")
    assert [error.value for error in page.error] == ["The checkpoint does not fit squeezenet1_1: something."] and page.button(key="own-import")


def test_a_failed_import_lists_every_tensor_that_does_not_fit(ended):
    names = [f"missing: {number}.weight" for number in range(5)]
    page = ended(state="FAILED", message="The checkpoint does not fit squeezenet1_1: something.", metrics={"names": names})
    assert "All 5 of them" in [expander.label for expander in page.expander]
    assert [block.value for block in page.code] == ["\n".join(names)]


def test_the_imported_pair_is_shown_on_request(ended, notes, home):
    page = ended(state="COMPLETE", metrics=CARD | {"dataset": "digits"})
    page.button(key="own-use").click().run()
    assert asked_for(page, "model") == ["squeezenet1_1"] and asked_for(page, "data") == ["digits"]
    assert not [button for button in page.button if button.key == "own-use"]
