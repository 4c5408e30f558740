"""Shift-end questions to the store: counts against a direct computation, tables, verdicts as a data set."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from fake_segmenter import segmentation_of
from PIL import Image
from test_store import failed, row
from typer.testing import CliRunner

from clipsam.cli import app, main
from clipsam.cli.history import moment
from clipsam.dataset_check import check_dataset, read_mask
from clipsam.datasets import open_dataset
from clipsam.errors import MissingExtra, StoreError, UsageError
from clipsam.store import Station

START = datetime(2026, 3, 1, 22, 10, tzinfo=UTC)


@pytest.fixture
def india(monkeypatch: pytest.MonkeyPatch) -> timezone:
    """A time zone whose hours begin at half past of UTC."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield timezone(timedelta(hours=5, minutes=30))
    monkeypatch.undo()
    time.tzset()


def shift(station: Station, parts: int = 120) -> list[dict]:
    """A shift of two products with verdicts of two reviewers; what was written, part by part."""
    generator = np.random.default_rng(5)
    runs = {name: station.run(product=name, threshold=0.5) for name in ("plate", "bolt")}
    written = []
    for k in range(parts):
        product = "plate" if generator.random() < 0.6 else "bolt"
        at = START + timedelta(minutes=3 * k)
        score = generator.random()
        kind = generator.choice(["decided", "uncalibrated", "error"], p=[0.7, 0.2, 0.1])
        defective = None if kind == "uncalibrated" else bool(score > 0.5)
        count = int(generator.integers(1, 4)) if score > 0.5 else 0
        given = (
            failed(str(k)) if kind == "error" else row(score, name=str(k), defective=defective, regions=count)
        )
        part = station.add(runs[product], given, time=at)
        flagged = kind != "error" and score > 0.5
        verdict = None
        if kind != "error" and generator.random() < 0.5:
            verdict = str(generator.choice(["confirm", "reject"]))
            station.verdict(part, reviewer="Anna", verdict="reject")  # and then thinks again
            station.verdict(part, reviewer="Anna", verdict=verdict)
        rejected = 0
        if flagged and generator.random() < 0.5:
            station.verdict(part, reviewer="Ben", verdict="reject", region=station.part(part).regions[0].id)
            rejected = 1
        written.append(
            {"product": product, "time": at, "kind": kind, "flagged": flagged, "defective": defective}
            | {"regions": given.get("regions", []), "verdict": verdict, "rejected": rejected}
        )
    return written


def test_counts_equal_a_direct_computation(store_url: str, india: timezone) -> None:
    with Station.open(store_url) as station:
        written = shift(station)
        found = station.history()
        plates = station.history(product="plate", since=START + timedelta(hours=2))

    expected: dict[tuple, Counter] = {}
    for part in written:
        hour = part["time"].astimezone(india).replace(minute=0)
        counts = expected.setdefault((hour, part["product"]), Counter())
        decided = part["kind"] == "decided"
        wrong = part["verdict"] == "reject"
        counts.update(
            parts=1,
            ok=decided and not part["defective"],
            ng=decided and part["defective"],
            uncalibrated=part["kind"] == "uncalibrated",
            suspicious=part["kind"] == "uncalibrated" and part["flagged"],
            errors=part["kind"] == "error",
            reviewed=part["verdict"] is not None,
            false_alarms=wrong and part["flagged"],
            misses=wrong and not part["flagged"],
        )
    assert [(counts.hour, counts.product) for counts in found.hours] == sorted(expected)
    for counts in found.hours:
        known = expected[counts.hour, counts.product]
        assert {name: getattr(counts, name) for name in known} == known
        assert counts.hour.utcoffset() == timedelta(hours=5, minutes=30)
    assert [counts.product for counts in found.products] == ["bolt", "plate"]
    for total in found.products:
        summed = sum((v for k, v in expected.items() if k[1] == total.product), Counter())
        assert {name: getattr(total, name) for name in summed} == summed
        assert total.yield_ == summed["ok"] / (summed["ok"] + summed["ng"])

    late = [p for p in written if p["product"] == "plate" and p["time"] >= START + timedelta(hours=2)]
    assert plates.products[0].parts == len(late)

    for defect in found.defects:
        mine = [p for p in written if p["flagged"] and p["product"] == defect.product]
        of_type = [[r for r in p["regions"] if r["defect"] == defect.defect] for p in mine]
        assert defect.parts == sum(map(bool, of_type))
        assert defect.regions == sum(map(len, of_type))
        if defect.defect == "dent":  # the first region, which Ben rejects
            assert defect.rejected == sum(p["rejected"] for p in mine)
    assert [defect.parts for defect in found.defects] == sorted(
        (d.parts for d in found.defects), reverse=True
    )

    for said in found.reviewers:
        mine = [p for p in written if p["product"] == said.product and p["verdict"]]
        assert said.reviewer == "Anna"  # Ben spoke of regions only
        assert said.reviewed == len(mine)
        assert said.confirmed == sum(p["verdict"] == "confirm" for p in mine)
        assert said.false_alarms == sum(p["verdict"] == "reject" and p["flagged"] for p in mine)
        assert said.misses == sum(p["verdict"] == "reject" and not p["flagged"] for p in mine)


