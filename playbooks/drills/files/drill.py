#!/usr/bin/env python3
"""Writes numbered rows through a failure, probes all the while who takes writes, and judges what is left of it.

It runs on the controller and knows no database: how a row is written and read is told by commands (see ../tasks/begin.yml for their
shape). It moves no node and decides nothing; that is the playbook's part.

    drill.py run           until the file DIRECTORY/stop is there; a specification on the standard input
    drill.py wait N [NODE] until N rows more are acknowledged (by NODE); DIRECTORY in the environment, as for `note`
    drill.py note WHAT [DETAIL]
    drill.py judge         prints what came out of it; a specification on the standard input
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

# One row after the other is written with no pause beyond this, and each node probed as often as this, in seconds.
BETWEEN_ROWS = 0.02
BETWEEN_PROBES = 0.3
# A command that has not answered until then has not acknowledged its row. The commands have shorter limits of their own.
ANSWER_WITHIN = 8
# A drill that was given up does not write for ever.
LONGEST_DRILL = 900
# A node that follows may be behind by this many seconds when it is asked for its rows.
CATCH_UP = 60


def fill(text, **values):
    for name, value in values.items():
        text = text.replace("{" + name + "}", str(value))
    return text


def call(command, stdin="", first="", **values):
    """Whether a command ended well, and its output or else its last words. `first` goes before its input, as it is."""
    argv = [fill(part, **values) for part in command]
    try:
        done = subprocess.run(argv, input=first + fill(stdin, **values), capture_output=True, encoding="utf-8", errors="replace", timeout=ANSWER_WITHIN, check=False)
    except subprocess.TimeoutExpired:
        return False, f"no answer in {ANSWER_WITHIN} s"
    if done.returncode == 0:
        return True, done.stdout
    # `timeout` ends with 124.
    words = "no answer" if done.returncode == 124 else "failed without a word"
    return False, (done.stderr.strip().splitlines() or [words])[-1]


class Log:
    """Lines of JSON; several threads and programs add to it."""

    def __init__(self, directory):
        self.path = Path(directory) / "log.jsonl"

    def add(self, **record):
        line = json.dumps({"at": time.time(), **record}) + "\n"
        # One write at the end of the file: lines do not mix.
        with open(self.path, "ab", buffering=0) as file:
            file.write(line.encode())

    def records(self):
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [json.loads(line) for line in lines]


def run(spec):
    directory = Path(spec["directory"])
    log, stop = Log(directory), directory / "stop"
    nodes = list(spec["nodes"].items())

    def commit(sql, **values):
        return call(spec["write"], sql, first=spec["password"] + "\n", **values)

    made = [commit(spec["prepare"], node=node, address=address) for node, address in nodes]
    if not any(ok for ok, _ in made):
        log.add(kind="given up", why=f"no node makes the table: {'; '.join(words for _, words in made)}")
        return

    def go_on():
        return not stop.exists() and time.monotonic() < end

    def write():
        n, at = 0, 0
        while go_on():
            n += 1
            node, address = nodes[at % len(nodes)]
            ok, words = commit(spec["insert"], node=node, address=address, source="writer", n=n)
            if ok:
                log.add(kind="row", source="writer", node=node, n=n)
            else:
                log.add(kind="refused", source="writer", node=node, n=n, why=words)
                at += 1
            time.sleep(BETWEEN_ROWS)

    def probe(node, address):
        n = 0
        while go_on():
            n += 1
            ok, words = call(spec["probe"], node=node, address=address, source=node, n=n)
            log.add(kind="row" if ok else "refused", source=node, node=node, n=n, **({} if ok else {"why": words}))
            time.sleep(BETWEEN_PROBES)

    end = time.monotonic() + LONGEST_DRILL
    threads = [threading.Thread(target=write), *(threading.Thread(target=probe, args=node) for node in nodes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def written(log, node=None):
    return [it for it in log.records() if it["kind"] == "row" and it["source"] == "writer" and node in (None, it["node"])]


def wait(log, more, node):
    # Those of a node count from its first on: its turn may have begun before anybody waits for it.
    wanted = more if node else len(written(log)) + more
    end = time.monotonic() + 120
    while len(written(log, node)) < wanted:
        if given_up := [it["why"] for it in log.records() if it["kind"] == "given up"]:
            sys.exit(given_up[0])
        if time.monotonic() > end:
            why = [it["why"] for it in log.records() if it["kind"] == "refused" and it["source"] == "writer"][-1:]
            sys.exit(f"no {more} rows more {'by ' + node if node else ''} in 120 s: {''.join(why) or 'the writer does not run'}")
        time.sleep(0.2)


def clock(at):
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
    return f"{whole}.{int(at % 1 * 1000):03}Z"


def rows_of(spec, node, address):
    ok, text = call(spec["rows"], node=node, address=address)
    if not ok:
        return None, text
    return {tuple(re.split(r"[|\t]", line.strip(), maxsplit=1)) for line in text.splitlines()}, ""


def lost(spec, acknowledged):
    """By node: rows found, those of the acknowledged that are missing, and why it could not be asked."""
    end = time.monotonic() + spec.get("catch_up", CATCH_UP)
    while True:
        seen = {}
        for node, address in spec["nodes"].items():
            rows, why = rows_of(spec, node, address)
            missing = acknowledged - rows if rows is not None else acknowledged
            seen[node] = {"found": len(rows or ()), "missing": sorted(" ".join(it) for it in missing), "why": why}
        if not any(it["missing"] for it in seen.values()) or time.monotonic() > end:
            return seen
        time.sleep(0.5)


def judge(spec):
    records = sorted(Log(spec["directory"]).records(), key=lambda it: it["at"])
    rows = [it for it in records if it["kind"] == "row"]
    own = [it for it in rows if it["source"] == "writer"]
    timeline = [{"at": it["at"], "what": it["what"], "detail": it["detail"]} for it in records if it["kind"] == "note"]

    pauses = [(after["at"] - before["at"], before, after) for before, after in zip(own, own[1:])]
    pause, before, after = max(pauses, key=lambda it: it[0], default=(0.0, None, None))
    if before:
        timeline.append({"at": before["at"], "what": "the last row before the longest time without a write", "detail": f"row {before['n']}, by {before['node']}"})
        timeline.append({"at": after["at"], "what": f"rows again, after {pause:.1f} s", "detail": f"row {after['n']}, by {after['node']}"})

    # Who took writes, one after the other: a node that has its turn again took them while another did.
    turns = []
    for it in rows:
        if turns[-1:] != [it["node"]]:
            turns.append(it["node"])
    state = {}
    probes = [it for it in records if it.get("source", "writer") != "writer"]
    for it in probes:
        takes = it["kind"] == "row"
        if state.get(it["node"]) != takes:
            state[it["node"]] = takes
            timeline.append({"at": it["at"], "what": f"{it['node']} takes {'writes' if takes else 'no writes'}", "detail": it.get("why", "")})

    seen = lost(spec, {(it["source"], str(it["n"])) for it in rows})
    missing = sum(len(it["missing"]) for it in seen.values())
    checks = [
        {
            "name": "every acknowledged row is there",
            "subject": node,
            # Nothing acknowledged, nothing shown.
            "ok": bool(own) and not it["missing"],
            "evidence": f"{len(rows)} acknowledged, {it['found']} found, {len(it['missing'])} missing {it['why']} {', '.join(it['missing'][:20])}".strip(),
        }
        for node, it in seen.items()
    ]
    if spec["single_writer"]:
        checks.append({
            "name": "never two nodes took writes at once",
            "subject": turns[-1] if turns else next(iter(spec["nodes"])),
            # Probes that none of the nodes ever takes would show nothing.
            "ok": len(turns) == len(set(turns)) and len(rows) > len(own),
            "evidence": f"one after the other: {', '.join(turns)}; {len(probes)} probes, {len(rows) - len(own)} of them taken",
        })
    print(json.dumps({
        "checks": checks,
        "figures": [
            {"name": "rows acknowledged", "value": len(rows)},
            {"name": "acknowledged rows missing", "value": missing},
            {"name": "longest time without a write", "value": round(pause, 1), "unit": "s"},
            {"name": "times a node was probed", "value": len(probes)},
        ],
        "timeline": [{**it, "at": clock(it["at"])} for it in sorted(timeline, key=lambda it: it["at"])],
    }))


def main():
    match sys.argv[1:]:
        case ["run"]:
            run(json.load(sys.stdin))
        case ["judge"]:
            judge(json.load(sys.stdin))
        case ["wait", more, *node]:
            wait(Log(os.environ["DIRECTORY"]), int(more), *(node or [None]))
        case ["note", what, *detail]:
            Log(os.environ["DIRECTORY"]).add(kind="note", what=what, detail=" ".join(detail))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
