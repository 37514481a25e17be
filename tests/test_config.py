"""config.py: defaults, config.yaml and the environment, in that order."""

import pytest

from config import CLONE, Config


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
    "text, message",
    [
        ("data_rot: /x\n", "data_rot.*data_root.*project_directory"),
        ("- a\n", "key: value"),
        ("data_root: 3\n", "must be a path, found 3"),
        ("data_root: [\n", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(yaml_file, text, message):
    with pytest.raises(ValueError, match=message) as error:
        Config(yaml_file(text))
    assert "config.yaml" in str(error.value)
