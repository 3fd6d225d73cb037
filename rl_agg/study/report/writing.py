"""A study's report: Markdown, CSV and PNG to work with, and one self-contained page to read."""

import re
from html import escape
from pathlib import Path

from rl_agg.study.analysis.results import Results, results_of
from rl_agg.study.analysis.store import Store, write_atomically
from rl_agg.study.report.charts import charts_of, drawn_first, overall_profile
from rl_agg.study.report.figures import write_figures
from rl_agg.study.report.page import page
from rl_agg.study.report.story import facts, failures, notes, origins, settings, spec
from rl_agg.study.report.tables import comparison_frame, explanations, frame_of, markdown_tables
from rl_agg.study.report.verdict import verdicts


def write_report(directory: str | Path) -> Results:
    """Write ``report.md``, ``report.csv``, ``comparisons.csv``, ``report.html`` and ``figures/*.png`` into a study's folder.

    :param directory: As given to :func:`~rl_agg.study.run.engine.run_study`; cells may be missing.
    :return: The results.
    :raises StudyError: if the folder holds no study.
    """
    store = Store(directory)
    results = results_of(store)
    charts, overall = charts_of(results), overall_profile(results)
    write_atomically(store.directory / "report.md", markdown(results).encode())
    write_atomically(store.directory / "report.csv", frame_of(results).to_csv(index=False).encode())
    write_atomically(store.directory / "comparisons.csv", comparison_frame(results).to_csv(index=False).encode())
    write_atomically(store.directory / "report.html", page(results, charts, overall).encode())
    write_figures(charts, overall, drawn_first(results), store.directory / "figures")
    return results


def write_page(directory: Path, reload_seconds: int | None = None) -> None:
    """Write ``report.html`` alone, which takes the least time; parameters as for :func:`write_report`.

    :param reload_seconds: After which an open page loads itself again; ``None``: never.
    """
    store = Store(directory)
    results = results_of(store)
    text = page(results, charts_of(results), overall_profile(results), reload_seconds)
    write_atomically(store.directory / "report.html", text.encode())


def markdown(results: Results) -> str:
    """The report as Markdown."""
    cautions = [*notes(results), *(f"Failed: {', '.join(each.cells)}: {each.reason}" for each in failures(results))]
    parts = [
        f"# {_plain(results.study.name)}",
        "; ".join(facts(results)) + ".",
        "## Verdict\n\n"
        + "\n\n".join(f"**{_plain(each.headline)}** {_plain(each.detail)}".strip() for each in verdicts(results)),
        "## Systems\n\n" + "\n".join(f"- {_plain(name)}: {_plain(text)}" for name, text in settings(results).items()),
        "## Results\n\n" + markdown_tables(results),
        "\n".join(f"- {_plain(line)}" for line in explanations(results)),
        "## Notes\n\n" + "\n".join(f"- {_plain(note)}" for note in cautions) if cautions else "",
        "## How it was made\n\n" + "\n".join(f"- {_plain(line)}" for line in origins(results)),
        _fenced(spec(results)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _plain(text: str) -> str:
    """Without tags, which many programs that show Markdown would render."""
    return escape(text, quote=False)


def _fenced(text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}yaml\n{text}{fence}"
