"""What may be dropped is dropped: least recently used first, never the newest, at the byte limit."""

from __future__ import annotations

import os

from core.errors import ParetoscopeError
from core.keeping import kept


def test_least_recently_used_goes_first(monkeypatch, tmp_path):
    monkeypatch.setenv("PARETOSCOPE_HOME", str(tmp_path))
    monkeypatch.setitem(kept.LIMIT_BYTES, "teachers", 250)
    for number, name in enumerate("abc"):
        kept.put("teachers", name, bytes(100))
        os.utime(kept.path_of("teachers", name), (1000 + number, 1000 + number))
        if name == "b":
            os.utime(kept.path_of("teachers", "a"), (5000, 5000))
    assert kept.get("teachers", "b") is None
    assert kept.get("teachers", "a") and kept.get("teachers", "c")


def test_a_file_beyond_the_limit_is_still_kept_until_the_next(monkeypatch, tmp_path):
    monkeypatch.setenv("PARETOSCOPE_HOME", str(tmp_path))
    monkeypatch.setitem(kept.LIMIT_BYTES, "teachers", 10)
    kept.put("teachers", "big", bytes(100))
    assert kept.get("teachers", "big").read_bytes() == bytes(100)


def test_no_room_is_no_reason_to_lose_what_was_computed(monkeypatch, tmp_path):
    monkeypatch.setenv("PARETOSCOPE_HOME", str(tmp_path))
    monkeypatch.setattr(kept, "write_whole", lambda *_: (_ for _ in ()).throw(ParetoscopeError("The disk is full.")))
    kept.put("teachers", "lost", bytes(100))
    assert kept.get("teachers", "lost") is None


def test_a_damaged_prefix_is_made_anew(monkeypatch, tmp_path):
    from core.keeping import prefixes

    monkeypatch.setenv("PARETOSCOPE_HOME", str(tmp_path))
    kept.put("prefixes", "key.safetensors", b"cut short")
    assert prefixes.recall("key") is None
    assert not kept.path_of("prefixes", "key.safetensors").exists()
