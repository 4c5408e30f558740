"""The station's store: every inspected photo of every run, with reviewers' verdicts, in one database.

`Station.open` gives the store of this machine (one SQLite file) or a plant's PostgreSQL; `Keeper` writes a
run into it without ever stopping the run. Start reading in `station.py`.
"""

from __future__ import annotations

from clipsam.store.keeper import Keeper, keeper_of_folder
from clipsam.store.records import Part, Run, StoredRegion, Verdict, WhatIf
from clipsam.store.station import Station

__all__ = ["Keeper", "Part", "Run", "Station", "StoredRegion", "Verdict", "WhatIf", "keeper_of_folder"]
