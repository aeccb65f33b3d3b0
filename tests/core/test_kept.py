"""What may be dropped is dropped: least recently used first, never the newest, at the byte limit."""

from __future__ import annotations

import os

from core import kept


def test_least_recently_used_goes_first(monkeypatch, tmp_path):
    monkeypatch.setenv("PARETOSCOPE_HOME", str(tmp_path))
    monkeypatch.setitem(kept.LIMIT_BYTES, "teachers", 250)
    for number, name in enumerate("abc"):
        path = kept.put("teachers", name, bytes(100))
        os.utime(path, (1000 + number, 1000 + number))
        if name == "b":
            os.utime(kept.path_of("teachers", "a"), (5000, 5000))
    assert kept.get("teachers", "b") is None
    assert kept.get("teachers", "a") and kept.get("teachers", "c")


def test_a_file_beyond_the_limit_is_still_kept_until_the_next(monkeypatch, tmp_path):
    monkeypatch.setenv("PARETOSCOPE_HOME", str(tmp_path))
    monkeypatch.setitem(kept.LIMIT_BYTES, "teachers", 10)
    kept.put("teachers", "big", bytes(100))
    assert kept.get("teachers", "big").read_bytes() == bytes(100)