def test_a_photo_counts_once(store_url: str) -> None:
    with Station.open(store_url) as station:
        for defective in (True, False):
            station.add(station.run(product="plate"), row(0.5, defective=defective))
        (plate,) = station.history().products
        assert (plate.parts, plate.ok, plate.ng, plate.yield_) == (1, 1, 0, 1.0)


def test_csv_and_parquet_hold_the_same_parts(store_url: str, tmp_path: Path) -> None:
    from pyarrow import parquet

    with Station.open(store_url) as station:
        shift(station, 30)
        parts = station.parts(limit=None, full=True)
        result = history_verb(
            "--store",
            store_url,
            "--since",
            "all",
            "--csv",
            tmp_path / "a.csv",
            "--parquet",
            tmp_path / "a.parquet",
        )
    assert "30 parts written to" in result
    lines = list(csv.DictReader((tmp_path / "a.csv").open(newline="", encoding="utf-8")))
    table = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert len(lines) == len(table) == 30
    for part, line, entry in zip(parts, lines, table, strict=True):
        assert entry["time"] == part.time == datetime.fromisoformat(line["time"])
        assert (entry["score"], entry["decision"], entry["truth_defective"]) == (
            part.score,
            part.decision,
            part.truth,
        )
        assert line["score"] == ("" if part.score is None else str(part.score))
        assert entry["regions"] == len(part.regions) == int(line["regions"])
        assert entry["top_defect"] == (part.regions[0].defect if part.regions else None)


