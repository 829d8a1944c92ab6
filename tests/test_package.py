"""What is installed: all that the program needs, all of which is taken away again, and the same in every package."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nettrace

ROOT = Path(__file__).resolve().parent.parent
SPEC = (ROOT / "package" / "nettrace.spec").read_text(encoding="utf-8")
ZSH = {"share/zsh/site-functions/_nettrace"}
# What a package has beside what is installed.
DOCUMENTS = "share/doc/nettrace/"


def output(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix that nettrace is installed to."""
    prefix = tmp_path_factory.mktemp("prefix")
    output("make", "install", f"PREFIX={prefix}", f"PYTHON={sys.executable}")
    return prefix


def test_all_that_the_program_needs_is_installed(installed: Path) -> None:
    library = installed / "lib" / "nettrace"
    for folder in ("nettrace", "bpf", "rules"):
        ours = {path for path in files(ROOT / folder) if "__pycache__" not in path and not path.startswith("data/")}
        assert files(library / folder) == ours
    # The data files that the package of pip has.
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    data = set(re.findall(r'"([\w.]+)"', setup.split("for file in (")[1].split(")")[0]))
    assert {path.name for path in library.iterdir() if path.is_file()} == data
    for path in installed.rglob("*"):
        assert path.stat().st_mode & 0o055 == (0o055 if path.is_dir() or path.parent.name == "bin" else 0o044), path


def test_the_installed_program_runs_by_itself(installed: Path) -> None:
    # With the tree and the rules that are installed; -B: it leaves no bytecode there.
    told = output(sys.executable, "-B", str(installed / "bin" / "nettrace"), "--explain", "kfree_skb", cwd=Path("/"))
    assert told.startswith("kfree_skb: a trace of the group life")


def test_all_is_taken_away_again(installed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(installed, other)
    (other / "bin" / "other").touch()
    output("make", "uninstall", f"PREFIX={other}")
    assert files(other) == {"bin/other"}


def test_the_debian_package_has_what_is_installed(installed: Path, tmp_path: Path) -> None:
    if not shutil.which("dpkg-deb"):
        pytest.skip("there is no dpkg-deb")
    quick = "DPKG_DEB_COMPRESSOR_TYPE=none"
    output("env", f"PYTHON={sys.executable}", quick, "package/deb.sh", str(tmp_path))
    (package,) = tmp_path.glob("*")
    assert package.name == f"nettrace_{nettrace.__version__}_all.deb"
    output("dpkg-deb", "-R", str(package), str(tmp_path / "deb"))
    packed = files(tmp_path / "deb" / "usr")
    documents = {path for path in packed if path.startswith(DOCUMENTS)}
    assert {f"{DOCUMENTS}copyright", f"{DOCUMENTS}changelog.gz"} < documents
    expected = {path + ".gz" * path.startswith("share/man/") for path in files(installed) - ZSH}
    assert packed - documents == expected | {"share/zsh/vendor-completions/_nettrace"}
    assert b"/usr/lib/nettrace" in (tmp_path / "deb" / "usr" / "bin" / "nettrace").read_bytes()
    assert output("md5sum", "-c", "--quiet", "DEBIAN/md5sums", cwd=tmp_path / "deb") == ""


def test_the_rpm_has_what_is_installed(installed: Path) -> None:
    macros = {"_bindir": "bin", "_mandir": "share/man", "_datadir": "share", "_prefix": ""}
    listed = [line for line in SPEC.split("%files\n")[1].splitlines() if not re.match(r"%(license|doc) ", line)]
    told = [re.sub(r"%{(\w+)}", lambda macro: macros[macro[1]], line).strip("/") for line in listed]
    for path in files(installed):
        assert len([line for line in told if path.startswith(line.rstrip("*"))]) == 1, path
    for line in told:
        assert any(path.startswith(line.rstrip("*")) for path in files(installed)), line
    assert re.search(r"^Version: +(\S+)", SPEC, re.MULTILINE)[1] == nettrace.__version__  # type: ignore[index]
    if shutil.which("rpmspec"):
        query = ("rpmspec", "-q", "--queryformat", "%{NAME} %{VERSION} %{ARCH}", "package/nettrace.spec")
        assert output(*query) == f"nettrace {nettrace.__version__} noarch"
