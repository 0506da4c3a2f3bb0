"""The page: everything the check found, in one file that opens without a network."""

from __future__ import annotations

from html import escape
from pathlib import Path

from avatarpose.check.findings import Level, Section
from avatarpose.io import write_bytes
from avatarpose.sequence import Sequence

_STYLE = """
body { font: 14px/1.45 sans-serif; color: #222; margin: 24px auto; max-width: 1240px; padding: 0 16px; }
h1 { font-size: 22px; } h2 { font-size: 17px; margin-top: 34px; border-bottom: 1px solid #ddd; padding-bottom: 4px; }
table { border-collapse: collapse; margin: 10px 0; }
th, td { padding: 3px 10px; text-align: left; vertical-align: top; }
thead th { border-bottom: 1px solid #999; font-weight: 600; } tbody tr:nth-child(even) { background: #f6f6f6; }
.level { display: inline-block; min-width: 58px; padding: 1px 8px; border-radius: 9px; color: #fff; text-align: center;
  font-size: 12px; white-space: nowrap; }
.go { background: #2e8b57; } .warning { background: #c98a00; } .no-go { background: #c0392b; }
.note { color: #666; max-width: 900px; } .side { display: flex; gap: 28px; align-items: flex-start; flex-wrap: wrap; }
figure { display: inline-block; margin: 4px 8px 8px 0; } figcaption { font-size: 12px; color: #555; }
img, svg { vertical-align: top; } svg { margin: 3px; }
code { background: #f0f0f0; padding: 1px 5px; border-radius: 3px; }
"""


def write_page(path: Path, sequence: Sequence, parts: list[Section], level: Level, command: str) -> None:
    """Writes the page atomically.

    Args:
        command: what to run next, shown where nothing forbids it.
    """
    rows = "".join(
        f'<tr><td><span class="level {f.level.word}">{f.level.word}</span></td><td>{escape(f.topic)}</td>'
        f"<td>{escape(f.sentence)}</td><td>{escape(f.advice)}</td></tr>"
        for f in sorted((f for part in parts for f in part.findings), key=lambda f: -f.level)
    )
    body = [f'<h1>{escape(sequence.name)} <span class="level {level.word}">{level.word}</span></h1>']
    if level < Level.NO_GO:
        body.append(f"<p>Next: <code>{escape(command)}</code></p>")
    head = "<tr><th></th><th>what</th><th>found</th><th>what to do</th></tr>"
    body.append(f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>")
    for part in parts:
        if part.blocks:
            body.append(f"<h2>{escape(part.title)}</h2>" + "".join(part.blocks))
    head = f'<meta charset="utf-8"><title>check of {escape(sequence.name)}</title><style>{_STYLE}</style>'
    write_bytes(path, f"<!doctype html><html><head>{head}</head><body>{''.join(body)}</body></html>\n".encode())
