"""Write into docs/clusters.md what comes out of what is typed there, on a real Slurm or Ray.

    bash .ci/slurm python docs/make/transcripts.py            type all that is typed on Slurm, and keep what comes out
    bash .ci/slurm python docs/make/transcripts.py cancelled  only these
    python docs/make/transcripts.py ray                       where Ray is installed
    python docs/make/transcripts.py hosts                     as root, who may make two hosts of namespaces

A transcript is a block ```console behind a comment with its name; the lines that begin with `$ ` are typed into one
shell, in an empty folder. The name of the machine, the folder and warnings of libraries are left out of what comes out.
"""

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the packages of this checkout

PAGE = ROOT / "docs" / "clusters.md"
ELSEWHERE = ("ray", "hosts")  # transcripts that need no Slurm, and something else
BLOCK = re.compile(
    r"(?<=<!-- transcript: )(?P<name>[\w-]+) -->\n\n```console\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
SMALL = re.compile(r"`\$small` stands for[^`]*`([^`]+)`")
LIBRARIES = re.compile(r"kernels-community|^\[W\d|/site-packages/.*Warning: |^  warnings\.warn\(")  # what they warn of
LIMIT_S = 400


# `node1 COMMAND` and `node2 COMMAND` carry it out on one of two hosts of namespaces.
NODES = """
node() { GLOO_SOCKET_IFNAME=lorahost$1 ip netns exec lorahost$1 unshare --uts \\
    sh -c 'hostname $0; exec "$@"' "node$1" "${@:2}"; }
node1() { node 1 "$@"; }; node2() { node 2 "$@"; }
"""


def typed(text: str) -> list[str]:
    """Return the lines of a transcript that are typed."""
    return [line[2:] for line in text.splitlines() if line.startswith("$ ")]


def come_out(lines: list[str], small: str) -> str:
    """Type lines into a shell, and return them with what comes out, in the order in which it came."""
    folder = Path(tempfile.mkdtemp())
    script = folder / ".typed"
    quoted = ["printf '$ %s\\n' '" + line.replace("'", "'\\''") + f"'\n{line}" for line in lines]
    script.write_text(f"set -m; small='{small}'{NODES}" + "\n".join(quoted) + "\n", encoding="utf-8")
    done = subprocess.run(
        ["bash", str(script)], cwd=folder, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    out = done.stdout.replace(f"{script}: ", "").replace(f"{folder}/", "").replace(str(folder), ".")
    shutil.rmtree(folder, ignore_errors=True)
    out = re.sub(rf"\b{re.escape(socket.gethostname())}\b", "node1", out)
    out = re.sub(r"\x1b\[[\d;]*m", "", out)
    return "\n".join(line.rstrip() for line in out.splitlines() if not LIBRARIES.search(line))


def main(names: list[str]) -> int:
    """Write the transcripts with these names, or all of Slurm."""
    from tests.support.hosts import two_hosts

    page = PAGE.read_text(encoding="utf-8")
    [small] = SMALL.findall(page)
    small = " ".join(small.split())
    for found in BLOCK.finditer(page):
        if found["name"] in names or (not names and found["name"] not in ELSEWHERE):
            print(found["name"], flush=True)
            with two_hosts() if found["name"] == "hosts" else contextlib.nullcontext():
                text = come_out(typed(found["text"]), small)
            now = PAGE.read_text(encoding="utf-8")
            PAGE.write_text(now.replace(found["text"], f"{text}\n"), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
