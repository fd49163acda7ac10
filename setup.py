"""Packaging of proxyd: a wheel that runs and carries the examples of conf/, and an sdist that can be tested (MANIFEST.in)."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = next(line.split('"')[1] for line in (HERE / "proxyd" / "__init__.py").read_text().splitlines() if "__version__" in line)



class BuildWithExamples(build_py):
    """Copies conf/ into the package, so that `proxyd docs` can print its files where there is no checkout."""

    def run(self) -> None:
        """Build the modules, then add the examples."""
        super().run()
        if not self.editable_mode:
            shutil.copytree(HERE / "conf", Path(self.build_lib) / "proxyd" / "docs" / "conf", dirs_exist_ok=True)


setup(
    name="proxyd",
    version=VERSION,
    description="A dynamic reverse proxy with a service registry",
    keywords=["reverse proxy", "service registry", "load balancer", "http", "gunicorn", "gevent"],
    platforms=["Linux"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=find_packages(include=["proxyd", "proxyd.*"]),
    package_data={"proxyd": ["py.typed"], "proxyd.admin": ["*.html", "*.css", "*.js"]},
    install_requires=[
        "gunicorn[gevent]>=27.0,<28",
        "gevent>=25.5.1,<27",
        "requests>=2.31,<3",
        "peewee>=4.0,<5",
        "pybreaker>=1.4,<2",
        "limits>=5.5,<6",
        "hpack>=4.0,<5",
        "idna>=3.4,<4",
        "dnspython>=2.6,<3",
        "brotli>=1.1,<2",
        "zstandard>=0.22,<1",
        "prometheus_client>=0.20,<1",
        "cryptography>=49,<60",
        "acme>=5.9,<6",
        "josepy>=2.2,<3",
        "argcomplete>=3.5,<4",
        "rich>=13.7,<16",
        "itsdangerous>=2.1.2,<3",
        "bcrypt>=4.1,<6",
        "argon2-cffi>=23.1,<26",
    ],
    extras_require={
        # HTTP/2 needs no extra any more. The name stays for those who install with it.
        "http2": [],
        "redis": ["redis>=5,<9"],
        "docker": ["docker>=7,<8"],
        "parquet": ["pyarrow>=17"],
        "postgresql": ["psycopg2-binary>=2.9.5,<3"],
        "docs": ["mkdocs>=1.6,<2"],
        "bench": ["proxy.py>=2.4,<3", "matplotlib>=3.8,<4", "psutil>=5.9,<8"],
        "test": [
            "pytest>=8,<10",
            "pytest-timeout>=2.3.1,<3",
            "pytest-xdist>=3.5,<4",
            "hypothesis>=6.100,<7",
            "h11>=0.14,<1",
            "httptools>=0.6,<1",
            "wsproto>=1.2,<2",
            "websocket-client>=1.7,<2",
            "psutil>=6,<8",
            "flask>=3,<4",
            "brotlicffi>=1.1,<2",
            "decorator>=5.1,<6",
            "six>=1.16,<2",
            "h2>=4.1,<5",
            "hyperframe>=6.0,<7",
            "httpx>=0.27,<1",
            "grpcio>=1.60,<2",
            "grpcio-health-checking>=1.60,<2",
            "redis>=5,<9",
            "pyarrow>=17",
            "docker>=7,<8",
            "jsonschema>=4.18,<5",
            "ruff>=0.9,<1",
            "mypy>=1.13,<3",
            "types-requests>=2.31,<3",
            "types-jsonschema>=4.18,<5",
            "types-psutil>=6,<8",
            "psycopg2-binary>=2.9.5,<3",
            "types-psycopg2>=2.9,<3",
        ],
    },
    entry_points={"console_scripts": ["proxyd = proxyd.cli.main:main", "proxyctl = proxyd.ctl.main:main"]},
    cmdclass={"build_py": BuildWithExamples},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: No Input/Output (Daemon)",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Internet :: Proxy Servers",
        "Topic :: Internet :: WWW/HTTP :: HTTP Servers",
        "Topic :: System :: Networking",
        "Typing :: Typed",
    ],
)