def test_parquet_without_pyarrow(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with Station.open():
        pass
    result = CliRunner().invoke(app, ["history", "--parquet", str(tmp_path / "a")], standalone_mode=False)
    assert isinstance(result.exception, MissingExtra)
    assert "pip install 'clipsam[store]'" in str(result.exception)


# ---- verdicts as a data set


def test_verdicts_become_a_data_set_that_eval_reads(store_url: str, tmp_path: Path) -> None:
    anomaly_map = np.zeros((30, 40), np.float32)
    anomaly_map[2:8, 3:9], anomaly_map[20:25, 10:30] = 0.9, 0.7
    result = segmentation_of(anomaly_map)
    quiet = segmentation_of(np.zeros((30, 40), np.float32))
    with Station.open(store_url) as station:
        run = station.run(product="metal plate")
        ids = {}
        for name in ("bad", "half", "false alarm", "fine", "missed", "gone", "not seen"):
            photo = tmp_path / f"{name}.png"
            Image.new("RGB", (40, 30), "white").save(photo)
            seen = quiet if name in ("fine", "missed") else result
            ids[name] = station.add(run, seen, path=photo)
        regions = station.part(ids["half"]).regions
        station.verdict(ids["half"], reviewer="Anna", verdict="reject", region=regions[0].id)
        for name in ("bad", "half", "fine", "gone"):
            station.verdict(ids[name], reviewer="Anna", verdict="confirm")
        for name in ("false alarm", "missed"):
            station.verdict(ids[name], reviewer="Anna", verdict="reject")
    (tmp_path / "gone.png").unlink()

    out = tmp_path / "list" / "checked.csv"
    out.parent.mkdir()
    words = history_verb("--store", store_url, "--verdicts", out)
    assert "2 good and 3 defective parts" in words
    assert "1 whose photo is gone" in words
    assert "1 defective ones have no mask" in words

    dataset = open_dataset("csv", out)
    assert check_dataset(dataset) == ()
    (category,) = dataset.categories
    assert (category.name, category.product) == ("metal plate", "metal plate")
    found = {sample.image.stem: sample for sample in category.samples}
    assert {name: sample.defect for name, sample in found.items()} == {
        "bad": "scratch",
        "half": "stain",
        "false alarm": "good",
        "fine": "good",
        "missed": "defect",
    }
    assert found["missed"].mask is None
    assert (read_mask(found["bad"].mask) == result.mask).all()
    assert (read_mask(found["half"].mask) == (result.mask & (anomaly_map < 0.8))).all()


# ---- the command


def history_verb(*words: object) -> str:
    """What `clipsam history` prints; its errors are raised."""
    done = CliRunner().invoke(app, ["history", *map(str, words)], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_tables_for_a_person(monkeypatch) -> None:
    with Station.open() as station:
        shift(station, 60)
        run = station.run(product="washer")
        station.add(run, row(0.1, defective=False))
    said = history_verb("--since", "all")
    blocks = said.strip().split("\n\n")
    assert blocks[0].startswith("61 parts, ")
    assert len(blocks) == 5
    header, bolt, plate, washer = blocks[1].splitlines()
    assert header.split()[:5] == ["product", "parts", "OK", "NG", "yield"]
    assert [line.split()[0] for line in (bolt, plate, washer)] == ["bolt", "plate", "washer"]
    assert "100.0 %" in washer
    assert "Anna" in blocks[4]
    assert "no parts in" in history_verb("--product", "nail")
    assert "washer" in history_verb()  # of the last day, and the shift is long ago
    assert "bolt" not in history_verb()


def test_json_holds_everything() -> None:
    with Station.open() as station:
        shift(station, 60)
        expected = station.history().as_dict()
    said = json.loads(history_verb("--since", "all", "--json"))
    assert {key: said[key] for key in expected} == json.loads(json.dumps(expected))
    assert said["since"] is None
    assert said["hours"][0]["hour"].startswith("2026-03-0")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", None),
        ("06:00", datetime(2026, 3, 2, 6)),
        ("14:30", datetime(2026, 3, 1, 14, 30)),
        ("8h", datetime(2026, 3, 2, 4, 15)),
        ("7d", datetime(2026, 2, 23, 12, 15)),
        ("2026-03-01", datetime(2026, 3, 1)),
        ("2026-03-01T05:06", datetime(2026, 3, 1, 5, 6)),
    ],
)
def test_times_as_people_write_them(text: str, expected: datetime | None) -> None:
    now = datetime(2026, 3, 2, 12, 15).astimezone()
    assert moment(text, now) == (expected and expected.astimezone())


def test_a_time_with_a_zone_keeps_it() -> None:
    assert moment("2026-03-01T05:06Z") == datetime(2026, 3, 1, 5, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--since", "yesterdayish"], "expected such as 06:00"),
        (["--since", "999999w"], "expected such as 06:00"),
        (["--since", "27:00"], "expected such as 06:00"),
        (["--store", "none"], "the store is 'none'"),
        (["--store", "no/such.sqlite"], "there is no store no/such.sqlite yet"),
    ],
)
def test_bad_usage(words, said) -> None:
    with pytest.raises(UsageError, match=said):
        history_verb(*words)


def test_a_folder_that_is_not_there(tmp_path) -> None:
    with Station.open() as station:
        station.add(station.run(product="plate"), row(0.5))
    for option in ("--csv", "--parquet", "--verdicts"):
        with pytest.raises(StoreError, match="cannot be written"):
            history_verb(option, tmp_path / "no" / "such.csv")


def test_from_the_command_line(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["clipsam", "history"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert "there is no store" in capsys.readouterr().err
