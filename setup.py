"""Packaging: the data files beside the package go into it when it is built."""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "nettrace" / "version.py").read_text())[1]


class BuildWithData(build_py):
    """Copies the data files, rules/ and bpf/ to nettrace/data, where nettrace.files looks first."""

    def run(self):
        super().run()
        data = Path(self.build_lib) / "nettrace" / "data"
        data.mkdir(parents=True, exist_ok=True)
        for file in ("tracer.yaml", "nettrace.schema.json", "report.html"):
            shutil.copy(HERE / file, data)
        for folder in ("rules", "bpf"):
            shutil.copytree(HERE / folder, data / folder, dirs_exist_ok=True)


setup(
    name="nettrace",
    version=VERSION,
    description="Follows network packets through the Linux kernel and says where and why they die",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="GPL-2.0-only",
    packages=["nettrace"],
    package_data={"nettrace": ["py.typed"]},
    python_requires=">=3.9",
    # BCC comes from the distribution (python3-bpfcc, python3-bcc): PyPI's "bcc" is another project.
    install_requires=["PyYAML>=5.3"],
    extras_require={"evidence": ["pyroute2>=0.5.14", "tabulate>=0.8.7"]},
    entry_points={"console_scripts": ["nettrace = nettrace.cli:main"]},
    cmdclass={"build_py": BuildWithData},
)
