"""Gives mutated files to the readers, and counts what they should not do.

    python tests/fuzz.py csv --files 2000000

writes good files, changes each of them in ways that depend on nothing but --seed and the number of
the file, and reads the result. It counts

- crashes: an exception that is not documented, an accepted file whose object does not work, a
  process that dies, or says nothing for five minutes;
- hangs: files that take more than a second, three times in a row;
- memory: files for which a reader takes more than their size and 16 MB. The address space is
  limited to what the process has at rest and that; where it does not suffice is a finding, even
  where the reader makes something else of the MemoryError. In every 64th file the memory that
  Python and NumPy take is measured as well.

Every finding is kept, with what was raised, under build/fuzz; --first N --files 1 reads file N
again. --no-limit leaves the limit of the address space out, as is needed under the address
sanitizer, which maps terabytes for itself; processes are started anew, never forked. The last line
printed has the figures, and the exit code is 1 where something was found.
"""

import argparse
import contextlib
import ctypes
import faulthandler
import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from random import Random
from threading import Lock, Timer

from fuzztargets import TARGETS, Fuzzed, Refused, Seed, target
from tqdm import tqdm

ALLOWANCE = 16 * 2**20  # beyond a file's own size
SECONDS = 1.0  # a file
MEASURED = 64  # every so many files
REPORTED = 500
SHARED = Path("/dev/shm")  # files in memory, where the system has them
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
STUCK = 300  # seconds without news after which a process is ended


@dataclass
class Tally:
    """Counts of files, and of what was found in them."""

    files: int = 0
    accepted: int = 0
    refused: int = 0
    crashes: int = 0
    hangs: int = 0
    memory: int = 0
    most_memory: int = 0  # bytes beyond the size of a file
    slowest: float = 0.0

    def add(self, other: "Tally") -> None:
        for field in fields(self):
            mine, its = getattr(self, field.name), getattr(other, field.name)
            greatest = field.name in ("most_memory", "slowest")
            setattr(self, field.name, max(mine, its) if greatest else mine + its)

    def __str__(self) -> str:
        share = 100 / max(1, self.files)
        return (
            f"{self.files} files, {self.crashes} crashes, {self.hangs} hangs, {self.memory} over "
            f"memory, {share * self.refused:.1f} % refused, {share * self.accepted:.1f} % "
            f"accepted, slowest {self.slowest:.3f} s, most memory beyond the file "
            f"{max(0, self.most_memory) / 2**20:.2f} MB"
        )


class Hang(BaseException):
    """The time for a file is up."""


def in_memory() -> tempfile.TemporaryDirectory:
    """Return a folder to write files in, in memory where the system has such."""
    return tempfile.TemporaryDirectory(dir=SHARED if SHARED.is_dir() else None)


def content(fuzzed: Fuzzed, seed: int, number: int) -> tuple[Seed, bytes]:
    """Return file `number` of a run, and the good file that it was made of."""
    random = Random(seed * 2**40 + number)
    chosen = fuzzed.seeds[number % len(fuzzed.seeds)]
    others = tuple(other.content for other in fuzzed.seeds)
    return chosen, fuzzed.mutate(random, chosen.content, others)


def fuzz(
    name: str, folder: Path, keep: Path, seed: int, first: int, files: int, limit: bool = False
) -> Tally:
    """Read files of a reader in this process; return the counts of all."""
    total = Tally()
    for tally in _parts(name, folder, keep, seed, first, files, limit):
        total.add(tally)
    return total


def _parts(name, folder, keep, seed, first, files, limit):
    """Read files, and yield counts now and then."""
    fuzzed = target(name, folder)
    path = folder / f"file{fuzzed.suffix}"
    place = _place(folder)
    for good in fuzzed.seeds:  # take at rest what is taken once
        path.write_bytes(good.content)
        for _ in range(3):
            good.read(path)
    before = signal.signal(signal.SIGALRM, _alarm)
    tally = Tally()
    try:
        for number in range(first, first + files):
            good, changed = content(fuzzed, seed, number)
            path.write_bytes(changed)
            if number % REPORTED == 0 and number > first:
                yield tally
                tally = Tally()
            place[:8] = number.to_bytes(8, "little")
            _one(good, path, changed, number, tally, keep / name, limit)
        yield tally
    finally:
        signal.signal(signal.SIGALRM, before)


def _alarm(*_):
    raise Hang


def _one(good, path, changed, number, tally, keep, limit):
    tally.files += 1
    measured = number % MEASURED == 0
    allowed = ALLOWANCE + len(changed)
    for _ in range(3):
        if measured:
            tracemalloc.start()
        started = time.perf_counter()
        outcome, error = _read(good, path, allowed if limit and not measured else None)
        seconds = time.perf_counter() - started
        if measured:
            most = tracemalloc.get_traced_memory()[1] - len(changed)
            tracemalloc.stop()
            tally.most_memory = max(tally.most_memory, most)
            if most > ALLOWANCE and outcome != "hangs":
                outcome, error = "memory", MemoryError(f"{most} bytes beyond the file")
        if seconds < SECONDS and outcome != "hangs":
            tally.slowest = max(tally.slowest, seconds)
            break
        outcome = "hangs"
    setattr(tally, outcome, getattr(tally, outcome) + 1)
    if outcome in ("crashes", "hangs", "memory"):
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{outcome}-{number}").write_bytes(changed)
        trace = "".join(traceback.format_exception(error)) if error else "slow\n"
        (keep / f"{outcome}-{number}.txt").write_text(trace, errors="replace")


