"""The checks behind `searchsvc study preflight`: what would else fail after hours is found now."""

import resource
from collections.abc import Callable

import psutil

from db import studies
from db.session import Database
from searchsvc.creation import Tried, try_subject
from searchsvc.diagnosis import Finding
from searchsvc.subject import Subject, subject_of

GIB = 2**30


def preflight(database: Database, name: str) -> list[Finding]:
    """Check a stored study on this machine, and stop where the next check would need what failed.

    Nothing is changed; that the database can be written was found when it was opened.

    Raises:
        NotFound: there is no such study.
    """
    study = studies.get_study(database, name)
    findings = [Finding(check="database", ok=True, found=f"{database.shown_url} can be written")]

    def noted(check: str, act: Callable[[], str]) -> bool:
        try:
            findings.append(Finding(check=check, ok=True, found=act()))
        except Exception as error:
            found = next(iter(str(error).splitlines()), type(error).__name__)
            advice = "mend it, or create the study anew"
            findings.append(Finding(check=check, ok=False, found=found, advice=advice))
        return findings[-1].ok

    subjects: list[Subject] = []
    tried: list[Tried] = []

    def read() -> str:
        subjects.append(subject_of(study))
        return f"{len(subjects[0].search)} search and {len(subjects[0].test)} test samples, model unchanged"

    def run() -> str:
        tried.append(try_subject(subjects[0]))
        return f"{tried[0].architecture} runs a batch of {subjects[0].settings.batch_size} on this machine"

    if noted("data and model", read) and noted("one forward", run):
        findings += [_memory(subjects[0], _peak(subjects[0])), _hours(subjects[0], tried[0])]
    return findings


def _peak(subject: Subject) -> int:
    """The most that this process has held, in bytes: of the GPU, or of main memory."""
    if subject.settings.device == "cuda":
        import torch

        return int(torch.cuda.max_memory_reserved())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _memory(subject: Subject, peak: int) -> Finding:
    """What a worker takes, as this process did, beside what there is for it where all share one host."""
    workers = subject.spec.workers
    needed = peak + (workers.cache_memory or 0)
    if subject.settings.device == "cuda":
        import torch

        there = int(torch.cuda.get_device_properties(0).total_memory * min(1.0, workers.gpus_per_worker))
        where = f"{workers.gpus_per_worker:g} of a GPU like this one"
    else:
        there = (psutil.virtual_memory().available + psutil.Process().memory_info().rss) // workers.count
        where = f"its share of this machine, {workers.count} workers"
    found = f"a worker takes about {needed / GIB:.1f} GiB of {there / GIB:.1f} GiB ({where})"
    ok = needed <= there
    return Finding(
        check="memory", ok=ok, found=found, advice="" if ok else "a smaller workers.batch_size or count"
    )


def _hours(subject: Subject, tried: Tried) -> Finding:
    hours = tried.evaluations * tried.seconds / 3600
    limit = subject.spec.limits.hours_with(subject.spec.workers)
    found = f"about {hours:.2g} hours: {tried.evaluations} evaluations of {tried.seconds:.3g} s"
    if limit is not None and hours > limit:
        found += f"; the limit of {limit:g} hours ends it earlier, with its best so far"
    return Finding(check="hours", ok=True, found=found)
