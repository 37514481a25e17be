"""``log.jsonl`` holds what docs/log.md says, and the example there sends it on."""

import json
import subprocess
import sys
import textwrap
from collections import defaultdict

from tests.conftest import TESTS
from training.command_line import COMPLETE

PAGE = (TESTS.parent / "docs" / "log.md").read_text(encoding="utf-8")
TRACKER = """
import json
def init(project):
    return Run()
class Run:
    def log(self, numbers, step):
        print(json.dumps([step, numbers]))
    def finish(self):
        print("[-1, {}]")
"""


def documented() -> dict[str, set[str]]:
    """Fields by event, from the page's table."""
    found: dict[str, set[str]] = defaultdict(set)
    for line in PAGE.splitlines():
        if line.startswith("| ") and "`" in line:
            events, fields = (cell.replace("`", "").split(",") for cell in line.split("|")[1:3])
            for event in events:
                found[event.strip()] |= {field.strip() for field in fields}
    return found


def test_events_and_the_example_of_the_page(script, project, tmp_path):
    assert script() == COMPLETE
    (log,) = project.glob("logs/*/log.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert {event["event"] for event in events} == {"train", "validation", "end"}
    known = documented()
    for event in events:
        own = known["all"] | known[event["event"]]
        only = {"memory_gib", "accuracy_at_9"}  # a GPU's, a curriculum's
        assert own - only <= set(event) <= own
    (tmp_path / "wandb.py").write_text(TRACKER)
    example = PAGE[PAGE.index("    import json, sys") :]
    sent = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(example)],
        cwd=tmp_path, input=log.read_text(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    sent = [json.loads(line) for line in sent.stdout.splitlines()]
    measured = [event for event in events if event["event"] != "end"]
    assert [step for step, _ in sent] == [event["step"] for event in measured] + [-1]
    last = max(number for number, event in enumerate(measured) if event["event"] == "train")
    assert sent[last][1]["train/loss"] == measured[last]["loss"]
    assert sent[-1] == [-1, {}]