def _read(good: Seed, path: Path, allowed: int | None) -> tuple[str, BaseException | None]:
    """Read a file; return what has come of it."""
    try:
        with _limited(allowed):
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                good.read(path)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        return "accepted", None
    except Refused as error:
        within = error.__cause__
        while within is not None:  # a MemoryError may hide behind the error that was made of it
            if isinstance(within, MemoryError):
                return "memory", error
            within = within.__context__
        return "refused", None
    except Hang as error:
        return "hangs", error
    except MemoryError as error:
        return "memory", error
    except Exception as error:
        return "crashes", error


@contextlib.contextmanager
def _limited(allowed: int | None):
    """Limit the address space to what there is now and so many bytes."""
    if allowed is None:
        yield
        return
    with open("/proc/self/statm", "rb") as file:
        pages = int(file.read().split()[0])
    most = pages * resource.getpagesize() + allowed
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)


def _place(folder: Path) -> mmap.mmap:
    """Return eight bytes in a file, for the number that is being read: they outlive a crash."""
    path = folder / "number"
    path.write_bytes(bytes(8))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 8)


def _work(arguments: argparse.Namespace) -> None:
    """Read files as one of several processes; print counts as lines of JSON."""
    with contextlib.suppress(AttributeError, OSError):  # where the C library is not glibc
        libc = ctypes.CDLL(None)
        for option in M_TRIM_THRESHOLD, M_MMAP_THRESHOLD:  # what is freed is given back at once
            libc.mallopt(option, 2**17)
    faulthandler.enable()  # says where a process was as it died
    warnings.simplefilter("ignore")
    folder = Path(arguments.folder)
    for tally in _parts(
        arguments.reader,
        folder,
        arguments.keep,
        arguments.seed,
        arguments.first,
        arguments.files,
        arguments.limit,
    ):
        print(json.dumps(asdict(tally)), flush=True)


def _supervise(arguments, first, files, count):
    """Have files read by a process, and by another one where that dies; `count` takes tallies."""
    end = first + files
    while first < end:
        with in_memory() as folder:
            command = [sys.executable, __file__, arguments.reader, "--worker", "--folder", folder]
            command += ["--first", str(first), "--files", str(end - first)]
            command += ["--seed", str(arguments.seed), "--keep", str(arguments.keep)]
            command += [] if arguments.limit else ["--no-limit"]
            log = Path(folder, "log")
            with (
                log.open("wb") as errors,
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process,
            ):
                for line in _lines(process):
                    tally = Tally(**json.loads(line))
                    first += tally.files
                    count(tally)
            if process.returncode == 0:
                return
            path, number, said = Path(folder, "number"), -1, log.read_bytes()
            if path.exists():
                number = int.from_bytes(path.read_bytes(), "little")
            if number < first:
                raise RuntimeError(f"the process could not begin:\n{said.decode()}")
            keep = arguments.keep / arguments.reader
            keep.mkdir(parents=True, exist_ok=True)
            for read in Path(folder).glob("file.*"):
                (keep / f"crashes-{number}").write_bytes(read.read_bytes())
            (keep / f"crashes-{number}.txt").write_bytes(said)
            count(Tally(files=number + 1 - first, crashes=1))
            first = number + 1


def _lines(process):
    """Yield what a process prints; end it where that is nothing for long."""
    while True:
        watchdog = Timer(STUCK, process.send_signal, [signal.SIGABRT])
        watchdog.start()
        line = process.stdout.readline()
        watchdog.cancel()
        if not line:
            return
        yield line


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reader", choices=TARGETS)
    parser.add_argument("--files", type=int, default=20_000, metavar="N", help="how many (20,000)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first (0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the changes (0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="processes")
    parser.add_argument("--no-limit", dest="limit", action="store_false",
                        help="do not limit the address space")  # fmt: skip
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), metavar="FOLDER",
                        help="where findings go (build/fuzz)")  # fmt: skip
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        _work(arguments)
        return 0
    total, started = Tally(), time.perf_counter()
    jobs = max(1, min(arguments.jobs, arguments.files))
    bounds = [arguments.files * i // jobs + arguments.first for i in range(jobs + 1)]
    with (
        tqdm(total=arguments.files, unit=" files", disable=None) as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):
        alone = Lock()

        def count(tally):
            with alone:
                total.add(tally)
                bar.update(tally.files)
                bar.set_postfix(crashes=total.crashes, hangs=total.hangs, memory=total.memory)

        parts = [
            pool.submit(_supervise, arguments, start, stop - start, count)
            for start, stop in pairwise(bounds)
        ]
        for part in parts:
            part.result()
    seconds = time.perf_counter() - started
    print(f"{arguments.reader}: {total}, {seconds:.0f} s, {jobs} processes, seed {arguments.seed}")
    return 1 if total.crashes or total.hangs or total.memory else 0


if __name__ == "__main__":
    sys.exit(main())
