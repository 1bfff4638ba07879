"""Keep four years of daily weather in one encrypted file, then ask it questions.

Run it with `make demo`, or with `python examples/demo.py` after `pip install 'rlib-store[demo]'`.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from operator import add
from pathlib import Path
from statistics import fmean
from time import perf_counter

import numpy as np
from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from uniplot import plot_to_string

from rstore import FrozenStoreError, Store, WrongKeyError, generate_key

CSV = Path(__file__).parent / "data" / "seattle-weather.csv"
OUTPUT = Path("demo-output")
STORE = OUTPUT / "weather.db"
KEY = OUTPUT / "weather.key"

UNITS = {"precipitation": "mm", "temp_max": "°C", "temp_min": "°C", "wind": "m/s"}
DAY = 24 * 60 * 60 * 1000  # a timestamp is any int64; here it is POSIX milliseconds

NEXT = f"""\
from pathlib import Path
from rstore import Store

key = Path("{KEY}").read_text()
store = Store("{STORE}", key=key)
store.open()
store.find("*o*")
store.range("temp_max", n=5, freq={7 * DAY})
store.current("sky")
store.close()
"""

console = Console(highlight=False)
WIDTH = min(console.width, 100)


def main() -> None:
    """Write the store with one handle, then read it with another."""
    console.print("\n[bold]Four years of Seattle weather in one encrypted file[/]")
    key = load_key()
    days = load_csv()
    remove_last_run(key)

    # A load that can simply be repeated need not wait for the disk after each of its commits: durability="normal".
    with Store(STORE, key=key, frozen=False, durability="normal") as store:
        write_series(store, days)
        write_weather(store, days)
        write_facts(store)
    show_sizes()

    with Store(STORE, key=key) as store:  # frozen, unless it is told otherwise: this handle can only read
        show_facts(store)
        show_last_values(store)
        show_january(store)
        show_seasons(store)
        show_missing_days(store)
        show_past(store)
        show_how_it_came_to_be(store)
        show_temperatures(store)
    show_protection(key)
    show_what_next()


# Writing: one call for each of the three kinds of data.


def load_key() -> str:
    """Return the key of the last run, or a new one. A real key lives apart from the data that it protects."""
    OUTPUT.mkdir(exist_ok=True)
    if not KEY.exists():
        KEY.touch(mode=0o600)
        KEY.write_text(generate_key())
    return KEY.read_text()


def load_csv() -> list[dict[str, str]]:
    """Return one dict a day, oldest first."""
    with CSV.open(newline="") as file:
        return list(csv.DictReader(file))


def remove_last_run(key: str) -> None:
    """Remove the store that an earlier run has left, so that the demo can run any number of times."""
    if STORE.exists():
        with Store(STORE, key=key, frozen=False) as store:
            store.discard()


def write_series(store: Store, days: list[dict[str, str]]) -> None:
    """Keep each column of numbers as a time series."""
    with step("Write four time series", "store.extend_many('wind', points)"):
        for name in UNITS:
            store.extend_many(name, ((to_ms(day["date"]), float(day[name])) for day in days))


def write_weather(store: Store, days: list[dict[str, str]]) -> None:
    """Keep the weather as a sequence of events, one where the weather changes."""
    with step("Write an event sequence", "store.apply('sky', {'weather': 'snow', 'changes': (add, 1)}, t=day)"):
        weather = days[0]["weather"]
        store.apply("sky", {"weather": weather, "changes": 0}, t=to_ms(days[0]["date"]))
        for day in days:
            if day["weather"] != weather:
                weather = day["weather"]
                store.apply("sky", {"weather": weather, "changes": (add, 1)}, t=to_ms(day["date"]))


def write_facts(store: Store) -> None:
    """Keep what is known of the place as key/value pairs."""
    with step("Write key/value pairs", "store['place'] = 'Seattle, Washington'"):
        store["place"] = "Seattle, Washington"
        store["coordinates"] = (47.61, -122.33)
        store["source"] = "NOAA daily summaries"
        store["units"] = UNITS


def show_sizes() -> None:
    """Show how large the file is."""
    table = new_table("file", "bytes")
    for path in (CSV, STORE):
        table.add_row(path.name, f"{path.stat().st_size:,}")
    show(table)


# Reading: each question is one call.


def show_facts(store: Store) -> None:
    """Answer from key/value pairs: a store is a mapping."""
    with step("Where was this measured?", "dict(store)"):
        facts = dict(store)
    table = new_table("key", "value")
    for name, fact in facts.items():
        table.add_row(name, str(fact))
    show(table)


def show_last_values(store: Store) -> None:
    """Answer from the end of each series."""
    with step("What was measured last?", "store.last('wind')"):
        last = {name: store.last(name) for name in store.timeseries()}
    table = new_table("series", "day", "value")
    for name, point in last.items():
        if point is not None:
            table.add_row(name, to_day(point[0]), with_unit(point[1], name))
    show(table)


def show_january(store: Store) -> None:
    """Answer from a month's range of each series; both its ends are included."""
    start, end = to_ms("2012/01/01"), to_ms("2012/01/31")
    with step("How was January 2012?", "store.range('wind', start, end=end)"):
        month = {name: [value for _, value in store.range(name, start, end=end)] for name in UNITS}
    table = new_table("series", "days", "lowest", "mean", "highest")
    for name, values in month.items():
        summary = (min(values), fmean(values), max(values))
        table.add_row(name, str(len(values)), *(with_unit(value, name) for value in summary))
    show(table)


