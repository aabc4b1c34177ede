"""Install the pinned packages and the project into .venv; `make` runs this file.

Of the user's pip settings, only those about the registry are used (index, proxy, certificates).
Others, e.g. `user = yes` or PIP_TARGET, could install into another folder or other versions.
"""

import argparse
import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote

VENV = Path(".venv")
LOCK = Path("requirements.lock")
PIP = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
# pip's settings about access to packages and about its cache.
REGISTRY = {
    *("index-url", "extra-index-url", "find-links", "no-index", "trusted-host"),
    *("proxy", "cert", "client-cert", "keyring-provider", "use-feature", "use-deprecated"),
    *("timeout", "default-timeout", "retries", "resume-retries", "cache-dir", "no-cache-dir"),
}
INDEXES = {"index-url", "extra-index-url", "find-links", "no-index"}
# Packages that only the CUDA build of PyTorch needs.
CUDA = re.compile(r"(cuda-|triton$|nvidia-(?!ml-py$))")
TORCH = ("torch", "torchvision")
FETCHED = re.compile(r"(?:Downloading|Using cached|Processing) (\S+\.(?:whl|tar\.gz|zip))(.*)")


def main() -> None:
    """Install; ``.venv/ready`` is written last and names the folder."""
    parser = argparse.ArgumentParser(description="Install the pinned packages into .venv.")
    parser.add_argument("--torch", default="", help="cpu, or nothing for the build with CUDA")
    parser.add_argument("--torch-index", default="", help="address of the index of CPU builds")
    options = parser.parse_args()
    if options.torch not in ("", "cpu"):
        fail(f"TORCH is {options.torch!r}; give TORCH=cpu, or leave it out for the CUDA build.")
    if os.pathsep in str(Path.cwd()):
        fail(f"the folder {Path.cwd()} has a colon in its name, which no PATH can hold; rename it.")
    ready = VENV / "ready"
    if ready.exists() and ready.read_text("utf-8").strip() not in ("", str(Path.cwd())):
        where = ready.read_text("utf-8").strip()
        print(f".venv was installed in {where}; installing it again here.", flush=True)
    ready.unlink(missing_ok=True)
    create_environment()
    settings = registry_settings()
    environment = pip_environment(settings)
    pinned = list(requirements(LOCK.read_text("utf-8")))
    cpu = options.torch == "cpu" and install_cpu_torch(pinned, settings, options.torch_index)
    if cpu:
        pinned = [(name, text) for name, text in pinned if name not in TORCH]
        pinned = [(name, text) for name, text in pinned if not CUDA.match(name)]
    install_pinned(pinned, environment, "without CUDA" if cpu else "6 GB with CUDA")
    own = ["--quiet", "--no-deps", "--no-build-isolation", "--editable", "."]
    run([*PIP, "install", *own], environment)
    run([*PIP, "check"], environment, quiet=True)
    with (VENV / "bin" / "activate").open("a", encoding="utf-8") as activate:
        activate.write("export MLFLOW_DISABLE_TELEMETRY=true DVC_NO_ANALYTICS=true\n")
    (VENV / "torch").write_text(f"{options.torch}\n", "utf-8")
    ready.write_text(f"{Path.cwd()}\n", "utf-8")


def create_environment() -> None:
    """Create an empty virtual environment."""
    run([sys.executable, "-E", "-m", "venv", "--clear", str(VENV)], without_python())


def without_python() -> dict[str, str]:
    """Return the environment without variables that change how Python or pip work."""
    ignored = ("PIP_", "PYTHON", "VIRTUAL_ENV", "__PYVENV")
    return {name: text for name, text in os.environ.items() if not name.startswith(ignored)}


def registry_settings() -> dict[str, str]:
    """Read the registry's settings from pip's configuration files and environment.

    A command's own section overrides ``[global]``, and the environment overrides both.
    """
    asked = without_python()
    if "PIP_CONFIG_FILE" in os.environ:
        asked["PIP_CONFIG_FILE"] = os.environ["PIP_CONFIG_FILE"]
    # The configuration could make pip print nothing, or read only one of the files.
    asked |= dict.fromkeys(("PIP_USER", "PIP_GLOBAL", "PIP_SITE", "PIP_QUIET", "PIP_VERBOSE"), "0")
    listing = subprocess.run(  # noqa: S603 - pip itself, no shell
        [*PIP, "config", "list"], env=asked, stdout=subprocess.PIPE, text=True, check=False
    )
    if listing.returncode:
        fail("pip cannot read its configuration (see above); correct it and run again.")
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}}
    for line in listing.stdout.splitlines():
        found = re.fullmatch(r"(global|install)\.([a-z-]+)=(.*)", line)
        if found and found[2] in REGISTRY:
            sections[found[1]][found[2]] = ast.literal_eval(found[3])
    ours = {name: os.environ.get(variable(name), "") for name in REGISTRY}
    return {**sections["global"], **sections["install"], **{k: v for k, v in ours.items() if v}}


