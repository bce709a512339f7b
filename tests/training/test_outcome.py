"""What a run says that it cost."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PARENT = """\
import os, subprocess, sys
ballast = bytearray(os.urandom(1)) * 2_000_000_000
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
"""
CHILD = "from clipkd.runs.outcome import peak_process_memory; print(peak_process_memory())"
RESIDENT = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"


def said_below_a_large_process(code: str) -> int:
    return int(subprocess.check_output([sys.executable, "-c", PARENT, code], text=True))


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux tells it")
def test_peak_memory_is_the_process_s_own_and_not_its_parent_s():
    alone = int(subprocess.check_output([sys.executable, "-c", CHILD], text=True))
    assert said_below_a_large_process(CHILD) == pytest.approx(alone, rel=0.1)
    assert said_below_a_large_process(RESIDENT) > 2_000_000_000, "what is avoided: Linux hands the peak on"
