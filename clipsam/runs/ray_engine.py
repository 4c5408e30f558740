"""The engine of many machines: Ray Data hands shards of photos to warm workers; one place writes the run.

Input: a `Job`. Output: its rows and pictures, written here as answers come in. The segmenter travels from
here to the workers, so they need the package, but neither weights nor reference photos nor calibration, and
cannot have others. Rows and encoded pictures travel back: a run folder has one writer, so it has the same
guarantees as with the local engine, needs no disk that all machines share, and a worker that dies halfway
leaves nothing behind: its photos are given to another.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from clipsam.errors import MissingExtra, RunError, UsageError
from clipsam.runs.manifest import versions
from clipsam.runs.photowork import FAILURES_IN_A_ROW, Job
from clipsam.runs.pictures import save_pictures
from clipsam.runs.ray_worker import Answer, Ask, Attempts, Worker, shards

SHARD = 8  # photos at most: what a dead worker has to do again, against some milliseconds of Ray per shard
SHARDS_PER_WORKER = 4  # at least, so that all of them end at about the same time
CORES_PER_WORKER = 2  # by default, on machines without a GPU


@dataclass(frozen=True)
class Team:
    """How the cluster is shared out: workers, and what each of them may take."""

    workers: int
    threads: int
    cpus: float  # as Ray counts them
    gpus: int

    @classmethod
    def of(cls, wanted: int | None, cores: int, gpus: int) -> Team:
        """`wanted` workers, or one per GPU where the segmenter uses them, else per `CORES_PER_WORKER`.

        Threads are shared out so that workers do not fight over cores; OMP_NUM_THREADS may lower them.
        """
        workers = wanted or gpus or max(1, cores // CORES_PER_WORKER)
        if gpus and workers > gpus:
            raise UsageError(
                f"{workers} workers and {gpus} GPUs; expected at most one worker per GPU - lower --workers, "
                "or choose --device cpu"
            )
        threads = max(1, cores // workers)
        cpus = threads if threads * workers <= cores else math.floor(1000 * cores / workers) / 1000
        given = os.environ.get("OMP_NUM_THREADS", "")
        return cls(workers, min(threads, int(given)) if given.isdigit() else threads, cpus, 1 if gpus else 0)


class RayEngine:
    """Runs a `Job` on the Ray cluster that RAY_ADDRESS names or that is up on this machine, else on this
    machine alone. `workers` as in `Team.of`. Raises `MissingExtra` without Ray, and `RunError` when no worker
    can work or the segmenter fails on one photo after the other.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._wanted = workers
        self._team: Team | None = None
        self._failures = 0
        _ray()

    def describe(self) -> dict[str, Any]:
        """What stands in `run.json`."""
        team = {"workers": self._team.workers, "threads": self._team.threads} if self._team else {}
        return {"name": "ray", **team}

    def run(self, job: Job) -> None:
        """Do all photos that are not done yet, whatever happens to single workers."""
        photos = job.sitting.photos
        asks = [
            Ask(place, path, job.names[path], job.sitting.done(path)) for place, path in enumerate(photos)
        ]
        missing = {ask.place: ask for ask in asks}
        with closing(self._answers(job, asks)) as answers:
            for answer in answers:
                if (ask := missing.pop(answer.place, None)) is not None:  # what comes twice counts once
                    self._take(job, ask, answer)
        if missing:
            raise RunError(f"{len(missing)} photos had no answer; the same command goes on from here")

    def _answers(self, job: Job, asks: Sequence[Ask]) -> Generator[Answer, None, None]:
        """An answer for each photo, as they come."""
        with _cluster() as ray, _own_context(ray):
            on_gpu = str(job.segmenter.manifest().get("device", "")).startswith("cuda")
            cores, gpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("CPU", "GPU"))
            team = self._team = Team.of(self._wanted, cores, gpus if on_gpu else 0)
            size = max(1, min(SHARD, math.ceil(len(asks) / (team.workers * SHARDS_PER_WORKER))))
            try:
                yield from _answers(ray, job, team, shards(asks, size))
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[0]
                raise RunError(f"Ray gave up: {reason}; the same command goes on from here") from error

    def _take(self, job: Job, ask: Ask, answer: Answer) -> None:
        if answer.trouble:
            raise RunError(answer.trouble)
        if answer.row is None:
            job.sitting.take(job.sitting.old(ask.path))
            return
        self._failures = self._failures + 1 if answer.failure else 0
        if self._failures == min(FAILURES_IN_A_ROW, len(job.sitting.photos)):
            raise RunError(f"{self._failures} photos in a row failed: {answer.row['error']['message']}")
        save_pictures(job.out, ask.name, answer.pictures)
        job.sitting.take(answer.row)


class _RayWorker:
    """The worker as Ray Data calls it: a batch of one pickled shard in, one pickled answer per row out."""

    def __init__(self, make: Callable[[], Worker]) -> None:
        self._worker = make()

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[bytes]]]:
        for shard in batch["shard"]:
            for answer in self._worker.answers(pickle.loads(shard)):
                yield {"answer": [pickle.dumps(answer)]}


def _answers(ray: Any, job: Job, team: Team, work: Sequence[Sequence[Ask]]) -> Iterator[Answer]:
    """The answers of a team. Ray replaces a worker that dies, and gives out its shards again."""
    try:
        segmenter = ray.put(job.segmenter)  # goes once to every machine, however many workers that has
    except TypeError as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"the segmenter cannot travel to the workers: {reason}; use --engine local") from error
    attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()
    libraries = {name: version for name, version in versions().items() if name not in ("platform", "python")}
    make = partial(
        Worker,
        partial(ray.get, segmenter),
        _Shared(attempts),
        job.options,
        job.bit_depth,
        team.threads,
        libraries,
    )
    rows = [{"shard": pickle.dumps(list(shard))} for shard in work]
    answers = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _RayWorker,
        fn_constructor_args=(make,),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=min(team.workers, len(work))),
        num_cpus=team.cpus,
        num_gpus=team.gpus or None,
    )
    for batch in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
        for answer in batch["answer"]:
            yield pickle.loads(answer.as_py())


class _Shared(Attempts):
    """`Attempts` that live in an actor of their own, as workers ask them."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def begin(self, name: str) -> int:
        return _ray().get(self._actor.begin.remote(name))

    def end(self, name: str) -> None:
        self._actor.end.remote(name)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers about every run
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters of it comes as exceptions
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")  # it gives up too soon on a busy machine
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtra("--engine ray", "ray") from error
    return ray


@contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected; what was started here is ended here."""
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    except Exception as error:  # Ray raises that very class where a machine is too busy for it to start
        where = os.environ.get("RAY_ADDRESS")
        raise RunError(
            f"Ray cannot be reached or started{f' at RAY_ADDRESS={where}' if where else ''}: {error}"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _own_context(ray: Any) -> Iterator[None]:
    """Settings of Ray Data for as long as a run takes: nothing is printed."""
    context = ray.data.DataContext.get_current()
    ours = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
    }
    ours = {name: value for name, value in ours.items() if hasattr(context, name)}  # they come and go
    before = {name: getattr(context, name) for name in ours}
    loggers = [logging.getLogger(name) for name in ("ray.data", "ray")]
    levels = [logger.level for logger in loggers]
    try:
        for name, value in ours.items():
            setattr(context, name, value)
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
