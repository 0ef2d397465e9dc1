"""A clock that leaps and a disk that is full, for chosen processes: `shim.c`, compiled and preloaded."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")


def available() -> bool:
    """Whether this machine can make the shim: it needs a C compiler, and Linux."""
    return shutil.which("cc") is not None and Path("/proc").exists()


class Shim:
    """Holds what the processes started with `env` believe."""

    def __init__(self, folder: Path) -> None:
        self._page = folder / "fault-page"
        library = folder / "shim.so"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True)
        self._write(0, full=False)
        self.env = {"LD_PRELOAD": str(library), "FAULT_PAGE": str(self._page)}

    def set_clock(self, seconds: int) -> None:
        """The wall clock is this far off from now on."""
        self._write(seconds, full=False)

    def fill_disk(self, full: bool) -> None:
        """Every write to a file fails with "no space left on device", or succeeds again."""
        self._write(0, full=full)

    def _write(self, seconds: int, *, full: bool) -> None:
        mode = "r+b" if self._page.exists() else "w+b"  # the page is mapped: never a new file
        with self._page.open(mode) as file:
            file.write(struct.pack("@ll", seconds, int(full)))
