"""Room: cli. What swarm-bench found, drawn: PNG files, and one HTML page that holds everything and asks for nothing. Knows matplotlib; measures nothing."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swarm.cli.trials import Figures, Recommendation, Setup
from swarm.errors import UsageError

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #8884 }
th:first-child, td:first-child { text-align: left }
img { max-width: 100%; background: white; border-radius: .5rem }
pre { background: #8882; padding: 1rem; overflow-x: auto; border-radius: .5rem }
"""


def check_drawing() -> None:
    """Raises UsageError where there is nothing to draw with, before anything is measured for minutes."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("plots are drawn with matplotlib, which is not installed; pip install 'swarm-llm[plot]', or leave them out with --no-plots") from None


def draw(measured: Sequence[Figures], folder: Path) -> list[Path]:
    """Those plots for which there is something to see."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    found = []
    for name, plot in (("throughput", _throughput), ("latency", _latency), ("scaling", _scaling), ("open-loop", _open_loop), ("prompts", _prompts)):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        if plot(axes, measured):
            axes.grid(alpha=0.3)
            if name in ("throughput", "latency", "scaling"):
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend(fontsize="small")
            figure.savefig(folder / f"{name}.png", dpi=120)
            found.append(folder / f"{name}.png")
    return found


def _closed(measured: Sequence[Figures]) -> dict[Setup, list[Figures]]:
    """With the shortest prompts, by load."""
    shortest = min((each.load.prompt for each in measured), default=0)
    found: dict[Setup, list[Figures]] = {}
    for each in sorted(measured, key=lambda figures: figures.load.streams):
        if each.load.streams and each.load.prompt == shortest:
            found.setdefault(each.setup, []).append(each)
    return found


def _throughput(axes: Any, measured: Sequence[Figures]) -> bool:
    for setup, each in _closed(measured).items():
        axes.plot([one.load.streams for one in each], [one.tokens_per_second for one in each], marker="o", label=setup.name)
    axes.set(title="Throughput against load", xlabel="answers at once", ylabel="tokens/s", ylim=(0, None))
    return bool(_closed(measured))


def _latency(axes: Any, measured: Sequence[Figures]) -> bool:
    for setup, each in _closed(measured).items():
        streams = [one.load.streams for one in each if one.between]
        (line,) = axes.plot(streams, [one.between["p50"] for one in each if one.between], marker="o", label=setup.name)
        for name, style in (("p95", "--"), ("p99", ":")):
            axes.plot(streams, [one.between[name] for one in each if one.between], style, color=line.get_color())
    axes.set(title="Between two tokens of an answer: p50, p95 (dashed), p99 (dotted)", xlabel="answers at once", ylabel="milliseconds", ylim=(0, None))
    return any(one.between for each in _closed(measured).values() for one in each)


def _scaling(axes: Any, measured: Sequence[Figures]) -> bool:
    most: dict[str, dict[int, float]] = {}
    for setup, each in _closed(measured).items():
        for sharding in ("even", "copies") if len(setup.layers) == 1 else (setup.sharding,):
            peers = most.setdefault(sharding, {})
            peers[len(setup.layers)] = max(peers.get(len(setup.layers), 0.0), *(one.tokens_per_second for one in each))
    most = {sharding: peers for sharding, peers in most.items() if len(peers) > 1}
    for sharding, peers in sorted(most.items()):
        axes.plot(
            sorted(peers), [peers[count] for count in sorted(peers)], marker="o", label="each all layers" if sharding == "copies" else "layers shared out"
        )
    axes.set(title="Scaling with peers", xlabel="peers", ylabel="most tokens/s", ylim=(0, None))
    return bool(most)


def _open_loop(axes: Any, measured: Sequence[Figures]) -> bool:
    found = sorted((each for each in measured if each.load.rate and each.first), key=lambda each: each.load.rate)
    for name in ("p50", "p95", "p99"):
        axes.plot([each.load.rate for each in found], [each.first[name] for each in found], marker="o", label=f"first token, {name}")
    axes.set(title="Answers that nobody waits with (open loop)", xlabel="new answers/s", ylabel="milliseconds to the first token", ylim=(0, None))
    return bool(found)


def _prompts(axes: Any, measured: Sequence[Figures]) -> bool:
    setups = {each.setup for each in measured if each.load.streams and each.load.prompt > min(one.load.prompt for one in measured)}
    found = sorted(
        (each for each in measured if each.setup in setups and each.load.streams and each.first), key=lambda each: (each.load.prompt, each.load.streams)
    )
    if not found:
        return False
    streams = max(each.load.streams for each in found if each.load.prompt == max(one.load.prompt for one in found))
    found = [each for each in found if each.load.streams == streams]
    axes.plot([each.load.prompt for each in found], [each.first["p50"] for each in found], marker="o", label="p50")
    axes.plot([each.load.prompt for each in found], [each.first["p95"] for each in found], "--", marker="o", label="p95")
    axes.set(title=f"Prompts, {streams} answers at once", xlabel="tokens of the prompt", ylabel="milliseconds to the first token", ylim=(0, None))
    return len({each.load.prompt for each in found}) > 1


COLUMNS = ("set-up", "load", "tokens/s", "answers", "failed", "first token p50", "p95", "between tokens p50", "p95", "p99")


def row(each: Figures) -> list[str]:
    """As people read it; times in milliseconds."""
    times = [*(each.first.get(name) for name in ("p50", "p95")), *(each.between.get(name) for name in ("p50", "p95", "p99"))]
    shown = [f"{value:.1f}" if value is not None else "–" for value in times]
    return [each.setup.name, each.load.name, f"{each.tokens_per_second:.1f}", str(each.answers), str(each.failed), *shown]


def page(
    model: str, machine: Mapping[str, Any], measured: Sequence[Figures], found: Recommendation | None, files: Mapping[str, str], plots: Sequence[Path]
) -> str:
    """The whole report as one file: nothing in it is fetched from anywhere. `files` are the recommended ones, name and text."""
    said = html.escape(f"{found.why}." if found is not None else "No set-up gave answers without failures, so none is recommended.")
    rows = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row(each))}</tr>" for each in measured)
    pictures = "".join(
        f'<p><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"></p>' for path in plots
    )
    settings = "".join(f"<h3>{html.escape(name)}</h3><pre>{html.escape(text)}</pre>" for name, text in files.items())
    about = "".join(f"<li>{html.escape(str(name))}: {html.escape(str(value))}</li>" for name, value in machine.items())
    head = "".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>swarm-bench: {html.escape(model)}</title>"
        f"<style>{STYLE}</style><h1>{html.escape(model)}</h1><p>{said}</p>{settings}{pictures}"
        f"<h2>Measured</h2><p>Times in milliseconds.</p><table><tr>{head}</tr>{rows}</table><h2>Machine</h2><ul>{about}</ul></html>\n"
    )
