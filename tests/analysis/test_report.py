"""The HTML page: whole in itself, its numbers those of a direct computation, fine in a browser."""

import base64
import contextlib
import html
import io
import json
import re
import shutil
import subprocess
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from analysis import comparison, report
from analysis.evaluate import evaluate, percent
from analysis.trained import load_run
from config import Config
from support.shell import exit_code
from tests.analysis.conftest import DATASET

VOID = {"meta", "link", "img", "br", "hr", "source", "input"}
CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome")
                 if (p := shutil.which(n))), None)  # fmt: skip
WIDTHS = (390, 1280)  # a phone, a desktop


class Page(HTMLParser):
    """Reads a page, checks that tags close, and keeps what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._caption = self._cell = None
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        assert len(found) == len(attributes), f"an attribute twice in <{tag}>"
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[k] for k in ("href", "src", "srcset", "action") if k in found]
        if tag == "img":
            self.images.append(found)
        elif tag == "caption":
            self._caption = ""
        elif tag == "tr":
            self._rows().append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()
        if tag == "caption":
            self.last, self._caption = self._caption, None
            assert self.last not in self.tables or "label" in self.last.lower()
            self.tables.setdefault(self.last, []).clear()
        elif tag in ("td", "th"):
            self._rows()[-1].append(self._cell)
            self._cell = None

    def handle_data(self, data):
        if self._caption is not None:
            self._caption += data
        elif self._cell is not None:
            self._cell += data

    def _rows(self):
        return self.tables[self.last]


@pytest.fixture(scope="module")
def written(project, tmp_path_factory):
    """A page about two runs, written by the command; the runs; what the command said."""
    path = tmp_path_factory.mktemp("report") / "page.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HGRU_PROJECT_DIRECTORY", str(project))
        config = Config()
        names = sorted(p.name for p in config.log_dir.iterdir() if "_seed0_" in p.name)
        wanted = [n for n in names if n.startswith(("tiny_hgru_", "tiny_ff_5"))][::-1]
        runs = [load_run(name, device="cpu", config=config) for name in wanted]
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = exit_code(
                report.main,
                [*wanted, "--dataset", DATASET, "--examples", DATASET, "--samples", "1",
                 "--device", "cpu", "--output", str(path)],
            )  # fmt: skip
        assert code == 0
    return path, runs, said.getvalue()


@pytest.fixture(scope="module")
def read(written):
    return Page(written[0].read_text(encoding="utf-8"))


def test_the_page_is_whole_in_itself(written, read):
    text = written[0].read_text(encoding="utf-8")
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert all(link.startswith(("data:", "#")) for link in read.links), read.links
    assert not re.search(r"https?://|url\(|@import|<script|<iframe", text)
    anchors = {link[1:] for link in read.links if link.startswith("#")}
    assert anchors <= set(read.ids) and len(read.ids) == len(set(read.ids))
    assert '<meta name="viewport" content="width=device-width' in text
    assert "prefers-color-scheme: dark" in text


def test_batches_are_those_of_each_run(written, read):
    assert "batches of 4, chosen" in written[0].read_text(encoding="utf-8")
    found = [SimpleNamespace(about={"batch_size": size}) for size in (32, 4, 32)]
    assert report._batches([(None, "a", one) for one in found]) == "32, 4"


def test_the_best_validation_is_that_of_the_best_weights(run, tmp_path):
    """Of equal metrics that of the lowest loss, as ``--weights best`` has it."""
    run.history.validation_metric[:] = [0.5, 0.9, 0.9, *run.history.validation_metric[3:]]
    run.history.validation_metric[3:] = [0.5] * len(run.history.validation_metric[3:])
    run.history.validation_loss[1:3] = [0.4, 0.3]
    made = report._curves([comparison.Member(run, "m", {})], tmp_path)
    (row,) = made["table"]
    assert row["best at (training images)"] == f"{run.history.validation_images[2]:,}"
    run.params["score_metric"] = "pearson"
    (row,) = report._curves([comparison.Member(run, "m", {})], tmp_path)["table"]
    assert row["best validation pearson"] == "0.9000" and "images to 90%" not in row


def test_every_image_opens_and_has_a_text_for_who_cannot_see_it(read):
    assert len(read.images) >= 12
    for image in read.images:
        kind, data = re.fullmatch(r"data:image/(png|gif);base64,(.+)", image["src"]).groups()
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            picture.load()
            assert picture.format.lower() == kind and picture.width > 500
        assert len(image["alt"]) > 20


def test_the_tables_numbers_are_those_of_a_direct_computation(written, read):
    _, runs, _ = written
    rows = read.tables["Accuracy, loss and area under the ROC curve"]
    header, body = rows[0], rows[1:]
    assert len(body) == 2
    members, _ = comparison.family(runs, [DATASET])
    for row, run in zip(body, runs, strict=True):
        found = dict(zip(header, row, strict=True))
        expected = evaluate(run, DATASET)
        assert found["accuracy (95%)"] == percent(expected.accuracy())
        assert found["loss (nats)"] == f"{expected.loss:.4f}"
        assert found["run"] == f"tiny_{run.model_name}, seed {run.seed}"
    compared = read.tables["Accuracy by model and set; images to 90% in validation"]
    expected = comparison.table(comparison.points(members))
    assert compared[1:] == [list(row.values()) for row in expected]
    paired = next(t for name, t in read.tables.items() if name.startswith("Paired tests"))
    tests = comparison.tests_table(comparison.paired_tests(members, "tiny_hgru"))
    assert paired[1:] == [[str(cell) for cell in row.values()] for row in tests]
    assert paired[1][0] == "tiny_ff_5 − tiny_hgru"
    validations = read.tables["Validations while training"]
    assert validations[1][1] == f"{runs[0].history.validation_metric[-1]:.4f}"


def test_settings_and_versions_are_there_and_changes_marked(written, read):
    text = written[0].read_text(encoding="utf-8")
    settings = next(t for name, t in read.tables.items() if name.startswith("Parameters"))
    rows = {row[0]: row[1] for row in settings[1:]}
    assert rows["epochs"] == "2" and rows["lr"] == "0.001" and rows["seed"] == "0"
    assert "hidden_init = identity" in rows["aux"]
    assert re.search(r'>batch_size</th><td class="[^"]*changed', text)
    assert not re.search(r'>lr</th><td class="[^"]*changed', text)
    versions = {row[0]: row[1] for row in read.tables["Code, machine and data of the training"][1:]}
    assert versions["commit"] == (written[1][0].commits or "–")
    assert versions["the network is given"] == "24×24"
    code = written[1][0].record["sessions"][0]["code"]["fingerprint"]
    assert f"layers {code['layers']}" in versions["code (fingerprints)"]


def test_text_is_escaped(run, tmp_path, monkeypatch):
    monkeypatch.setattr(report.figures, "draw", lambda *_, **__: {})  # other tests draw them
    path = tmp_path / "p.html"
    arguments = ["--dataset", DATASET, "--label", "<script>alert(1)</script> & more"]
    assert exit_code(report.main, [run.name, *arguments, "--output", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    assert "<script>" not in text and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text
    Page(text)


def test_runs_of_one_name_stay_apart(run, names, config, tmp_path, monkeypatch):
    """Other weights of a run, and a run of another project that began in the same second."""
    steps = sorted(run.files.checkpoints.glob("step_*.pt"))[-2:]
    other = load_run(names["hgru seed 1"], device="cpu", config=config)
    other.name = run.name
    drawn = []
    monkeypatch.setattr(
        report.figures, "draw", lambda _, __, folder, **___: drawn.append(folder) or {}
    )
    for runs in ([load_run(path, device="cpu", config=config) for path in steps], [run, other]):
        drawn.clear()
        monkeypatch.setattr(report, "load_runs", lambda _, runs=runs: runs)
        path = tmp_path / "p.html"
        arguments = ["--dataset", DATASET, "--label", "one", "other", "--output", str(path)]
        assert exit_code(report.main, [*map(str, steps), *arguments]) == 0
        assert len(set(drawn)) == 2
        page = Page(path.read_text(encoding="utf-8"))
        heads = [rows[0] for rows in page.tables.values() if rows[0][0] in ("parameter", "what")]
        assert len(heads) == 2 and all(len(set(head)) == 3 for head in heads)


def test_captions_tell_of_images_to_90_percent_only_where_these_are(
    names, config, tmp_path, monkeypatch
):
    runs = [load_run(names[key], device="cpu", config=config) for key in ("hgru", "hgru seed 1")]
    monkeypatch.setattr(report.figures, "draw", lambda *_, **__: {})
    monkeypatch.setattr(report, "load_runs", lambda _: runs)
    path = tmp_path / "p.html"
    for metric, told in (("accuracy", True), ("pearson", False)):
        for one in runs:
            one.params["score_metric"] = metric
        assert exit_code(report.main, ["RUNS", "--dataset", DATASET, "--output", str(path)]) == 0
        text = path.read_text(encoding="utf-8")
        for part in ("images to 90%", "reach 90%", "open triangles"):
            assert (part in text) == told


def test_the_command_names_its_page_and_wants_html(written, run, capsys):
    path, _, said = written
    assert str(path) in said and str(path.with_name("page_figures")) in said
    assert (path.with_name("page_figures") / run.name / "association.pdf").exists()
    assert exit_code(report.main, [run.name, "--output", "one.pdf"]) == 2
    assert "--output one.pdf: the page is an .html file" in capsys.readouterr().err


# A browser's window has a least width, a frame in it has none.
PROBE = """<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,">
<iframe id="page" src="page.html" style="width:%dpx;height:2000px;border:0"></iframe>
<pre id="found"></pre>
<script>
addEventListener('load', () => {
  const view = document.getElementById('page').contentWindow, page = view.document;
  page.querySelectorAll('details').forEach(d => d.open = true);
  document.getElementById('found').textContent = JSON.stringify({
    loaded: [...page.images].map(i => i.complete && i.naturalWidth > 0),
    width: view.innerWidth, content: page.documentElement.scrollWidth,
    body: page.body.scrollWidth,
    hidden: [...page.querySelectorAll('.scroll')].filter(
      s => s.scrollWidth > s.clientWidth + 1).map(s => s.getAttribute('aria-label'))});
});
</script>"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Says nothing."""


@pytest.fixture
def served(written, tmp_path):
    """The page's folder, and the address of a server of it on this machine."""
    shutil.copy(written[0], tmp_path / "page.html")
    handler = partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield tmp_path, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def in_browser(folder: Path, address: str, width: int) -> tuple[dict, str]:
    """What a browser makes of the page at this width, and what it logged."""
    (folder / "probe.html").write_text(PROBE % width)
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width + 100},2100", "--dump-dom", f"{address}/probe.html",
    ]  # fmt: skip
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="found">(.+?)</pre>', answer.stdout)
    assert found, answer.stderr[-2000:]
    return json.loads(html.unescape(found[1])), answer.stderr


@pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: install it to check the page in it"
)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_browser_shows_it_without_errors_or_sideways_scrolling(served, width):
    found, logged = in_browser(*served, width)
    assert len(found["loaded"]) >= 12 and all(found["loaded"])
    assert found["width"] == width
    if width == 1280:  # every column is in view
        assert "Accuracy, loss and area under the ROC curve" not in found["hidden"]
    assert found["content"] <= width and found["body"] <= width
    console = [line for line in logged.splitlines() if "CONSOLE" in line]
    assert console == []