def show_seasons(store: Store) -> None:
    """Answer from buckets of a quarter of a year each: the store computes, and hands out one value a bucket."""
    start, quarter = to_ms("2014/01/01"), 365 * DAY // 4
    with step("When did it rain in 2014?", "store.resample('precipitation', quarter, ['sum', 'max'], start, end)"):
        found = store.resample("precipitation", quarter, ["sum", "max"], start, start + 365 * DAY - 1, origin=start)
    table = new_table("91 days from", "rain", "wettest day")
    for t, rain in found:
        table.add_row(to_day(t), *(with_unit(rain[name], "precipitation") for name in ("sum", "max")))
    show(table)


def show_missing_days(store: Store) -> None:
    """Answer from the grid of days on which each series should have a point."""
    start, end = to_ms("2012/01/01"), to_ms("2016/01/03")
    with step("Which days are missing?", "store.missing('wind', start, end, freq=DAY)"):
        missing = {name: store.missing(name, start, end, freq=DAY) for name in UNITS}
    table = new_table("series", f"missing from {to_day(start)} to {to_day(end)}")
    for name, gaps in missing.items():
        table.add_row(name, ", ".join(map(to_day, gaps)))
    show(table)


def show_past(store: Store) -> None:
    """Answer from the event sequence: what was true on that day?"""
    day = to_ms("2012/01/18")
    with step("What was the sky like on 2012-01-18?", "store.past('sky', day, withtimestamp=True)"):
        past = store.past("sky", day, withtimestamp=True)
        current = store.current("sky", withtimestamp=True)
    table = new_table("asked for", "since", "state")
    for asked, answer in ((to_day(day), past), ("the end", current)):
        if answer is not None:
            table.add_row(asked, to_day(answer[0]), str(answer[1]))
    show(table)


def show_how_it_came_to_be(store: Store) -> None:
    """Answer from the event sequence: which changes led there?"""
    start, end = to_ms("2012/01/10"), to_ms("2012/01/18")
    with step("How did it come to be?", "store.events('sky', start, end)"):
        events = store.events("sky", start, end)
    table = new_table("day", "item", "operator", "value")
    for event in events or []:
        table.add_row(to_day(event.timestamp), event.item, event.op.__name__, repr(event.value))
    show(table)