def variable(setting: str) -> str:
    """Return the name of pip's environment variable for a setting."""
    return f"PIP_{setting.upper().replace('-', '_')}"


def pip_environment(settings: dict[str, str]) -> dict[str, str]:
    """Return the environment for pip: only these settings, and no configuration file."""
    passed = {variable(name): " ".join(text.split()) for name, text in settings.items()}
    return {**without_python(), **passed, "PIP_CONFIG_FILE": os.devnull}


def requirements(lock: str) -> Iterator[tuple[str, str]]:
    """Yield each entry of a lock file: the package's name, and all lines with its hashes."""
    for entry in re.findall(r"^[^\s#].*(?:\n[ \t]+.*)*", lock, re.MULTILINE):
        yield re.split(r"[ =;\[]", entry, maxsplit=1)[0], entry


def install_cpu_torch(pinned: list[tuple[str, str]], settings: dict[str, str], index: str) -> bool:
    """Install the CPU builds of the pinned versions; return False if no index has them.

    The lock has no hashes of these builds: like every build of another index they are checked
    against the index's own hashes only. All other packages stay checked against the lock.
    """
    versions = {name: re.split(r"[ ;\\]", text)[0].partition("==")[2] for name, text in pinned}
    builds = [f"{name}=={versions[name]}+cpu" for name in TORCH]
    if index:  # only this one, so that no other index can offer a build of the same name
        settings = {name: text for name, text in settings.items() if name not in INDEXES}
        settings["index-url"] = index
    where = "the index of TORCH_INDEX" if index else "pip's configured index"
    print(f"Installing {' and '.join(builds)} from {where}.", flush=True)
    command = [*PIP, "install", "--no-deps", "--only-binary", ":all:", *builds]
    if follow(command, pip_environment(settings)) == 0:
        return True
    print(
        f"{where[0].upper()}{where[1:]} has no {' and '.join(builds)} (see above);"
        " installing the build with CUDA, which works without a GPU too"
        " (remove .venv to try again).",
        flush=True,
    )
    return False


def install_pinned(pinned: list[tuple[str, str]], environment: dict[str, str], size: str) -> None:
    """Install the lock's packages, each checked against its hashes."""
    file = VENV / LOCK.name
    file.write_text("\n".join(text for _, text in pinned) + "\n", "utf-8")
    count = len({name for name, _ in pinned})
    print(
        f"Installing about {count} pinned packages ({size}); this takes some minutes.", flush=True
    )
    # The lock is complete, so pip never installs a package outside it.
    command = [*PIP, "install", "--no-deps", "--require-hashes", "-r", str(file)]
    if follow(command, environment):
        fail(
            "pip could not install the pinned packages (see above); run again after correcting it."
        )


def follow(command: list[str], environment: dict[str, str]) -> int:
    """Run ``pip install``; print one line for each package; return pip's exit code."""
    number = 0
    with subprocess.Popen(  # noqa: S603 - pip itself, no shell
        [*command, "--progress-bar", "off"], env=environment, stdout=subprocess.PIPE, text=True
    ) as pip:
        for line in pip.stdout or ():
            found = FETCHED.fullmatch(line.strip())
            if found:
                number += 1
                name, version, *_ = unquote(found[1].rpartition("/")[2]).split("-")
                print(f"{number:5d}  {name} {version}{found[2]}", flush=True)
            elif line.startswith("Installing collected packages"):
                print("       unpacking, which takes about a minute", flush=True)
    return pip.returncode


def run(command: list[str], environment: dict[str, str], quiet: bool = False) -> None:
    """Run a command; if it fails, print its output and exit."""
    ended = subprocess.run(  # noqa: S603 - Python or pip, no shell
        command,
        env=environment,
        stdout=subprocess.PIPE if quiet else None,
        text=True,
        check=False,
    )
    if ended.returncode:
        print(ended.stdout or "", end="", file=sys.stderr)
        fail(f"`{' '.join(command)}` failed (see above); run again after correcting it.")


def fail(sentence: str) -> NoReturn:
    """Exit with an error message."""
    sys.exit(f"ERROR: {sentence}")


if __name__ == "__main__":
    main()
