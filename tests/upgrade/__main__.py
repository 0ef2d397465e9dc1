"""`python -m tests.upgrade --from COMMIT`: state goes from that commit's code to this one's, and back.

Each of the two writes a state folder with a Redis file, and each reads both: what one wrote, the other must know as the
writer does. `--keep` leaves the folder that the commit wrote, with what it reads there, as the one for the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.upgrade.shapes import shapes

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PREVIOUS = HERE / "previous"
RESULTS = ROOT / "docs" / "results" / "upgrade.json"


def main(arguments: Sequence[str]) -> int:
    """Try it. Returns 0; 1 where one does not know what the other wrote."""
    parser = argparse.ArgumentParser(prog="python -m tests.upgrade", description=__doc__)
    parser.add_argument("--from", dest="commit", required=True, help="a commit of this clone")
    parser.add_argument("--store", action="store_true", help="write the result to docs/results/upgrade.json")
    parser.add_argument("--keep", action="store_true", help="keep what the commit wrote for the tests")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="zm-u-") as place, _checked_out(given.commit) as before:
        folders = {"before": Path(place) / "before", "now": Path(place) / "now"}
        for name, code in (("before", before), ("now", ROOT)):
            _run(code, "make_state.py", folders[name])
        reads = {f"{written} read by {reader}": json.loads(_run(code, "read_state.py", folder))
                 for written, folder in folders.items() for reader, code in (("before", before), ("now", ROOT))}
        if given.keep:
            shutil.rmtree(PREVIOUS, ignore_errors=True)
            shutil.copytree(folders["before"], PREVIOUS / "state")
            known = json.dumps(reads["before read by before"], indent=1, sort_keys=True)
            (PREVIOUS / "read.json").write_text(known + "\n")
        forms = {name: shapes(folder) for name, folder in folders.items()}
    there = changes(reads["before read by before"], reads["before read by now"])
    back = changes(reads["now read by now"], reads["now read by before"])
    changed = changes(forms["before"], forms["now"])
    found = {
        "from": given.commit, "on": f"{datetime.now(UTC):%Y-%m-%d}", "records": len(forms["now"]),
        "read_otherwise_there": there, "read_otherwise_back": back, "changed_forms": changed,
    }  # fmt: skip
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    if given.store:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    return int(bool(there or back))


@contextmanager
def _checked_out(commit: str) -> Iterator[Path]:
    """The files of a commit, as long as the `with` block lasts."""
    with tempfile.TemporaryDirectory(prefix="zm-c-") as place:
        packed = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", place], input=packed, check=True)
        yield Path(place)


def _run(code: Path, script: str, folder: Path) -> str:
    """Run a script of this package with the code of a commit."""
    done = subprocess.run([sys.executable, "-P", str(HERE / script), str(folder)], cwd=code, check=True,
                          env={**os.environ, "PYTHONPATH": str(code)}, stdout=subprocess.PIPE, text=True)  # fmt: skip
    return done.stdout


def changes(one: Any, other: Any, at: str = "") -> list[str]:
    """Where two JSON values differ, a sentence each."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = sorted({*one, *other})
        return [row for name in names for row in changes(one.get(name), other.get(name), f"{at}/{name}")]
    return [] if one == other else [f"{at}: {json.dumps(one)[:200]} became {json.dumps(other)[:200]}"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