def show_temperatures(store: Store) -> None:
    """Plot one series by the few points that show what all of them do, another one by its means."""
    with step("How did the temperature go?", "store.downsample('temp_max', 80)"):
        highest = store.downsample("temp_max", 80)
        lowest = store.resample("temp_min", 30 * DAY)
    show(plot({"daily high, °C": highest, "mean daily low, °C": lowest}))


def show_protection(key: str) -> None:
    """Show what the file gives away without its key."""
    with step("Is it protected?", "Store(path, key=another_key)"):
        content = b"".join(path.read_bytes() for path in OUTPUT.glob(f"{STORE.name}*"))
        read = read_with_another_key()
        write = write_to_frozen_store(key)
    table = new_table("attempt", "outcome")
    for value in ("Seattle, Washington", "NOAA daily summaries", "drizzle"):
        table.add_row(f"search for {value!r}", "found" if value.encode() in content else "not there")
    table.add_row("search for 'precipitation', a name", "found" if b"precipitation" in content else "not there")
    table.add_row("read with another key", Text(read))  # brackets in a message are no markup
    table.add_row("write to the frozen store", Text(write))
    show(table)
    show(Text("Values are encrypted; names, timestamps and sizes are not.", style="dim"))


def read_with_another_key() -> str:
    """Return what comes of it."""
    try:
        with Store(STORE, key=generate_key()) as store:
            return f"read: {store['place']}"
    except WrongKeyError as error:
        return f"WrongKeyError: {error}"


def write_to_frozen_store(key: str) -> str:
    """Return what comes of it."""
    try:
        with Store(STORE, key=key) as store:
            store["place"] = "Atlantis"
            return "written"
    except FrozenStoreError as error:
        return f"FrozenStoreError: {error}"


def show_what_next() -> None:
    """Say how to go on."""
    console.print("\n[bold]Now you.[/] Start .venv/bin/python and paste:\n")
    console.print(NEXT, style="green")
    console.print("README.md has the rest: all verbs, durability, what encryption does not hide.\n")


# Printing.


@contextmanager
def step(title: str, code: str) -> Generator[None]:
    """Print a heading, the call that it is about, and how long the step took."""
    start = perf_counter()
    yield
    duration_ms = (perf_counter() - start) * 1000
    duration = f"{duration_ms:,.1f} ms"
    console.print(f"\n[bold cyan]{title:<{WIDTH - len(duration)}}[/][green]{duration}[/]")
    console.print(Text(code, style="dim"))


def new_table(*titles: str) -> Table:
    """Return an empty table with these columns."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in titles:
        table.add_column(
            title,
            justify="right"
            if title in {"bytes", "days", "lowest", "mean", "highest", "rain", "wettest day"}
            else "left",
        )
    return table


def show(part: RenderableType) -> None:
    """Print something a little indented."""
    console.print(Padding(part, (0, 0, 0, 2), expand=False), width=WIDTH)


def plot(series: dict[str, Sequence[tuple[int, float]]]) -> Text:
    """Return a plot of some series."""
    lines = plot_to_string(
        xs=[np.array([t for t, _ in points], dtype="datetime64[ms]") for points in series.values()],
        ys=[[value for _, value in points] for points in series.values()],
        legend_labels=list(series),
        color=["red", "blue"],
        lines=True,
        width=WIDTH - 12,
        height=12,
    )
    return Text.from_ansi(lines)


def to_ms(day: str) -> int:
    """Return the midnight (UTC) that begins a day like 2012/01/31, in POSIX milliseconds."""
    return int(datetime.strptime(day, "%Y/%m/%d").replace(tzinfo=UTC).timestamp()) * 1000


def to_day(t: int) -> str:
    """Return the day of a timestamp."""
    return str(datetime.fromtimestamp(t / 1000, UTC).date())


def with_unit(value: float, name: str) -> str:
    """Return a value of a series for people to read."""
    return f"{value:.1f} {UNITS[name]}"


if __name__ == "__main__":
    main()
