"""Fetch the results of a trial from a device: expected names only, bounded sizes, every byte by its hash."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from edgeship.config import Target
from edgeship.errors import ArtifactError, StorageError, TargetError
from edgeship.files import MAX_TEXT_BYTES, open_own, sha256_file, storage_errors
from edgeship.progress import Progress
from edgeship.results import Trial, TrialSpec, read, trial_folder
from edgeship.targets.channel import MAX_REPLY_BYTES, Closed
from edgeship.targets.replies import DISTRUST, Done, Head, Listing
from edgeship.targets.sending import PLACE, Plan
from edgeship.targets.talk import Talk
from edgeship.text import byte_count

MAX_RESULT_BYTES = 16 << 30
MAX_RESULTS_BYTES = 32 << 30
LISTING_S = 600.0
"""The device hashes every result, an engine of gigabytes among them."""
DAMAGED_MOST = 3
"""How often a file may arrive damaged before the device is not asked again."""


def collect(link: Talk, plan: Plan, damaged: Counter[str], progress: Progress) -> Trial:
    """Fetch the results, the finished trial last, then clear the trial's folder on the device.

    Args:
        link: The device.
        plan: The trial.
        damaged: How often each file arrived damaged so far, over all connections.
        progress: Told which file comes.

    Raises:
        TargetError: The device offers something else than the results of this trial.
        StorageError: Not enough space here.
        Closed: The connection is lost, or a file was damaged on its way.
    """
    listing = link.ask({"do": "list", "trial": plan.trial}, Listing, wait_s=LISTING_S)
    told = _Told(link, plan, listing.files, damaged)
    told.check_space()
    head = told.fetch(trial_folder.TRIAL)
    try:
        names = told.expected(head)
        for number, name in enumerate(names):
            progress(number, len(names), f"{link.host}: fetching results")
            if told.fetch_result(name):
                link.useful = True
        trial_folder.verify_artifacts(plan.folder, *trial_folder.artifacts_of(read(Trial, head)))
        trial_folder.mark_spec(plan.folder)
        head.replace(plan.folder / trial_folder.TRIAL)
    finally:
        head.unlink(missing_ok=True)
    link.ask({"do": "drop", "trial": plan.trial}, Done)
    return trial_folder.read_trial(plan.folder)


class _Told:
    """What the device says that it has: name → size, sha256."""

    def __init__(self, link: Talk, plan: Plan, files: dict[str, tuple[int, str]], damaged: Counter[str]) -> None:
        self._link = link
        self._plan = plan
        self._files = files
        self._damaged = damaged

    def check_space(self) -> None:
        """Raises TargetError for sizes that no trial has, StorageError where they do not fit here."""
        for name, (size, _) in self._files.items():
            most = MAX_TEXT_BYTES if name.endswith((".json", ".log")) else MAX_RESULT_BYTES
            if size > most:
                raise self._refused(f"{name!r} of {size} bytes, and at most {most} are accepted")
        total = sum(size for size, _ in self._files.values())
        if total > MAX_RESULTS_BYTES:
            raise self._refused(f"{total} bytes of results, and at most {MAX_RESULTS_BYTES} are accepted")
        free = shutil.disk_usage(self._plan.folder).free
        if total > free:
            raise StorageError(
                f"{byte_count(total)} of results come from {self._link.host} and {byte_count(free)} are free here",
                do="free some space and run the same command again: it continues",
            )

    def expected(self, head: Path) -> list[str]:
        """The names to fetch, once ``head``, the device's trial, shows that it is the trial of this spec.

        Raises TargetError where it is another trial, or where the device offers anything that is not its result.
        """
        try:
            trial = read(Trial, head)
        except ArtifactError as error:
            raise self._refused(
                f"a {trial_folder.TRIAL} that is not one: {error.found.partition(' is not ')[2]}"
            ) from None
        for what, found, wanted in _facts(trial, self._plan.spec):
            if found != wanted:
                raise self._refused(f"the trial of another {what}")
        named = {artifact.path: artifact for artifact in trial_folder.artifacts_of(trial)}
        inputs = {trial_folder.SPEC, trial_folder.SPEC_MARK, PLACE, "lock", *self._plan.inputs}
        for name, artifact in named.items():
            if name in inputs or self._files.get(name) != (artifact.size_bytes, artifact.sha256):
                raise self._refused(f"a trial whose result {name[:80]!r} is not among the files it offers")
        strange = sorted(set(self._files) - set(named) - set(trial_folder.PRODUCTS))
        if strange:
            raise self._refused(f"{strange[0]!r}, which is not a result of this trial")
        return sorted(set(self._files) - {trial_folder.TRIAL})

    def fetch_result(self, name: str) -> bool:
        """Bring one result into the trial's folder; whether anything had to be sent."""
        place = self._plan.folder / name
        if place.is_file() and not place.is_symlink() and sha256_file(place) == self._files[name][1]:
            return False
        self.fetch(name).replace(place)
        return True

    def fetch(self, name: str) -> Path:
        """One file under a temporary name, whole and of its hash. Raises Closed where it is not."""
        if name not in self._files:
            raise self._refused(f"no {name}, though it says that the trial has finished")
        size, digest = self._files[name]
        head = self._link.ask({"do": "get", "trial": self._plan.trial, "name": name}, Head, limit=MAX_REPLY_BYTES)
        if head.payload != size:
            raise self._bad(name, "changed while it was fetched")
        temporary = self._plan.folder / f".{name}.tmp"
        seen = hashlib.sha256()
        with storage_errors(temporary), open_own(temporary, empty=True) as stream:
            self._link.channel.payload(size, _both(seen.update, stream.write))
        if seen.hexdigest() != digest:
            temporary.unlink()
            raise self._bad(name, "was damaged on its way")
        return temporary

    def _bad(self, name: str, how: str) -> Exception:
        self._damaged[name] += 1
        if self._damaged[name] < DAMAGED_MOST:
            return Closed(f"{name} {how}")
        return TargetError(
            f"{self._link.host}: {name} {how}, {self._damaged[name]} times", expected="its sha256", do=DISTRUST
        )

    def _refused(self, what: str) -> TargetError:
        return TargetError(f"{self._link.host} offers {what}", expected="the results of this trial", do=DISTRUST)


def _facts(trial: Trial, spec: TrialSpec) -> list[tuple[str, object, object]]:
    target: Target = spec.target
    return [
        ("candidate", trial.candidate, spec.candidate),
        ("target", trial.target_name, spec.target_name),
        ("engine", trial.engine, target.engine),
        ("device", trial.device, target.device),
        ("rebuild", trial.rebuild, spec.rebuild),
    ]


def _both(one: Callable[[bytes], object], other: Callable[[bytes], object]) -> Callable[[bytes], None]:
    def take(part: bytes) -> None:
        one(part)
        other(part)

    return take
