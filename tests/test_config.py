"""config.py: defaults, config.yaml and the environment, in that order."""

import pytest

from config import CLONE, Config
from support.errors import UserError


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("HGRU_DATA_ROOT", raising=False)
    monkeypatch.delenv("HGRU_PROJECT_DIRECTORY", raising=False)


@pytest.fixture
def yaml_file(tmp_path):
    def write(text):
        file = tmp_path / "config.yaml"
        file.write_text(text)
        return file

    return write


def test_defaults_lie_inside_the_clone(tmp_path):
    config = Config(tmp_path / "none.yaml")
    assert config.data_root == CLONE / "data" and config.data_root_is_default
    assert config.project_directory == CLONE / "runs"
    assert config.log_dir == CLONE / "runs" / "logs"
    assert config["tf_records"] == CLONE / "runs" / "tf_records"
    assert "checkpoints" in config and "nonsense" not in config
    with pytest.raises(KeyError, match="nonsense"):
        config["nonsense"]


def test_yaml_then_environment(yaml_file, tmp_path, monkeypatch):
    file = yaml_file("data_root: /lab/stimuli\nproject_directory: elsewhere\n")
    config = Config(file)
    assert str(config.data_root) == "/lab/stimuli" and not config.data_root_is_default
    assert config.results == CLONE / "elsewhere" / "results"
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path))
    assert Config(file).results == tmp_path / "results"


def test_nothing_is_made_before_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path / "new"))
    Config()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("data_rot: /x\n", ["'data_rot'", "'data_root'"]),
        ("- a\n", ["data_root", "project_directory"]),
        ("false\n", ["data_root", "project_directory"]),
        ("data_root: 3\n", ["data_root", "a path", "3"]),
        ("data_root: [\n", ["YAML"]),
        ("data_root: a\ndata_root: b\n", ["data_root", "2 times"]),
        ("data_root: a\nproject_directory: c\n'data_root': b\n", ["data_root", "2 times"]),
        ("data_root: $NOBODYS_VARIABLE/x\n", ["NOBODYS_VARIABLE ", "data_root"]),
        ("data_root: x/${NOBODYS_VARIABLE}\n", ["NOBODYS_VARIABLE ", "data_root"]),
        ("data_root: ~nobody_of_that_name/x\n", ["~nobody_of_that_name/x", "data_root"]),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(yaml_file, text, parts):
    file = yaml_file(text)
    with pytest.raises(UserError) as error:
        Config(file)
    for part in parts:
        assert part in str(error.value)
    assert str(file) in str(error.value) or "nobody" in text.lower()


@pytest.mark.parametrize("text", ["", "# data_root: /x\n", "---\n", "null\n", "{}\n"])
def test_a_file_that_sets_nothing(yaml_file, text):
    config = Config(yaml_file(text))
    assert config.data_root_is_default and config.project_directory_is_default


def test_the_home_folder_and_variables_are_put_in(yaml_file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MY_SCRATCH", "/scratch/me")
    config = Config(yaml_file("data_root: ~/images\nproject_directory: $MY_SCRATCH/hgru\n"))
    assert (config.data_root, str(config.project_directory)) == (
        tmp_path / "images", "/scratch/me/hgru",
    )  # fmt: skip
    monkeypatch.setenv("HGRU_DATA_ROOT", "${MY_SCRATCH}2/$")
    assert str(Config().data_root) == "/scratch/me2/$"
    monkeypatch.setenv("MY_SCRATCH", "")
    with pytest.raises(UserError, match="MY_SCRATCH is not set"):
        Config()


def test_a_file_of_another_ending_is_not_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr("config.CLONE", tmp_path)
    (tmp_path / "config.yml").write_text("data_root: /x\n")
    with pytest.raises(UserError, match=f"{tmp_path}/config.yml .* config.yaml"):
        Config()


def test_a_file_that_is_no_text_and_a_folder_in_its_place_are_named(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for file in (tmp_path / "binary", tmp_path):
        with pytest.raises(UserError, match=str(file)):
            Config(file)


@pytest.mark.parametrize("variable", ["HGRU_DATA_ROOT", "HGRU_PROJECT_DIRECTORY"])
def test_a_loop_of_links_is_named(variable, tmp_path, monkeypatch):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    monkeypatch.setenv(variable, str(loop))
    with pytest.raises(UserError, match=str(loop)):
        Config()
